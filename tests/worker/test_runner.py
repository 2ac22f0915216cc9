"""One worker: what it claims is done and recorded once, and whatever happens to it the work is not lost."""

import json
import os
import signal
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app import actions
from app.api.checks import Checks
from app.api.schemas import LabelResult
from app.api.status import scan_state
from app.core.config import FirstPassConfig, ScanConfig
from app.core.database import Database
from app.core.errors import Refusal
from app.core.lifecycle import MOST_LOSSES, JobState, ScanStatus
from app.core.plan import JobKind
from app.core.queue import RecordingQueue
from app.core.repository import access
from app.core.service import Service
from app.core.storage import attempt_prefix
from app.core.tables import DEFAULT_TENANT, Event, Job, Scan
from app.core.versions import engine_version
from tests import factories
from tests.clocks import PretendClock
from tests.processes import all_end, engines_of, needs_proc, own_world
from tests.threads import at_once
from tests.toys import LABELS_PER_BLOCK, QUICK
from tests.waiting import eventually
from tests.worker import crew
from tests.worker.crew import SwiftSession, Unplugged, Workshop, at_work, jobs_of, scan_of, supervisors_clock
from worker.launch import EngineCrashError
from worker.runner import Runner
from worker.sweeper import sweep

pytestmark = pytest.mark.threads

