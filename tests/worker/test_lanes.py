"""Blocks of labels side by side: the same numbers as one after the other, and no engine is left behind."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.core.jobs import JobDirectory
from app.local_scan import run_tasks
from tests.processes import engines_of, needs_proc, own_world
from tests.shared_process import sharing_process
from tests.toys import place_job
from worker import lanes
from worker.lanes import cores, lanes_that_fit
from worker.launch import EngineCrashError, ScanSession
from worker.sandbox.events import Event

pytestmark = pytest.mark.real

BLOCKS, LANES = 3, 2


@pytest.fixture(scope="module", autouse=True)
def small_world() -> Iterator[None]:
    with own_world():
        yield


def run(directory: JobDirectory, side_by_side: int, listen: Callable[[Event], None]) -> None:
    with ExitStack() as stack:
        sessions = [stack.enter_context(ScanSession(directory, listen, lane=lane)) for lane in range(side_by_side)]
        run_tasks(sessions, directory.read_job())


def found(directory: JobDirectory) -> dict[str, bytes]:
    return {
        path.relative_to(directory.result).as_posix(): path.read_bytes()
        for folder in ("labels", "triggers", "strips")
        for path in (directory.result / folder).iterdir()
    }


def test_lanes_change_no_number(tmp_path: Path) -> None:
    alone, beside = (place_job(tmp_path / name) for name in ("alone", "beside"))
    events: list[Event] = []
    with sharing_process():
        run(alone, 1, lambda event: None)
    run(beside, LANES, events.append)
    assert found(beside) == found(alone)
    assert [event["stage"] for event in events if event["event"] == "stage"].count("invert") == BLOCKS
    assert beside.read_timings().keys() == alone.read_timings().keys()
    assert not [path for path in beside.root.iterdir() if path.name.startswith("cell")]


@needs_proc
def test_where_one_lane_fails_all_of_them_end(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job")

    def kill_one(event: Event) -> None:
        if event["event"] == "step":
            os.kill(engines_of(directory.root)[0], signal.SIGKILL)

    with pytest.raises(EngineCrashError):
        run(directory, LANES, kill_one)
    assert engines_of(directory.root) == []


def test_there_are_no_more_lanes_than_memory_and_always_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(lanes, "memory_left", lambda: 3 * 2**30)
    assert lanes_that_fit(0, 0) == 4 and lanes_that_fit(2**20, 2**20) == 3
    assert lanes_that_fit(0, 2**30) == 2, "the engine that is there needs room for its search, too"
    assert lanes_that_fit(2**40, 0) == lanes_that_fit(0, 2**40) == 1
    monkeypatch.setattr(lanes, "memory_left", lambda: float("inf"))
    assert lanes_that_fit(0, 0) > 100
