"""The sweeper: what was lost comes back, what waits is rung for, what is past its time goes, and twice is once."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from app import actions
from app.core import scheduling
from app.core.database import Database
from app.core.lifecycle import MOST_LOSSES, JobState, ScanStatus
from app.core.plan import JobKind, Task
from app.core.repository import access, artifacts, scans
from app.core.service import Service
from app.core.storage import attempt_prefix, scan_prefix
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


def test_a_scan_whose_next_job_is_missed_again_and_again_comes_to_an_end(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workshop = Workshop()
    monkeypatch.setattr("worker.desk.ScanSession", workshop)
    scan_id, runner, done = crew.requested(service, tmp_path), Runner(service, ["cpu"]), scheduling.done

    def forget_the_decision(session: Any, job: Job, *arguments: Any) -> list[str]:
        rung = done(session, job, *arguments)
        session.execute(delete(Job).where(Job.kind == JobKind.DECIDE))
        return rung

    monkeypatch.setattr(scheduling, "done", forget_the_decision)
    for _ in range(2 * MOST_LOSSES):
        runner.work_until_idle()
        sweep(service)
    scan = scan_of(service, scan_id)
    assert scan.status == ScanStatus.FAILED and scan.problem == scheduling.NOTHING_LEFT.to_json()
    assert workshop.done.count(Task(JobKind.INVERT, (4, 5))) == MOST_LOSSES


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


DUTIES = ["take_back_lost_jobs", "finish_missed_fan_ins", "ring_for_what_waits", "forget_the_old", "clear_litter"]


@pytest.mark.parametrize("failing", DUTIES)
def test_a_duty_that_fails_ends_no_other(service: Service, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    done: list[str] = []

    def doing(name: str) -> Any:
        def do(service: Service) -> None:
            if name == failing:
                raise KeyError("a defect")
            done.append(name)

        do.__name__ = name
        return do

    for name in DUTIES:
        monkeypatch.setattr(sweeper, name, doing(name))
    sweep(service)
    assert done == [name for name in DUTIES if name != failing]


def test_a_job_that_cannot_be_taken_back_keeps_no_other_from_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, release = [begun_and_lost(service) for _ in range(3)], scheduling.release

    def stumble(session: Any, job: Job, *arguments: Any) -> list[str]:
        rung = release(session, job, *arguments)
        if job.scan_id == lost[1]:
            raise KeyError("a defect over this row")
        return rung

    monkeypatch.setattr(scheduling, "release", stumble)
    sweep(service)
    after = [jobs_of(service, scan_id)["inspect"] for scan_id in lost]
    assert [job.losses for job in after] == [1, 0, 1]
    assert [job.state for job in after] == [JobState.READY, JobState.RUNNING, JobState.READY]


@pytest.mark.parametrize("failing", ["go_on", "delete_scan", "delete_artifact"])
def test_a_row_over_which_a_duty_fails_keeps_no_other_from_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: str
) -> None:
    service = crew.service_on(database, tmp_path, retention_days=1)
    with service.database.writing() as session:
        stuck = [factories.scan(session, cancel_requested=True) for _ in range(3)]
        ended = [factories.scan(session, status=ScanStatus.FINISHED) for _ in range(3)]
        kept = [factories.artifact(session) for _ in range(3)]
        for row, column in [*((row, "finished_at") for row in ended), *((row, "created_at") for row in kept)]:
            factories.aged(session, row, column, 2 * 86_400)
    spared = {"go_on": stuck[1].id, "delete_scan": ended[1].id, "delete_artifact": kept[1].sha256}[failing]
    module: Any = scheduling if failing == "go_on" else actions
    works = getattr(module, failing)

    def stumble(*arguments: Any) -> None:
        if spared in (arguments[-1], getattr(arguments[-1], "id", None)):
            raise KeyError("a defect over this row")
        works(*arguments)

    monkeypatch.setattr(module, failing, stumble)
    sweep(service)
    with service.database.reading() as session:
        left = {
            "go_on": {scan.id for scan in session.scalars(select(Scan).where(Scan.status == ScanStatus.QUEUED))},
            "delete_scan": {
                scan.id for scan in session.scalars(select(Scan).where(Scan.status == ScanStatus.FINISHED))
            },
            "delete_artifact": {artifact.sha256 for artifact in session.scalars(select(Artifact))},
        }
    assert left == {name: {spared} if name == failing else set() for name in left}


def test_what_attempts_left_that_came_to_nothing_is_cleared_and_nothing_else(service: Service, tmp_path: Path) -> None:
    (tmp_path / "result").write_bytes(b"a result")
    with service.database.writing() as session:
        scan = factories.scan(session)
        attempts = {}
        for number, (state, token) in enumerate(
            [(JobState.DONE, 2), (JobState.RUNNING, 2), (JobState.READY, 1), (JobState.FAILED, 1), (JobState.DONE, 1)]
        ):
            job = factories.job(session, scan, Task(JobKind.INVERT, (number,)))
            job.state, job.lease_token = state, token
            attempts[number] = job
        prefixes = {
            (number, token): attempt_prefix(DEFAULT_TENANT, scan.id, job.id, token)
            for number, job in attempts.items()
            for token in (1, 2)
        }
        attempts[0].outputs = {"report.json": {"key": prefixes[0, 2] + "report.json"}}
        attempts[4].outputs = {"report.json": {"key": prefixes[4, 1] + "report.json"}}
    for prefix in prefixes.values():
        service.store.put_file(prefix + "report.json", tmp_path / "result")
    unknown = attempt_prefix(DEFAULT_TENANT, "0" * 32, "1" * 32, 1) + "report.json"
    service.store.put_file(unknown, tmp_path / "result")
    sweep(service, litter=False)
    assert len(service.store.list_prefix("tenants/")) == 11
    sweep(service)
    later = [(2, 2), (3, 2), (4, 2)]  # claims that these rows have not seen: they may be those of a backup
    kept = [(0, 2), (1, 2), (4, 1), *later]
    assert service.store.list_prefix("tenants/") == sorted([*(prefixes[n] + "report.json" for n in kept), unknown])


def test_a_worker_that_is_given_up_on_leaves_nothing_for_long(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workshop = Workshop()
    monkeypatch.setattr("worker.desk.ScanSession", workshop)
    scan_id, lost = crew.requested(service, tmp_path), Runner(service, ["cpu"])
    lose = {"lease_token": Job.lease_token + 1, "state": JobState.READY}
    record = lost.recorder.done

    def be_given_up_on(lease: Any, desk: Any, task: Any, outputs: Any) -> list[str]:
        if task.kind is JobKind.PREPARE:
            monkeypatch.setattr(lost.recorder, "done", record)
            with service.database.writing() as session:
                session.execute(update(Job).where(Job.id == lease.job_id).values(**lose))
        return record(lease, desk, task, outputs)

    monkeypatch.setattr(lost.recorder, "done", be_given_up_on)
    lost.work_until_idle()
    assert scan_of(service, scan_id).status == ScanStatus.FINISHED
    sweep(service)
    named = {facts["key"] for job in jobs_of(service, scan_id).values() for facts in (job.outputs or {}).values()}
    assert set(service.store.list_prefix(scan_prefix(DEFAULT_TENANT, scan_id))) == named