ENDLESS = ScanConfig(inversion=replace(QUICK, steps=1_000_000), labels_per_block=LABELS_PER_BLOCK)


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Engines that need no torch."""
    opened = Workshop()
    monkeypatch.setattr("worker.desk.ScanSession", opened)
    return opened


@pytest.fixture
def service(database: Database, tmp_path: Path) -> Service:
    return crew.service_on(database, tmp_path)


@pytest.fixture
def clock() -> PretendClock:
    return supervisors_clock()


@pytest.fixture
def runner(service: Service, clock: PretendClock) -> Runner:
    """By a clock that stands still until somebody waits: while an engine works on, or a server is away."""
    return Runner(service, ["cpu"], clock=clock)


def test_a_scan_goes_through_its_jobs_each_once_and_leaves_what_they_say(
    service: Service, runner: Runner, workshop: Workshop, tmp_path: Path
) -> None:
    scan_id = crew.requested(service, tmp_path)
    runner.work_until_idle()
    scan, jobs = scan_of(service, scan_id), jobs_of(service, scan_id)
    assert (scan.status, scan.verdict, scan.labels_total) == (ScanStatus.FINISHED, "no_backdoor_found", 6)
    assert list(jobs) == ["inspect", "prepare", "invert 0", "invert 2", "invert 4", "decide", "report"]
    assert {(job.state, job.lease_token, job.losses) for job in jobs.values()} == {(JobState.DONE, 1, 0)}
    assert len(workshop.sessions) == 1, "one engine for all jobs of a scan"
    stored = 0
    for job in jobs.values():
        for name, facts in (job.outputs or {}).items():
            assert facts["key"] == attempt_prefix(DEFAULT_TENANT, scan_id, job.id, 1) + name
            assert service.store.size(facts["key"]) == facts["size"]
            stored += facts["size"]
    assert {*(jobs["invert 2"].outputs or {})} == {
        f"{folder}/{label:06d}{kind}"
        for label in (2, 3)
        for folder, kind in (("labels", ".json"), ("triggers", "-dynamic.safetensors"), ("strips", "-dynamic.png"))
    }
    assert scan.output_bytes == stored
    assert not any(runner.scratch.path.iterdir()), "the desk is cleared"


def test_of_many_labels_those_are_searched_that_the_first_pass_of_all_workers_selects(
    service: Service, runner: Runner, workshop: Workshop, tmp_path: Path
) -> None:
    """The lowest of three blocks is label 0; chance draws the other, or the same."""
    first_pass = FirstPassConfig(all_up_to=5, lowest=1, controls=1, labels_per_block=2)
    config = ScanConfig(inversion=QUICK, labels_per_block=LABELS_PER_BLOCK, first_pass=first_pass)
    scan_id = crew.requested(service, tmp_path, config=config)
    runner.work_until_idle()
    scan, jobs = scan_of(service, scan_id), jobs_of(service, scan_id)
    selected = json.loads(b"".join(service.store.read((jobs["select"].outputs or {})["selection.json"]["key"])))
    kinds = ["first_pass 0", "first_pass 2", "first_pass 4", "select", "invert 0"]
    assert list(jobs) == ["inspect", "prepare", *kinds, "decide", "report"]
    assert len(selected["controls"]) == 1 and selected["labels"] == sorted({0, *selected["controls"]})
    assert jobs["invert 0"].labels == selected["labels"]
    assert (scan.status, scan.labels_total) == (ScanStatus.FINISHED, len(selected["labels"])), "people see how far"
    assert {*(jobs["first_pass 2"].outputs or {})} == {"first_pass/000002.json"}
    assert {*(jobs["select"].outputs or {})} == {"selection.json"}


@pytest.mark.parametrize("upgraded_before", [JobKind.PREPARE, JobKind.INVERT, JobKind.REPORT])
def test_a_scan_that_two_engines_computed_says_so_and_any_other_names_its_own(
    service: Service, runner: Runner, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    upgraded_before: JobKind,
) -> None:  # fmt: skip
    one, both = crew.requested(service, tmp_path), crew.requested(service, tmp_path)

    def be_upgraded(session: SwiftSession) -> None:
        if session.directory.root.name == both:
            monkeypatch.setattr("worker.recorder.engine_version", lambda: "newer")

    workshop.meanwhile[upgraded_before] = be_upgraded
    with service.database.writing() as session:
        session.execute(update(Scan).values(engine_version="what the API had in mind"))
    runner.work_until_idle()
    assert scan_of(service, one).engine_version == engine_version()
    assert scan_of(service, both).engine_version == "mixed"


def test_a_check_finishes_with_what_was_understood_and_without_a_verdict(
    service: Service, runner: Runner, workshop: Workshop, tmp_path: Path
) -> None:
    scan_id = crew.requested(service, tmp_path, check=True)
    runner.work_until_idle()
    scan = scan_of(service, scan_id)
    assert (scan.status, scan.verdict, list(jobs_of(service, scan_id))) == (
        ScanStatus.FINISHED,
        None,
        ["inspect", "prepare"],
    )
    assert scan.summary is not None and scan.summary["flagged_labels"] == []
    understood = scan.summary["understood"]
    assert understood["ready"] and understood["inputs"]["clean_accuracy"] == 0.9
    assert {"Outputs", "Accuracy", "Classes", "Images", "Pixels", "Size"} <= {
        row["name"] for row in understood["facts"]
    }
    assert understood["document"]["inputs"] == understood["inputs"] and understood["document"]["ready"]
    with service.database.reading() as session:
        state = scan_state(session, Checks(service), scan)
    assert state.check and state.understood is not None and "report" not in state.links


def test_findings_are_seen_label_by_label_while_the_block_is_at_work(
    service: Service, runner: Runner, workshop: Workshop, tmp_path: Path
) -> None:
    scan_id = crew.requested(service, tmp_path)
    seen: list[list[int]] = []
    workshop.after_label = lambda label: seen.append(crew.labels_found(service, scan_id))
    runner.work_until_idle()
    assert seen == [list(range(label + 1)) for label in range(6)]
    told = [data for name, data in crew.events_of(service, scan_id) if name == "label"]
    assert [data["label"] for data in told] == list(range(6)) and all("norm" in data for data in told)


@pytest.mark.parametrize("queues", [["cpu"], ["gpu"]])
def test_a_worker_takes_jobs_of_its_queues_and_rings_for_what_it_leaves(
    database: Database, workshop: Workshop, tmp_path: Path, queues: list[str]
) -> None:
    service = crew.service_on(database, tmp_path, compute_queue="gpu")
    scan_id = crew.requested(service, tmp_path)
    Runner(service, queues).work_until_idle()
    kinds = [task.kind for task in workshop.done]
    assert kinds == ([JobKind.INSPECT] if queues == ["cpu"] else [])
    Runner(service, ["cpu", "gpu"]).work_until_idle()
    assert scan_of(service, scan_id).status == ScanStatus.FINISHED
    assert isinstance(service.queue, RecordingQueue) and {"cpu", "gpu"} == set(service.queue.rings)


def test_who_helps_with_a_scan_takes_no_job_of_another(service: Service, workshop: Workshop, tmp_path: Path) -> None:
    first, helped = (crew.requested(service, tmp_path) for _ in range(2))
    Runner(service, ["cpu"]).work_until_idle(only=helped)
    assert scan_of(service, first).status == ScanStatus.QUEUED
    assert scan_of(service, helped).status == ScanStatus.FINISHED and len(workshop.sessions) == 1


def test_who_finds_no_job_to_help_with_wakes_nobody_for_those_of_others(service: Service, tmp_path: Path) -> None:
    """It hears its own rings: it would look again at once, for as long as others wait."""
    crew.requested(service, tmp_path)
    rings = service.queue.rings  # type: ignore[attr-defined]
    rings.clear()
    Runner(service, ["cpu"]).work_until_idle(only="another")
    assert rings == []


NEEDING_CUDA = [("cuda", "gpu"), ("cuda", "cpu"), ("auto", "gpu")]


@pytest.mark.parametrize(("device", "compute_queue"), NEEDING_CUDA)
@pytest.mark.parametrize("answer", ["", subprocess.TimeoutExpired("python", 60), OSError("no python")], ids=str)
def test_a_worker_without_cuda_takes_no_job_that_needs_it_and_announces_no_such_queue(
    database: Database, workshop: Workshop, tmp_path: Path, device: str, compute_queue: str, answer: Any
) -> None:
    service = crew.service_on(database, tmp_path, device=device, compute_queue=compute_queue)
    scan_id, asked = crew.requested(service, tmp_path), []

    def ask() -> str:
        asked.append("torch")
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    without, having = (Runner(service, ["cpu", "gpu"], ask_gpus=answers) for answers in (ask, lambda: "a GPU"))
    without.be_seen()
    without.work_until_idle()
    assert {task.kind for task in workshop.done} <= {JobKind.INSPECT} and asked == ["torch"]
    with service.database.reading() as session:
        (seen,) = access.workers(session, 60)
    assert compute_queue not in seen.queues.split(",")
    assert scan_of(service, scan_id).status in (ScanStatus.QUEUED, ScanStatus.RUNNING)
    having.work_until_idle()
    assert scan_of(service, scan_id).status == ScanStatus.FINISHED
    assert {(job.losses, job.lease_token) for job in jobs_of(service, scan_id).values()} == {(0, 1)}


@pytest.mark.parametrize(("device", "queues"), [("cpu", ["cpu", "gpu"]), ("auto", ["cpu"])])
def test_torch_is_not_asked_for_gpus_where_nobody_needs_them(
    database: Database, workshop: Workshop, tmp_path: Path, device: str, queues: list[str]
) -> None:
    service = crew.service_on(database, tmp_path, device=device)

    def ask() -> str:
        raise AssertionError("this takes seconds")

    scan_id = crew.requested(service, tmp_path)
    Runner(service, queues, ask_gpus=ask).work_until_idle()
    assert scan_of(service, scan_id).status == ScanStatus.FINISHED


@pytest.mark.parametrize(("device", "compute_queue"), NEEDING_CUDA)
def test_a_worker_that_loses_its_gpu_gives_the_job_to_others_and_takes_no_more(
    database: Database, workshop: Workshop, tmp_path: Path, device: str, compute_queue: str
) -> None:
    service = crew.service_on(database, tmp_path, device=device, compute_queue=compute_queue)
    scan_id, there = crew.requested(service, tmp_path), ["a GPU", ""]
    losing = Runner(service, ["cpu", "gpu"], ask_gpus=lambda: there.pop(0))

    def be_lost(session: SwiftSession) -> None:
        workshop.meanwhile.clear()
        raise Refusal("no_cuda", "There is no CUDA device that torch can use.", "Use another device.")

    workshop.meanwhile[JobKind.INVERT] = be_lost
    losing.be_seen()
    losing.work_until_idle()
    losing.be_seen()
    with service.database.reading() as session:
        (seen,) = access.workers(session, 60)
    assert there == [] and compute_queue not in seen.queues.split(",")
    job = jobs_of(service, scan_id)["invert 0"]
    assert (job.state, job.losses) == (JobState.READY, 0)
    Runner(service, ["cpu", "gpu"], ask_gpus=lambda: "another GPU").work_until_idle()
    assert scan_of(service, scan_id).status == ScanStatus.FINISHED


def test_an_engine_that_only_says_that_there_is_no_gpu_fails_its_own_scan_and_stops_no_worker(
    database: Database, workshop: Workshop, tmp_path: Path
) -> None:
    """What it says may be a suspect's word, who would like to see a fleet stand still."""
    service = crew.service_on(database, tmp_path, device="cuda", compute_queue="gpu")
    runner = Runner(service, ["cpu", "gpu"], ask_gpus=lambda: "a GPU")
    scan_id = crew.requested(service, tmp_path)

    def lie(session: SwiftSession) -> None:
        raise Refusal("no_cuda", "There is no CUDA device that torch can use.", "Use another device.")

    workshop.meanwhile[JobKind.INVERT] = lie
    runner.work_until_idle()
    scan = scan_of(service, scan_id)
    assert scan.status == ScanStatus.FAILED and scan.problem is not None and scan.problem["code"] == "no_cuda"
    workshop.meanwhile.clear()
    another = crew.requested(service, tmp_path)
    runner.work_until_idle()
    assert scan_of(service, another).status == ScanStatus.FINISHED


