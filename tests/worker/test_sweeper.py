"""The sweeper: what was lost comes back, what waits is rung for, what is past its time goes, and twice is once."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from app.core import scheduling
from app.core.database import Database
from app.core.lifecycle import MOST_LOSSES, JobState, ScanStatus
from app.core.plan import JobKind
from app.core.repository import access, artifacts, scans
from app.core.service import Service
from app.core.storage import scan_prefix
from app.core.tables import DEFAULT_TENANT, Artifact, IdempotencyKey, Job, Scan, Worker
from tests import factories
from tests.clocks import PretendClock
from tests.threads import at_once
from tests.worker import crew
from tests.worker.crew import Workshop, jobs_of, scan_of
from worker import sweeper
from worker.runner import Runner
from worker.sweeper import sweep, sweep_until

pytestmark = pytest.mark.threads


@pytest.fixture
def service(database: Database, tmp_path: Path) -> Service:
    return crew.service_on(database, tmp_path)


def rings_of(service: Service) -> list[str]:
    rings: list[str] = service.queue.rings  # type: ignore[attr-defined]
    return rings


def begun_and_lost(service: Service) -> str:
    """A scan whose worker was lost."""
    with service.database.writing() as session:
        scan = factories.begun(session)
        factories.taken(session, scan, lease_seconds=-1.0)
    return scan.id


def test_a_lost_job_comes_back_and_is_rung_for(service: Service) -> None:
    scan_id = begun_and_lost(service)
    sweep(service)
    job = jobs_of(service, scan_id)["inspect"]
    assert (job.state, job.losses, job.lease_owner) == (JobState.READY, 1, None)
    assert rings_of(service) == ["cpu"]


def test_a_job_that_is_held_stays_where_it_is(service: Service) -> None:
    with service.database.writing() as session:
        scan = factories.begun(session)
        factories.taken(session, scan)
    sweep(service)
    assert jobs_of(service, scan.id)["inspect"].state == JobState.RUNNING and rings_of(service) == []


def test_a_job_that_was_lost_three_times_fails_its_scan(service: Service) -> None:
    scan_id = begun_and_lost(service)
    for _ in range(MOST_LOSSES):
        sweep(service)
        with service.database.writing() as session:
            if scan_of(service, scan_id).status == ScanStatus.RUNNING:
                factories.taken(session, None, lease_seconds=-1.0)
    scan = scan_of(service, scan_id)
    assert scan.status == ScanStatus.FAILED and scan.problem is not None and scan.problem["code"] == "worker_lost"


def test_sweeps_that_come_at_once_count_a_loss_once(service: Service) -> None:
    scan_ids = [begun_and_lost(service) for _ in range(5)]
    at_once(*[lambda: sweep(service)] * 4)
    assert [jobs_of(service, scan_id)["inspect"].losses for scan_id in scan_ids] == [1] * 5


@pytest.mark.parametrize("missed", [JobKind.PREPARE, JobKind.DECIDE, JobKind.REPORT])
def test_a_scan_whose_next_job_was_missed_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missed: JobKind
) -> None:
    workshop = Workshop()
    monkeypatch.setattr("worker.desk.ScanSession", workshop)
    scan_id, runner = crew.requested(service, tmp_path), Runner(service, ["cpu"])
    done = scheduling.done

    def forget_one(session: Any, job: Job, *arguments: Any) -> list[str]:
        rung = done(session, job, *arguments)
        if not gone:
            gone.extend(session.scalars(delete(Job).where(Job.kind == missed).returning(Job.id)))
        return rung

    gone: list[str] = []
    monkeypatch.setattr(scheduling, "done", forget_one)
    runner.work_until_idle()
    assert gone and scan_of(service, scan_id).status == ScanStatus.RUNNING
    at_once(*[lambda: sweep(service)] * 3)
    runner.work_until_idle()
    assert scan_of(service, scan_id).status == ScanStatus.FINISHED
    assert len(workshop.done) == 8, "the job before it was done once more"
    assert crew.labels_found(service, scan_id) == list(range(6))


def test_a_scan_that_was_to_be_cancelled_and_has_no_job_left_is_cancelled(service: Service) -> None:
    scan_id = begun_and_lost(service)
    with service.database.writing() as session:
        session.execute(update(Job).values(state=JobState.DONE))
        session.execute(update(Scan).values(cancel_requested=True))
    sweep(service)
    assert scan_of(service, scan_id).status == ScanStatus.CANCELLED


def test_a_scan_that_cannot_go_on_fails_with_a_reason(service: Service) -> None:
    scan_id = begun_and_lost(service)
    with service.database.writing() as session:
        session.execute(delete(Job))
    sweep(service)
    scan = scan_of(service, scan_id)
    assert scan.status == ScanStatus.FAILED and scan.problem is not None and scan.problem["advice"]


def test_what_is_past_its_time_is_deleted_with_its_blobs_and_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("worker.desk.ScanSession", Workshop())
    service = crew.service_on(database, tmp_path, retention_days=1)
    old, new = (crew.requested(service, tmp_path) for _ in range(2))
    Runner(service, ["cpu"]).work_until_idle()
    scan = scan_of(service, old)
    with service.database.writing() as session:
        factories.aged(session, scan, "finished_at", 2 * 86_400)
        for sha256 in (scan.model_sha256, scan.bundle_sha256):
            artifact = artifacts.find(session, DEFAULT_TENANT, sha256)
            factories.aged(session, artifact, "created_at", 2 * 86_400)
        access.remember(session, DEFAULT_TENANT, "key", "digest", new)
        session.execute(update(IdempotencyKey).values(created_at=1.0))
        session.add(Worker(queues="cpu", host="gone", process=1, device="cpu", version="1", seen_at=1.0))
    sweep(service)
    sweep(service)
    with service.database.reading() as session:
        assert [scan.id for scan in scans.page(session, DEFAULT_TENANT, 10)] == [new]
        kept = {artifact.sha256 for artifact in session.scalars(select(Artifact))}
        assert kept == {scan_of(service, new).model_sha256, scan_of(service, new).bundle_sha256}
        assert not session.scalars(select(IdempotencyKey)).all() and not session.scalars(select(Worker)).all()
    assert service.store.list_prefix(scan_prefix(DEFAULT_TENANT, old)) == []
    assert service.store.list_prefix(scan_prefix(DEFAULT_TENANT, new))


def test_an_accident_in_one_sweep_does_not_end_all_sweeping(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    scan_id, over = begun_and_lost(service), threading.Event()
    accidents = [KeyError("a defect"), OSError("an accident")]
    whole = sweeper.forget_the_old

    def stumble(service: Service) -> None:
        if accidents:
            raise accidents.pop()
        whole(service)
        over.set()

    monkeypatch.setattr(sweeper, "forget_the_old", stumble)
    sweep_until(service, over, PretendClock())
    assert accidents == [] and jobs_of(service, scan_id)["inspect"].state == JobState.READY
