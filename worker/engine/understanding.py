"""What a scan takes for true: how the suspect and the clean images fit together, learned before anything is searched.

    N images   C channels   H, W pixels   K labels

Everything that can be refused is refused here. What a user said stands; what nobody said is inferred, and told with
what came close; and what does not fit together (an accuracy far below the suspect's own confidence, classes that it
takes for others) is a doubt in words with a way out, never passed over.
"""

import math
import platform
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, nn

from app.core.errors import Refusal
from app.core.findings import Caveat, InputSpec, Likeness, Preparation, ProbeFinding, Reason, Shift
from app.core.intake.bundle import Bundle
from app.core.intake.declaration import DeclaredInput
from app.core.intake.notes import Note, NoteKind
from app.core.plan import blocks
from models.classifier import Classifier, has_input_gradient, match_channels, probe_scores
from models.inputs import manner_of
from models.scorer import Scorer
from worker.detection.behaviour import probe_behaviour
from worker.detection.choosing import Choice, choose_output
from worker.detection.class_order import Answers, Reading
from worker.detection.clean import round_robin
from worker.detection.images import at_once
from worker.detection.inversion import READ_AT_ONCE
from worker.detection.metrics import BATCH, predictions, wilson_interval
from worker.detection.preprocessing import (
    BLUE_FIRST,
    Fit,
    blue_first,
    choose,
    continued,
    fit,
    fitted_at_once,
    given_spec,
    shown_fits,
    try_conventions,
)
from worker.detection.shift import MOST_COMPARED, distances, graded
from worker.engine.numbering import Classes, refuse_unknown, relabelled, remedy, shown
from worker.engine.workbench import Workbench

FEW_IMAGES_PER_LABEL = 10
FEWEST_LABELS = 5  # of which one can be told from the others
PROBED_IMAGES = 8
INFERRED_ON = 100  # images, for each convention of preprocessing
JUDGED_ON = 300  # images, for what is said of the suspect's answers
OF_EACH_CLASS = 8  # images, where its label has to be read off the answers
AGREEING = 0.9  # close conventions that give fewer of the images the same label are named
BETTER = 0.1  # of the images: what is so much more often right than what was said is named
GIVEN = "as given"
FROM_ELSEWHERE = (
    "The images are not like those that the model was trained on, as its batch norms remember them, and it is more "
    "often wrong than it should be. Figures on them say little of its use, and no repair is made with them: check size "
    "and preprocessing, bring other images, or declare by `--expected-accuracy` how often the model is right on these."
)
MATCHED = {
    (3, 1): "The images are in colour and the model takes grey: it is shown how bright they are.",
    (1, 3): "The images are grey and the model takes colour: it is shown the same in red, green and blue.",
}


@dataclass(frozen=True)
class Fitted:
    """What was settled on, and how the suspect answers under it."""

    fits: Sequence[Fit]  # all that was tried, on the first images
    close: Sequence[Fit]  # those that came close to what was taken
    judged: Fit  # what was taken, on more images
    answers: Answers | None = None
    class_order: tuple[int, ...] = ()
    reading: Reading | None = None
    is_contradicted: bool = False


def understand(bench: Workbench) -> Preparation:
    """Raises Refusal."""
    never_called = deepcopy(bench.suspect.module)
    meeting, choice = _introduced(bench)
    manner = meeting.scorer.manner
    found = meeting.fitted() if bench.bundle.labels is None else meeting.fitted_to_labels()
    judged, labels = found.judged, meeting.labels_N(found.class_order)
    classifier = Classifier(meeting.scorer, judged.spec, judged.output).to(bench.device)
    if labels is None:
        labels = judged.predictions_N if bench.job.check else predictions(classifier, bench.images)
    per_label = torch.bincount(labels.cpu(), minlength=meeting.num_labels).tolist()
    accuracy, interval = meeting.accuracy(found)
    is_implausible = _is_implausible(found, accuracy, len(per_label), meeting.declared.expected_accuracy)
    shift = meeting.shift(never_called, judged, interval)
    probes = () if bench.job.check else meeting.probes(never_called, judged)
    said = meeting.says_normalisation
    first_labels = None if bench.bundle.labels is None else meeting.shown_labels(found)[: len(found.fits[0].logits_NK)]
    return Preparation(
        num_labels=meeting.num_labels,
        label_names=_label_names(bench, meeting.num_labels, found.class_order),
        form=bench.suspect.form,
        fixed_batch=manner.batch,
        channels_last=manner.channels_last,
        takes=manner.takes,
        chosen_output=manner.output,
        other_outputs=choice.others,
        probes=probes,
        output=judged.output.value,
        input=judged.spec,
        input_source=_source(bench.job.input, meeting.declared),
        close_conventions=tuple(fit.name for fit in found.close),
        clean_accuracy=accuracy,
        accuracy_interval=interval,
        confidence=judged.confidence,
        shift=shift,
        expected_accuracy=meeting.declared.expected_accuracy,
        images_judged=len(judged.logits_NK),
        label_source="inferred" if found.class_order else bench.bundle.label_source.value,
        class_order=found.class_order,
        class_order_cause=found.reading.cause if found.reading else "",
        suggested_classes=meeting.classes.read(found.reading) if found.reading else {},
        convention="" if said or first_labels is None else judged.name,
        conventions=() if first_labels is None else shown_fits(found.fits, judged.name, first_labels),
        notes=_notes(bench.bundle, judged.spec, found),
        doubts=tuple(meeting.doubts(found, accuracy, is_implausible, choice, shift)),
        images=len(bench.bundle),
        images_per_label=tuple(per_label),
        perceptual="none" if bench.job.check else bench.perceptual.name,
        perceptual_sha256="" if bench.job.check else bench.perceptual.sha256,
        device=str(bench.device),
        threads=torch.get_num_threads(),
        versions=_versions(),
        reasons=_reasons(meeting, classifier, per_label, is_implausible, probes, choice),
        caveats=_caveats(meeting, per_label, found),
    )