def test_whoever_takes_a_job_while_others_wait_passes_the_ring_on(
    service: Service, runner: Runner, workshop: Workshop, tmp_path: Path
) -> None:
    """So one ring wakes one idle worker after the other, for as long as there is work for them."""
    for _ in range(3):
        crew.requested(service, tmp_path)
    rings = service.queue.rings  # type: ignore[attr-defined]
    rings.clear()
    runner._claim()
    assert rings == ["cpu"]
    runner._claim()
    runner._claim()
    assert rings == ["cpu"] * 2, "after the last one nothing waits"


CONFIRMS = ScanConfig(confirms=True, inversion=QUICK, labels_per_block=LABELS_PER_BLOCK)
FIVE_DOUBTED = (0, 1, 2, 4, 5)  # searched again in three blocks, and decided on once more


@pytest.mark.parametrize(("doubted", "count"), [((), 7), (FIVE_DOUBTED, 11)])
def test_a_hundred_rings_for_one_scan_do_each_job_once(
    service: Service, workshop: Workshop, tmp_path: Path, doubted: tuple[int, ...], count: int
) -> None:
    workshop.doubted = doubted
    scan_id = crew.requested(service, tmp_path, config=CONFIRMS)
    crew_of_ten = [Runner(service, ["cpu"]) for _ in range(10)]

    def hear_ten(runner: Runner) -> None:
        for _ in range(10):
            runner.work_until_idle()

    at_once(*[lambda runner=runner: hear_ten(runner) for runner in crew_of_ten])
    while scan_of(service, scan_id).status != ScanStatus.FINISHED:  # the last one may have looked too early
        crew_of_ten[0].work_until_idle()
    assert set(Counter(workshop.done).values()) == {1} and len(workshop.done) == count
    assert {job.lease_token for job in jobs_of(service, scan_id).values()} == {1}


