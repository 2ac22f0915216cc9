"""Real servers, thrown away afterwards, and the databases on them; every test finds these fixtures.

    database            migrated and the test's own: on SQLite always, on PostgreSQL in `make test-all`
    empty_database      the same without a migration
    postgresql_server   .url(name), .create(name), .stop(), .start()
    redis_server        .url, .stop(), .start()
    s3_server           .endpoint, .bucket, .key_id, .secret

A test that asks for a server by name is marked slow and real. Where a binary is missing its tests are skipped; with
TRIGGERLENS_REQUIRE_SERVERS=1 they fail. A stopped server keeps its data; who stops one starts it again.
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, Self
from uuid import uuid4

import httpx
import psycopg
import pytest
import redis

from app.core import migrating
from app.core.database import Database
from tests.waiting import eventually
from worker.sandbox import fence

STOP_SECONDS = 20


class Server:
    """A process of ours: it is ready when `answers` raises nothing, and ends upon `farewell`."""

    def __init__(
        self,
        command: list[str],
        answers: Callable[[], object],
        unavailable: type[Exception],
        farewell: signal.Signals = signal.SIGTERM,
        user: str | None = None,
    ) -> None:
        self.command, self.answers, self.unavailable = command, answers, unavailable
        self.farewell, self.user = farewell, user
        self.process: subprocess.Popen[bytes] | None = None
        self.words = b""  # what it has said since it was started

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def start(self) -> None:
        """Return when it answers."""
        with tempfile.TemporaryFile() as words:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for pytest, which then ends us
                **_as(self.user),
            )
            try:
                eventually(lambda: self._answers(words.fileno()))
            except BaseException as error:
                self.stop()
                error.add_note(f"{self.command[0]} said: {self.words.decode()}")
                raise

    def stop(self) -> None:
        """Return when it has ended; whatever is left of it after a while is killed."""
        if self.process is None:
            return
        self.process.send_signal(self.farewell)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def _answers(self, words: int) -> bool:
        self.words = os.pread(words, 2**20, 0)  # the process writes where a file of its own stands
        try:
            self.answers()
        except self.unavailable:
            if self.process is None or self.process.poll() is not None:
                raise
            return False
        return True


class PostgresServer(Server):
    """A cluster below `folder`, reached through a socket in it, that trusts everybody and forgets upon power loss."""

    def __init__(self, binaries: Path, folder: Path, user: str | None) -> None:
        self.folder = folder
        options = {"listen_addresses": "", "unix_socket_directories": folder, "max_connections": 200}
        careless = dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit"), "off")
        settings = [word for name, value in (options | careless).items() for word in ("-c", f"{name}={value}")]
        super().__init__(
            [str(binaries / "postgres"), "-D", str(folder / "data"), *settings],
            answers=lambda: self._administer("SELECT 1"),
            unavailable=psycopg.OperationalError,
            farewell=signal.SIGINT,  # ends its clients too
            user=user,
        )
        subprocess.run(
            [
                binaries / "initdb",
                "-D",
                folder / "data",
                "-U",
                "tests",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "-N",
            ],
            check=True,
            capture_output=True,
            cwd="/",
            **_as(user),
        )

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://tests@/{name}?host={self.folder}"

    def create(self, name: str, template: str = "template1") -> str:
        """Make a database and return its URL; nobody may be connected to the template."""
        self._administer(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def drop(self, name: str) -> None:
        self._administer(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _administer(self, statement: str) -> None:
        with psycopg.connect(host=str(self.folder), user="tests", dbname="postgres", autocommit=True) as connection:
            connection.execute(statement.encode())


class RedisServer(Server):
    """A broker behind a socket in `folder`, whose keys outlive a restart; `url` is for Celery, `client` for us."""

    def __init__(self, binary: str, folder: Path) -> None:
        place = folder / "redis.sock"
        self.url = f"redis+socket://{place}"
        self.client = redis.Redis(unix_socket_path=str(place))
        super().__init__(
            [binary, "--port", "0", "--unixsocket", str(place), "--dir", str(folder), "--appendonly", "yes"],
            answers=self.client.ping,
            unavailable=redis.ConnectionError,
        )


class S3Server(Server):
    """moto's server with a bucket; it keeps blobs in memory and believes every signature.

    The port is the system's choice, and what it says; another one after a restart.
    """

    def __init__(self) -> None:
        self.bucket, self.key_id, self.secret = "triggerlens", "tests", "not-looked-at"
        super().__init__(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            answers=lambda: httpx.put(f"{self.endpoint}/{self.bucket}", trust_env=False).raise_for_status(),
            unavailable=httpx.TransportError,
        )

    @property
    def endpoint(self) -> str:
        """Its address; empty, and so out of reach, until it has said one."""
        said = re.search(rb"http://127\.0\.0\.1:[0-9]+", self.words)
        return said[0].decode() if said else ""


@contextmanager
def running_postgresql() -> Iterator[PostgresServer]:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # Debian keeps them off the PATH
    binary = shutil.which("postgres", path=os.pathsep.join([os.environ["PATH"], *map(str, places)]))
    if binary is None:
        do_without("postgres", "apt-get install postgresql")
    user = None if os.getuid() else _unprivileged_user()  # it refuses to serve root
    with _folder(user) as folder, PostgresServer(Path(binary).resolve().parent, folder, user) as server:
        yield server


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    binary = shutil.which("redis-server")
    if binary is None:
        do_without("redis-server", "apt-get install redis-server")
    with _folder() as folder, RedisServer(binary, folder) as server:
        yield server


@contextmanager
def running_s3() -> Iterator[S3Server]:
    if find_spec("moto") is None or find_spec("flask") is None:
        do_without("moto's server", "pip install 'moto[s3,server]'")
    with S3Server() as server:
        yield server


@contextmanager
def servers() -> Iterator[tuple[PostgresServer, RedisServer, S3Server]]:
    """All three, for whoever is no test."""
    with running_postgresql() as postgresql, running_redis() as redis, running_s3() as s3:
        yield postgresql, redis, s3


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresServer]:
    with running_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "template.sqlite3"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql_server: PostgresServer) -> str:
    """The name of a migrated database, to be copied."""
    _migrate(postgresql_server.create("migrated"))
    return "migrated"


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated database, used by nobody else."""
    with migrated_database(request, tmp_path) as opened:
        yield opened