def _introduced(bench: Workbench) -> tuple["_Meeting", Choice]:
    """The suspect in its own manner, asked for the output that is scanned."""
    order_N, declared = _order_of_showing(bench), bench.job.input.filled_from(bench.bundle.declared)
    images = bench.images[order_N[:PROBED_IMAGES]]
    usual = images.shape[1]
    counts = [declared.channels] if declared.channels else [usual, 1 if usual == 3 else 3]
    manner, channels = manner_of(bench.suspect.module, images, counts)
    shown = match_channels(images, channels)

    def meeting_of(scorer: Scorer) -> _Meeting:
        return _Meeting(bench, scorer, channels, probe_scores(scorer, shown).shape[1], order_N)

    labels = bench.bundle.labels
    choice = choose_output(
        Scorer(bench.suspect.module, manner),
        shown,
        None if labels is None else torch.as_tensor(labels),
        bench.job.output,
        accuracy=lambda scorer: meeting_of(scorer).share_right(),
    )
    return meeting_of(choice.scorer), choice


def _order_of_showing(bench: Workbench) -> Tensor:
    """Indices of images, such that the first few are of every class, or from everywhere in the bundle."""
    labels = bench.bundle.labels
    if labels is not None:
        return round_robin(torch.as_tensor(labels))
    return torch.linspace(0, len(bench.bundle) - 1, min(JUDGED_ON, len(bench.bundle))).round().long()