def test_a_second_round_goes_on_where_its_worker_was_lost_and_leaves_what_both_rounds_found(
    service: Service, runner: Runner, workshop: Workshop, tmp_path: Path
) -> None:
    workshop.doubted, left = FIVE_DOUBTED, [crash, crash]
    scan_id = crew.requested(service, tmp_path, config=CONFIRMS)

    def happens(session: SwiftSession) -> None:
        if left and len(workshop.done) == 7:  # one block of the round is done
            assert not any(row.flagged for row in labels_of(service, scan_id)), "nobody is accused meanwhile"
            left.pop()(session)

    workshop.meanwhile[JobKind.CONFIRM] = happens
    runner.work_until_idle()
    jobs, again = jobs_of(service, scan_id), [f"confirm {label} in round 1" for label in (0, 2, 5)]
    assert list(jobs)[5:] == ["decide", *again, "decide in round 1", "report in round 1"]
    assert {name: job.losses for name, job in jobs.items() if job.losses} == {again[1]: 2}
    assert scan_of(service, scan_id).status == ScanStatus.FINISHED and len(workshop.sessions) == 3
    assert [name for name in jobs["decide in round 1"].outputs or {} if "decision" in name] == ["decision-1.json"]
    found = {name for job in jobs.values() for name in job.outputs or {} if "confirmations" in name}
    assert found == {f"confirmations/{label:06d}-dynamic.json" for label in FIVE_DOUBTED}


