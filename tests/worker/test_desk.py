"""The desk: a task finds what it needs, and only what an engine is expected to leave is handed in."""

import os
from pathlib import Path

import pytest

from app.core.clock import MACHINE
from app.core.database import Database
from app.core.errors import Refusal
from app.core.jobs import JobDirectory, ScanJob
from app.core.plan import JobKind, Task
from app.core.repository.jobs import Lease
from app.core.service import Service
from app.core.tables import Job
from tests import factories
from tests.worker import crew
from tests.worker.crew import Workshop, scan_of
from worker import lanes
from worker.desk import Desk

LEASE = Lease("job", 2)


@pytest.fixture
def service(migrated_sqlite: Path, tmp_path: Path) -> Service:
    (tmp_path / "own.sqlite3").write_bytes(migrated_sqlite.read_bytes())
    return crew.service_on(Database(f"sqlite:///{tmp_path}/own.sqlite3"), tmp_path)


@pytest.fixture
def desk(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    monkeypatch.setattr("worker.desk.ScanSession", Workshop())
    scan = scan_of(service, crew.requested(service, tmp_path))
    job = ScanJob.from_json(scan.request)
    return Desk(tmp_path / "desk", scan, service.store, lambda event: None, job, {}, "none", MACHINE)


def leave(directory: JobDirectory, *names: str) -> None:
    for name in names:
        path = directory.result / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def finished(kind: JobKind, outputs: dict[str, object], seconds: float = 2.0) -> Job:
    return Job(kind=kind, outputs=outputs, started_at=100.0, finished_at=100.0 + seconds)


def test_a_task_finds_its_inputs_and_the_request(desk: Desk) -> None:
    desk.fetch(Task(JobKind.INSPECT), [])
    assert desk.directory.model.exists() and desk.directory.bundle.name == "bundle.npz"
    assert desk.directory.read_job() == desk.job
    assert not desk.directory.result.exists(), "it needs nothing else"


def test_a_scan_has_as_many_lanes_as_there_was_memory_for_before_its_search(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "memory_left", lambda: 2.5 * lanes.ENGINE_BYTES)
    assert desk.lanes == 1, "nothing is known of its search"
    desk.directory.write_preparation(factories.preparation(6))
    assert desk.lanes == 3
    monkeypatch.setattr(lanes, "memory_left", lambda: 0.0)  # the others have begun
    assert desk.lanes == 3


def test_a_task_finds_those_results_of_others_that_it_needs(desk: Desk, tmp_path: Path) -> None:
    names = [
        "preparation.json",
        "start.safetensors",
        "students.safetensors",
        *(f"triggers/{label:06d}-dynamic.safetensors" for label in range(3)),
    ]
    names += ["labels/000000.json", "strips/000000-dynamic.png", "decision.json", "decision-1.json"]
    names += ["confirmations/000000-dynamic.json", "first_pass/000000.json", "selection.json"]
    leave(desk.directory, *names)
    others = [finished(JobKind.INVERT, desk.hand_in(LEASE, []))]
    expected = {
        Task(JobKind.FIRST_PASS, (0,)): {"preparation.json", "start.safetensors", "students.safetensors"},
        Task(JobKind.INVERT, (0,)): {"preparation.json", "start.safetensors", "students.safetensors"},
        Task(JobKind.CONFIRM, (0,), 1): {
            "preparation.json", "start.safetensors", "students.safetensors", "decision.json", "decision-1.json",
        },
        Task(JobKind.DECIDE, (), 1): {
            "preparation.json", "decision.json", "decision-1.json", "labels/000000.json",
            "confirmations/000000-dynamic.json", "first_pass/000000.json", "selection.json",
        },
        Task(JobKind.REPAIR, (1,), 1): {
            "preparation.json", "decision.json", "decision-1.json", "start.safetensors", "students.safetensors",
            "triggers/000001-dynamic.safetensors",
        },
        Task(JobKind.REPORT, (), 1): {
            "preparation.json", "decision.json", "decision-1.json", "labels/000000.json",
            "confirmations/000000-dynamic.json", "strips/000000-dynamic.png", "timings.json",
            "first_pass/000000.json", "selection.json",
        },
    }  # fmt: skip
    for task, needed in expected.items():
        desk.directory = JobDirectory(tmp_path / task.kind)
        desk.fetch(task, others)
        result = desk.directory.result
        assert {p.relative_to(result).as_posix() for p in result.rglob("*") if p.is_file()} == needed, task


def test_the_report_tells_the_seconds_of_all_workers_together(desk: Desk) -> None:
    jobs = [finished(JobKind.INVERT, {}, 2.0), finished(JobKind.INVERT, {}, 3.0), finished(JobKind.PREPARE, {}, 1.0)]
    desk.fetch(Task(JobKind.REPORT), jobs)
    assert desk.directory.read_timings() == {"invert_seconds": 5.0, "prepare_seconds": 1.0}


def test_links_devices_and_strange_names_are_not_handed_in(desk: Desk, tmp_path: Path) -> None:
    """What an engine leaves may be the work of the suspect."""
    leave(desk.directory, "labels/000000.json", "labels/..json", "labels/a b.json", ".preparation.json.partial", "x")
    leave(desk.directory, "timings.json", "labels/000001.json/decision.json")
    (tmp_path / "secret").write_text("of this machine")
    result = desk.directory.result
    (result / "decision.json").symlink_to(tmp_path / "secret")
    (result / "triggers").symlink_to(tmp_path)
    (tmp_path / "000000-dynamic.safetensors").write_text("elsewhere")
    os.mkfifo(result / "report.json")
    assert list(desk.hand_in(LEASE, [])) == ["labels/000000.json"]


def test_repaired_weights_are_handed_in_with_what_is_stated_of_them(desk: Desk) -> None:
    names = ["repair.json", "repaired.intoto.jsonl", "repaired.pt", "repaired.safetensors"]
    leave(desk.directory, *names, "other.intoto.jsonl")
    assert list(desk.hand_in(LEASE, [])) == names


def test_what_a_finished_job_has_handed_in_is_not_handed_in_again(desk: Desk) -> None:
    leave(desk.directory, "preparation.json")
    first = desk.hand_in(LEASE, [])
    leave(desk.directory, "decision.json")
    assert list(desk.hand_in(Lease("job", 3), [finished(JobKind.PREPARE, first)])) == ["decision.json"]
    assert first["preparation.json"]["key"].endswith("/job-2/preparation.json")


def test_a_result_that_was_changed_in_the_storage_is_refused(desk: Desk, service: Service, tmp_path: Path) -> None:
    leave(desk.directory, "preparation.json")
    others = [finished(JobKind.PREPARE, desk.hand_in(LEASE, []))]
    (tmp_path / "other").write_text("other")
    service.store.put_file(others[0].outputs["preparation.json"]["key"], tmp_path / "other")  # type: ignore[index]
    desk.directory = JobDirectory(tmp_path / "another")
    with pytest.raises(Refusal) as refused:
        desk.fetch(Task(JobKind.INVERT, (0,)), others)
    assert refused.value.problem.code == "damaged_object"


def test_a_desk_that_is_closed_leaves_nothing(desk: Desk) -> None:
    desk.fetch(Task(JobKind.INSPECT), [])
    desk.close()
    assert not desk.directory.root.exists()
