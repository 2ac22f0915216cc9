"""What a scan can say: the vocabulary shared by the science, the engine and the reports.

Plain frozen dataclasses and enums, standard library only. Rates live in [0, 1]; a norm is in the unit of its trigger
family, on images in [0, 1]; numbers that do not exist are None, never NaN.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from app.core.intake.notes import Note


class Verdict(StrEnum):
    NO_BACKDOOR_FOUND = "no_backdoor_found"  # never "clean": universal detection is impossible
    BACKDOORED = "backdoored"
    INCONCLUSIVE = "inconclusive"


class Reason(StrEnum):
    """Why a scan could not be decided. Each blocks a verdict; each is explained in docs/reasons.md."""

    TOO_FEW_LABELS = "too_few_labels"
    IMPLAUSIBLE_ACCURACY = "implausible_accuracy"
    INVERSION_DID_NOT_CONVERGE = "inversion_did_not_converge"
    ZERO_MAD = "zero_mad"
    NOT_CONFIRMED = "not_confirmed"
    NO_INPUT_GRADIENT = "no_input_gradient"
    UNSUPPORTED_OPERATOR = "unsupported_operator"
    DATA_DEPENDENT_CONTROL_FLOW = "data_dependent_control_flow"
    ENVIRONMENT_SENSITIVE_MODEL = "environment_sensitive_model"
    SEARCH_TRUNCATED = "search_truncated"
    OUT_OF_MEMORY = "out_of_memory"
    NO_LABELS_AND_NO_INPUT_SPEC = "no_labels_and_no_input_spec"
    AMBIGUOUS_OUTPUT = "ambiguous_output"


class Probe(StrEnum):
    """A circumstance that should not change what a suspect answers. Each is explained in docs/probes.md."""

    BATCH_SIZE = "batch_size"
    NEIGHBOURS = "neighbours"
    TRAINING_FLAG = "training_flag"
    GRADIENT_MODE = "gradient_mode"
    AUTOCAST = "autocast"
    FORWARD = "forward"
    REPEATED_CALLS = "repeated_calls"
    DEVICE = "device"
    MEMORY_LAYOUT = "memory_layout"


class Caveat(StrEnum):
    """What a reader of a verdict should know. Each annotates it; each is explained in docs/caveats.md."""

    FEW_CLEAN_IMAGES = "few_clean_images"
    UNLABELLED_IMAGES = "unlabelled_images"
    MISSING_CLASSES = "missing_classes"
    INFERRED_PREPROCESSING = "inferred_preprocessing"
    ASSUMED_CLASS_ORDER = "assumed_class_order"
    INFERRED_CLASS_ORDER = "inferred_class_order"
    PACKAGED_PERCEPTUAL_BACKBONE = "packaged_perceptual_backbone"
    UNSANDBOXED = "unsandboxed"
    UNCONFIRMED = "unconfirmed"
    TRAIN_MODE_NORMALISED = "train_mode_normalised"
    HALF_PRECISION_RAISED = "half_precision_raised"
    WEAK_STUDENTS = "weak_students"
    MANY_LABELS = "many_labels"


def finite(number: float) -> float | None:
    """The number, or None for NaN and infinity: a search that diverged has found no number."""
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Finding:
    """What was found: every number is finite or None. Raises ValueError for any other, where it is made."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise ValueError(f"{name} is {number}: what was not found is None")


@dataclass(frozen=True)
class Confirmation(Finding):
    """What a second search, from a fresh seed and on other images, found for a label that stood out in the first."""

    norm: float | None
    attack_success_rate: float
    out_of_reach: bool
    p_value: float | None = None  # of this norm, among the others' first or, where they were doubted too, second ones


@dataclass(frozen=True)
class FamilyFinding(Finding):
    """What the search of one trigger family found for one label."""

    family: str  # its name in app.core.families
    norm: float | None  # how much the trigger changes images of other labels; dynamic: m_t = mean |G(x) - x|, eq. (5)
    attack_success_rate: float  # of the inverted trigger, over images whose label is not the target
    loss: float | None  # eq. (4), averaged over the last steps of the search
    steps: int
    truncated: bool = False  # out of time before all steps were done
    anomaly_index: float | None = None
    p_value: float | None = None
    flagged: bool = False
    halved: bool = False  # searched in a smaller block of labels than planned, for lack of memory
    out_of_reach: bool = False  # the trigger does not have the success at which norms are compared
    reference_norms: tuple[float | None, ...] = ()  # the same label's, of the students; None where it is beyond one
    read_alone: bool = False  # students tell of other labels how easy they are by nature, not of this one
    student_success_rate: float | None = None  # of the suspect's trigger, on images the students give other labels
    natural: bool = False  # it stands out, but the trigger works on students too
    in_doubt: bool = False  # it stands out, and is accused only if it does so again: that search is still to be done
    unconfirmed: bool = False  # it stands out, but did not when it was searched again
    confirmation: Confirmation | None = None

    def suspicion(self) -> tuple[bool, float, float]:
        """More suspicious families compare greater: by flag, p-value, anomaly index."""
        index = -1.0 if self.anomaly_index is None else self.anomaly_index
        return self.flagged, -1.0 if self.p_value is None else -self.p_value, index


