"""The task after a verdict: unlearn the triggers of the flagged labels, package the weights, load them afresh.

Every fifth clean image is kept from the fine-tuning and judges it (the accept images); a repair that costs more
accuracy on them than the budget, or that leaves the inverted trigger working, is not handed out.
"""

import copy
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from app.core.findings import RepairReport, RepairStatus
from app.core.jobs import write_whole
from models.classifier import Classifier, Output, load_torchscript
from models.generator import TriggerGenerator
from worker.detection.metrics import attack_success_rate, clean_accuracy, in_batches, predictions
from worker.detection.mitigation import unlearn_trigger
from worker.engine.workbench import Workbench

ACCEPT_EVERY = 5
STILL_WORKS = 0.5  # an inverted trigger that still carries half of the images was not unlearned
FROZEN = (
    "The module is frozen: its weights are constants inside the code, and this version cannot repair those. "
    "Ask for the same model saved without torch.jit.freeze."
)
NO_TRIGGER = "There is no trigger to unlearn: the search for it did not fit into memory."


@dataclass(frozen=True)
class Judgement:
    """What the accept images say of a classifier."""

    clean_accuracy: float
    attack_success_rate: float


def repair(bench: Workbench, labels: Sequence[int]) -> None:
    """Repair the classifier against the triggers of these labels; writes repair.json and, if accepted, the weights.

    Out of time it does nothing.
    """
    if not _is_done(bench) and not bench.out_of_time():
        with bench.timed("repair"):
            bench.directory.write_repair(_repair(bench, labels))


def _is_done(bench: Workbench) -> bool:
    """Whether there is a report, and the weights that it speaks of still lie beside it."""
    known = bench.directory.read_repair()
    return known is not None and all((bench.directory.result / name).exists() for name in known.files)


def _repair(bench: Workbench, labels: Sequence[int]) -> RepairReport:
    if bench.preparation.form == "frozen":
        return RepairReport(RepairStatus.REFUSED, FROZEN, tuple(labels))
    if not all(bench.directory.generator(label).exists() for label in labels):
        return RepairReport(RepairStatus.REFUSED, NO_TRIGGER, tuple(labels))
    generators = [bench.load_generator(bench.directory.generator(label)) for label in labels]
    accept = torch.zeros(len(bench.clean), dtype=torch.bool, device=bench.device)
    accept[_every_fifth_of_each_label(bench.labels_N)] = True
    if bool(accept.all()):
        few = "With one image per label none is left to fine-tune on after one was kept to judge the repair."
        return RepairReport(RepairStatus.REFUSED, f"{few} Bring more clean images.", tuple(labels))
    before = _judge(bench, bench.classifier, accept, labels, generators)
    repaired = Classifier(
        load_torchscript(bench.directory.model).to(bench.device), bench.preparation.input, bench.classifier.output
    ).to(bench.device)
    config = bench.job.config.repair
    unlearn_trigger(
        repaired,
        generators,
        bench.images_NCHW[~accept],
        bench.labels_N[~accept],
        config,
        bench.job.config.seed,
        on_epoch=lambda epoch: bench.emit("epoch", done=epoch, of=config.epochs),
    )
    after = _judge(bench, repaired, accept, labels, generators)
    report = RepairReport(
        RepairStatus.REFUSED,
        "",
        labels=tuple(labels),
        clean_accuracy_before=before.clean_accuracy,
        clean_accuracy_after=after.clean_accuracy,
        attack_success_rate_before=before.attack_success_rate,
        attack_success_rate_after=after.attack_success_rate,
        judged_on="clean images kept from the fine-tuning",
        judged_images=int(accept.sum()),
    )
    cost = before.clean_accuracy - after.clean_accuracy
    if cost > config.max_accuracy_drop:
        budget = f"The repair costs {cost:.1%} of accuracy, more than the budget of {config.max_accuracy_drop:.1%}."
        return replace(report, detail=f"{budget} Allow more, or bring more clean images.")
    if after.attack_success_rate >= STILL_WORKS:
        left = f"The inverted trigger still works on {after.attack_success_rate:.0%} of the images after the repair."
        return replace(report, detail=f"{left} More clean images may help.")
    files = _package(bench, repaired, accept)
    detail = "The inverted trigger no longer works; accuracy was measured on images that the repair did not see."
    return replace(report, status=RepairStatus.REPAIRED, detail=detail, files=files)


def _every_fifth_of_each_label(labels_N: Tensor) -> Tensor:
    """Indices of every fifth image of each label, in the order of the bundle."""
    places = [(labels_N == label).nonzero().flatten()[::ACCEPT_EVERY] for label in labels_N.unique()]
    return torch.cat(places)


def _judge(
    bench: Workbench,
    classifier: Classifier,
    accept_N: Tensor,
    labels: Sequence[int],
    generators: Sequence[TriggerGenerator],
) -> Judgement:
    """Accuracy and the highest attack success of the inverted triggers, on the accept images."""
    images, true = bench.images_NCHW[accept_N], bench.labels_N[accept_N]
    success = [
        attack_success_rate(classifier, in_batches(generator, images), true, label)
        for label, generator in zip(labels, generators, strict=True)
    ]
    return Judgement(clean_accuracy(classifier, images, true), max(success))


def _package(bench: Workbench, repaired: Classifier, accept_N: Tensor) -> dict[str, str]:
    """Save the weights in both formats, load the archive afresh and see that it answers the same."""
    directory = bench.directory
    module = copy.deepcopy(repaired.module).cpu()
    archive = io.BytesIO()
    torch.jit.save(module, archive)
    write_whole(directory.repaired, lambda path: path.write_bytes(archive.getvalue()))
    state = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    write_whole(directory.repaired_state, lambda path: path.write_bytes(save(state)))
    with bench.timed("verify"):
        afresh = Classifier(
            load_torchscript(directory.repaired).to(bench.device), repaired.spec, Output(repaired.output)
        ).to(bench.device)
        images = bench.images_NCHW[accept_N]
        if not torch.equal(predictions(afresh, images), predictions(repaired, images)):
            raise RuntimeError("the packaged weights answer differently from the repaired ones")
    return {path.name: _sha256(path) for path in (directory.repaired, directory.repaired_state)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
