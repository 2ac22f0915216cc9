"""The search: invert the triggers of a block of labels.

A block is the unit that a killed engine may lose; a label is on disk with its triggers or it was never searched. A
block that does not fit into the memory of the device is halved, and its findings say so, because numbers depend on the
partition in their last digits.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from app.core.errors import Refusal
from app.core.families import FAMILIES
from app.core.findings import FamilyFinding, LabelFinding, finite
from app.core.jobs import write_whole
from app.core.report.figures import IMAGES, png_bytes, trigger_strip
from models.classifier import is_out_of_memory
from worker.detection.inversion import Inversion, of_each_at_once
from worker.detection.metrics import attack_success_rate, under
from worker.engine.effort import after_inverting, inverting
from worker.engine.trying import try_searches
from worker.engine.workbench import Workbench


def invert(bench: Workbench, labels: Sequence[int]) -> None:
    """Search a trigger for each label of a block, and leave its finding, the trigger and a picture of it.

    Out of time it searches no further, and leaves nothing of a label whose search was not begun.
    """
    check_labels(bench, labels)
    known = [finding for label in labels if (finding := bench.directory.read_finding(label)) is not None]
    if len(known) == len(labels) and not any(finding.truncated for finding in known):
        for finding in known:
            _announce(bench, finding)
        return
    bench.begin("invert")
    plan(bench, [labels])
    _search(bench, labels, halved=bench.preparation.labels_at_once is not None)


def plan(bench: Workbench, blocks: Sequence[Sequence[int]]) -> None:
    """Say what is left of this task, which is to search these blocks of labels."""
    sizes = bench.sizes(len(bench.students))
    try_searches(bench, sizes, len(blocks[0]))
    pieces = [piece for block in blocks for piece in inverting(bench.job.config, sizes, len(block))]
    bench.telling.plan(pieces, after_inverting(bench.job, sizes))


def check_labels(bench: Workbench, labels: Sequence[int]) -> None:
    """Raises Refusal for a label that the model does not have."""
    last = bench.preparation.num_labels - 1
    for label in labels:
        if not 0 <= label <= last:
            whole = f"The model has the labels 0 to {last}, not {label}."
            raise Refusal("no_such_label", whole, "Give one of them by --label.")


def _search(bench: Workbench, labels: Sequence[int], halved: bool, most_at_once: int | None = None) -> None:
    """Search these labels together or, where that takes too much memory, each half of them by itself.

    Of a half of the labels no more than that half of the images is shown together.
    """
    if bench.out_of_time():
        return
    found = _search_together(bench, labels, most_at_once)
    if found is not None:
        for index, label in enumerate(labels):
            _record(bench, label, [replace(finding[index], halved=halved) for finding in found])
    elif len(labels) == 1:
        _leave(bench, LabelFinding(labels[0], bench.preparation.label_names[labels[0]], ()))
    else:
        middle = len(labels) // 2
        halves = labels[:middle], labels[middle:]
        largest = max(search.batch_size for search in bench.job.config.searches.values())
        shown = bench.clean.images if most_at_once is None else bench.clean.images.at_most(most_at_once)
        of_each = min(largest, of_each_at_once(shown, len(labels)))
        for number, half in enumerate(halves):
            plan(bench, halves[number:])
            _search(bench, half, halved=True, most_at_once=of_each * len(half))


def _search_together(
    bench: Workbench, labels: Sequence[int], most_at_once: int | None
) -> list[list[FamilyFinding]] | None:
    """Each family's findings for these labels, as far as time allows; None where they do not fit into memory."""
    steps = _Steps(bench, labels)
    try:
        searches = bench.job.config.searches
        return [
            _search_family(bench, family, labels, steps, most_at_once) for family in searches if not bench.out_of_time()
        ]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # The error holds the search's tensors, so nothing can be freed before it is forgotten.
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


class _Steps:
    """Tells how many steps are done of all that a block of labels takes."""

    def __init__(self, bench: Workbench, labels: Sequence[int]) -> None:
        searches = bench.job.config.searches
        self.of = sum(search.steps * len(_networks(bench, family)) for family, search in searches.items())
        self.tell = partial(bench.emit, "step", labels=list(labels), of=self.of)
        self.done = 0

    def __call__(self, step: int) -> None:
        self.done += 1
        self.tell(done=self.done)


