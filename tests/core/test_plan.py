"""The plan: every scan ends, in a report; each label is searched in one block, and again where it is in doubt."""

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.config import FirstPassConfig, ScanConfig
from app.core.findings import Reason, Selection
from app.core.jobs import ScanJob
from app.core.plan import BLOCKS_IN_ONE, FIRST, JobKind, Task, blocks, next_tasks
from app.core.presets import PRESETS
from tests import factories


def walked(
    job: ScanJob,
    num_labels: int,
    reasons: tuple[Reason, ...] = (),
    flagged: tuple[int, ...] = (),
    prepares: JobKind = JobKind.PREPARE,
    doubted: Collection[int] = (),
    selected: tuple[int, ...] = (),
) -> list[Task]:
    """The tasks of a whole scan, one after the other; `prepares` is the one that leaves the preparation.

    The first decision doubts labels, the last one flags some; `selected` are those of many that are searched in full.
    """
    known, waiting, done = factories.preparation(num_labels, reasons), [FIRST], []
    while waiting:
        task = waiting.pop(0)
        done.append(task)
        preparation = known if any(task.kind is prepares for task in done) else None
        first = doubted and task.round == 0
        decision = factories.decision(doubted=doubted) if first else factories.decision(*flagged)
        if not waiting:
            waiting += next_tasks(task, job, preparation, decision, Selection(selected, (), (), {}))
    return done


def kinds(tasks: list[Task]) -> list[str]:
    return [task.kind for task in tasks]


