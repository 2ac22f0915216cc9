"""What becomes of a scan: it goes through its plan once, however its workers fare, and ends when it is told to."""

import time
from collections.abc import Callable
from dataclasses import asdict

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.core import scheduling
from app.core.config import ScanConfig
from app.core.database import Database
from app.core.findings import Decision, RepairReport, RepairStatus, Unrepaired
from app.core.jobs import ScanJob
from app.core.lifecycle import MOST_LOSSES, OPEN_SCANS, JobState, ScanStatus
from app.core.plan import JobKind, Task
from app.core.repository import jobs, scans
from app.core.repository.jobs import Lease
from app.core.tables import DEFAULT_TENANT, Job, Scan
from tests import factories
from tests.core.report.report_samples import REPAIR
from tests.factories import PROBLEM
from tests.threads import at_once

FLAGGED = factories.decision(0, 2)


def end(session: Session, job: Job, request: ScanJob | None = None, decision: Decision = FLAGGED) -> list[str]:
    """A worker has done its job; three labels were prepared for, and the decision flags two."""
    return scheduling.done(session, job, "gpu", request or factories.request(), factories.preparation(3), decision)


def kinds(session: Session, scan: Scan, state: JobState) -> list[str]:
    return [job.kind for job in jobs.of_scan(session, scan.id, state)]


def status_of(database: Database, scan: Scan) -> str:
    with database.reading() as session:
        found = scans.find(session, DEFAULT_TENANT, scan.id)
        assert found is not None
        return found.status


def events_of(database: Database, scan: Scan) -> list[str]:
    with database.reading() as session:
        return [event.name for event in scans.events_after(session, scan, 0)]


def two_blocks_at_work(database: Database, kind: JobKind = JobKind.INVERT, round: int = 0) -> tuple[Scan, list[Lease]]:
    """A running scan whose last two blocks are with two workers."""
    with database.writing() as session:
        scan = factories.scan(session)
        leases = []
        for label in (0, 5):
            factories.job(session, scan, Task(kind, (label,), round))
            job = factories.taken(session, scan)
            leases.append(Lease(job.id, job.lease_token))
    return scan, leases


@pytest.mark.parametrize("repair", [False, True])
def test_a_scan_goes_through_its_plan_and_rings_for_each_next_job(database: Database, repair: bool) -> None:
    done, rung = [], []
    with database.writing() as session:
        scan = factories.begun(session)
    while True:
        with database.writing() as session:
            job = jobs.claim(session, ["cpu", "gpu"], "worker", 60)
            if job is None:
                break
            assert scheduling.claimed(session, job)
            rung.append(end(session, job, factories.request(repair=repair)))
            done.append((job.kind, job.labels))
    middle = [("repair", [0, 2])] if repair else []
    assert done == [
        ("inspect", []),
        ("prepare", []),
        ("invert", [0, 1, 2]),
        ("decide", []),
        *middle,
        ("report", []),
    ]
    assert rung == [["gpu"], ["gpu"], ["cpu"], *([["gpu"]] if repair else []), ["cpu"], []]
    stages = ["stage"] * len(done)
    assert events_of(database, scan) == ["queued", "running", *stages]


def test_labels_in_doubt_make_a_second_round_of_jobs_each_of_them_once(database: Database) -> None:
    request = factories.request(config=ScanConfig(confirms=True, labels_per_block=1), repair=True)
    decisions, done = [factories.decision(doubted=(0, 2)), factories.decision(2)], []
    with database.writing() as session:
        scan = factories.begun(session)
    while (job := claimed_job(database)) is not None:
        done.append((job.kind, job.round, job.labels))
        with database.writing() as session:
            held = jobs.held(session, Lease(job.id, job.lease_token))
            assert held is not None
            end(session, held, request, decisions[held.round])
    assert done[5:] == [
        ("decide", 0, []),
        ("confirm", 1, [0]),
        ("confirm", 1, [2]),
        ("decide", 1, []),
        ("repair", 1, [2]),
        ("report", 1, []),
    ]
    with database.reading() as session:
        told = [event.data["stage"] for event in scans.events_after(session, scan, 0) if event.name == "stage"]
    assert told == ["inspect", "prepare", "invert", "decide", "confirm", "decide", "repair", "report"]


def claimed_job(database: Database) -> Job | None:
    with database.writing() as session:
        job = jobs.claim(session, ["cpu", "gpu"], "worker", 60)
        assert job is None or scheduling.claimed(session, job)
        return job


