"""The doorbell: "there is work on this queue". It carries nothing else, so a ring that is lost, doubled or late does no
harm: work is found in the database, and the sweeper rings again for what waits.
"""

from contextlib import suppress
from typing import IO, Any, Protocol

import structlog

log = structlog.get_logger()

RING_TASK = "triggerlens.ring"
RING_LASTS_SECONDS = 60  # a ring that nobody heard for so long was repeated by the sweeper
VISIBILITY_SECONDS = 86_400  # longer than any ring lies unread


class JobQueue(Protocol):
    """Something that wakes the workers of a queue (`cpu` or `gpu`)."""

    def ring(self, queue: str) -> None:
        """Wake them; never raises, for the row is the job and the ring only saves waiting."""

    def is_reachable(self) -> bool: ...


def make_celery(broker_url: str | None) -> Any:
    """The Celery application over a broker, the same for those who ring and for the workers.

    Celery carries rings and nothing else: no results, no retries, no chords.
    """
    from celery import Celery  # only those who have a broker pay for importing it
    from kombu.entity import Queue

    celery = Celery("triggerlens", broker=broker_url)
    celery.conf.update(
        task_queues=[Queue("cpu"), Queue("gpu")],
        task_default_queue="cpu",
        task_create_missing_queues=False,
        task_ignore_result=True,
        task_acks_late=False,
        task_serializer="json",
        accept_content=["json"],
        worker_pool="prefork",
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_max_tasks_per_child=50,
        worker_soft_shutdown_timeout=30,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,  # what we log is one JSON object a line, and stays so
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a broker that is away is waited for, however long
        visibility_timeout=VISIBILITY_SECONDS,  # Celery wants it in three places, and the shortest wins
        result_backend_transport_options={"visibility_timeout": VISIBILITY_SECONDS},
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            "health_check_interval": 25,
            "socket_keepalive": True,
            "socket_connect_timeout": 3,
            "socket_timeout": 5,
            "max_retries": 1,  # of who rings: nobody waits for a broker that is away, only workers do
            "interval_start": 0.1,
            "global_keyprefix": "triggerlens:",
        },
    )
    return celery


class CeleryQueue:
    """Rings through a Celery broker."""

    def __init__(self, celery: Any) -> None:
        self.celery = celery

    def ring(self, queue: str) -> None:
        try:
            self.celery.send_task(RING_TASK, queue=queue, retry=False, expires=RING_LASTS_SECONDS)
        except Exception as error:  # kombu lets through whatever its transport raises
            log.warning("ring_failed", queue=queue, error=str(error))

    def is_reachable(self) -> bool:
        try:
            with self.celery.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=3)
        except Exception:  # as above
            return False
        return True


class LocalQueue:
    """Wakes the runner beside the API by a byte on the pipe that also holds it alive."""

    def __init__(self) -> None:
        self.pipe: IO[bytes] | None = None  # of the runner that lives now

    def ring(self, queue: str) -> None:
        if self.pipe is not None:
            with suppress(OSError, ValueError):  # it is being started again, and will look by itself
                self.pipe.write(b".")
                self.pipe.flush()

    def is_reachable(self) -> bool:
        return self.pipe is not None


class RecordingQueue:
    """Remembers the rings: for tests, and for a sweep by hand."""

    def __init__(self) -> None:
        self.rings: list[str] = []

    def ring(self, queue: str) -> None:
        self.rings.append(queue)

    def is_reachable(self) -> bool:
        return True
