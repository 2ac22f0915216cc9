"""The first job: load the suspect and the bundle, learn how they fit together, train the shared generator.

Everything that can be refused is refused here, before any search.
"""

import math
import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from safetensors.torch import save

from app.core.findings import Caveat, Preparation, Reason
from app.core.intake.bundle import check_labels
from app.core.jobs import write_whole
from models.classifier import Classifier, form_of, has_input_gradient, match_channels, probe_scores
from worker.detection.inversion import pretrain_generator
from worker.detection.metrics import predictions
from worker.detection.preprocessing import Fit, accepted_channels, fit, given_spec, infer_spec
from worker.engine.workbench import Workbench

FEW_IMAGES_PER_LABEL = 10
PROBED_IMAGES = 8


def prepare(bench: Workbench) -> None:
    """Write preparation.json, and the shared generator unless a reason already blocks the search; raises Refusal."""
    with bench.timed("prepare"):
        preparation = _understand(bench)
        bench.directory.write_preparation(preparation)
    bench.emit("prepared", labels=preparation.num_labels, names=preparation.label_names, images=preparation.images)
    if not preparation.reasons:
        with bench.timed("pretrain"):
            start = pretrain_generator(bench.clean, bench.perceptual, bench.job.config.inversion, bench.job.config.seed)
            write_whole(bench.directory.start, lambda path: path.write_bytes(save(start.state_dict())))


def _understand(bench: Workbench) -> Preparation:
    declared = bench.job.input.filled_from(bench.bundle.declared)
    module, images = bench.module, bench.images_NCHW
    channels = declared.channels or accepted_channels(module, images)
    num_labels = probe_scores(module, _first_inputs(images, channels)).shape[1]
    check_labels(bench.bundle, num_labels)
    labels = None if bench.bundle.labels is None else torch.as_tensor(bench.bundle.labels).to(bench.device)
    said = declared.mean is not None or declared.std is not None or declared.range is not None
    close: tuple[str, ...] = ()
    reasons: list[Reason] = []
    caveats: list[Caveat] = []
    if said:
        spec = given_spec(
            images, channels, declared.mean or (0.0,), declared.std or (1.0,), declared.range or (0.0, 1.0)
        )
        found = fit(module, images, labels, spec, "given")
    elif labels is None:
        reasons.append(Reason.NO_LABELS_AND_NO_INPUT_SPEC)
        found = fit(module, images, labels, given_spec(images, channels, (0.0,), (1.0,), (0.0, 1.0)), "assumed")
    else:
        found, close = infer_spec(module, images, labels, channels)
        caveats.append(Caveat.INFERRED_PREPROCESSING)
    classifier = Classifier(module, found.spec, found.output).to(bench.device)
    if _implausible(found, num_labels, declared.expected_accuracy, len(images)):
        reasons.append(Reason.IMPLAUSIBLE_ACCURACY)
    if not has_input_gradient(classifier, images[:PROBED_IMAGES]):
        reasons.append(Reason.NO_INPUT_GRADIENT)
    counted = predictions(classifier, images) if labels is None else labels
    per_label = torch.bincount(counted, minlength=num_labels).tolist()
    if labels is None:
        caveats.append(Caveat.UNLABELLED_IMAGES)
    if min(per_label) == 0:
        caveats.append(Caveat.MISSING_CLASSES)
    if len(images) < FEW_IMAGES_PER_LABEL * num_labels:
        caveats.append(Caveat.FEW_CLEAN_IMAGES)
    if bench.perceptual.name == "packaged":
        caveats.append(Caveat.PACKAGED_PERCEPTUAL_BACKBONE)
    names = dict(enumerate(bench.bundle.class_names))
    return Preparation(
        num_labels=num_labels,
        label_names=tuple(names.get(label) or str(label) for label in range(num_labels)),
        form=form_of(module),
        output=found.output.value,
        input=found.spec,
        input_source=_source(bench, said),
        close_conventions=close,
        clean_accuracy=None if labels is None else found.accuracy,
        images=len(images),
        images_per_label=tuple(per_label),
        perceptual=bench.perceptual.name,
        perceptual_sha256=bench.perceptual.sha256,
        device=str(bench.device),
        threads=torch.get_num_threads(),
        versions=_versions(),
        reasons=tuple(reasons),
        caveats=tuple(caveats),
    )


def _first_inputs(images_NCHW: torch.Tensor, channels: int) -> torch.Tensor:
    return match_channels(images_NCHW[:PROBED_IMAGES], channels)


def _implausible(found: Fit, num_labels: int, expected: float | None, images: int) -> bool:
    """Worse than twice chance, or below what was declared by more than ten points and three standard errors."""
    if math.isnan(found.accuracy):
        return False
    if num_labels > 2 and found.accuracy < 2 / num_labels:
        return True
    if expected is None:
        return False
    return expected - found.accuracy > max(0.1, 3 * math.sqrt(expected * (1 - expected) / images))


def _source(bench: Workbench, said: bool) -> str:
    own = bench.job.input
    if not said:
        return "inferred"
    return "given" if own.mean is not None or own.std is not None or own.range is not None else "bundle"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("triggerlens", "torch", "numpy", "pillow", "lpips"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