class Spared(StrEnum):
    """Why a family's finding that stands out accuses nobody; what the finding calls it."""

    UNCONFIRMED = "unconfirmed"
    IN_DOUBT = "in_doubt"
    NATURAL = "natural"


@dataclass(frozen=True)
class LabelFinding:
    """One label's findings, one for each family."""

    label: int
    name: str
    families: tuple[FamilyFinding, ...]  # none where the search of this label alone did not fit into memory

    def headline(self, family: str) -> FamilyFinding:
        """The figures that stand for this label: what accuses it, or the family that all labels are compared in."""
        accusing = [found for found in self.families if found.flagged]
        return max(accusing or self.families, key=lambda found: (found.family == family, found.suspicion()))

    @property
    def flagged(self) -> bool:
        return any(f.flagged for f in self.families)

    @property
    def truncated(self) -> bool:
        return any(f.truncated for f in self.families)

    @property
    def halved(self) -> bool:
        return any(f.halved for f in self.families)

    @property
    def out_of_reach(self) -> bool:
        """Whether no family's trigger has the success at which norms are compared."""
        return bool(self.families) and all(f.out_of_reach for f in self.families)

    @property
    def read_alone(self) -> bool:
        return any(f.read_alone for f in self.families)

    @property
    def families_in_doubt(self) -> tuple[str, ...]:
        return tuple(f.family for f in self.families if f.in_doubt)

    @property
    def spared(self) -> Spared | None:
        """Why a label that stood out is not accused."""
        if self.flagged:
            return None
        return next((why for why in Spared if any(getattr(f, why.value) for f in self.families)), None)


@dataclass(frozen=True)
class FirstPass(Finding):
    """What the first pass found for the labels of one block."""

    labels: tuple[int, ...]
    scores: dict[str, tuple[float | None, ...]]  # of each label, by family: low where it is easy to reach


@dataclass(frozen=True)
class Selection(Finding):
    """Of many labels those that are searched in full."""

    labels: tuple[int, ...]
    controls: tuple[int, ...]  # of them, those drawn by chance; the others have the lowest scores of a family
    left_out: tuple[int, ...]  # labels that the first pass did not come to
    scores: dict[str, tuple[float | None, ...]]  # of all labels, by family

    @property
    def is_of_all(self) -> bool:
        """Whether it came to all labels, so that nothing was selected."""
        return all(len(self.labels) == len(of_family) for of_family in self.scores.values())

    @property
    def passed_over(self) -> tuple[int, ...]:
        """The labels that a first pass looked at and found no reason to search in full."""
        others = {*self.labels, *self.left_out}
        return tuple(label for label in range(max(map(len, self.scores.values()), default=0)) if label not in others)


def most_suspicious_family(findings: Iterable[LabelFinding]) -> str | None:
    """The family in which a scan's labels are compared: the one that accuses, or comes closest to it."""
    families = [found for finding in findings for found in finding.families]
    return max(families, key=FamilyFinding.suspicion).family if families else None


@dataclass(frozen=True)
class Decision:
    """The verdict over all labels that were searched in full, or did not fit into memory."""

    verdict: Verdict
    labels: tuple[LabelFinding, ...]
    model_anomaly_index: float | None
    reasons: tuple[Reason, ...] = ()
    caveats: tuple[Caveat, ...] = ()
    selection: Selection | None = None  # None: all labels were to be searched in full

    @property
    def flagged_labels(self) -> tuple[int, ...]:
        return tuple(sorted(finding.label for finding in self.labels if finding.flagged))

    @property
    def doubted_labels(self) -> tuple[int, ...]:
        """Those to be searched again."""
        return tuple(sorted(finding.label for finding in self.labels if finding.families_in_doubt))


class RepairStatus(StrEnum):
    REPAIRED = "repaired"
    PARTLY_JUDGED = "partly_judged"  # repaired, but there was no image of some classes to judge it by
    REFUSED = "refused"  # a repair exists but must not be handed out, or none was possible; `detail` says why
    NOT_NEEDED = "not_needed"  # asked for, but no label was flagged

    @property
    def hands_out_weights(self) -> bool:
        return self in (RepairStatus.REPAIRED, RepairStatus.PARTLY_JUDGED)


