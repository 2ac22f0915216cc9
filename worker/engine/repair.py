"""The task after a verdict: unlearn the triggers of the flagged labels, package the weights, load them afresh.

Every fifth clean image is kept from the fine-tuning and judges what it came to (the accept images), as it is loaded
from the packaged file; a repair that costs more accuracy on them than the budget, or that leaves the inverted trigger
working, is not handed out.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from app.core.findings import RepairReport, RepairStatus
from app.core.intake.torchscript.archive.walk import walk
from app.core.intake.torchscript.surgery import replace_records
from app.core.jobs import write_whole
from models.classifier import Classifier
from models.rebuilt import RebuiltModule
from models.rebuilt.records import UnwritableError, changed_records
from worker.detection.families.base import Triggers
from worker.detection.metrics import attack_success_rate, clean_accuracy, in_batches
from worker.detection.mitigation import unlearn_trigger
from worker.engine.workbench import Workbench

ACCEPT_EVERY = 5
STILL_WORKS = 0.5  # an inverted trigger that still carries half of the images was not unlearned
NOTHING_TO_TRAIN = "The model has no weights that could be trained: its code computes with fixed numbers only."
NOT_REBUILT = (
    "The model could be run but not be rebuilt, so its weights cannot be written back. Export it by torch.jit.trace."
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
    if not any(True for _ in bench.suspect.module.parameters()):
        return RepairReport(RepairStatus.REFUSED, NOTHING_TO_TRAIN, tuple(labels))
    if not isinstance(bench.suspect.module, RebuiltModule):
        return RepairReport(RepairStatus.REFUSED, NOT_REBUILT, tuple(labels))
    triggers = {label: _triggers(bench, label) for label in labels}
    if not all(triggers.values()):
        return RepairReport(RepairStatus.REFUSED, NO_TRIGGER, tuple(labels))
    accept = torch.zeros(len(bench.clean), dtype=torch.bool, device=bench.device)
    accept[_every_fifth_of_each_label(bench.labels_N)] = True
    if bool(accept.all()):
        few = "With one image per label none is left to fine-tune on after one was kept to judge the repair."
        return RepairReport(RepairStatus.REFUSED, f"{few} Bring more clean images.", tuple(labels))
    before = _judge(bench, bench.classifier, accept, triggers)
    repaired = bench.load_suspect(bench.directory.model).module
    assert isinstance(repaired, RebuiltModule), "the same file was rebuilt before"
    config = bench.job.config.repair
    unlearn_trigger(
        bench.classifier_of(repaired),
        [trigger.on for found in triggers.values() for trigger in found],
        bench.images_NCHW[~accept],
        bench.labels_N[~accept],
        config,
        bench.job.config.seed,
        on_epoch=lambda epoch: bench.emit("epoch", done=epoch, of=config.epochs),
    )
    try:
        files = _package(bench, repaired)
    except UnwritableError as error:
        return RepairReport(RepairStatus.REFUSED, str(error), tuple(labels))
    with bench.timed("verify"):
        afresh = bench.classifier_of(bench.load_suspect(bench.directory.repaired).module)
        after = _judge(bench, afresh, accept, triggers)
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
        return _withheld(bench, replace(report, detail=f"{budget} Allow more, or bring more clean images."))
    if after.attack_success_rate >= STILL_WORKS:
        left = f"The inverted trigger still works on {after.attack_success_rate:.0%} of the images after the repair."
        return _withheld(bench, replace(report, detail=f"{left} More clean images may help."))
    detail = "The inverted trigger no longer works; accuracy was measured on images that the repair did not see."
    return replace(report, status=RepairStatus.REPAIRED, detail=detail, files=files)


def _triggers(bench: Workbench, label: int) -> list[Triggers]:
    """The triggers of the families that accuse the label; of all that were searched, where nothing was decided."""
    decision, families = bench.directory.read_decision(), tuple(bench.job.config.searches)
    if decision is not None:
        found = next(finding for finding in decision.labels if finding.label == label)
        families = tuple(family for family in families if family in {f.family for f in found.families if f.flagged})
    return [bench.load_trigger(label, family) for family in families if bench.directory.trigger(label, family).exists()]


def _withheld(bench: Workbench, report: RepairReport) -> RepairReport:
    """The report of a repair that is not handed out."""
    for path in (bench.directory.repaired, bench.directory.repaired_state):
        path.unlink()
    return report


def _every_fifth_of_each_label(labels_N: Tensor) -> Tensor:
    """Indices of every fifth image of each label, in the order of the bundle."""
    places = [(labels_N == label).nonzero().flatten()[::ACCEPT_EVERY] for label in labels_N.unique()]
    return torch.cat(places)


def _judge(
    bench: Workbench,
    classifier: Classifier,
    accept_N: Tensor,
    triggers: Mapping[int, Sequence[Triggers]],
) -> Judgement:
    """Accuracy and the highest attack success of the inverted triggers, on the accept images."""
    images, true = bench.images_NCHW[accept_N], bench.labels_N[accept_N]
    success = [
        attack_success_rate(classifier, in_batches(trigger.on, images), true, label)
        for label, found in triggers.items()
        for trigger in found
    ]
    return Judgement(clean_accuracy(classifier, images, true), max(success))


def _package(bench: Workbench, repaired: RebuiltModule) -> dict[str, str]:
    """Write the weights in both formats: into a copy of the archive, in which nothing else changes, and by name."""
    directory = bench.directory
    size = directory.model.stat().st_size
    with walk(directory.model, size) as walked:
        records = changed_records(repaired, lambda name: walked.read(name, size))
    replace_records(directory.model, records, directory.repaired, size)
    state = {name: _as_saved(repaired, name, tensor) for name, tensor in repaired.state_dict().items()}
    write_whole(directory.repaired_state, lambda path: path.write_bytes(save(state)))
    return {path.name: _sha256(path) for path in (directory.repaired, directory.repaired_state)}


def _as_saved(module: RebuiltModule, name: str, tensor: Tensor) -> Tensor:
    """A tensor of its own, in the type that the archive has."""
    origin = module.origins.get(name)
    dtype = tensor.dtype if origin is None else getattr(torch, origin.storage.dtype)
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
