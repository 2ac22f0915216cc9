"""What is known about the service's surroundings, asked for at most every few seconds: database, store, broker."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog
from sqlalchemy.orm import Session

from app.core import migrating
from app.core.errors import Refusal
from app.core.migrating import MigrationState
from app.core.repository import access
from app.core.service import Service
from app.core.storage import StorageError
from app.core.tables import Worker

T = TypeVar("T")

log = structlog.get_logger()

FRESH_SECONDS = 5.0

DATABASE_BEHIND = Refusal(
    "database_behind",
    "The database has not been migrated to this version of the service.",
    "Have the operator run `triggerlens migrate`; the service need not be started again.",
    retryable=True,
)
DATABASE_AHEAD = Refusal(
    "database_ahead",
    "A newer version of the service has migrated the database.",
    "Have the operator install that version, or restore the backup from before the upgrade.",
)


class Cached(Generic[T]):
    """An answer that is asked for again when it has grown old."""

    def __init__(self, ask: Callable[[], T], seconds: float = FRESH_SECONDS) -> None:
        self._ask, self._seconds = ask, seconds
        self._lock = threading.Lock()
        self._answer: T | None = None
        self._asked_at = -float("inf")

    def fresh(self) -> T:
        """The answer, at most `seconds` old; waits for it. One thread asks, the others wait for the same."""
        with self._lock:
            if self._answer is None or time.monotonic() - self._asked_at > self._seconds:
                self._answer = self._ask()
                self._asked_at = time.monotonic()
            return self._answer

    def latest(self) -> T | None:
        """The last answer, without waiting; an old one is renewed in the background. None before the first."""
        if time.monotonic() - self._asked_at > self._seconds and not self._lock.locked():
            threading.Thread(target=self.fresh, daemon=True).start()
        return self._answer


class Checks:
    """The surroundings of one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.migrations = Cached(lambda: migrating.state(service.database))
        self.storage_works = Cached(self._try_storage)
        self.broker = Cached(service.queue.is_reachable) if service.settings.broker_url else None

    def require_migrated(self) -> None:
        """Raises Refusal database_behind or database_ahead where the tables are not those that this code knows."""
        state = self.migrations.fresh()
        if state is not MigrationState.CURRENT:
            raise DATABASE_AHEAD if state is MigrationState.AHEAD else DATABASE_BEHIND

    def live_queues(self, session: Session) -> set[str]:
        """The queues that a living worker listens to."""
        return {queue for worker in self.live_workers(session) for queue in worker.queues.split(",")}

    def live_workers(self, session: Session) -> Sequence[Worker]:
        """The workers that were seen not long ago."""
        return access.living_workers(session, self.service.settings.heartbeat_seconds)

    def _try_storage(self) -> bool:
        try:
            self.service.store.check()
        except (StorageError, Refusal) as error:
            log.error("storage_check_failed", error=str(error))
            return False
        return True
