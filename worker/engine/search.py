"""The search: invert the triggers of a block of labels.

A block is the unit that a killed engine may lose; a label is on disk with its generator or it was never searched. A
block that does not fit into the memory of the device is halved, and its findings say so, because numbers depend on the
partition in their last digits.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from app.core.errors import Refusal
from app.core.findings import FamilyFinding, LabelFinding
from app.core.jobs import write_whole
from worker.detection.inversion import Inversion, invert_triggers
from worker.engine.workbench import Workbench

EXAMPLES = 8  # images per label that are kept for the pictures of the report


def invert(bench: Workbench, labels: Sequence[int]) -> None:
    """Search a trigger for each label of a block, and leave its finding, its generator and some examples.

    Out of time it searches no further, and leaves nothing of a label whose search was not begun.
    """
    _check_labels(bench, labels)
    known = [finding for label in labels if (finding := bench.directory.read_finding(label)) is not None]
    if len(known) == len(labels) and not any(finding.truncated for finding in known):
        for finding in known:
            _announce(bench, finding)
        return
    with bench.timed("invert"):
        _search(bench, labels, halved=False)


def _check_labels(bench: Workbench, labels: Sequence[int]) -> None:
    last = bench.preparation.num_labels - 1
    for label in labels:
        if not 0 <= label <= last:
            whole = f"The model has the labels 0 to {last}, not {label}."
            raise Refusal("no_such_label", whole, "Give one of them by --label.")


def _search(bench: Workbench, labels: Sequence[int], halved: bool) -> None:
    """Search these labels together or, where that takes too much memory, each half of them by itself."""
    if bench.out_of_time():
        return
    inversions = _invert_together(bench, labels)
    if inversions is not None:
        for inversion in inversions:
            if inversion.steps:  # out of time before the first step is not a search
                _record(bench, inversion, halved)
    elif len(labels) == 1:
        _leave(bench, LabelFinding(labels[0], bench.preparation.label_names[labels[0]], ()))
    else:
        middle = len(labels) // 2
        _search(bench, labels[:middle], halved=True)
        _search(bench, labels[middle:], halved=True)


def _invert_together(bench: Workbench, labels: Sequence[int]) -> list[Inversion] | None:
    """The inversions of these labels, or None where their search does not fit into memory."""
    steps = bench.job.config.inversion.steps
    try:
        return invert_triggers(
            bench.classifier,
            bench.clean,
            labels,
            bench.load_generator(bench.directory.start),
            bench.perceptual,
            bench.job.config.inversion,
            bench.job.config.seed,
            on_step=lambda step: bench.emit("step", labels=list(labels), done=step, of=steps),
            out_of_time=bench.out_of_time,
        )
    except torch.OutOfMemoryError:
        pass  # the error holds the search's tensors, so nothing can be freed before it is forgotten
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _record(bench: Workbench, inversion: Inversion, halved: bool) -> None:
    label, directory = inversion.label, bench.directory
    state = inversion.generator.state_dict()
    write_whole(directory.generator(label), lambda path: path.write_bytes(save(state)))
    others = (bench.clean.labels_N != label).nonzero().flatten()
    picked = others[np.linspace(0, len(others) - 1, min(EXAMPLES, len(others))).astype(int).tolist()]
    clean = bench.clean.images_NCHW[picked]
    pair_NHWC = [x.detach().permute(0, 2, 3, 1).cpu().numpy() for x in (clean, inversion.generator(clean))]
    write_whole(directory.examples(label), lambda path: _save_npz(path, *pair_NHWC))
    dynamic = FamilyFinding(
        "dynamic",
        inversion.norm,
        inversion.attack_success_rate,
        inversion.loss,
        inversion.steps,
        inversion.truncated,
        halved=halved,
    )
    _leave(bench, LabelFinding(label, bench.preparation.label_names[label], (dynamic,)))


def _leave(bench: Workbench, finding: LabelFinding) -> None:
    """Write a finding, after everything that belongs to it: its presence says that the label is done."""
    bench.directory.write_finding(finding)
    _announce(bench, finding)


def _announce(bench: Workbench, finding: LabelFinding) -> None:
    """Tell the listener about a label: its figures, or none where it did not fit into memory."""
    found = finding.headline if finding.families else None
    norm, success = (found.norm, found.attack_success_rate) if found else (None, None)
    bench.emit("label", label=finding.label, norm=norm, attack_success_rate=success)


def _save_npz(path: Path, clean: NDArray[np.float32], generated: NDArray[np.float32]) -> None:
    with path.open("wb") as file:  # given a path, numpy would append .npz to it
        np.savez_compressed(file, clean=clean, generated=generated)
