"""A scan on this machine tells how far it is as a service does, whatever its engines say beside each other."""

from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from app import terminal
from app.core.plan import JobKind, Task
from app.core.progress import Ahead, Doing, Work
from app.course import Course
from tests.clocks import PretendClock
from tests.worker.test_effort import job_of
from worker.sandbox.events import Event


@dataclass
class Lane:
    """What a course wants to know of a session."""

    task: Task | None = None


def work(doing: Doing, left: float, *ahead: Ahead) -> Event:
    return {"event": "work", **Work(doing, "static", 2, 3, left, ahead).to_json()}


def test_what_lanes_say_becomes_how_far_the_scan_is() -> None:
    clock, heard = PretendClock(), list[Event]()
    course, lanes = Course(heard.append, clock, job_of()), [Lane(), Lane()]
    listeners = [course.listener(lane) for lane in (0, 1)]

    def say(lane: int, event: Event) -> dict[str, Any]:
        listeners[lane](event)
        return heard[-1]

    lanes[0].task = Task(JobKind.PREPARE)
    course.begin([lanes[0].task], lanes)  # type: ignore[arg-type]
    say(0, {"event": "stage", "stage": "prepare"})
    clock.let_pass(4)
    ahead = Ahead(JobKind.INVERT, 2, 30.0)
    assert say(0, work(Doing.STUDENTS, 4.0, ahead))["eta_seconds"] == 4 + 30 + 2

    clock.let_pass(4)
    blocks = [Task(JobKind.INVERT, (0, 1)), Task(JobKind.INVERT, (2, 3))]
    course.begin(blocks, lanes)  # type: ignore[arg-type]
    lanes[0].task, lanes[1].task = blocks
    clock.let_pass(1)
    first = say(0, work(Doing.SEARCH, 20.0))
    assert (first["event"], first["stage"], first["doing"]) == (
        "progress",
        "invert",
        "searching static triggers, 2 of 3",
    )
    assert first["eta_seconds"] == 22, "the other lane is like this one"
    second = say(1, work(Doing.SEARCH_STUDENTS, 35.0))
    assert second["eta_seconds"] == 37 and second["doing"] == first["doing"], "of the first that tells"
    assert say(1, {"event": "step", "labels": [2], "done": 1, "of": 2})["event"] == "step"
    assert heard[0] == {"event": "stage", "stage": "prepare"} and all(event["event"] != "work" for event in heard)
    shares = [event["progress"] for event in heard if event["event"] == "progress"]
    assert all(0 < share < 1 for share in shares)


def test_a_terminal_shows_what_a_scan_is_at_and_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=shown, force_terminal=True, width=160))
    far = {"stage": "invert", "progress": 0.41, "doing": "searching warp triggers, 3 of 3", "eta_seconds": 754.2}
    with terminal.progress_display("model.pt") as show:
        show({"event": "stage", "stage": "invert"})
        show({"event": "progress", **far})
    assert "searching warp triggers, 3 of 3" in shown.getvalue() and "about 13 min left" in shown.getvalue()
    with terminal.progress_display("model.pt") as show:
        show({"event": "progress", **far, "progress": 0.39, "doing": None, "eta_seconds": None})
    assert shown.getvalue().count(" left") == 1, "nobody knows"
    assert terminal.duration(40.2) == "41 s"