@contextmanager
def migrated_database(request: pytest.FixtureRequest, folder: Path) -> Iterator[Database]:
    """The same, for a fixture of another scope whose params are BOTH."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), folder / "test.sqlite3")
        with _opened(f"sqlite:///{folder}/test.sqlite3") as opened:
            yield opened
    else:
        server, template = request.getfixturevalue("postgresql_server"), request.getfixturevalue("migrated_postgresql")
        with _on(server, template) as opened:
            yield opened


@pytest.fixture(params=BOTH)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with nothing in it, used by nobody else."""
    if request.param == "sqlite":
        with _opened(f"sqlite:///{tmp_path}/test.sqlite3") as opened:
            yield opened
    else:
        with _on(request.getfixturevalue("postgresql_server"), "template1") as opened:
            yield opened


def pytest_configure() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit ends us like Ctrl-C, servers included


@pytest.hookimpl(tryfirst=True)  # before slow tests are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that ask for a server by name are slow, and about the real world."""
    for item in items:
        if {"postgresql_server", "redis_server", "s3_server"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
            item.add_marker("real")


@contextmanager
def _folder(user: str | None = None) -> Iterator[Path]:
    """A folder with a short path, as sockets need one, where the user may write."""
    with tempfile.TemporaryDirectory(prefix="triggerlens-", dir="/tmp", ignore_cleanup_errors=True) as name:
        if user is not None:
            shutil.chown(name, user)
        yield Path(name)


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


@contextmanager
def _on(server: PostgresServer, template: str) -> Iterator[Database]:
    name = f"test_{uuid4().hex}"
    with _opened(server.create(name, template)) as opened:
        yield opened
    server.drop(name)


def _migrate(url: str) -> None:
    with _opened(url) as database:
        migrating.upgrade(database)


def do_without(what: str, advice: str) -> NoReturn:
    """Skip the test, or fail it where everything has to be there."""
    reason = f"needs {what}: {advice}"
    if os.environ.get("TRIGGERLENS_REQUIRE_SERVERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def need_fence() -> None:
    """Go on where there is a fence for engines; do without the test where there is none."""
    if (lack := fence.lacking()) is not None:
        do_without(f"bubblewrap ({lack.found})", lack.advice)


def _as(user: str | None) -> dict[str, Any]:
    """How a process is started as somebody else."""
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _unprivileged_user() -> str:
    return next(name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()})