@given(
    labels=st.lists(st.integers(0, 999), unique=True),
    size=st.integers(1, 20),
    place=st.sampled_from([("cpu", 1), ("cuda", BLOCKS_IN_ONE), ("cuda:1", BLOCKS_IN_ONE)]),
)
def test_every_label_is_in_one_block_and_no_block_is_too_large(
    labels: list[int], size: int, place: tuple[str, int]
) -> None:
    device, together = place
    cut = blocks(labels, ScanConfig(labels_per_block=size), device)
    assert [label for block in cut for label in block] == labels
    assert all(1 <= len(block) <= size * together for block in cut) and len(cut) == -(-len(labels) // (size * together))


@given(
    num_labels=st.integers(1, 50),
    size=st.integers(1, 10),
    confirms=st.booleans(),
    repair=st.booleans(),
    flagged=st.sets(st.integers(0, 2)),
)
def test_every_scan_searches_every_label_decides_and_ends_in_a_report(
    num_labels: int, size: int, confirms: bool, repair: bool, flagged: set[int]
) -> None:
    config = ScanConfig(confirms=confirms, labels_per_block=size)
    tasks = walked(factories.request(config=config, repair=repair), num_labels, (), tuple(sorted(flagged)))
    searched = [label for task in tasks if task.kind is JobKind.INVERT for label in task.labels]
    assert searched == list(range(num_labels))
    ends = ["decide", "repair", "report"] if repair and flagged else ["decide", "report"]
    assert kinds([task for task in tasks if task.kind is not JobKind.INVERT]) == ["inspect", "prepare", *ends]
    assert kinds(tasks)[-len(ends) :] == ends
    assert {task.round for task in tasks} == {0}, "nothing was in doubt"


def test_what_is_in_doubt_is_searched_again_in_blocks_and_decided_once_more() -> None:
    asked = factories.request(config=ScanConfig(confirms=True, labels_per_block=2), repair=True)
    tasks = walked(asked, 6, flagged=(4,), doubted=(5, 1, 4))
    assert tasks[tasks.index(Task(JobKind.DECIDE)) :] == [
        Task(JobKind.DECIDE),
        Task(JobKind.CONFIRM, (1, 4), 1),
        Task(JobKind.CONFIRM, (5,), 1),
        Task(JobKind.DECIDE, (), 1),
        Task(JobKind.REPAIR, (4,), 1),
        Task(JobKind.REPORT, (), 1),
    ]


def test_of_many_labels_those_are_searched_that_a_first_pass_over_all_selects() -> None:
    config = ScanConfig(labels_per_block=2, first_pass=FirstPassConfig(all_up_to=20, labels_per_block=8))
    tasks = walked(factories.request(config=config), 21, selected=(4, 7, 20))
    assert tasks[2:] == [
        Task(JobKind.FIRST_PASS, tuple(range(8))),
        Task(JobKind.FIRST_PASS, tuple(range(8, 16))),
        Task(JobKind.FIRST_PASS, tuple(range(16, 21))),
        Task(JobKind.SELECT),
        Task(JobKind.INVERT, (4, 7)),
        Task(JobKind.INVERT, (20,)),
        Task(JobKind.DECIDE),
        Task(JobKind.REPORT),
    ]


def test_where_the_first_pass_came_to_no_label_the_scan_still_ends_in_a_report() -> None:
    tasks = walked(factories.request(config=PRESETS["standard"]), 21)
    assert kinds(tasks)[-3:] == ["select", "decide", "report"]


@pytest.mark.parametrize("preset", PRESETS)
def test_up_to_twenty_labels_are_all_searched_in_full(preset: str) -> None:
    tasks = walked(factories.request(config=PRESETS[preset]), 20)
    assert [label for task in tasks if task.kind is JobKind.INVERT for label in task.labels] == list(range(20))
    assert not {"first_pass", "select"} & set(kinds(tasks))


def test_the_repair_of_one_of_many_labels_looks_at_no_other() -> None:
    asked = factories.request(config=PRESETS["standard"], repair=True, repair_label=7)
    assert kinds(walked(asked, 1000)) == ["inspect", "prepare", "invert", "repair"]


def test_the_paper_searches_once_whatever_is_in_doubt() -> None:
    tasks = walked(factories.request(config=PRESETS["paper"]), 6, doubted=(1, 4))
    assert JobKind.CONFIRM not in kinds(tasks) and {task.round for task in tasks} == {0}


@given(
    data=st.data(),
    num_labels=st.integers(1, 12),
    confirms=st.booleans(),
    asked=st.sampled_from([{}, {"repair": True}, {"repair": True, "repair_label": 0}, {"check": True}]),
)
def test_in_whatever_order_its_tasks_finish_a_scan_ends_and_does_none_twice(
    data: st.DataObject, num_labels: int, confirms: bool, asked: dict[str, Any]
) -> None:
    """Even if every decision doubts and accuses as it likes. What follows comes later in the order of the plan."""
    job = factories.request(config=ScanConfig(confirms=confirms, labels_per_block=2), **asked)
    labels = st.sets(st.integers(0, num_labels - 1))
    waiting, done = {FIRST}, set[tuple[Any, ...]]()
    while waiting:
        task = data.draw(st.sampled_from(sorted(waiting, key=str)))
        waiting.remove(task)
        known = task.kind, task.round, task.labels[:1]
        assert known not in done and task.round <= job.config.last_round
        done.add(known)
        if not waiting:
            preparation = None if task == FIRST else factories.preparation(num_labels)
            decision = factories.decision(*data.draw(labels), doubted=data.draw(labels))
            following = next_tasks(task, job, preparation, decision)
            assert len(set(following)) == len(following)
            waiting = set(following)
    if not asked.keys() & {"check", "repair_label"}:
        assert task.kind is JobKind.REPORT


def test_a_repair_unlearns_the_flagged_labels() -> None:
    assert Task(JobKind.REPAIR, (0, 2)) in walked(factories.request(repair=True), 3, (), (2, 0))


def test_a_suspect_that_cannot_be_searched_is_decided_at_once() -> None:
    tasks = walked(factories.request(), 10, (Reason.NO_INPUT_GRADIENT,), ())
    assert kinds(tasks) == ["inspect", "prepare", "decide", "report"]


def test_a_check_searches_nothing_and_ends_as_soon_as_the_inputs_are_understood() -> None:
    check = factories.request(check=True)
    assert kinds(walked(check, 10, (), ())) == ["inspect", "prepare"]
    assert kinds(walked(check, 10, (Reason.NO_INPUT_GRADIENT,), ())) == ["inspect", "prepare"]
    stopped = walked(check, 0, (Reason.UNSUPPORTED_OPERATOR,), (), prepares=JobKind.INSPECT)
    assert kinds(stopped) == ["inspect"]


def test_a_suspect_that_the_gate_stops_is_never_loaded() -> None:
    blocked = (Reason.UNSUPPORTED_OPERATOR,)
    assert kinds(walked(factories.request(), 10, blocked, (), JobKind.INSPECT)) == ["inspect", "decide", "report"]
    assert kinds(walked(factories.request(repair=True, repair_label=7), 10, blocked, (), JobKind.INSPECT)) == [
        "inspect"
    ]


def test_the_repair_of_one_label_searches_that_label_and_decides_nothing() -> None:
    tasks = walked(factories.request(repair=True, repair_label=7), 10, (), ())
    assert tasks == [
        Task(JobKind.INSPECT),
        Task(JobKind.PREPARE),
        Task(JobKind.INVERT, (7,)),
        Task(JobKind.REPAIR, (7,)),
    ]
