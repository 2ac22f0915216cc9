"""What an engine says it is at is a stranger's word: of a known kind, with finite figures, or the engine is ended."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from app.core.plan import JobKind, Task
from app.core.progress import Ahead, Doing, Work
from worker.sandbox.events import read_event

TASK = Task(JobKind.INVERT, (0, 1))
WORK = Work(Doing.SEARCH, "static", 2, 3, 4.5, (Ahead(JobKind.CONFIRM, 1, 3.0),))


def read(**other: Any) -> dict[str, Any]:
    return read_event(json.dumps({"event": "work", **WORK.to_json(), **other}).encode(), TASK)


def test_what_an_engine_is_at_is_read() -> None:
    assert Work.from_json(read()) == WORK
    assert Work.from_json(read(seconds_left=None, family="", ahead=[])).seconds_left is None


@pytest.mark.parametrize(
    "other",
    [
        {"doing": "mining"},
        {"family": "\x1b[31mred"},
        {"number": 0},
        {"of": 10**9},
        {"seconds_left": float("nan")},
        {"seconds_left": -1},
        {"seconds_left": 1e30},
        {"ahead": [{"kind": "invert", "jobs": 10**9, "seconds": 1}]},
        {"ahead": [{"kind": "invert", "jobs": 10**5, "seconds": 1}]},
        {"ahead": [{"kind": "rest", "jobs": 1, "seconds": 1}]},
        {"ahead": [{"kind": "invert", "jobs": 1, "seconds": 1}] * 100},
    ],
    ids=str,
)
def test_anything_else_is_no_event(other: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(**other)


@pytest.mark.parametrize(
    "event",
    [
        {"event": "step", "labels": [0], "done": 1, "of": 0},
        {"event": "epoch", "done": 10**9, "of": 10**9},
        {"event": "prepared", "labels": 3, "names": ["a"], "images": 9},
    ],
    ids=str,
)
def test_counts_that_nobody_can_show_are_no_event(event: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read_event(json.dumps(event).encode(), TASK)