class _Meeting:
    """One output of a suspect and the images that it is shown, as far as they are known to each other."""

    def __init__(self, bench: Workbench, scorer: Scorer, channels: int, num_labels: int, order_N: Tensor) -> None:
        self.bench = bench
        self.scorer = scorer
        self.channels = channels
        self.num_labels = num_labels
        self.order_N = order_N
        self.declared = bench.job.input.filled_from(bench.bundle.declared)

    def share_right(self) -> float:
        """Of the images, however classes have to be numbered; 0 where they cannot be. Raises Refusal."""
        try:
            accuracy, _ = self.accuracy(self.fitted_to_labels())
        except Refusal as refusal:
            if refusal.problem.code not in ("class_order_unknown", "label_out_of_range"):
                raise
            return 0.0
        return accuracy or 0.0

    @cached_property
    def classes(self) -> Classes:
        return Classes(self.bench.bundle, self.num_labels)

    @property
    def says_normalisation(self) -> bool:
        return _says_normalisation(self.declared)

    def images(self, most: int) -> Tensor:
        """The first images to show, as many of each class as there are."""
        return self.bench.images[self.order_N[:most]]

    def labels_N(self, class_order: tuple[int, ...]) -> Tensor | None:
        """The suspect's labels of all images."""
        labels = self.bench.bundle.labels
        return None if labels is None else relabelled(labels, class_order).to(self.bench.device)

    def shown_labels(self, found: Fitted) -> Tensor:
        """The same of the images in the order in which they are shown."""
        labels = self.labels_N(found.class_order)
        assert labels is not None
        return labels[self.order_N.to(labels.device)]

    def fitted(self) -> Fitted:
        """Without labels there is nothing to infer from: pixels are taken as given, or in [0, 1]."""
        judged = fit(self.scorer, self.images(JUDGED_ON), self._given_spec(), GIVEN)
        return Fitted([judged], [], judged)

    def fitted_to_labels(self) -> Fitted:
        """With the classes numbered as said or assumed; as the answers say, where that cannot be. Raises Refusal."""
        classes = self.classes
        first = None if classes.says_nothing else self._under(())
        if first is not None and not first.is_contradicted and not self._is_implausible(first):
            return first
        most = min(JUDGED_ON, OF_EACH_CLASS * len(classes.present_F))
        fits = self._fits(most, None)
        readings = [(classes.explained(self._answers(fit)), fit) for fit in fits]
        reading, _ = max(readings, key=lambda pair: pair[0].accuracy if pair[0] else -1.0)
        if first is None and (reading is None or not classes.is_assumed):
            refuse_unknown(classes, reading)
        if reading is None or not classes.is_assumed:
            assert first is not None
            return Fitted(first.fits, first.close, first.judged, first.answers, (), reading, first.is_contradicted)
        found = self._under(classes.mapped(reading), fits)
        return Fitted(found.fits, found.close, found.judged, found.answers, found.class_order, reading)

    def accuracy(self, found: Fitted) -> tuple[float | None, tuple[float, float] | None]:
        if self.bench.bundle.labels is None:
            return None, None
        predicted = found.judged.predictions_N
        right = int((predicted == self.shown_labels(found)[: len(predicted)]).sum())
        return right / len(predicted), wilson_interval(right, len(predicted))

    def probes(self, never_called: nn.Module, judged: Fit) -> tuple[ProbeFinding, ...]:
        most = _most_at_once(self.bench, self.num_labels)
        spec, output = judged.spec, judged.output
        manner = replace(self.scorer.manner, channels_last=False)  # one of the circumstances that are probed
        return probe_behaviour(never_called, spec, output, manner, self.bench.images, most)

    def shift(self, never_called: nn.Module, judged: Fit, accuracy: tuple[float, float] | None) -> Shift:
        """How far the images lie from those of the training, shown in the proportions in which the bundle has them."""
        images, manner = self.bench.images, self.scorer.manner
        most = min(MOST_COMPARED, len(images))
        picked = torch.linspace(0, len(images) - 1, most - most % min(manner.at_once or 1, most)).round().long()
        classifier = Classifier(Scorer(deepcopy(never_called), manner), judged.spec, judged.output).to(images.device)
        with torch.random.fork_rng():  # of a suspect that draws random numbers
            found = distances(classifier, images.subset(picked).split(manner.at_once or fitted_at_once(images)))
        return graded(found, judged.confidence, accuracy, len(picked), self.declared.expected_accuracy)

    def doubts(
        self, found: Fitted, accuracy: float | None, is_implausible: bool, choice: Choice, shift: Shift
    ) -> list[str]:
        """What does not fit together, in sentences."""
        said = []
        reading, judged = found.reading, found.judged
        if reading is not None and found.class_order:
            said.append(
                f"Which output each class is was read off the model's own answers ({reading.cause}): "
                f"{shown(self.classes, reading)}. {remedy(self.classes, reading)}"
            )
        elif reading is not None:
            said.append(
                f"By the model's own answers the classes are numbered in {reading.cause}, under which "
                f"{reading.accuracy:.0%} of the images would be right: {shown(self.classes, reading)}. "
                f"{remedy(self.classes, reading)}"
            )
        elif found.is_contradicted:
            said.append(
                "The model takes the images of several classes for others, and in no order that can be told: check "
                "that bundle and model belong together, and say which output each class is (`classes` in bundle.json)."
            )
        if is_implausible and accuracy is not None:
            beside = f"is {judged.confidence:.0%} sure of its answers on average"
            said.append(f"The model is right on {accuracy:.0%} of the images and {beside}.")
        if shift.likeness is Likeness.FROM_ELSEWHERE:
            said.append(FROM_ELSEWHERE)
        said += self._doubts_about_pixels(found)
        if rivals := [other.name for other in choice.others if choice.is_ambiguous and other.could_be_scores]:
            names = ", ".join(f"`{name}`" for name in (self.scorer.manner.output, *rivals))
            said.append(f"Several outputs could be the scores: {names}. Give the one that is used by `--output`.")
        if self.num_labels < FEWEST_LABELS:
            said.append(f"With {self.num_labels} labels no scan can tell an outlier: it will end `inconclusive`.")
        return said

    def _doubts_about_pixels(self, found: Fitted) -> list[str]:
        dark = [note for note in self.bench.bundle.notes if note.kind is NoteKind.DARK_PIXELS]
        said = [f"{note.sentence} Stretch them so that white is 255." for note in dark]
        if self.bench.bundle.labels is None:
            return said
        taken, *others = shown_fits(found.fits, found.judged.name, self.shown_labels(found)[: len(found.fits[0])])
        close = {fit.name for fit in found.close}
        if apart := [other for other in others if other.name in close and other.agreement < AGREEING]:
            said.append(
                f"The preprocessing is uncertain: {taken.name} and {apart[0].name} fit about as well, but give only "
                f"{apart[0].agreement:.0%} of the images the same label. Give `--mean`, `--std` and `--range`."
            )
        if self.says_normalisation and others and others[0].accuracy > taken.accuracy + BETTER:
            said.append(_better_than_given(others[0].name, others[0].accuracy, taken.accuracy))
        return said

    def _is_implausible(self, found: Fitted) -> bool:
        accuracy, _ = self.accuracy(found)
        return _is_implausible(found, accuracy, self.num_labels, self.declared.expected_accuracy)

    def _under(self, class_order: tuple[int, ...], fits: Sequence[Fit] | None = None) -> Fitted:
        """What fits best where the classes are numbered so."""
        labels = self.labels_N(class_order)
        assert labels is not None
        labels = labels[self.order_N.to(labels.device)]
        if fits is None:
            fits = self._fits(INFERRED_ON, labels[:INFERRED_ON])
        first = labels[: len(fits[0])]
        chosen, close = (fits[0], []) if self.says_normalisation else choose(fits, first)
        if class_order and not self.says_normalisation and self._may_be_bgr:
            likely = [chosen, *close]
            fits = [*fits, *(self._fit(len(first), spec, name) for name, spec in blue_first(likely).items())]
            chosen, close = choose(fits, first)
        judged = continued(self.scorer, chosen, self.bench.images.subset(self.order_N[len(chosen) : JUDGED_ON]))
        answers = self._answers(judged)
        is_contradicted = not class_order and self.classes.contradicted(answers)
        return Fitted(fits, close, judged, answers, class_order, None, is_contradicted)

    @property
    def _may_be_bgr(self) -> bool:
        colour = self.channels == 3 and self.bench.bundle.channels == 3
        return colour and self.declared.channel_order is None

    def _fits(self, most: int, labels: Tensor | None) -> list[Fit]:
        """The conventions of normalisation; before them what was said, with blue first, too, if labels are known."""
        order = self.declared.channel_order
        bgr = None if order is None else order == "bgr"
        if not self.says_normalisation:
            return try_conventions(self.scorer, self.images(most), self.channels, bgr, labels)
        given = self._fit(most, self._given_spec(), GIVEN)
        if labels is None:
            return [given]
        mirrored = blue_first([given]) if self._may_be_bgr else {}
        fits = [given, *(self._fit(most, spec, name) for name, spec in mirrored.items())]
        try:
            usual = try_conventions(self.scorer, self.images(most), self.channels, bool(bgr), labels)
        except Refusal:
            return fits  # a suspect may be made for what was said, and refuse everything else
        return fits + [fit for fit in usual if fit.spec != given.spec]

    def _fit(self, most: int, spec: InputSpec, name: str) -> Fit:
        return fit(self.scorer, self.images(most), spec, name)

    def _answers(self, fit: Fit) -> Answers:
        return self.classes.answers(self.order_N[: len(fit)].numpy(), fit.predictions_N)

    def _given_spec(self) -> InputSpec:
        said = self.declared
        mean, std, low_high = said.mean or (0.0,), said.std or (1.0,), said.range or (0.0, 1.0)
        return given_spec(self.images(1), self.channels, mean, std, low_high, said.channel_order == "bgr")


