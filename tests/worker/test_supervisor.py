"""The supervisor: a lease is kept while the work goes on, and the work ends when it has to."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from app.core.database import Database
from app.core.lifecycle import JobState, ScanStatus
from app.core.progress import Doing, Work
from app.core.repository import jobs, scans
from app.core.repository.jobs import Lease
from app.core.settings import Settings
from app.core.tables import Job, Scan
from tests import factories
from tests.clocks import PretendClock
from tests.worker.crew import SwiftSession, Unplugged, Workshop, supervisors_clock
from worker.supervisor import Ended, Supervisor

pytestmark = pytest.mark.threads


@pytest.fixture
def clock() -> PretendClock:
    return supervisors_clock()


@pytest.fixture
def session(tmp_path: Path, clock: PretendClock) -> SwiftSession:
    return Workshop()(tmp_path, lambda event: None, clock=clock)  # type: ignore[arg-type]


@contextmanager
def watching(
    database: Database, session: SwiftSession, scan: Scan, claimed_ago: float = 0.0, **settings: float
) -> Iterator[Supervisor]:
    """By the session's clock: it looks every second, and renews a lease of a minute every ten."""
    with database.reading() as reading:
        job = reading.scalars(select(Job).where(Job.scan_id == scan.id, Job.state == JobState.RUNNING)).one()
    lease, made, clock = Lease(job.id, job.lease_token), Settings(**settings), session.clock  # type: ignore[arg-type]
    claimed_at = clock.now() - claimed_ago
    with Supervisor(made, database, lease, claimed_at, scan.id, session, clock) as supervisor:  # type: ignore[arg-type]
        yield supervisor


def taken(database: Database, lease_seconds: float = 60.0) -> Scan:
    with database.writing() as session:
        scan = factories.begun(session)
        factories.taken(session, scan, lease_seconds)
    return scan


def job_of(database: Database, scan: Scan) -> Job:
    with database.reading() as session:
        return factories.jobs_of(session, scan)[0]


def test_a_lease_is_renewed_while_the_work_goes_on(
    database: Database, session: SwiftSession, clock: PretendClock
) -> None:
    scan = taken(database, lease_seconds=0.2)
    before = job_of(database, scan).lease_expires_at or 0
    with watching(database, session, scan) as supervisor:
        clock.let_pass(12)
        assert (job_of(database, scan).lease_expires_at or 0) > before + 1
        clock.let_pass(70)
        assert supervisor.ended is None and not session.killed.is_set()


def test_a_lease_that_somebody_else_holds_ends_the_work(
    database: Database, session: SwiftSession, clock: PretendClock
) -> None:
    scan = taken(database)
    with watching(database, session, scan) as supervisor:
        with database.writing() as writing:
            writing.execute(update(Job).values(lease_token=Job.lease_token + 1))
        clock.let_pass(12)
        assert session.killed.is_set()
    assert supervisor.ended is Ended.LOST


@pytest.mark.parametrize("end", ["cancel", "failure", "deletion"])
def test_the_end_of_the_scan_ends_the_work(
    database: Database, session: SwiftSession, clock: PretendClock, end: str
) -> None:
    scan = taken(database)
    with watching(database, session, scan) as supervisor:
        with database.writing() as writing:
            locked = scans.lock(writing, scan.id)
            assert locked is not None
            match end:
                case "cancel":
                    locked.cancel_requested = True
                case "failure":
                    scans.move(writing, locked, ScanStatus.FAILED)
                case "deletion":
                    scans.delete(writing, locked)
        clock.let_pass(2)
        assert session.killed.is_set()
    assert supervisor.ended is Ended.CANCELLED


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
def test_a_database_that_is_away_for_longer_than_the_lease_ends_the_work(
    migrated_sqlite: Path, tmp_path: Path, session: SwiftSession, clock: PretendClock, hangs: bool
) -> None:
    (tmp_path / "own.sqlite3").write_bytes(migrated_sqlite.read_bytes())
    database = Unplugged(f"sqlite:///{tmp_path}/own.sqlite3", clock if hangs else None)
    scan = taken(database)
    with watching(database, session, scan) as supervisor:
        clock.let_pass(15)  # it was renewed in the tenth second
        database.plug.clear()
        clock.let_pass(55)
        assert not session.killed.is_set(), "not before"
        clock.let_pass(2)
        assert session.killed.is_set()
        database.plug.set()
    assert supervisor.ended is Ended.LOST