def labels_of(service: Service, scan_id: str) -> list[LabelResult]:
    with service.database.reading() as session:
        return scan_state(session, Checks(service), scan_of(service, scan_id)).labels


def test_without_its_lease_a_worker_writes_nothing(
    service: Service, runner: Runner, workshop: Workshop, tmp_path: Path
) -> None:
    scan_id = crew.requested(service, tmp_path)

    def somebody_else_takes_it(session: SwiftSession) -> None:
        with service.database.writing() as writing:
            higher = {"lease_token": Job.lease_token + 1, "lease_expires_at": 9e9, "lease_owner": "other"}
            writing.execute(update(Job).where(Job.scan_id == scan_id, Job.key == "2").values(higher))

    def lose_the_second_block(label: int) -> None:
        if label == 2:
            workshop.after_label = lambda label: None
            somebody_else_takes_it(workshop.sessions[-1])

    workshop.after_label = lose_the_second_block
    runner.work_until_idle()
    job = jobs_of(service, scan_id)["invert 2"]
    assert (job.state, job.lease_owner, job.lease_token, job.outputs) == (JobState.RUNNING, "other", 2, None)
    assert crew.labels_found(service, scan_id) == [0, 1, 2, 4, 5], "label 3 came when the lease was lost"
    assert "decide" not in jobs_of(service, scan_id)
    referenced = {facts["key"] for job in jobs_of(service, scan_id).values() for facts in (job.outputs or {}).values()}
    assert not any(f"{job.id}-" in key for key in referenced)


def test_a_cancel_ends_the_work_at_hand(service: Service, runner: Runner, workshop: Workshop, tmp_path: Path) -> None:
    scan_id = crew.requested(service, tmp_path)

    def cancel(session: SwiftSession) -> None:
        actions.cancel_scan(service, DEFAULT_TENANT, scan_id)
        session.work_on()

    workshop.meanwhile[JobKind.INVERT] = cancel
    runner.work_until_idle()
    assert scan_of(service, scan_id).status == ScanStatus.CANCELLED
    states = {job.state for name, job in jobs_of(service, scan_id).items() if name.startswith("invert")}
    assert states == {JobState.CANCELLED}


def test_a_block_is_not_searched_on_when_another_block_has_failed_the_scan(
    service: Service, runner: Runner, workshop: Workshop, tmp_path: Path
) -> None:
    scan_id = crew.requested(service, tmp_path)

    def refuse_elsewhere(session: SwiftSession) -> None:
        workshop.meanwhile[JobKind.INVERT] = refuse
        Runner(service, ["cpu"], clock=runner.clock).work_until_idle()
        session.work_on()

    def refuse(session: SwiftSession) -> None:
        raise Refusal("out_of_memory", "Not enough memory.", "Find more.")

    workshop.meanwhile[JobKind.INVERT] = refuse_elsewhere
    runner.work_until_idle()
    scan = scan_of(service, scan_id)
    assert scan.status == ScanStatus.FAILED and scan.problem is not None and scan.problem["code"] == "out_of_memory"
    states = sorted(job.state for name, job in jobs_of(service, scan_id).items() if name.startswith("invert"))
    assert states == [JobState.CANCELLED, JobState.CANCELLED, JobState.FAILED]


def crash(session: SwiftSession) -> None:
    raise EngineCrashError(-9, "its last words")


