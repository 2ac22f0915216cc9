"""`triggerlens serve`: the API, and without a broker a worker beside it, in one process tree that ends as one.

The worker is a child process; the pipe to its stdin rings it and holds it alive, so however this process dies, the
worker and its engine end too. A worker that dies is started again.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api.checks import DATABASE_AHEAD
from app.core import migrating
from app.core.errors import Refusal
from app.core.migrating import MigrationState
from app.core.queue import LocalQueue
from app.core.service import Service
from app.core.settings import Settings
from app.installed import demand_engine
from app.main import create_app, demand_a_key

log = structlog.get_logger()

RESTART_SECONDS = 2.0
HEAD_SECONDS = 20.0  # how long the head of a request may take
END_SECONDS = 20.0  # how long a worker may take to give its work back


def serve(service: Service, on_ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM raises KeyboardInterrupt; then nothing of it is left.

    `on_ready` hears the address. Raises Refusal where the service must not start.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = service.settings
    demand_a_key(service)
    with listening(settings) as listener:
        server = _Server(configuration(service), on_ready)
        if isinstance(service.queue, LocalQueue):
            demand_engine()
            settings.signer()  # a key that cannot be used is told here, before a worker fails by it
            with LocalWorker(service.queue):
                server.run([listener])
        else:
            server.run([listener])


def configuration(service: Service) -> uvicorn.Config:
    """How uvicorn serves the API of a service."""
    return uvicorn.Config(
        create_app(service.settings, service),
        http=ImpatientProtocol,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,
        server_header=False,
    )


def open_service(settings: Settings) -> Service:
    """The service of these settings; a database of its own (SQLite) is migrated. Raises Refusal."""
    if settings.database_url is None or settings.storage_url is None:
        _make_data_dir(settings)
    service = Service.open(settings)
    if service.database.is_sqlite:
        if migrating.state(service.database) is MigrationState.AHEAD:
            raise DATABASE_AHEAD
        migrating.upgrade(service.database)
    return service


def listening(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say; raises Refusal."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise Refusal(
            "cannot_listen",
            f"Nothing can listen on {settings.host} port {settings.port}: {getattr(error, 'strerror', None) or error}.",
            "Choose another --port (0 finds a free one), or end what listens there.",
        ) from error


def _make_data_dir(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=settings.data_dir).close()
    except OSError as error:
        raise Refusal(
            "data_dir_not_writable",
            f"The data folder {settings.data_dir.absolute()} cannot be written: {error.strerror}.",
            "Choose another one by --data-dir, or see that there is room and that you may write there.",
        ) from error


class LocalWorker:
    """The worker of the embedded service as a supervised child."""

    def __init__(self, queue: LocalQueue) -> None:
        self.queue = queue
        self._over = threading.Event()
        self._turn = threading.Lock()
        self._process = self._start()
        self._thread = threading.Thread(target=self._keep_alive, name="worker-keeper", daemon=True)

    def __enter__(self) -> "LocalWorker":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._turn:
            self._over.set()
        self._hang_up()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()

    def _start(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C is for this process, which then ends the worker in order.
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.embedded"], stdin=subprocess.PIPE, start_new_session=True, env=os.environ
        )
        self.queue.pipe = process.stdin
        return process

    def _keep_alive(self) -> None:
        while not self._over.is_set():
            code = self._process.wait()
            if self._over.is_set():
                return
            log.warning("worker_ended", code=code)
            self._hang_up()
            self._over.wait(RESTART_SECONDS)
            with self._turn:
                if not self._over.is_set():
                    self._process = self._start()

    def _hang_up(self) -> None:
        pipe, self.queue.pipe = self.queue.pipe, None
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


class ImpatientProtocol(H11Protocol):
    """Closes a connection on which the head of a request does not come, or comes drop by drop.

    uvicorn itself waits only between two requests, and until the first byte of the next.
    """

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_a_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_a_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_a_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()

    def _wait_for_a_head(self) -> None:
        is_waiting = self.conn.their_state is h11.IDLE
        if is_waiting and self._patience is None:
            self._patience = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)
        elif not is_waiting and self._patience is not None:
            self._patience.cancel()
            self._patience = None


class _Server(uvicorn.Server):
    """Says when it listens, and where: the port may have been left to the system."""

    def __init__(self, configuration: uvicorn.Config, on_ready: Callable[[str], None]) -> None:
        super().__init__(configuration)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
