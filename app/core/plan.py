"""The jobs of a scan and their order: the same for a laptop's scan and for the service. Standard library only.

    inspect -> prepare
            -> first pass x blocks of labels -> select (where there are many)
            -> invert x blocks of labels -> decide
            -> confirm x blocks of the labels in doubt -> decide
            -> repair (if asked for and needed) -> report

A search and the decision over it are a round. The first one, 0, searches every label, or where there are many those
that a first pass tells from the others and some that are drawn by chance; a further one those that the decision before
it doubts, and the config says which is the last. The partition into blocks follows from the config and from where the
scan was prepared, so numbers do not depend on who works on which block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.core.config import ScanConfig
from app.core.findings import Decision, Preparation, Selection
from app.core.jobs import ScanJob


class JobKind(StrEnum):
    INSPECT = "inspect"  # the static gate: is this an archive that we understand and allow? Runs no torch
    PREPARE = "prepare"  # load the suspect and the bundle, learn how they fit together, make the shared generator
    FIRST_PASS = "first_pass"  # a few steps of the search for each label of one block
    SELECT = "select"  # which labels are searched in full. Runs no torch
    INVERT = "invert"  # search a trigger for each label of one block
    DECIDE = "decide"  # anomaly indices, p-values and the verdict, or what is in doubt. Runs no torch
    CONFIRM = "confirm"  # search each label of one block of those in doubt again, from a fresh seed, on other images
    REPAIR = "repair"  # unlearn the flagged labels' triggers, package the weights, load them afresh
    REPORT = "report"  # what people and programs read. Runs no torch


BLOCKS_IN_ONE = 4  # on a GPU, which waits for orders more than it computes: a step of more labels takes as long

WITHOUT_TORCH = frozenset({JobKind.INSPECT, JobKind.SELECT, JobKind.DECIDE, JobKind.REPORT})


@dataclass(frozen=True)
class Task:
    """One job of a scan; `labels` are those of the block (first pass, invert, confirm) or those to unlearn (repair).

    `round` is the one that it belongs to, or whose decision it follows (repair, report).
    """

    kind: JobKind
    labels: tuple[int, ...] = ()
    round: int = 0


FIRST = Task(JobKind.INSPECT)


def blocks(labels: Sequence[int], config: ScanConfig, device: str, at_once: int | None = None) -> list[tuple[int, ...]]:
    """The labels cut into those that are searched together where a scan was prepared on this device.

    They are `at_once` at most, where no more fit into its memory.
    """
    size = config.labels_per_block * (BLOCKS_IN_ONE if device.startswith("cuda") else 1)
    return _cut(labels, size if at_once is None else min(size, at_once))


def blocks_of(preparation: Preparation, labels: Sequence[int], config: ScanConfig) -> list[tuple[int, ...]]:
    """Those into which labels are cut for what is searched after this preparation."""
    return blocks(labels, config, preparation.device, preparation.labels_at_once)


def _cut(labels: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(labels[start : start + size]) for start in range(0, len(labels), size)]


def next_tasks(
    done: Task,
    job: ScanJob,
    preparation: Preparation | None,
    decision: Decision | None,
    selection: Selection | None = None,
) -> list[Task]:
    """What comes after a finished task, once no other task of the scan is open: later ones in the order above.

    `preparation` is needed after prepare, `selection` after select and `decision`, that of the task's round, after
    decide; they may be None before. Where a preparation already blocks the verdict, nothing is searched. A check ends
    as soon as there is one.
    """
    if job.check and preparation is not None:
        return []
    match done.kind:
        case JobKind.INSPECT | JobKind.PREPARE if preparation is not None and preparation.reasons:
            return [] if job.repair_label is not None else [Task(JobKind.DECIDE)]
        case JobKind.INSPECT:
            return [Task(JobKind.PREPARE)]
        case JobKind.PREPARE:
            assert preparation is not None
            first_pass = job.config.first_pass
            if first_pass is not None and job.repair_label is None and job.config.skims(preparation.num_labels):
                skimmed = _cut(range(preparation.num_labels), first_pass.labels_per_block)
                return [Task(JobKind.FIRST_PASS, block) for block in skimmed]
            wanted = range(preparation.num_labels) if job.repair_label is None else [job.repair_label]
            return [Task(JobKind.INVERT, block) for block in blocks_of(preparation, wanted, job.config)]
        case JobKind.FIRST_PASS:
            return [Task(JobKind.SELECT)]
        case JobKind.SELECT:
            assert preparation is not None and selection is not None
            searched = blocks_of(preparation, selection.labels, job.config)
            return [Task(JobKind.INVERT, block) for block in searched] or [Task(JobKind.DECIDE)]
        case JobKind.INVERT if job.repair_label is not None:
            return [Task(JobKind.REPAIR, (job.repair_label,))]
        case JobKind.INVERT | JobKind.CONFIRM:
            return [Task(JobKind.DECIDE, round=done.round)]
        case JobKind.DECIDE:
            assert preparation is not None and decision is not None
            if decision.doubted_labels and done.round < job.config.last_round:
                doubted = blocks_of(preparation, decision.doubted_labels, job.config)
                return [Task(JobKind.CONFIRM, block, done.round + 1) for block in doubted]
            if decision.flagged_labels and job.repair:
                return [Task(JobKind.REPAIR, decision.flagged_labels, done.round)]
            return [Task(JobKind.REPORT, round=done.round)]
        case JobKind.REPAIR:
            return [] if job.repair_label is not None else [Task(JobKind.REPORT, round=done.round)]
        case JobKind.REPORT:
            return []