def leave_nonsense(session: SwiftSession) -> None:
    path = session.directory.finding(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    session.tell(event="label", label=0)


def leave_no_number(session: SwiftSession) -> None:
    session.directory.write_finding(factories.finding(0, norm=float("nan")))
    session.tell(event="label", label=0)


@pytest.mark.parametrize(
    ("happening", "code"),
    [(crash, "engine_crashed"), (leave_nonsense, "internal_error"), (leave_no_number, "internal_error")],
    ids=["crash", "nonsense", "no finite number"],
)
@pytest.mark.parametrize("times", [1, MOST_LOSSES])
def test_a_job_may_fail_its_worker_twice_and_the_third_time_ends_the_scan_with_a_reason(
    service: Service, runner: Runner, workshop: Workshop, tmp_path: Path, happening: Any, code: str, times: int
) -> None:
    scan_id = crew.requested(service, tmp_path)
    left = [happening] * times

    def happens(session: SwiftSession) -> None:
        if left:
            left.pop()(session)

    workshop.meanwhile[JobKind.PREPARE] = happens
    runner.work_until_idle()
    scan, job = scan_of(service, scan_id), jobs_of(service, scan_id)["prepare"]
    assert job.losses == times
    if times < MOST_LOSSES:
        assert scan.status == ScanStatus.FINISHED
    else:
        assert scan.status == ScanStatus.FAILED and scan.problem is not None and scan.problem["code"] == code
        assert job.state == JobState.FAILED and scan.problem["advice"]


def test_a_model_that_crashes_torch_fails_its_own_scan_with_advice_and_the_next_one_is_done(
    service: Service, runner: Runner, workshop: Workshop, tmp_path: Path
) -> None:
    scan_id = crew.requested(service, tmp_path)

    def crash_torch(session: SwiftSession) -> None:
        raise EngineCrashError(-signal.SIGFPE, "")

    workshop.meanwhile[JobKind.PREPARE] = crash_torch
    runner.work_until_idle()
    problem = scan_of(service, scan_id).problem
    assert problem is not None and problem["code"] == "engine_crashed"
    assert "SIGFPE" in problem["detail"] and "another export" in problem["advice"]
    workshop.meanwhile.clear()
    another = crew.requested(service, tmp_path)
    runner.work_until_idle()
    assert scan_of(service, another).status == ScanStatus.FINISHED


@pytest.mark.parametrize(("setting", "code"), [("stall_seconds", "engine_stalled"), ("job_seconds", "engine_overdue")])
def test_an_engine_that_stands_still_or_comes_to_no_end_is_ended_and_counts_as_a_loss(
    database: Database, workshop: Workshop, clock: PretendClock, tmp_path: Path, setting: str, code: str
) -> None:
    service = crew.service_on(database, tmp_path, **{setting: 0.1})
    scan_id = crew.requested(service, tmp_path)
    workshop.meanwhile[JobKind.PREPARE] = SwiftSession.work_on
    Runner(service, ["cpu"], clock=clock).work_until_idle()
    problem = scan_of(service, scan_id).problem
    assert problem is not None and problem["code"] == code
    assert jobs_of(service, scan_id)["prepare"].losses == MOST_LOSSES


def test_a_worker_that_is_stopped_gives_its_work_back_without_a_loss(
    service: Service, runner: Runner, workshop: Workshop, tmp_path: Path
) -> None:
    scan_id = crew.requested(service, tmp_path)

    def stop(session: SwiftSession) -> None:
        runner.stop()
        session.work_on()

    workshop.meanwhile[JobKind.INVERT] = stop
    runner.work_until_idle()
    job = jobs_of(service, scan_id)["invert 0"]
    assert (job.state, job.losses, job.lease_owner) == (JobState.READY, 0, None)
    runner.work_until_idle()
    assert jobs_of(service, scan_id)["invert 0"].state == JobState.READY, "it takes no more"
    workshop.meanwhile.clear()
    Runner(service, ["cpu"]).work_until_idle()
    assert scan_of(service, scan_id).status == ScanStatus.FINISHED


def test_another_worker_goes_on_where_one_was_lost(service: Service, workshop: Workshop, tmp_path: Path) -> None:
    scan_id = crew.requested(service, tmp_path)
    lost, next_one = Runner(service, ["cpu"]), Runner(service, ["cpu"])

    def be_forgotten(session: SwiftSession) -> None:
        """As if this worker's machine stood still until somebody else has done everything."""
        workshop.meanwhile.clear()
        assert lost.supervisor is not None
        lost.supervisor._renew = lambda: True  # type: ignore[method-assign]  # it believes that it is well
        with service.database.writing() as writing:
            writing.execute(update(Job).where(Job.scan_id == scan_id).values(lease_expires_at=1.0))
        sweep(service)
        next_one.work_until_idle()
        assert scan_of(service, scan_id).status == ScanStatus.FINISHED

    workshop.meanwhile[JobKind.INVERT] = be_forgotten
    lost.work_until_idle()
    job = jobs_of(service, scan_id)["invert 0"]
    assert (job.losses, job.lease_token, job.lease_owner) == (1, 2, next_one.id)
    assert all(f"{job.id}-2/" in facts["key"] for facts in (job.outputs or {}).values())
    with service.database.reading() as session:
        labels = [row.data["label"] for row in session.scalars(select(Event).where(Event.name == "label"))]
    assert sorted(labels) == list(range(6)), "nothing is told twice"


@pytest.mark.parametrize("method", ["fetch", "put_file"])
def test_a_worker_waits_for_a_storage_that_is_away(
    service: Service, workshop: Workshop, clock: PretendClock, tmp_path: Path, method: str
) -> None:
    scan_id = crew.requested(service, tmp_path)
    store: Any = crew.FailingStore(service.store, method, times=3)
    Runner(replace(service, store=store), ["cpu"], clock=clock).work_until_idle()
    assert store.left == 0
    assert scan_of(service, scan_id).status == ScanStatus.FINISHED
    assert {(job.losses, job.lease_token) for job in jobs_of(service, scan_id).values()} == {(0, 1)}


def test_an_input_that_the_storage_has_lost_fails_the_scan_with_a_reason(
    service: Service, runner: Runner, workshop: Workshop, tmp_path: Path
) -> None:
    scan_id = crew.requested(service, tmp_path)
    service.store.delete_prefix(f"tenants/{DEFAULT_TENANT}/")
    runner.work_until_idle()
    problem = scan_of(service, scan_id).problem
    assert problem is not None and problem["code"] == "content_lost"


def test_a_worker_without_a_database_gives_up_when_its_lease_has_run_out(
    migrated_sqlite: Path, workshop: Workshop, clock: PretendClock, tmp_path: Path
) -> None:
    database = Unplugged(_copy(migrated_sqlite, tmp_path))
    service = crew.service_on(database, tmp_path, lease_seconds=60.0, poll_seconds=1.0)
    scan_id, began = crew.requested(service, tmp_path), clock.now()

    def lose_the_database(session: SwiftSession) -> None:
        workshop.meanwhile.clear()
        database.plug.clear()
        session.work_on()

    workshop.meanwhile[JobKind.INVERT] = lose_the_database
    runner = Runner(service, ["cpu"], clock=clock)
    runner.work_until_idle()
    assert clock.now() - began > 60, "not before"
    database.plug.set()
    assert jobs_of(service, scan_id)["invert 0"].state == JobState.RUNNING
    with database.writing() as writing:
        writing.execute(update(Job).where(Job.key == "0").values(lease_expires_at=1.0))  # by the database's clock, too
    sweep(service)
    runner.work_until_idle()
    assert scan_of(service, scan_id).status == ScanStatus.FINISHED
    assert jobs_of(service, scan_id)["invert 0"].losses == 1


def test_a_short_absence_of_the_database_costs_nothing(
    migrated_sqlite: Path, workshop: Workshop, clock: PretendClock, tmp_path: Path
) -> None:
    """It comes back while the worker waits to hand its results in."""
    database = Unplugged(_copy(migrated_sqlite, tmp_path), back_after=3)
    service = crew.service_on(database, tmp_path)
    scan_id = crew.requested(service, tmp_path)
    workshop.meanwhile[JobKind.INVERT] = lambda session: database.plug.clear()
    Runner(service, ["cpu"], clock=clock).work_until_idle()
    assert scan_of(service, scan_id).status == ScanStatus.FINISHED
    assert {(job.losses, job.lease_token) for job in jobs_of(service, scan_id).values()} == {(0, 1)}


def _copy(template: Path, folder: Path) -> str:
    (folder / "own.sqlite3").write_bytes(template.read_bytes())
    return f"sqlite:///{folder}/own.sqlite3"


def test_the_environment_of_a_worker_reaches_its_engines(service: Service, workshop: Workshop, tmp_path: Path) -> None:
    crew.requested(service, tmp_path)
    Runner(service, ["cpu"], {"CUDA_VISIBLE_DEVICES": "3"}).work_until_idle()
    assert [session.environment for session in workshop.sessions] == [{"CUDA_VISIBLE_DEVICES": "3"}]


def test_a_worker_is_seen_until_it_leaves(service: Service, runner: Runner) -> None:
    runner.be_seen()
    runner.be_seen()
    with service.database.reading() as session:
        (worker,) = access.workers(session, 60)
        assert (worker.id, worker.queues, worker.process) == (runner.id, "cpu", os.getpid())
        assert worker.version == engine_version()
    runner.leave()
    with service.database.reading() as session:
        assert access.workers(session, 60) == []
    assert not runner.scratch.path.exists()


# With real engines

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@needs_proc
@on_sqlite
def test_a_real_scan_whose_engine_is_killed_once_goes_on_and_finishes(service: Service, tmp_path: Path) -> None:
    scan_id = crew.requested(service, tmp_path, real=True)
    runner = Runner(service, ["cpu"])
    listen, killed = runner._listen, []

    def kill_at_the_first_step(event: dict[str, Any]) -> None:
        listen(event)
        if event["event"] == "step" and not killed:
            killed.extend(engines_of(runner.scratch.path / scan_id))
            os.kill(killed[0], signal.SIGKILL)

    runner._listen = kill_at_the_first_step  # type: ignore[method-assign]
    with own_world():
        runner.work_until_idle()
    scan, jobs = scan_of(service, scan_id), jobs_of(service, scan_id)
    assert scan.status == ScanStatus.FINISHED and scan.summary is not None
    assert {name: job.losses for name, job in jobs.items() if job.losses} == {"invert 0": 1}
    assert "report.html" in (jobs["report"].outputs or {})
    assert crew.labels_found(service, scan_id) == list(range(6))


@needs_proc
@on_sqlite
def test_an_engine_does_not_inherit_the_keys_of_its_worker(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secrets = {
        "TRIGGERLENS_STORAGE_SECRET": "s3cret",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "GITHUB_TOKEN": "s3cret",
        "DATABASE_URL": "postgresql://us:s3cret@host/db",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    scan_id = crew.requested(service, tmp_path, real=True, config=ENDLESS)
    runner = Runner(service, ["cpu"])
    with own_world(), at_work(runner):
        eventually(lambda: engines_of(runner.scratch.path / scan_id))
        engines = engines_of(runner.scratch.path / scan_id)  # with the fence around it
        environments = [Path(f"/proc/{engine}/environ").read_text() for engine in engines]
        runner.stop()
    assert environments
    assert all("s3cret" not in each and "OMP_NUM_THREADS=1" in each for each in environments)


@needs_proc
@on_sqlite
def test_cancel_frees_the_compute(service: Service, tmp_path: Path) -> None:
    scan_id = crew.requested(service, tmp_path, real=True, config=ENDLESS)
    runner = Runner(service, ["cpu"])
    root = runner.scratch.path / scan_id
    with own_world(), at_work(runner):
        eventually(lambda: (job := jobs_of(service, scan_id).get("invert 0")) and job.work)
        assert engines_of(root)
        actions.cancel_scan(service, DEFAULT_TENANT, scan_id)
        assert all_end(root), "though its search does not end by itself"
    assert scan_of(service, scan_id).status == ScanStatus.CANCELLED
