"""Puts right what nobody else does: `python -m worker.sweeper` every few seconds, or a thread of the embedded runner.

It takes jobs back from workers that were lost, rings again for what waits, goes on where the next job was missed, and
deletes what is past its time or came to nothing. Doing it twice, or in two places at once, does no harm.
Each duty, and within it each row, is seen to by itself: what fails over one is logged, and the others go on.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog
from sqlalchemy.exc import OperationalError

from app import actions
from app.core import scheduling
from app.core.clock import MACHINE, Clock
from app.core.errors import Problem, Refusal
from app.core.lifecycle import OPEN_SCANS
from app.core.logs import configure_logs
from app.core.repository import access, artifacts, jobs, scans
from app.core.repository.jobs import Lease
from app.core.service import Service
from app.core.settings import Settings
from app.core.storage import ATTEMPT, StorageError

log = structlog.get_logger()

LOST_WORKER_SECONDS = 24 * 3600
ABANDONED_UPLOAD_SECONDS = 24 * 3600
LITTER_ROUNDS = 240  # looking through the whole store takes long where much is kept, and litter only takes room


def sweep(service: Service, *, litter: bool = True) -> None:
    """Everything once; litter only where it is asked for."""
    duties = [take_back_lost_jobs, finish_missed_fan_ins, ring_for_what_waits, forget_the_old]
    for duty in [*duties, clear_litter] if litter else duties:
        with _by_itself(duty=duty.__name__):
            duty(service)


def take_back_lost_jobs(service: Service) -> None:
    """Return jobs whose lease ran out; the third loss of a job fails its scan with worker_lost."""
    with service.database.writing() as session:
        for job in jobs.expired(session):
            with _by_itself(job=job.id), session.begin_nested():
                log.warning("worker_lost", scan=job.scan_id, job=job.id, kind=job.kind, worker=job.lease_owner)
                scheduling.release(session, job, _worker_lost())


def finish_missed_fan_ins(service: Service) -> None:
    """Go on with open scans in which nothing is left to do: what follows their last job was missed."""
    with service.database.reading() as session:
        stuck = scans.without_open_jobs(session)
    for scan_id in stuck:
        with _by_itself(scan=scan_id), service.database.writing() as session:
            scan = scans.lock(session, scan_id)
            if scan is not None and scan.status in OPEN_SCANS:
                log.warning("fan_in_missed", scan=scan_id)
                scheduling.go_on(session, scan)


def ring_for_what_waits(service: Service) -> None:
    with service.database.reading() as session:
        queues = jobs.ready_queues(session)
    for queue in queues:
        service.queue.ring(queue)


def forget_the_old(service: Service) -> None:
    """Delete what is past its time: keys, workers, uploads that were given up; with a retention time also ended scans
    and unused artifacts."""
    with _by_itself(duty="forget_old_rows"), service.database.writing() as session:
        access.forget_old_keys(session)
        access.forget_lost_workers(session, LOST_WORKER_SECONDS)
    with _by_itself(duty="sweep_incoming"):
        service.store.sweep_incoming(ABANDONED_UPLOAD_SECONDS)
    days = service.settings.retention_days
    if days is None:
        return
    with service.database.reading() as session:
        old_scans, old_artifacts = scans.expired(session, days), artifacts.expired(session, days)
    for scan in old_scans:
        with _by_itself(scan=scan.id), suppress(Refusal):  # somebody has deleted it by now, or needs it
            actions.delete_scan(service, scan.tenant_id, scan.id)
    for artifact in old_artifacts:
        with _by_itself(artifact=artifact.sha256), suppress(Refusal):
            actions.delete_artifact(service, artifact.tenant_id, artifact.sha256)


def clear_litter(service: Service) -> None:
    """Delete what attempts at a job have left that failed, or whose worker was lost."""
    for prefix in service.store.attempts():  # listed before rows are read, so each was begun before
        attempt = ATTEMPT.match(prefix)
        assert attempt is not None
        lease = Lease(attempt["job"], int(attempt["token"]))
        with _by_itself(prefix=prefix):
            with service.database.reading() as session:
                is_litter = jobs.came_to_nothing(session, lease, prefix)
            if is_litter:
                log.info("litter_cleared", prefix=prefix)
                service.store.delete_prefix(prefix)


def sweep_until(service: Service, over: threading.Event, clock: Clock = MACHINE) -> None:
    """Sweep every few seconds until told to stop; a server that is away is waited for."""
    rounds = 0
    while not clock.wait(service.settings.sweep_seconds, over):
        sweep(service, litter=rounds % LITTER_ROUNDS == 0)
        rounds += 1


@contextmanager
def _by_itself(**what: str) -> Iterator[None]:
    """Whatever fails in here is told, and ends nothing else."""
    try:
        yield
    except (OperationalError, StorageError) as error:
        log.warning("sweep_failed", error=type(error).__name__, **what)
    except Exception:  # a defect, or a row that no code of ours writes
        log.exception("sweep_failed", **what)


def _worker_lost() -> Problem:
    return Problem(
        "worker_lost",
        "The worker that had this scan ended without a word, several times over.",
        "A lack of memory is the first suspect: see the worker's log, then request the scan again.",
        title="The scan failed",
        retryable=True,
    )


def main() -> None:
    configure_logs()
    service, over = Service.open(Settings()), threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: over.set())
    sweep_until(service, over)


if __name__ == "__main__":
    main()
