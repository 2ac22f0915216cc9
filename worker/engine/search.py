"""The jobs between preparation and repair: invert a block of labels, and decide.

A block is the unit that a killed engine may lose; a label is on disk with its generator or it was never searched.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save

from app.core.findings import FamilyFinding, LabelFinding
from app.core.jobs import write_whole
from worker.detection.inversion import Inversion, invert_triggers
from worker.detection.verdict import decide_verdict
from worker.engine.workbench import Workbench

EXAMPLES = 8  # images per label that are kept for the pictures of the report


def blocks(labels: Sequence[int], size: int) -> list[list[int]]:
    """The labels cut into blocks; the partition decides the numbers, so it depends on the config alone."""
    return [list(labels[start : start + size]) for start in range(0, len(labels), size)]


def invert(bench: Workbench, labels: Sequence[int]) -> None:
    """Search a trigger for each label of a block, and leave its finding, its generator and some examples."""
    with bench.timed("invert"):
        steps = bench.job.config.inversion.steps
        inversions = invert_triggers(
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
        for inversion in inversions:
            if inversion.steps:  # out of time before the first step is not a search
                _record(bench, inversion)


def decide(bench: Workbench) -> None:
    """The verdict over everything that was searched so far."""
    with bench.timed("decide"):
        findings = bench.directory.read_findings()
        bench.directory.write_decision(decide_verdict(bench.preparation, findings, bench.job.config))


def announce(bench: Workbench, finding: LabelFinding) -> None:
    """Tell the listener about a searched label."""
    (dynamic,) = finding.families
    bench.emit("label", label=finding.label, norm=dynamic.norm, attack_success_rate=dynamic.attack_success_rate)


def _record(bench: Workbench, inversion: Inversion) -> None:
    label, directory = inversion.label, bench.directory
    state = inversion.generator.state_dict()
    write_whole(directory.generator(label), lambda path: path.write_bytes(save(state)))
    others = (bench.clean.labels_N != label).nonzero().flatten()
    picked = others[np.linspace(0, len(others) - 1, min(EXAMPLES, len(others))).astype(int).tolist()]
    clean = bench.clean.images_NCHW[picked]
    pair_NHWC = [x.detach().permute(0, 2, 3, 1).cpu().numpy() for x in (clean, inversion.generator(clean))]
    write_whole(directory.examples(label), lambda path: _save_npz(path, *pair_NHWC))
    dynamic = FamilyFinding(
        "dynamic", inversion.norm, inversion.attack_success_rate, inversion.loss, inversion.steps, inversion.truncated
    )
    finding = LabelFinding(label, bench.preparation.label_names[label], (dynamic,))
    directory.write_finding(finding)  # last: its presence says that the label is done
    announce(bench, finding)


def _save_npz(path: Path, clean: NDArray[np.float32], generated: NDArray[np.float32]) -> None:
    with path.open("wb") as file:  # given a path, numpy would append .npz to it
        np.savez_compressed(file, clean=clean, generated=generated)