def _networks(bench: Workbench, family: str) -> list[nn.Module]:
    """The suspect and, if the family asks them, the students that tell how easy its labels are by nature."""
    return [bench.classifier, *(bench.students if FAMILIES[family].asks_students else [])]


def _search_family(
    bench: Workbench, family: str, labels: Sequence[int], steps: _Steps, most_at_once: int | None
) -> list[FamilyFinding]:
    """The findings of one family; its triggers, and what they do to some images, are left on disk."""
    found, *references = [
        bench.search(network, family, labels, bench.job.config.seed, steps, most_at_once=most_at_once)
        for network in _networks(bench, family)
    ]
    for inversion in found:
        if inversion.steps:
            _leave_trigger(bench, family, inversion)
    if bench.students:
        bench.telling.turn()
    return [
        FamilyFinding(
            family,
            finite(inversion.norm),
            inversion.attack_success_rate,
            finite(inversion.loss),
            inversion.steps,
            inversion.truncated or any(reference.truncated for reference in others),
            out_of_reach=inversion.out_of_reach,
            reference_norms=tuple(_reference(bench, student, found) for student, found in enumerate(others)),
            student_success_rate=_success_on_students(bench, inversion),
        )
        for inversion, *others in zip(found, *references, strict=True)
    ]


def _reference(bench: Workbench, student: int, found: Inversion) -> float | None:
    """What it takes to lead a student to a label; None where nothing does, or it never learned the label."""
    return None if found.out_of_reach or not bench.learned(student, found.label) else finite(found.norm)


def _success_on_students(bench: Workbench, inversion: Inversion) -> float | None:
    """How many of the held-out images the suspect's trigger carries on the students that know its label, on average.

    A weak student gives the label to many images as they are; these say nothing of the trigger. None where there are
    no others, on any student.
    """
    knowing = [
        (student, bench.students_predictions[number])
        for number, student in enumerate(bench.students)
        if bench.learned(number, inversion.label)
    ]
    if not knowing:
        return None
    others = bench.held_out.others(inversion.label)
    images = bench.held_out.images.subset(others)
    success = [
        attack_success_rate(under(inversion.trigger.on, student), images, said[others], inversion.label)
        for student, said in knowing
        if (said[others] != inversion.label).any()
    ]
    return sum(success) / len(success) if success else None


def _leave_trigger(bench: Workbench, family: str, inversion: Inversion) -> None:
    label, directory = inversion.label, bench.directory
    state = inversion.trigger.state_dict()
    write_whole(directory.trigger(label, family), lambda path: path.write_bytes(save(state)))
    others = bench.held_out.others(label)
    picked = others[np.linspace(0, len(others) - 1, min(IMAGES, len(others))).astype(int).tolist()]
    clean = bench.held_out.images[picked]
    strip = trigger_strip(*(x.permute(0, 2, 3, 1).cpu().numpy() for x in (clean, inversion.trigger.on(clean))))
    write_whole(directory.strip(label, family), lambda path: path.write_bytes(png_bytes(strip)))


def _record(bench: Workbench, label: int, families: Sequence[FamilyFinding]) -> None:
    """Leave a label's finding; a family that time was over for before its first step was not searched."""
    begun = [family for family in families if family.steps]
    if len(begun) < len(bench.job.config.searches):
        begun = [replace(family, truncated=True) for family in begun]
    if begun:
        _leave(bench, LabelFinding(label, bench.preparation.label_names[label], tuple(begun)))


def _leave(bench: Workbench, finding: LabelFinding) -> None:
    """Write a finding, after everything that belongs to it: its presence says that the label is done."""
    bench.directory.write_finding(finding)
    _announce(bench, finding)


def _announce(bench: Workbench, finding: LabelFinding) -> None:
    """Tell the listener about a label: its figures, or none where it did not fit into memory."""
    found = finding.families[0] if finding.families else None
    norm, success = (found.norm, found.attack_success_rate) if found else (None, None)
    bench.emit("label", label=finding.label, norm=norm, attack_success_rate=success)
