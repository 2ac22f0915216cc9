"""The first task: load the suspect and the bundle, learn how they fit together, train what every search begins with.

Everything that can be refused is refused here, before any search.
"""

import math
import platform
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import torch
from safetensors.torch import save
from torch import Tensor, nn

from app.core.findings import Caveat, Preparation, ProbeFinding, Reason
from app.core.intake.bundle import check_labels
from app.core.intake.declaration import DeclaredInput
from app.core.jobs import write_whole
from app.core.plan import blocks
from models.classifier import Classifier, has_input_gradient, match_channels, probe_scores
from models.inputs import manner_of
from models.scorer import Scorer
from worker.detection.behaviour import probe_behaviour
from worker.detection.choosing import choose_output
from worker.detection.families.dynamic import pretrain_generator
from worker.detection.inversion import READ_AT_ONCE
from worker.detection.metrics import BATCH, predictions
from worker.detection.preprocessing import Fit, fit, given_spec, infer_spec
from worker.detection.students import train_students
from worker.engine.workbench import Workbench

FEW_IMAGES_PER_LABEL = 10
USEFUL_AGREEMENT = 0.7  # students that answer fewer images as the suspect does say little of its labels
PROBED_IMAGES = 8


def prepare(bench: Workbench) -> None:
    """Write preparation.json and, unless a reason already blocks the search, what it begins with; raises Refusal."""
    known, directory, config = bench.directory.read_preparation(), bench.directory, bench.job.config
    if known is not None and (known.reasons or directory.start.exists()):
        _announce(bench, known)
        return
    with bench.timed("prepare"):
        preparation = _understand(bench)
        directory.write_preparation(preparation)
    _announce(bench, preparation)
    if not preparation.reasons:
        if config.students:
            with bench.timed("students"):
                directory.write_preparation(_with_students(bench, preparation))
        with bench.timed("pretrain"):
            start = pretrain_generator(bench.clean, bench.perceptual, config.inversion, config.seed)
            write_whole(directory.start, lambda path: path.write_bytes(save(start.state_dict())))


def _with_students(bench: Workbench, preparation: Preparation) -> Preparation:
    """Train the reference students, and leave them if they learned enough to be asked."""
    config, directory = bench.job.config, bench.directory
    seeds = range(config.seed, config.seed + config.students)
    students, agreement = train_students(bench.classifier, bench.images_NCHW, seeds)
    if agreement < USEFUL_AGREEMENT:
        caveats = (*preparation.caveats, Caveat.WEAK_STUDENTS)
        return replace(preparation, students_agreement=agreement, caveats=caveats)
    state = nn.ModuleList(students).state_dict()
    write_whole(directory.students, lambda path: path.write_bytes(save(state)))
    return replace(preparation, students_agreement=agreement)


def _announce(bench: Workbench, preparation: Preparation) -> None:
    bench.emit("prepared", labels=preparation.num_labels, names=preparation.label_names, images=preparation.images)


def _understand(bench: Workbench) -> Preparation:
    declared = bench.job.input.filled_from(bench.bundle.declared)
    images = bench.images_NCHW
    never_called = deepcopy(bench.suspect.module)
    usual = images.shape[1]
    manner, channels = manner_of(
        bench.suspect.module, images, [declared.channels] if declared.channels else [usual, 1 if usual == 3 else 3]
    )
    labels = None if bench.bundle.labels is None else torch.as_tensor(bench.bundle.labels).to(bench.device)
    shown = match_channels(images[:PROBED_IMAGES], channels)
    choice = choose_output(
        Scorer(bench.suspect.module, manner),
        shown,
        labels,
        bench.job.output,
        accuracy=lambda scorer: _fit(scorer, bench, declared, channels, labels)[0].accuracy,
    )
    module, manner = choice.scorer, choice.scorer.manner
    num_labels = probe_scores(module, shown).shape[1]
    check_labels(bench.bundle, num_labels)
    found, close = _fit(module, bench, declared, channels, labels)
    classifier = Classifier(module, found.spec, found.output).to(bench.device)
    stand_ins = predictions(classifier, images) if labels is None else labels
    per_label = torch.bincount(stand_ins, minlength=num_labels).tolist()
    names = dict(enumerate(bench.bundle.class_names))
    probes = probe_behaviour(never_called, found.spec, found.output, manner, images, _most_at_once(bench, num_labels))
    return Preparation(
        num_labels=num_labels,
        label_names=tuple(names.get(label) or str(label) for label in range(num_labels)),
        form=bench.suspect.form,
        fixed_batch=manner.batch,
        takes=manner.takes,
        chosen_output=manner.output,
        other_outputs=choice.others,
        probes=probes,
        output=found.output.value,
        input=found.spec,
        input_source=_source(bench.job.input, declared),
        close_conventions=close,
        clean_accuracy=None if labels is None else found.accuracy,
        images=len(images),
        images_per_label=tuple(per_label),
        perceptual=bench.perceptual.name,
        perceptual_sha256=bench.perceptual.sha256,
        device=str(bench.device),
        threads=torch.get_num_threads(),
        versions=_versions(),
        reasons=_reasons(bench, classifier, found, per_label, declared, probes, choice.is_ambiguous),
        caveats=_caveats(bench, per_label, declared),
    )


