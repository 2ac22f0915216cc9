"""Watches over one job while it is worked on: keeps the lease, looks for a cancel, ends an engine that stands still.

Two threads beside the work. One asks the database; the other looks at its clock only, so a
database that hangs cannot keep it from giving the job up when the lease has run out. Whoever decides that the work must
end says why in `ended` and kills the engine, which makes the working thread return.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Self, TypeVar

import structlog
from sqlalchemy.exc import OperationalError

from app.core.clock import Clock
from app.core.database import Database
from app.core.lifecycle import OPEN_SCANS
from app.core.progress import Work
from app.core.repository import jobs
from app.core.repository.jobs import Lease
from app.core.settings import Settings
from app.core.tables import Scan
from worker.launch import ScanSession

T = TypeVar("T")

log = structlog.get_logger()


class Ended(StrEnum):
    """Why the supervisor ended a job."""

    LOST = "lost"  # the lease; somebody else may hold the job by now
    CANCELLED = "cancelled"  # or its scan has ended in another way
    STALLED = "stalled"
    OVERDUE = "overdue"  # it reports progress and comes to no end
    STOPPED = "stopped"  # this worker is being shut down


class Supervisor:
    """Holds a lease, claimed at a time of the clock, from `with` to the end of the block."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        lease: Lease,
        claimed_at: float,
        scan_id: str,
        session: ScanSession,
        clock: Clock,
    ) -> None:
        self.settings, self.database = settings, database
        self.lease, self.scan_id, self.session = lease, scan_id, session
        self.clock = clock
        self.work: Work | None = None  # what the engine is at: written down when the next look finds it changed
        self.ended: Ended | None = None
        self._expecting_since: float | None = None
        self._over = threading.Event()
        self.claimed_at = self._renewed_at = claimed_at
        self._threads = [
            threading.Thread(target=watch, name=watch.__name__, daemon=True)
            for watch in (self._watch_clock, self._watch_database)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def end(self, why: Ended) -> None:
        """End the work; the first reason stands."""
        self.ended = self.ended or why
        self.session.kill()

    @contextmanager
    def expecting_events(self) -> Iterator[None]:
        """While the engine works: it has to report something now and then."""
        self._expecting_since = self.clock.now()
        try:
            yield
        finally:
            self._expecting_since = None

    def patiently(self, attempt: Callable[[], T], *unavailable: type[Exception]) -> T:
        """The attempt's result, tried again for as long as the lease holds while a server is away."""
        while True:
            try:
                return attempt()
            except unavailable as error:
                if self.ended is not None:
                    raise
                log.warning("server_away", error=type(error).__name__, job=self.lease.job_id)
                self._wait_a_poll()

    def _wait_a_poll(self) -> bool:
        """Whether the work is over by then."""
        return self.clock.wait(self.settings.poll_seconds, self._over)

    def _watch_clock(self) -> None:
        while not self._wait_a_poll():
            now, since = self.clock.now(), self._expecting_since
            if now - self._renewed_at > self.settings.lease_seconds:
                return self.end(Ended.LOST)
            if since is not None and now - max(since, self.session.last_event_at) > self.settings.stall_seconds:
                return self.end(Ended.STALLED)
            if since is not None and now - since > self.settings.job_seconds:
                return self.end(Ended.OVERDUE)
        return None

    def _watch_database(self) -> None:
        written = None
        while not self._wait_a_poll():
            now, work = self.clock.now(), self.work
            try:
                if self._scan_is_over():
                    return self._end_unless_over(Ended.CANCELLED)
                if now - self._renewed_at >= self.settings.heartbeat_seconds:
                    if not self._renew():
                        return self._end_unless_over(Ended.LOST)
                    self._renewed_at = now
                if work is not None and work != written:
                    self._write_work(work)
                    written = work
            except OperationalError as error:
                log.warning("heartbeat_failed", job=self.lease.job_id, error=type(error).__name__)
        return None

    def _end_unless_over(self, why: Ended) -> None:
        """End the work, unless it has just ended well: then its lease is gone, too, and its scan may be at its end."""
        if not self._wait_a_poll():
            self.end(why)

    def _scan_is_over(self) -> bool:
        with self.database.reading() as session:
            scan = session.get(Scan, self.scan_id)
            return scan is None or scan.cancel_requested or scan.status not in OPEN_SCANS

    def _renew(self) -> bool:
        with self.database.writing() as session:
            return jobs.renew(session, self.lease, self.settings.lease_seconds)

    def _write_work(self, work: Work) -> None:
        with self.database.writing() as session:
            jobs.report_work(session, self.lease, work)