def test_a_scan_of_which_nothing_follows_comes_to_an_end(database: Database) -> None:
    """Its last job is done again, in case that what follows was missed; but not for ever."""
    with database.writing() as session:
        scan = factories.begun(session)
    for _ in range(MOST_LOSSES):
        assert status_of(database, scan) in OPEN_SCANS
        with database.writing() as session:
            job = factories.taken(session, scan)
            end(session, job)
            session.execute(delete(Job).where(Job.id != job.id))
        with database.writing() as session:
            locked = scans.lock(session, scan.id)
            assert locked is not None
            scheduling.go_on(session, locked)
    with database.reading() as session:
        found = scans.find(session, DEFAULT_TENANT, scan.id)
        assert found is not None and found.status == ScanStatus.FAILED
        assert found.problem == scheduling.NOTHING_LEFT.to_json()


def test_a_scan_runs_from_its_first_claim_and_shows_the_stage_of_the_newest(database: Database) -> None:
    with database.writing() as session:
        scan = factories.begun(session)
        assert scan.status == ScanStatus.QUEUED and scan.started_at is None
        end(session, factories.taken(session))
        factories.taken(session, queue="gpu")
    with database.reading() as session:
        found = scans.find(session, DEFAULT_TENANT, scan.id)
    assert found is not None and found.started_at is not None
    assert (found.status, found.stage) == (ScanStatus.RUNNING, JobKind.PREPARE)


@pytest.mark.parametrize(("kind", "round"), [(JobKind.INVERT, 0), (JobKind.CONFIRM, 1)])
def test_of_two_workers_that_end_the_last_two_blocks_at_once_one_asks_for_the_decision(
    database: Database, kind: JobKind, round: int
) -> None:
    def finish(lease: Lease) -> list[str]:
        with database.writing() as session:
            job = jobs.held(session, lease)
            assert job is not None
            time.sleep(0.05)  # on PostgreSQL both are here now
            return end(session, job)

    for _ in range(5):
        scan, leases = two_blocks_at_work(database, kind, round)
        rung = at_once(*[lambda lease=lease: finish(lease) for lease in leases])
        assert sorted(rung) == [[], ["cpu"]]
        with database.reading() as session:
            (ready,) = jobs.of_scan(session, scan.id, JobState.READY)
            assert (ready.kind, ready.round) == (JobKind.DECIDE, round)


def test_a_block_that_ends_before_the_others_asks_for_nothing(database: Database) -> None:
    scan, (first, second) = two_blocks_at_work(database)
    for lease, following in ((first, []), (second, [JobKind.DECIDE])):
        with database.writing() as session:
            job = jobs.held(session, lease)
            assert job is not None
            end(session, job)
            assert kinds(session, scan, JobState.READY) == following


def test_a_job_whose_worker_stops_is_ready_again_however_often(database: Database) -> None:
    with database.writing() as session:
        scan = factories.begun(session)
        for turn in range(1, 3 * MOST_LOSSES):
            job = factories.taken(session)
            assert job.lease_token == turn
            assert scheduling.release(session, job) == ["cpu"]
            assert (job.lease_owner, job.lease_expires_at) == (None, None)
    assert status_of(database, scan) == ScanStatus.RUNNING


def test_a_job_that_is_lost_three_times_is_given_to_nobody_and_fails_its_scan(database: Database) -> None:
    with database.writing() as session:
        scan = factories.begun(session)
    for loss in range(1, MOST_LOSSES + 1):
        with database.writing() as session:
            job = factories.taken(session)
            rung = scheduling.release(session, job, PROBLEM)
            assert job.losses == loss
            assert rung == (["cpu"] if loss < MOST_LOSSES else [])
    with database.writing() as session:
        assert jobs.claim(session, ["cpu"], "worker", 60) is None
        found = scans.find(session, DEFAULT_TENANT, scan.id)
        assert found is not None and found.finished_at is not None
        assert (found.status, found.problem) == (ScanStatus.FAILED, PROBLEM.to_json())
        assert kinds(session, scan, JobState.FAILED) == [JobKind.INSPECT]
    assert events_of(database, scan)[-1] == "failed"


def test_a_refused_job_fails_its_scan_and_cancels_what_nobody_has_begun(database: Database) -> None:
    scan, (first, second) = two_blocks_at_work(database)
    with database.writing() as session:
        factories.job(session, scan, Task(JobKind.INVERT, (9,)))
        job = jobs.held(session, first)
        assert job is not None
        scheduling.fail(session, job, PROBLEM)
    with database.writing() as session:
        assert [job.state for job in factories.jobs_of(session, scan)] == ["failed", "running", "cancelled"]
        job = jobs.held(session, second)
        assert job is not None
        assert end(session, job) == []
    assert status_of(database, scan) == ScanStatus.FAILED
    assert events_of(database, scan)[-1] == "failed"


