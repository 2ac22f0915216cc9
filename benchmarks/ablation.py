"""What LPIPS is for, the paper's figure 6: `python -m benchmarks.ablation cifar10 [--seeds 10]`

Searches all labels of the first WaNet victim of the roster that is to be reported on as the preset `paper` does, with
LPIPS in the loss and with lambda 3 = 0, with one seed after another. Of the target's trigger: the anomaly index, the
share of images that it carries, and what part of the change (L1) lies in the channel that is changed most; a third is
an even change of colour images. Every finished search is kept in `runs/detection`.
"""

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from app.core.plan import blocks
from app.core.presets import PRESETS
from benchmarks.computing import set_up_torch
from benchmarks.datasets import load_dataset
from benchmarks.detection import RUNS, SCAN_IMAGES, THREADS, Case, first_victims, place
from benchmarks.profiling import workbench
from benchmarks.recording import kept, write_result
from worker.detection.outliers import anomaly_indices

WAYS = {"with LPIPS": PRESETS["paper"].inversion.lambda_perceptual, "without": 0.0}
MEASURED = ("anomaly_index", "success", "largest_channel")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(SCAN_IMAGES))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="searches side by side, one thread each")
    arguments = parser.parse_args()
    set_up_torch()
    RUNS.mkdir(parents=True, exist_ok=True)
    data = load_dataset(arguments.dataset)
    recipe, victim = next(iter(first_victims(arguments.dataset, data, 1).items()))
    case = Case(recipe, "paper", SCAN_IMAGES[arguments.dataset])
    files = place(case, victim, data)

    def row_of(way: str, seed: int) -> dict[str, Any]:
        path = RUNS / f"{case.name}-lambda{WAYS[way]:g}-seed{seed}.json"
        return kept(path, partial(searched, case, files, WAYS[way], seed), PRESETS["paper"])

    with ThreadPoolExecutor(arguments.jobs) as pool:
        searches = {
            way: list(pool.map(lambda seed, way=way: row_of(way, seed), range(arguments.seeds)))  # type: ignore[misc]
            for way in WAYS
        }
    result = {"dataset": arguments.dataset, "victim": recipe.name, "threads": THREADS, "searches": searches}
    write_result(f"ablation-{arguments.dataset}", result)
    for way, rows in searches.items():
        print(way, {name: round(median(row[name] for row in rows), 3) for name in MEASURED})


def searched(case: Case, files: tuple[Path, Path], weight: float, seed: int) -> dict[str, Any]:
    """The row of one search, of the target's trigger."""
    config = PRESETS["paper"]
    config = replace(config, seed=seed, inversion=replace(config.inversion, lambda_perceptual=weight))
    with tempfile.TemporaryDirectory() as folder:
        bench = workbench(Path(folder), *files, config, THREADS)
        together = blocks(range(bench.preparation.num_labels), config, bench.preparation.device)
        found = [one for block in together for one in bench.search(bench.classifier, "dynamic", block, seed)]
        target = next(one for one in found if one.label == case.recipe.target)
        clean = bench.held_out.images[bench.held_out.others(target.label)]
        by_channel = (target.trigger.on(clean) - clean).abs().mean((0, 2, 3))
    indices = anomaly_indices(np.array([one.norm for one in found]))
    return {
        "seed": seed,
        "anomaly_index": float(indices[target.label]),
        "success": target.attack_success_rate,
        "largest_channel": (by_channel.max() / by_channel.sum()).item(),
        "norms": [one.norm for one in found],
    }


if __name__ == "__main__":
    main()
