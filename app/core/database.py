"""Sessions on SQLite or PostgreSQL: `reading()` and `writing()`, one transaction each.

A number that is not finite is no JSON. PostgreSQL refuses it, SQLite would keep it and hand it on; so neither gets it:
the statement fails before it is sent.

On SQLite a writer takes the write lock when it begins (BEGIN IMMEDIATE), never half-way, and waits for it; readers see
the last committed state and wait for nobody.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, make_url
from sqlalchemy.orm import Session

BUSY_SECONDS = 20

_finite_json = partial(json.dumps, allow_nan=False)

# Of PostgreSQL: a server that is unplugged is noticed within half a minute, and so is, by the server, a client that was
# frozen in the middle of a transaction, whose locks would hold up everybody.
POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
    "options": "-c idle_in_transaction_session_timeout=30s -c tcp_keepalives_idle=30",
}


class Database:
    """A pool of connections to one database."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            assert self.url.database, "a scan must outlive its process: no SQLite in memory"
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_engine(
                url,
                connect_args={"timeout": BUSY_SECONDS},
                pool_size=20,
                max_overflow=40,
                json_serializer=_finite_json,
            )
            event.listen(self.engine, "connect", _tune_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            self.engine = create_engine(
                url,
                connect_args=POSTGRESQL,
                pool_pre_ping=True,
                pool_size=10,
                max_overflow=40,
                json_serializer=_finite_json,
            )
        self._writer = self.engine.execution_options(writes=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads; what it loads stays readable afterwards."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that commits when the block ends well and else leaves everything as it was."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self.engine.dispose()


def _tune_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_SECONDS * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