def test_the_lease_counts_from_the_claim_and_not_from_when_the_work_begins(
    database: Database, session: SwiftSession, clock: PretendClock
) -> None:
    scan = taken(database)
    with watching(database, session, scan, claimed_ago=50.0, heartbeat_seconds=600.0) as supervisor:
        clock.let_pass(10)
        assert not session.killed.is_set()
        clock.let_pass(2)
        assert session.killed.is_set()
    assert supervisor.ended is Ended.LOST


def test_an_engine_may_be_silent_only_while_nothing_is_expected_of_it(
    database: Database, session: SwiftSession, clock: PretendClock
) -> None:
    scan = taken(database)
    session.last_event_at -= 1000
    with watching(database, session, scan, stall_seconds=20.0) as supervisor:
        clock.let_pass(100)
        assert not session.killed.is_set(), "its inputs are being fetched"
        with supervisor.expecting_events():
            clock.let_pass(20)
            assert not session.killed.is_set(), "it counts from now"
            clock.let_pass(2)
            assert session.killed.is_set()
    assert supervisor.ended is Ended.STALLED


def test_an_engine_that_reports_progress_for_ever_is_ended(
    database: Database, session: SwiftSession, clock: PretendClock
) -> None:
    scan, began = taken(database), clock.now()
    patience = {"stall_seconds": 20.0, "job_seconds": 60.0}
    with watching(database, session, scan, **patience) as supervisor, supervisor.expecting_events():
        while not session.killed.is_set():
            session.last_event_at = clock.now()
            clock.let_pass(1)
    assert supervisor.ended is Ended.OVERDUE and 60 < clock.now() - began < 65


def test_what_the_work_is_at_is_written_down_now_and_then(
    database: Database, session: SwiftSession, clock: PretendClock
) -> None:
    scan = taken(database)
    with watching(database, session, scan) as supervisor:
        supervisor.work = Work(Doing.SEARCH, "static", 2, 3, 4.5)
        clock.let_pass(1)
        assert job_of(database, scan).work == supervisor.work.to_json()


def test_the_first_reason_stands(database: Database, session: SwiftSession) -> None:
    scan = taken(database)
    with watching(database, session, scan) as supervisor:
        supervisor.end(Ended.STOPPED)
        supervisor.end(Ended.STALLED)
    assert supervisor.ended is Ended.STOPPED


def test_patience_lasts_until_the_work_is_ended(database: Database, session: SwiftSession) -> None:
    scan, attempts = taken(database), []

    def attempt() -> str:
        attempts.append(1)
        if len(attempts) < 4:
            raise OperationalError("SELECT 1", {}, ConnectionError("away"))
        return "done"

    with watching(database, session, scan) as supervisor:
        assert supervisor.patiently(attempt, OperationalError) == "done"
        attempts.clear()
        supervisor.end(Ended.STOPPED)
        with pytest.raises(OperationalError):
            supervisor.patiently(attempt, OperationalError)
        assert len(attempts) == 1


def test_the_end_of_the_block_ends_the_watch_at_once(
    database: Database, session: SwiftSession, clock: PretendClock
) -> None:
    """Else it would not end at all, for the clock stands still."""
    scan, before, began = taken(database), threading.active_count(), clock.now()
    with watching(database, session, scan):
        pass
    assert clock.now() == began and threading.active_count() == before
    with database.reading() as reading:
        assert [job.id for job in jobs.of_scan(reading, scan.id, JobState.RUNNING)], "it lets go of nothing by itself"


def test_work_that_has_just_ended_well_is_not_taken_for_lost(
    database: Database, session: SwiftSession, clock: PretendClock
) -> None:
    """Its engine stays warm for the next job."""
    scan = taken(database)
    with watching(database, session, scan, heartbeat_seconds=0.0) as supervisor:
        clock.let_pass(0.5)
        with database.writing() as writing:
            writing.execute(update(Job).values(state=JobState.DONE))
            writing.execute(update(Scan).values(status=ScanStatus.FINISHED))
        clock.let_pass(1)
    assert supervisor.ended is None and not session.killed.is_set()
