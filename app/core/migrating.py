"""Brings a database to the shape that this code expects: `upgrade(database)` runs what `migrations` holds, by alembic.

Any number of processes may start at once: one migrates, the others wait for it and find nothing left to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

from app.core.database import Database

SCRIPTS = str(files("migrations"))
ADVISORY_LOCK = 0x7472_6967_6765_726C  # "triggerl": any number that nobody else locks in this PostgreSQL database


class MigrationState(StrEnum):
    """Where a database stands, seen from this code."""

    CURRENT = "current"
    BEHIND = "behind"  # there are migrations to run
    AHEAD = "ahead"  # a newer release has been here: this code must leave the database alone
    EMPTY = "empty"  # no migration has been run


def upgrade(database: Database) -> None:
    """Run the migrations that the database lacks, all or none. One that is ahead raises alembic's CommandError."""
    with _alone(database) as connection:
        command.upgrade(config(connection), "head")


def downgrade(database: Database, revision: str) -> None:
    """Undo the migrations after a revision; `base` undoes all, and the rows go with their tables."""
    with _alone(database) as connection:
        command.downgrade(config(connection), revision)


def state(database: Database) -> MigrationState:
    """Whether the database is what this code expects."""
    with database.reading() as session:
        there = set(MigrationContext.configure(session.connection()).get_current_heads())
    scripts = ScriptDirectory(SCRIPTS)
    if not there:
        return MigrationState.EMPTY
    if not there <= {script.revision for script in scripts.walk_revisions()}:
        return MigrationState.AHEAD
    return MigrationState.CURRENT if there == set(scripts.get_heads()) else MigrationState.BEHIND


def config(connection: Connection) -> Config:
    """What alembic's commands ask for, in the place of an alembic.ini."""
    made = Config(attributes={"connection": connection})
    made.set_main_option("script_location", SCRIPTS.replace("%", "%%"))
    return made


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """A transaction that no other migration runs beside."""
    with database.engine.connect().execution_options(writes=True) as connection:
        if database.is_sqlite:
            # A batch drops a table and makes it anew; that must not delete the rows which point to it.
            connection.connection.cursor().execute("PRAGMA foreign_keys=OFF")
            connection.detach()  # nobody uses this connection after us
        with connection.begin():
            if not database.is_sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
            yield connection
