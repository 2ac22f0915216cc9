"""What the API and the workers both work with: settings, database, artifact store, doorbell."""

from dataclasses import dataclass

from app.core.database import Database
from app.core.queue import CeleryQueue, JobQueue, LocalQueue, make_celery
from app.core.settings import Settings
from app.core.storage import ArtifactStore


@dataclass(frozen=True)
class Service:
    """The parts of a service, as one process sees them."""

    settings: Settings
    database: Database
    store: ArtifactStore
    queue: JobQueue

    @classmethod
    def open(cls, settings: Settings, queue: JobQueue | None = None) -> "Service":
        """The service of these settings, with their broker unless another doorbell is given.

        Connects to nothing yet: database and store are reached when they are first used.
        """
        return cls(settings, Database(settings.database), ArtifactStore.open(settings), queue or _queue_of(settings))

    def close(self) -> None:
        self.database.close()


def _queue_of(settings: Settings) -> JobQueue:
    return CeleryQueue(make_celery(settings.broker)) if settings.broker else LocalQueue()
