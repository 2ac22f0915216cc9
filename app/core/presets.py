"""The presets: named ways of scanning. docs/decisions/ fixes what the paper leaves open."""

from dataclasses import replace

from app.core.config import FirstPassConfig, InversionConfig, MatchingConfig, RepairConfig, ScanConfig
from app.core.families import FAMILIES

PRESETS = {
    "standard": ScanConfig(
        preset="standard",
        false_alarm_rate=0.05,
        students=3,
        confirms=True,
        separate_roles=True,
        inversion=InversionConfig(
            steps=80,
            batch_size=12,
            learning_rate=2e-3,
            lambda_attack=0.1,
            norm="lpips",
            success_level=0.95,
            generator_width=8,
        ),
        first_pass=FirstPassConfig(),
        families={name: family.search for name, family in FAMILIES.items() if family.search is not None},
        repair=RepairConfig(matching=MatchingConfig()),
    ),
    "paper": ScanConfig(),
}
DEFAULT_PRESET = "standard"


def preset_config(name: str, seed: int = 0, max_accuracy_drop: float = RepairConfig.max_accuracy_drop) -> ScanConfig:
    """A preset with the caller's seed and accuracy budget; raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    return replace(preset, seed=seed, repair=replace(preset.repair, max_accuracy_drop=max_accuracy_drop))