def test_a_queued_scan_is_cancelled_at_once(database: Database) -> None:
    with database.writing() as session:
        scan = factories.begun(session)
        scheduling.cancel(session, scan)
        assert kinds(session, scan, JobState.CANCELLED) == [JobKind.INSPECT]
        assert jobs.claim(session, ["cpu"], "worker", 60) is None
    assert status_of(database, scan) == ScanStatus.CANCELLED
    assert events_of(database, scan) == ["queued", "cancelled"]


@pytest.mark.parametrize(
    ("last_words", "state"),
    [
        (scheduling.release, JobState.CANCELLED),
        (lambda session, job: scheduling.release(session, job, PROBLEM), JobState.CANCELLED),
        (end, JobState.DONE),
    ],
    ids=["gives up", "is lost", "ends"],
)
def test_a_running_scan_is_cancelled_when_its_last_worker(
    database: Database, last_words: Callable[[Session, Job], list[str]], state: JobState
) -> None:
    scan, leases = two_blocks_at_work(database)
    with database.writing() as session:
        locked = scans.lock(session, scan.id)
        assert locked is not None
        scheduling.cancel(session, locked)
    for lease in leases:
        assert status_of(database, scan) == ScanStatus.RUNNING
        with database.writing() as session:
            job = jobs.held(session, lease)
            assert job is not None
            assert last_words(session, job) == []
            assert job.state == state
    assert status_of(database, scan) == ScanStatus.CANCELLED


def test_a_scan_may_be_cancelled_and_its_jobs_claimed_at_the_same_time(database: Database) -> None:
    def claim() -> None:
        with database.writing() as session:
            job = jobs.claim(session, ["cpu"], "worker", 60)
            time.sleep(0.05)  # on PostgreSQL the other holds the scan now
            if job is not None and scheduling.claimed(session, job):
                scheduling.release(session, job)

    def cancel() -> None:
        time.sleep(0.02)
        with database.writing() as session:
            locked = scans.lock(session, scan.id)
            assert locked is not None
            scheduling.cancel(session, locked)

    for _ in range(5):
        with database.writing() as session:
            scan = factories.begun(session)
        at_once(claim, cancel)
        assert status_of(database, scan) == ScanStatus.CANCELLED
        with database.reading() as session:
            assert kinds(session, scan, JobState.CANCELLED) == [JobKind.INSPECT]
        assert events_of(database, scan)[-1] == "cancelled"


def test_a_lost_worker_and_a_sweep_that_come_at_once_end_a_job_once(database: Database) -> None:
    def record(lease: Lease) -> None:
        with database.writing() as session:
            job = jobs.held(session, lease)
            time.sleep(0.02)
            if job is not None:
                end(session, job)

    def sweep() -> None:
        time.sleep(0.01)
        with database.writing() as session:
            for job in jobs.expired(session):
                scheduling.release(session, job, PROBLEM)

    for _ in range(5):
        with database.writing() as session:
            scan = factories.begun(session)
            job = factories.taken(session, lease_seconds=0)
            lease = Lease(job.id, job.lease_token)
        at_once(lambda lease=lease: record(lease), sweep)
        with database.writing() as session:
            inspect, *following = factories.jobs_of(session, scan)
            assert (inspect.state, len(following)) in ((JobState.DONE, 1), (JobState.READY, 0))
            locked = scans.lock(session, scan.id)
            assert locked is not None
            scheduling.cancel(session, locked)


def test_a_summary_is_what_a_list_of_scans_shows() -> None:
    report = {"flagged_labels": [3], "model_anomaly_index": 4.2, "reasons": [], "caveats": ["unconfirmed"]}
    none = dict.fromkeys(("repair_status", "repair_reason", "repair_detail", "comes_back", "coming_back"))
    assert scheduling.summary_of(report | {"repair": None, "labels": []}) == report | none
    found = scheduling.summary_of(report | {"repair": asdict(REPAIR)})
    assert (found["repair_status"], found["repair_detail"], found["comes_back"]) == ("repaired", "10 epochs.", "partly")
    assert found["coming_back"].startswith("It partly comes back")
    refused = RepairReport(RepairStatus.REFUSED, "It cost too much.", (3,), Unrepaired.TOO_COSTLY)
    assert scheduling.summary_of(report | {"repair": asdict(refused)}) == report | none | {
        "repair_status": "refused",
        "repair_reason": "too_costly",
        "repair_detail": "It cost too much.",
    }
