"""How a scan is done: frozen, stored with the scan it shaped. (Where it runs is settings, not config.)"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

DYNAMIC = "dynamic"  # the paper's trigger family, which every scan searches


@dataclass(frozen=True)
class SearchConfig:
    """How the triggers of one family are found, one for each label."""

    steps: int = 150  # the same for every label
    batch_size: int = 16
    learning_rate: float = 0.1  # Adam's, as are the betas
    betas: tuple[float, float] = (0.9, 0.999)
    lambda_attack: float = 1.0  # lambda 1: cross-entropy; where it is steered, its first value
    success_level: float | None = None  # lambda 1 is steered so that this share of the batches is carried

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        return cls(**{**document, "betas": tuple(document["betas"])})


@dataclass(frozen=True)
class InversionConfig(SearchConfig):
    """How a trigger generator is found for each label (paper, sec. 3.3 and 4.1): the dynamic family."""

    steps: int = 200
    learning_rate: float = 1e-3
    lambda_attack: float = 0.1
    lambda_mse: float = 1.0  # lambda 2
    lambda_perceptual: float = 0.1  # lambda 3: LPIPS
    norm: Literal["l1", "lpips"] = "l1"  # of a change, by which labels are compared: eq. (5), or the root of mean LPIPS
    identity_start: Literal["trained", "residual"] = "residual"
    pretrain_epochs: int = 20  # of L_rec, for identity_start = "trained"
    generator_width: int = 16  # channels of the first level; doubled at each further one
    generator_levels: int = 2


@dataclass(frozen=True)
class FirstPassConfig:
    """A cheap search of every label, where there are many, that says which are searched in full."""

    all_up_to: int = 20  # labels: so many are all searched in full
    lowest: int = 5  # labels in each family that are searched in full
    controls: int = 10  # labels that are, drawn by chance
    steps: int = 8  # of each family
    images: int = 8  # the same ones in every step and for every label
    lambda_attack: float = 0.1  # lambda 1: cross-entropy
    labels_per_block: int = 25  # labels searched together


@dataclass(frozen=True)
class MatchingConfig:
    """Another way to unlearn: on triggered images, the suspect's own scores for the clean ones; in rounds."""

    learning_rates: tuple[float, ...] = (0.03, 0.01, 0.003)  # SGD; the first one within the accuracy budget is taken
    steps: int = 300  # of each round
    rounds: int = 6  # at most: after each, triggers are searched again and the found ones join the others
    path_step: float = 0.0  # gradients are taken this far back towards the suspect's weights: Min et al. 2024 take 0.5


@dataclass(frozen=True)
class RepairConfig:
    """How a backdoor is unlearned (paper, sec. 3.5 and 4.3)."""

    learning_rate: float = 1e-3  # SGD
    momentum: float = 0.9
    epochs: int = 10
    batch_size: int = 32
    twins: int = 500  # images that an epoch sees with the trigger, too: at most so many, others in each
    max_accuracy_drop: float = 0.02  # a repair that costs more is not handed out
    matching: MatchingConfig | None = None  # None: the paper's recipe


@dataclass(frozen=True)
class ScanConfig:
    """Everything that decides a scan's numbers, given the inputs, the device and the thread count."""

    preset: str = "paper"
    seed: int = 0
    anomaly_threshold: float = 2.0  # Wang et al. 2019, sec. IV; the paper, sec. 3.4
    false_alarm_rate: float | None = None  # of the step-out test over all families; None: the threshold accuses
    students: int = 0  # reference students, which tell how easy each label is by nature
    confirms: bool = False  # a label is accused only if it stands out again, from a fresh seed and on other images
    separate_roles: bool = False  # triggers are judged on other images than they were searched on
    inversion: InversionConfig = field(default_factory=InversionConfig)  # the dynamic family
    families: Mapping[str, SearchConfig] = field(default_factory=dict)  # the others that are searched, by name
    labels_per_block: int = 5  # labels searched together, in every family; part of what makes numbers reproducible
    first_pass: FirstPassConfig | None = None  # None: all labels are searched in full, however many there are
    repair: RepairConfig = field(default_factory=RepairConfig)

    @property
    def searches(self) -> Mapping[str, SearchConfig]:
        """How each family is searched, in this order."""
        return {DYNAMIC: self.inversion, **self.families}

    @property
    def last_round(self) -> int:
        """Searches are done in rounds, from 0 to this one: the first of all labels, another of those in doubt."""
        return int(self.confirms)

    def skims(self, labels: int) -> bool:
        """Whether a first pass says which of so many labels are searched in full."""
        return self.first_pass is not None and labels > self.first_pass.all_up_to

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        first_pass = document.get("first_pass")  # a scan of an older version had none
        parts = {
            "first_pass": first_pass and FirstPassConfig(**first_pass),
            "inversion": InversionConfig.from_json(document["inversion"]),
            "families": {name: SearchConfig.from_json(search) for name, search in document["families"].items()},
            "repair": _repair_from_json(document["repair"]),
        }
        return cls(**{**document, **parts})


def _repair_from_json(document: dict[str, Any]) -> RepairConfig:
    if (matching := document["matching"]) is not None:
        matching = MatchingConfig(**{**matching, "learning_rates": tuple(matching["learning_rates"])})
    return RepairConfig(**{**document, "matching": matching})
