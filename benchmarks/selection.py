"""Power and false alarms where only some of many labels are searched in full: `python -m benchmarks.selection`

Draws the log norms of clean networks from the prior of the static family, and scores of a first pass that tell them as
well as `--correlations` say, in each family with errors of its own; lowers one label by so many standard deviations, in
its norm and so in its scores; selects and tests as a scan does, at its rate over three families. Printed for each
number of labels: how often a clean network is accused, how often the target is among the labels that are searched in
full, and how often it alone is accused. No network is involved.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from app.core.families import FAMILIES
from app.core.findings import FirstPass
from app.core.presets import PRESETS
from benchmarks.recording import write_result
from worker.detection.selected import selected_test
from worker.detection.selection import select_labels

LABELS, CORRELATIONS, EFFECTS = (43, 200, 1000), (0.5, 0.9), (0, 4, 6, 8)
FAMILY, CONFIG = "static", PRESETS["standard"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", nargs="+", type=int, default=LABELS)
    parser.add_argument("--correlations", nargs="+", type=float, default=CORRELATIONS)
    parser.add_argument("--models", type=int, default=400, help="clean ones, and as many of each effect")
    arguments = parser.parse_args()
    rows = []
    print(f"{'labels':>6} {'told':>5} {'effect':>6} {'accused':>8} {'kept':>6} {'alone':>6}")
    for labels in arguments.labels:
        for correlation in arguments.correlations:
            for effect in EFFECTS:
                row = measure(labels, correlation, effect, arguments.models)
                rows.append(row)
                figures = f"{row['accused']:>8.3f} {row['kept']:>6.3f} {row['alone']:>6.3f}"
                print(f"{labels:>6} {correlation:>5} {effect:>6} {figures}", flush=True)
    write_result("selection", {"models": arguments.models, "rows": rows})


def measure(labels: int, correlation: float, effect: float, models: int) -> dict[str, Any]:
    """Shares of the models: in which some other label than the target is accused, and so on."""
    outcomes = [outcome(labels, correlation, effect, seed) for seed in range(models)]
    accused, kept, alone = (float(share) for share in np.mean(outcomes, axis=0))
    return {
        "labels": labels, "correlation": correlation, "effect": effect, "accused": accused, "kept": kept, "alone": alone
    }  # fmt: skip


def outcome(labels: int, correlation: float, effect: float, seed: int) -> Sequence[bool]:
    """Whether a label without a cause is accused, the target is searched in full, and it alone is accused."""
    random, prior = np.random.default_rng((seed, labels)), FAMILIES[FAMILY].prior
    norms_K = random.standard_normal(labels)
    norms_K[target := int(random.integers(labels))] -= effect
    scale = prior.deviation * np.sqrt(prior.weight / random.chisquare(prior.weight))
    noise_FK = dict(zip(CONFIG.searches, random.standard_normal((len(CONFIG.searches), labels)), strict=True))
    scores_FK = {
        name: correlation * norms_K + np.sqrt(1 - correlation**2) * noise_K for name, noise_K in noise_FK.items()
    }
    found = FirstPass(tuple(range(labels)), {name: tuple(scores_K.tolist()) for name, scores_K in scores_FK.items()})
    selection = select_labels(labels, [found], replace(CONFIG, seed=seed), "0")
    searched = list(selection.labels)
    controls_n = np.isin(searched, selection.controls)
    p_values_n = selected_test(scale * norms_K[searched], scores_FK[FAMILY][searched], controls_n, labels, prior)
    rate = (CONFIG.false_alarm_rate or 0.0) / len(CONFIG.searches)
    accused = {label for label, p_value in zip(searched, p_values_n, strict=True) if p_value <= rate}
    caused = {target} if effect else set()
    return bool(accused - caused), target in searched, accused == {target}


if __name__ == "__main__":
    main()
