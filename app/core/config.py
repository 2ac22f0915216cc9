"""How a scan is done: frozen, stored with the scan it shaped. (Where it runs is settings, not config.)

Presets are named constants; docs/decisions/ fixes what the paper leaves open.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class InversionConfig:
    """How a trigger generator is found for each label (paper, sec. 3.3 and 4.1)."""

    lambda_attack: float = 0.1  # lambda 1: cross-entropy
    lambda_mse: float = 1.0  # lambda 2
    lambda_perceptual: float = 0.1  # lambda 3: LPIPS
    learning_rate: float = 1e-3  # Adam
    identity_start: Literal["trained", "residual"] = "residual"
    pretrain_epochs: int = 20  # of L_rec, for identity_start = "trained"
    steps: int = 200  # per label
    batch_size: int = 16
    generator_width: int = 16  # channels of the first level; doubled at each further one
    generator_levels: int = 2
    labels_per_block: int = 5  # labels inverted in one call; part of what makes numbers reproducible


@dataclass(frozen=True)
class RepairConfig:
    """How a backdoor is unlearned (paper, sec. 3.5 and 4.3)."""

    learning_rate: float = 1e-3  # SGD
    momentum: float = 0.9
    epochs: int = 10
    batch_size: int = 32
    twins: int = 500  # images that an epoch sees with the trigger, too: at most so many, others in each
    max_accuracy_drop: float = 0.02  # a repair that costs more is not handed out


@dataclass(frozen=True)
class ScanConfig:
    """Everything that decides a scan's numbers, given the inputs, the device and the thread count."""

    preset: str = "paper"
    seed: int = 0
    anomaly_threshold: float = 2.0  # Wang et al. 2019, sec. IV; the paper, sec. 3.4
    inversion: InversionConfig = field(default_factory=InversionConfig)
    repair: RepairConfig = field(default_factory=RepairConfig)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "ScanConfig":
        parts = {"inversion": InversionConfig(**document["inversion"]), "repair": RepairConfig(**document["repair"])}
        return cls(**{**document, **parts})


PRESETS = {"paper": ScanConfig()}
DEFAULT_PRESET = "paper"


def preset_config(name: str, seed: int = 0, max_accuracy_drop: float = RepairConfig.max_accuracy_drop) -> ScanConfig:
    """A preset with the caller's seed and accuracy budget; raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    return replace(preset, seed=seed, repair=replace(preset.repair, max_accuracy_drop=max_accuracy_drop))
