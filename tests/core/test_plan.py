"""The plan: every scan ends in a report, and each label is searched in one block."""

from hypothesis import given
from hypothesis import strategies as st

from app.core.config import ScanConfig
from app.core.findings import Reason
from app.core.jobs import ScanJob
from app.core.plan import BLOCKS_IN_ONE, FIRST, JobKind, Task, blocks, next_tasks
from tests import factories


def walked(
    job: ScanJob,
    num_labels: int,
    reasons: tuple[Reason, ...],
    flagged: tuple[int, ...],
    prepares: JobKind = JobKind.PREPARE,
) -> list[Task]:
    """The tasks of a whole scan, one after the other; `prepares` is the one that leaves the preparation."""
    known, decision = factories.preparation(num_labels, reasons), factories.decision(*flagged)
    waiting, done = [FIRST], []
    while waiting:
        task = waiting.pop(0)
        done.append(task)
        preparation = known if any(task.kind is prepares for task in done) else None
        if task.kind is not JobKind.INVERT or JobKind.INVERT not in {other.kind for other in waiting}:
            waiting += next_tasks(task, job, preparation, decision)
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
def test_every_scan_searches_every_label_decides_once_and_ends_in_a_report(
    num_labels: int, size: int, confirms: bool, repair: bool, flagged: set[int]
) -> None:
    config = ScanConfig(confirms=confirms, labels_per_block=size)
    tasks = walked(factories.request(config=config, repair=repair), num_labels, (), tuple(sorted(flagged)))
    searched = [label for task in tasks if task.kind is JobKind.INVERT for label in task.labels]
    assert searched == list(range(num_labels))
    again = ["confirm"] if confirms else []
    ends = [*again, "decide", "repair", "report"] if repair and flagged else [*again, "decide", "report"]
    assert kinds([task for task in tasks if task.kind is not JobKind.INVERT]) == ["inspect", "prepare", *ends]
    assert kinds(tasks)[-len(ends) :] == ends


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