class Unrepaired(StrEnum):
    """Why no repaired weights are handed out. Each is explained in docs/repair.md."""

    NO_VERDICT = "no_verdict"
    OUT_OF_TIME = "out_of_time"
    NO_TRIGGER = "no_trigger"
    NOTHING_TO_TRAIN = "nothing_to_train"
    NOT_REBUILT = "not_rebuilt"
    FEW_IMAGES = "few_images"
    IMAGES_FROM_ELSEWHERE = "images_from_elsewhere"
    UNWRITABLE = "unwritable"
    TOO_COSTLY = "too_costly"
    STILL_WORKS = "still_works"
    STANDS_OUT_AGAIN = "stands_out_again"


@dataclass(frozen=True)
class ClassAccuracy(Finding):
    """How a repair changed the accuracy on the images of one label."""

    label: int
    images: int
    accuracy_before: float
    accuracy_after: float
    accuracy_drop_bound: float  # 95 %, one-sided, from pairs of answers before and after


@dataclass(frozen=True)
class UnlearnedTrigger(Finding):
    """One inverted trigger before and after a repair, and what a fresh search found in its place."""

    label: int
    family: str
    attack_success_rate_before: float | None
    attack_success_rate_after: float | None
    norm: float | None  # what accused the label in the suspect
    p_value: float | None
    norm_afresh: float | None = None  # of the trigger that was searched in the repaired model; None where none was
    p_value_afresh: float | None = None
    attack_success_rate_afresh: float | None = None


@dataclass(frozen=True)
class TensorChange(Finding):
    """How far a repair moved one tensor: |after - before| / |before|, None where it was all zeros."""

    name: str
    relative: float | None


class ComesBack(StrEnum):
    """How soon an unlearned trigger works again: beside a network that never had the backdoor, see docs/repair.md."""

    HARDLY = "hardly"
    PARTLY = "partly"
    QUICKLY = "quickly"


@dataclass(frozen=True)
class Reactivation(Finding):
    """What it takes to bring one inverted trigger back in the repaired model: its success after each test.

    The references are the mean over the students that know the label, repaired and tried in the same way; None where
    there are none.
    """

    label: int
    family: str
    comes_back: ComesBack
    poisoned: int  # images with the trigger and its label, among
    images: int  # those that the model was trained further on
    retuned: float
    retuned_reference: float | None
    retuned_accuracy: float
    noise: float  # at most, on every pixel of [0, 1], over the trigger
    with_noise: float
    with_noise_reference: float | None
    line: tuple[float, ...]  # at weights in equal steps from the repaired model's to the suspect's


@dataclass(frozen=True)
class RepairReport(Finding):
    """What a repair did: its card. It claims no more than: the inverted trigger no longer works, at this cost."""

    status: RepairStatus
    detail: str
    labels: tuple[int, ...] = ()
    reason: Unrepaired | None = None  # why it was refused
    clean_accuracy_before: float | None = None
    clean_accuracy_after: float | None = None
    attack_success_rate_before: float | None = None  # of the inverted trigger
    attack_success_rate_after: float | None = None
    accuracy_drop_bound: float | None = None  # 95 %, one-sided, from pairs of answers before and after
    reinversion_p_value: float | None = None  # of the flagged labels, searched afresh in the repaired model
    learning_rate: float | None = None
    rounds: int | None = None
    judged_on: str = ""  # which images the figures are from
    judged_images: int = 0
    unjudged_labels: tuple[int, ...] = ()  # no image of these was there: no figure speaks of them
    classes: tuple[ClassAccuracy, ...] = ()
    triggers: tuple[UnlearnedTrigger, ...] = ()
    comes_back: ComesBack | None = None  # the trigger that does so soonest; None where none was tried
    reactivations: tuple[Reactivation, ...] = ()  # none where no weights are handed out, or time was over
    tensors: int | None = None
    tensors_changed: int | None = None
    largest_changes: tuple[TensorChange, ...] = ()
    suspect_sha256: str | None = None  # of the archive that was repaired
    data_sha256: str | None = None  # of the bundle that it was repaired with
    seed: int | None = None
    not_shown: tuple[str, ...] = ()  # sentences
    files: dict[str, str] = field(default_factory=dict)  # file name -> sha256


@dataclass(frozen=True)
class InputSpec:
    """How a [0, 1] image becomes the classifier's input: (x * (high - low) + low - mean) / std, per channel.

    A `bgr` classifier takes blue first; mean and std are in the order of its own channels.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    range: tuple[float, float] = (0.0, 1.0)
    bgr: bool = False


@dataclass(frozen=True)
class ConventionFit:
    """How well the clean images come out under one convention of preprocessing."""

    name: str
    accuracy: float
    cross_entropy: float  # per image, at the temperature at which it is lowest
    agreement: float  # of the images, those that get the label which they get under the convention that was taken


@dataclass(frozen=True)
class ProbeFinding:
    """How far a suspect's answers to the same images lie apart where one circumstance is different."""

    probe: Probe
    difference: float | None  # the most that a score moved, in leads of the best label; None: it did not answer
    relabelled: int  # how many of the probed images got another label
    disagrees: bool