def _label_names(bench: Workbench, num_labels: int, class_order: tuple[int, ...]) -> tuple[str, ...]:
    """What the bundle calls the suspect's labels."""
    called = dict(enumerate(bench.bundle.class_names))
    if class_order:
        called = {label: called.get(index, "") for index, label in enumerate(class_order)}
    return tuple(called.get(label) or str(label) for label in range(num_labels))


def _notes(bundle: Bundle, spec: InputSpec, found: Fitted) -> tuple[Note, ...]:
    """Those of the bundle, less an assumed order that was not kept, and how its images were fitted to the suspect."""
    notes = [note for note in bundle.notes if not (found.class_order and note.kind is NoteKind.ASSUMED_ORDER)]
    if bundle.size != (spec.height, spec.width):
        stored = "of different sizes" if bundle.size is None else f"{bundle.size[0]} x {bundle.size[1]}"
        told = f"The images are {stored} and were resized to {spec.height} x {spec.width}; nothing is cut off."
        notes.append(Note(NoteKind.FITTED_IMAGES, told, len(bundle)))
    if matched := MATCHED.get((bundle.channels, spec.channels)):
        notes.append(Note(NoteKind.FITTED_IMAGES, matched, len(bundle)))
    return tuple(notes)


def _most_at_once(bench: Workbench, num_labels: int) -> int:
    """How many images the suspect is shown at once, in that part of the scan where it is shown the most."""
    config = bench.job.config
    labels = len(blocks(range(num_labels), config, str(bench.device))[0])
    of_each = max(READ_AT_ONCE, *(search.batch_size for search in config.searches.values()))
    most = max(BATCH, labels * of_each, 2 * config.repair.batch_size)
    return min(most, max(labels, at_once(bench.images)))