def _most_at_once(bench: Workbench, num_labels: int) -> int:
    """How many images the suspect is shown at once, in that part of the scan where it is shown the most."""
    config = bench.job.config
    labels = len(blocks(range(num_labels), config, str(bench.device))[0])
    of_each = max(READ_AT_ONCE, *(search.batch_size for search in config.searches.values()))
    return max(BATCH, labels * of_each, 2 * config.repair.batch_size)


def _fit(
    module: nn.Module, bench: Workbench, declared: DeclaredInput, channels: int, labels_N: Tensor | None
) -> tuple[Fit, tuple[str, ...]]:
    """The normalisation that was said, or the one under which the labels come out best, and those that come close."""
    if _says_normalisation(declared) or labels_N is None:
        mean, std, low_high = declared.mean or (0.0,), declared.std or (1.0,), declared.range or (0.0, 1.0)
        spec = given_spec(bench.images_NCHW, channels, mean, std, low_high)
        return fit(module, bench.images_NCHW, labels_N, spec, "given"), ()
    return infer_spec(module, bench.images_NCHW, labels_N, channels)


def _reasons(
    bench: Workbench,
    classifier: Classifier,
    found: Fit,
    per_label: list[int],
    declared: DeclaredInput,
    probes: tuple[ProbeFinding, ...],
    is_ambiguous: bool,
) -> tuple[Reason, ...]:
    """What already blocks a verdict, so that searching would be in vain."""
    images = bench.images_NCHW
    one_answer_for_all = max(per_label) == len(images)
    raised = {
        Reason.NO_LABELS_AND_NO_INPUT_SPEC: bench.bundle.labels is None and not _says_normalisation(declared),
        Reason.IMPLAUSIBLE_ACCURACY: one_answer_for_all
        or _implausible(found, len(per_label), declared.expected_accuracy, len(images)),
        Reason.NO_INPUT_GRADIENT: not has_input_gradient(classifier, images[:PROBED_IMAGES]),
        Reason.ENVIRONMENT_SENSITIVE_MODEL: any(probe.disagrees for probe in probes),
        Reason.AMBIGUOUS_OUTPUT: is_ambiguous,
    }
    return tuple(reason for reason, holds in raised.items() if holds)


def _caveats(bench: Workbench, per_label: list[int], declared: DeclaredInput) -> tuple[Caveat, ...]:
    raised = {
        Caveat.FEW_CLEAN_IMAGES: sum(per_label) < FEW_IMAGES_PER_LABEL * len(per_label),
        Caveat.UNLABELLED_IMAGES: bench.bundle.labels is None,
        Caveat.MISSING_CLASSES: min(per_label) == 0,
        Caveat.TRAIN_MODE_NORMALISED: bench.suspect.was_training,
        Caveat.HALF_PRECISION_RAISED: bench.suspect.was_half,
        Caveat.INFERRED_PREPROCESSING: bench.bundle.labels is not None and not _says_normalisation(declared),
        Caveat.PACKAGED_PERCEPTUAL_BACKBONE: bench.perceptual.name == "packaged",
    }
    return tuple(caveat for caveat, holds in raised.items() if holds)


def _says_normalisation(declared: DeclaredInput) -> bool:
    return declared.mean is not None or declared.std is not None or declared.range is not None


def _implausible(found: Fit, num_labels: int, expected: float | None, images: int) -> bool:
    """Worse than twice chance, or below what was declared by more than ten points and three standard errors."""
    if math.isnan(found.accuracy):
        return False
    if num_labels > 2 and found.accuracy < 2 / num_labels:
        return True
    if expected is None:
        return False
    return expected - found.accuracy > max(0.1, 3 * math.sqrt(expected * (1 - expected) / images))


def _source(own: DeclaredInput, declared: DeclaredInput) -> str:
    """Who said how pixels are normalised: the request, the bundle, or nobody."""
    if not _says_normalisation(declared):
        return "inferred"
    return "given" if _says_normalisation(own) else "bundle"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("triggerlens", "torch", "numpy", "pillow", "lpips"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