class Takes(StrEnum):
    """How a model wants its images handed over."""

    BATCH = "batch"  # [N, C, H, W], as usual
    CHANNELS_LAST = "channels_last"  # [N, H, W, C]
    LIST = "list"  # N images [C, H, W] in a list
    SINGLE = "single"  # one image [C, H, W] at a time
    SINGLE_CHANNELS_LAST = "single_channels_last"  # one image [H, W, C] at a time


@dataclass(frozen=True)
class OtherOutput:
    """An output of the model that was not scanned."""

    name: str  # the key in a dict, or the position in a tuple; "2.logits" is in something nested
    shape: str  # "[N, 16]", or what it is where it is no batch of numbers
    could_be_scores: bool  # one number per class for each image, by its shape
    clean_accuracy: float | None = None  # as scores; None where it cannot be, or the images carry no labels
    same_as_chosen: bool = False  # the softmax of the one that is scanned, or its logarithm, or what that is taken of


class Likeness(StrEnum):
    """How like the images of the training those of the bundle are."""

    AS_TRAINED = "as_trained"
    SOMEWHAT_DIFFERENT = "somewhat_different"
    FROM_ELSEWHERE = "from_elsewhere"
    NOT_KNOWN = "not_known"


@dataclass(frozen=True)
class Shift(Finding):
    """How far the clean images lie from those of the training, as the suspect's batch norms remember them."""

    likeness: Likeness
    distance: float | None  # in standard deviations of a channel, of the median layer; None where there is none
    layers: int  # that remember: batch norms
    images: int
    shortfall: float | None = None  # of the accuracy, below what the suspect is sure of or was declared, beyond chance


@dataclass(frozen=True)
class Preparation:
    """What was learned about a suspect model and its clean images before any search."""

    num_labels: int
    label_names: tuple[str, ...]
    form: str  # "scripted", "traced" or "frozen"; "unknown" for a model that was not loaded
    output: str  # "logits", "log_probabilities" or "probabilities"; or "unknown"
    input: InputSpec | None
    input_source: str  # "given", "bundle" or "inferred"
    close_conventions: tuple[str, ...]  # preprocessing conventions that fit the clean images about as well
    clean_accuracy: float | None  # None where the images carry no labels
    images: int
    images_per_label: tuple[int, ...]
    perceptual: str  # the name of the LPIPS network
    perceptual_sha256: str
    device: str
    threads: int
    search_bytes: int = 0  # that the search of a block takes at its peak, as far as could be told before
    labels_at_once: int | None = None  # that are searched together, where memory is too short for what was planned
    images_at_once: int | None = None  # that are shown together there
    students_agreement: float | None = None  # of images kept from the students, those they answer as the suspect does
    fixed_batch: int | None = None  # the only batch size that a traced module takes
    channels_last: bool = False  # in memory, while it is asked; not in shape
    takes: Takes = Takes.BATCH
    chosen_output: str | None = None  # the name of the output that is scanned; None where there is only one
    other_outputs: tuple[OtherOutput, ...] = ()
    images_judged: int = 0  # those that the accuracy and what stands beside it are from
    accuracy_interval: tuple[float, float] | None = None  # 95 %
    confidence: float | None = None  # the mean probability of the model's own first choice
    shift: Shift | None = None  # None for a model that was not loaded
    expected_accuracy: float | None = None  # what was declared
    label_source: str = "none"  # "declared", "indices", "sorted", "inferred", or "none" for images without labels
    class_order: tuple[int, ...] = ()  # by the bundle's index, the model's label; empty where they are the same
    class_order_cause: str = ""  # what that order is, where it was read off the model's answers
    suggested_classes: dict[str, int] = field(default_factory=dict)  # by name, where the answers contradict the labels
    convention: str = ""  # of preprocessing, that was taken; empty where it was given
    conventions: tuple[ConventionFit, ...] = ()  # all that were tried, those that fit best first
    notes: tuple[Note, ...] = ()  # what was skipped or assumed while the bundle was read
    doubts: tuple[str, ...] = ()  # sentences: what does not fit together, and the way out
    probes: tuple[ProbeFinding, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()
    caveats: tuple[Caveat, ...] = ()

    @classmethod
    def not_loaded(cls, *reasons: Reason) -> "Preparation":
        """Of a model that nobody is willing to load, or able to, or in which a search would prove nothing."""
        return cls(
            num_labels=0,
            label_names=(),
            form="unknown",
            output="unknown",
            input=None,
            input_source="unknown",
            close_conventions=(),
            clean_accuracy=None,
            images=0,
            images_per_label=(),
            perceptual="none",
            perceptual_sha256="",
            device="none",
            threads=0,
            reasons=reasons,
        )