def _reasons(
    meeting: _Meeting,
    classifier: Classifier,
    per_label: list[int],
    is_implausible: bool,
    probes: tuple[ProbeFinding, ...],
    choice: Choice,
) -> tuple[Reason, ...]:
    """What already blocks a verdict, so that searching would be in vain."""
    unlabelled = meeting.bench.bundle.labels is None
    raised = {
        Reason.NO_LABELS_AND_NO_INPUT_SPEC: unlabelled and not meeting.says_normalisation,
        Reason.IMPLAUSIBLE_ACCURACY: is_implausible or max(per_label) == sum(per_label),
        Reason.NO_INPUT_GRADIENT: not has_input_gradient(classifier, meeting.images(PROBED_IMAGES)),
        Reason.ENVIRONMENT_SENSITIVE_MODEL: any(probe.disagrees for probe in probes),
        Reason.AMBIGUOUS_OUTPUT: choice.is_ambiguous,
    }
    return tuple(reason for reason, holds in raised.items() if holds)


def _caveats(meeting: _Meeting, per_label: list[int], found: Fitted) -> tuple[Caveat, ...]:
    bench = meeting.bench
    is_labelled = bench.bundle.labels is not None
    raised = {
        Caveat.FEW_CLEAN_IMAGES: len(bench.bundle) < FEW_IMAGES_PER_LABEL * len(per_label),
        Caveat.UNLABELLED_IMAGES: not is_labelled,
        Caveat.MISSING_CLASSES: min(per_label) == 0,
        Caveat.TRAIN_MODE_NORMALISED: bench.suspect.was_training,
        Caveat.HALF_PRECISION_RAISED: bench.suspect.was_half,
        Caveat.INFERRED_PREPROCESSING: is_labelled and not meeting.says_normalisation,
        Caveat.ASSUMED_CLASS_ORDER: is_labelled and meeting.classes.is_assumed and not found.class_order,
        Caveat.INFERRED_CLASS_ORDER: bool(found.class_order),
        Caveat.PACKAGED_PERCEPTUAL_BACKBONE: not bench.job.check and bench.perceptual.name == "packaged",
    }
    return tuple(caveat for caveat, holds in raised.items() if holds)


def _says_normalisation(declared: DeclaredInput) -> bool:
    return declared.mean is not None or declared.std is not None or declared.range is not None


def _is_implausible(found: Fitted, accuracy: float | None, num_labels: int, expected: float | None) -> bool:
    """Whether the images cannot be what the suspect was trained on, numbered and shown as it was.

    Contradicted; right on fewer than twice chance; below what was declared by more than ten points and three standard
    errors or, where nothing was declared, nearer to chance than to the suspect's own confidence by two to one.
    """
    if accuracy is None:
        return False
    if found.is_contradicted or (num_labels > 2 and accuracy < 2 / num_labels):
        return True
    if expected is not None:
        images = len(found.judged)
        return expected - accuracy > max(0.1, 3 * math.sqrt(expected * (1 - expected) / images))
    chance = 1 / num_labels
    return accuracy < chance + (found.judged.confidence - chance) / 3


def _better_than_given(name: str, accuracy: float, given: float) -> str:
    """Advice where another way with the pixels than the one that was said is right on many more of the images."""
    if name == GIVEN + BLUE_FIRST:
        return (
            f"With blue first {accuracy:.0%} of the images would be right, not {given:.0%}: "
            "this looks like a model trained on BGR images, as OpenCV reads them. Give `--channel-order bgr`."
        )
    return (
        f"With the pixels as given the model is right on {given:.0%} of the images, with {name} on {accuracy:.0%}: "
        "check mean, std and range, or leave them out."
    )


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
