"""The paper's Table 1: anomaly indices and what is accused, over victims and scan seeds.

    python -m benchmarks.table1 mnist|cifar10|gtsrb [--methods paper standard neural_cleanse] [--victims 3] [--seeds 10]

The first WaNet victims of the roster that are to be reported on, and as many clean nets; each is scanned with several
seeds, Neural Cleanse with one, on colour images with a cap on its mini-batches. A run on a victim is one of four cases:

case 1   the target is accused, and nothing else      case 3   another label is accused, the target is not
case 2   the target is accused, and another label     case 4   nothing is accused

Runs of one victim are alike, so victims and runs are stated separately. Finished scans are kept in `runs/detection`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import mean
from typing import Any

from benchmarks.computing import set_up_torch
from benchmarks.datasets import REPOSITORY, Dataset, load_dataset
from benchmarks.detection import RUNS, SCAN_IMAGES, THREADS, Case, first_victims, place, scan
from benchmarks.recording import kept, write_result
from benchmarks.victims.recipes import Recipe
from benchmarks.victims.train import Victim

METHODS = ("paper", "standard", "neural_cleanse")
SAID = ("model_anomaly_index", "flagged", "stopped_early", "commit")
MOST_BATCHES = {"cifar10": 2000, "gtsrb": 2000}  # of Neural Cleanse, for each label; elsewhere the authors' 31,000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(SCAN_IMAGES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--victims", type=int, default=3, help="attacked ones, and as many clean nets")
    parser.add_argument("--seeds", type=int, default=10, help="scans of each, but for Neural Cleanse")
    parser.add_argument("--jobs", type=int, default=2, help="scans side by side, one thread each")
    arguments = parser.parse_args()
    set_up_torch()
    RUNS.mkdir(parents=True, exist_ok=True)
    data = load_dataset(arguments.dataset)
    victims = first_victims(arguments.dataset, data, arguments.victims)
    todo = [
        (method, recipe, seed)
        for method in arguments.methods
        for seed in range(1 if method == "neural_cleanse" else arguments.seeds)
        for recipe in victims
    ]

    def row_of(asked: tuple[str, Recipe, int]) -> dict[str, Any]:
        method, recipe, seed = asked
        case = Case(recipe, method, SCAN_IMAGES[arguments.dataset], seed=seed)
        run = neural_cleanse if method == "neural_cleanse" else scan
        row = run(case, victims[recipe], data)
        said = {name: row[name] for name in SAID if name in row}
        return {"method": method, "victim": recipe.name, "target": recipe.target, "seed": seed, **said}

    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = list(pool.map(row_of, todo))
    result = {"dataset": arguments.dataset, "threads": THREADS}
    result |= {"most_batches_of_neural_cleanse": MOST_BATCHES.get(arguments.dataset)}
    result |= {"methods": {method: summary([r for r in runs if r["method"] == method]) for method in arguments.methods}}
    show(result)
    if {*arguments.methods} == {*METHODS}:  # a part takes the place of nothing
        write_result(f"table1-{arguments.dataset}", {**result, "runs": runs})


def neural_cleanse(case: Case, victim: Victim, data: Dataset) -> dict[str, Any]:
    """The row of Neural Cleanse on the same files, in a process of its own."""

    cap = MOST_BATCHES.get(case.recipe.dataset)

    def searched() -> dict[str, Any]:
        model, bundle = place(case, victim, data)
        limits = ["--seed", str(case.seed), "--threads", str(THREADS)]
        limits += [] if cap is None else ["--most-batches", str(cap)]
        program = [sys.executable, "-m", "benchmarks.baselines.neural_cleanse", model, bundle, *limits]
        found = json.loads(subprocess.check_output(program, cwd=REPOSITORY, stderr=subprocess.DEVNULL))
        return {**found, "model_anomaly_index": max(found["anomaly_indices"])}

    return kept(RUNS / f"{case.name}.json", searched, config=cap)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean indices, how many clean runs accuse, and how the runs on attacked nets divide into the cases."""
    clean = [run for run in runs if run["target"] is None]
    attacked = [run for run in runs if run["target"] is not None]
    cases = [case_of(run["target"], run["flagged"]) for run in attacked]
    return {
        "clean_nets": len({run["victim"] for run in clean}),
        "clean_runs": len(clean),
        "clean_anomaly_index": _mean(clean),
        "clean_accused": sum(bool(run["flagged"]) for run in clean),
        "victims": len({run["victim"] for run in attacked}),
        "runs": len(attacked),
        "anomaly_index": _mean(attacked),
        "cases": [cases.count(case) for case in (1, 2, 3, 4)],
    }


def case_of(target: int, flagged: Sequence[int]) -> int:
    if not flagged:
        return 4
    if target not in flagged:
        return 3
    return 1 if len(flagged) == 1 else 2


def _mean(runs: Sequence[dict[str, Any]]) -> float | None:
    known = [run["model_anomaly_index"] for run in runs if run["model_anomaly_index"] is not None]
    return mean(known) if known else None


def show(result: dict[str, Any]) -> None:
    print(f"{'method':15} {'AI clean':>9} {'backdoored':>10}   cases 1 2 3 4 of runs (victims)   clean runs accused")
    for method, of in result["methods"].items():
        clean, attacked = (
            "-" if of[name] is None else f"{of[name]:.2f}" for name in ("clean_anomaly_index", "anomaly_index")
        )
        print(
            f"{method:15} {clean:>9} {attacked:>10}   {of['cases']} of {of['runs']} ({of['victims']})   "
            f"{of['clean_accused']} of {of['clean_runs']} ({of['clean_nets']})"
        )


if __name__ == "__main__":
    main()
