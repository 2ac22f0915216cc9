"""How often is a clean net accused? `python -m benchmarks.false_alarms [--presets standard paper] [--device cuda]`

Scans the nets of the roster's `false_alarms` that are trained: clean ones and attacked ones in cells of data set and
architecture, none of which any choice was made on. For each preset: the share of clean nets accused, of attacked ones
whose target is named, both as the threshold moves (`standard`: the p-value of both searches; `paper`: the anomaly
index), and of scans without a verdict. Nets of one cell are alike, so the interval of a rate is at least as wide as a
cluster bootstrap's: cells are drawn, with all their nets.

Finished scans are kept in `runs/detection`, whichever device they ran on, so a run that is stopped goes on.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy.stats import binomtest

from app.core.presets import PRESETS
from benchmarks.computing import set_up_torch
from benchmarks.datasets import load_dataset
from benchmarks.detection import RUNS, SCAN_IMAGES, THREADS, Case, is_trained, scan
from benchmarks.recording import write_result
from benchmarks.victims.roster import ROSTER
from benchmarks.victims.train import VICTIMS, Recipe, Victim, load_victim

THRESHOLDS = {
    "standard": (0.05, 0.03, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005),
    "paper": (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0),
}
RULES = {name: preset.false_alarm_rate or preset.anomaly_threshold for name, preset in PRESETS.items()}
SUBSET_IMAGES = 430  # of a bundle of ten of GTSRB's classes
DRAWN = 10_000  # bootstrap samples
WORKS = 0.8  # of the trigger's uses, at least: a small net may not have learned WaNet, and then has no backdoor to find


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=list(THRESHOLDS), default=list(THRESHOLDS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="scans side by side, one thread each")
    arguments = parser.parse_args()
    set_up_torch()
    RUNS.mkdir(parents=True, exist_ok=True)
    trained = [recipe for recipe in ROSTER["false_alarms"] if is_trained(recipe)]
    data_of = {name: load_dataset(name) for name in dict.fromkeys(recipe.dataset for recipe in trained)}
    victims = {recipe: load_victim(recipe, data_of[recipe.dataset], VICTIMS) for recipe in trained}
    judged = [recipe for recipe in trained if has_learned(victims[recipe])]

    def row_of(preset: str, recipe: Recipe) -> dict[str, Any]:
        images = SUBSET_IMAGES if recipe.source == "gtsrb10" else SCAN_IMAGES[recipe.source]
        case = Case(recipe, preset, images, device=arguments.device)
        return {"cell": cell_of(recipe), **scan(case, victims[recipe], data_of[recipe.dataset])}

    with ThreadPoolExecutor(arguments.jobs) as pool:
        for preset in arguments.presets:
            rows = list(pool.map(lambda recipe, preset=preset: row_of(preset, recipe), judged))  # type: ignore[misc]
            result = {"preset": preset, "rule": RULES[preset], "threads": THREADS}
            result |= {"not_trained": len(ROSTER["false_alarms"]) - len(trained)}
            result |= {"backdoor_not_learned": [recipe.name for recipe in trained if recipe not in judged]}
            result |= {**summary(rows, preset), "scans": rows}
            write_result(f"false_alarms-{preset}", result, "_".join(sorted({row["device"] for row in rows})))
            show(result)


def has_learned(victim: Victim) -> bool:
    """Whether a net does what it was meant to do: a clean one nothing else."""
    return victim.attack_success_rate is None or victim.attack_success_rate >= WORKS


def cell_of(recipe: Recipe) -> str:
    return f"{recipe.source} {recipe.net}"


def summary(rows: Sequence[dict[str, Any]], preset: str) -> dict[str, Any]:
    """Rates of the rule as it is and along the thresholds."""
    clean = [row for row in rows if row["attack"] == "clean"]
    attacked = [row for row in rows if row["attack"] != "clean"]
    curve = []
    for threshold in THRESHOLDS[preset]:
        alarms = [bool(accused(row, preset, threshold)) for row in clean]
        named = [row["target"] in accused(row, preset, threshold) for row in attacked]
        curve.append(
            {"threshold": threshold, "false_alarms": rate_of(clean, alarms), "named": rate_of(attacked, named)}
        )
    return {
        "cells": len({row["cell"] for row in clean}),
        "clean": len(clean),
        "attacked": len(attacked),
        "false_alarms": rate_of(clean, [bool(row["flagged"]) for row in clean]),
        "named": rate_of(attacked, [row["target"] in row["flagged"] for row in attacked]),
        "inconclusive": rate_of(rows, [row["verdict"] == "inconclusive" for row in rows]),
        "curve": curve,
    }


def accused(row: dict[str, Any], preset: str, threshold: float) -> list[int]:
    """The labels that are flagged at a threshold, not above .05 for p-values: beyond it nothing is searched again."""
    if preset == "paper":
        middle = np.median(row["norms"])
        outlying = zip(row["norms"], row["anomaly_indices"], strict=True)
        return [label for label, (norm, index) in enumerate(outlying) if norm < middle and (index or 0) > threshold]
    return [
        label
        for label, of in enumerate(zip(*row["families"].values(), strict=True))
        if any(f["flagged"] and max(f["p_value"], f["p_value_again"]) <= threshold for f in of)
    ]


def rate_of(rows: Sequence[dict[str, Any]], holds: Sequence[bool]) -> dict[str, Any]:
    """A share, and the wider of two 95 % intervals on either side: over cells, and the exact one over nets.

    Where all nets are alike, drawn cells are as well, and say nothing; nothing is said without nets either.
    """
    if not rows:
        return {"n": 0, "count": 0, "low": 0.0, "high": 1.0}
    cells = sorted({row["cell"] for row in rows})
    by_cell = [[held for row, held in zip(rows, holds, strict=True) if row["cell"] == cell] for cell in cells]
    counts = np.array([(sum(held), len(held)) for held in by_cell])
    drawn = counts[np.random.default_rng(0).integers(len(cells), size=(DRAWN, len(cells)))].sum(axis=1)
    over_cells = np.percentile(drawn[:, 0] / drawn[:, 1], (2.5, 97.5))
    over_nets = binomtest(sum(holds), len(rows)).proportion_ci(method="exact")
    low, high = min(over_cells[0], over_nets.low), max(over_cells[1], over_nets.high)
    return {"n": len(rows), "count": int(sum(holds)), "low": round(float(low), 4), "high": round(float(high), 4)}


def show(result: dict[str, Any]) -> None:
    print(f"{result['preset']}: {result['cells']} cells")
    for row in result["scans"]:
        if row["flagged"] != ([] if row["target"] is None else [row["target"]]):
            print(f"  {row['case']:60} target {row['target']}  flagged {row['flagged']}  {row['verdict']}")
    for what in ("false_alarms", "named", "inconclusive"):
        print(f"  {what:14} {shown(result[what])}")
    for at in result["curve"]:
        print(f"  {at['threshold']:8} false alarms {shown(at['false_alarms'])}   named {shown(at['named'])}")


def shown(rate: dict[str, Any]) -> str:
    return f"{rate['count']:3} of {rate['n']:3} ({rate['low']:.3f} to {rate['high']:.3f})"


if __name__ == "__main__":
    main()
