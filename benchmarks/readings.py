"""How is a trigger's size best read? `python -m benchmarks.readings mnist`

Searches generators for all labels of the tuning victims, once with the weight of the cross-entropy as it is (equal
weight) and once steered and scaled to equal success, and reads what was found in several ways: the residual's mean
absolute value (L1, eq. 5 of the paper), its mean square, LPIPS, and the search's loss; on held-out images and on those
that were searched on. A reading is as good as it sets the target apart: its distance below the other labels' mean, in
log units over their deviation, and its rank. Of a clean net, the same of its lowest label, which should be small.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.core.plan import blocks
from app.core.presets import PRESETS
from benchmarks.computing import set_up_torch
from benchmarks.datasets import load_dataset
from benchmarks.detection import SCAN_IMAGES, VICTIMS, Case, is_trained, place
from benchmarks.profiling import workbench
from benchmarks.recording import write_result
from benchmarks.victims.roster import ROSTER
from benchmarks.victims.train import load_victim
from worker.detection.clean import CleanImages
from worker.detection.inversion import Inversion
from worker.engine.workbench import Workbench

CONFIG = replace(PRESETS["standard"], students=0)
SETTINGS = {"equal success": CONFIG.inversion}
SETTINGS["equal weight"] = replace(SETTINGS["equal success"], success_level=None)


def readings(bench: Workbench) -> dict[str, list[float]]:
    """What each way of reading says of each label, by the way's name."""
    by_label: list[dict[str, float]] = []
    for setting, inversion in SETTINGS.items():
        bench.job = replace(bench.job, config=replace(bench.job.config, inversion=inversion))
        for block in blocks(range(bench.preparation.num_labels), bench.job.config, bench.preparation.device):
            for found in bench.search(bench.classifier, "dynamic", block, seed=0):
                by_label.append({f"{setting}, {way}": value for way, value in _read(bench, found).items()})
    ways = dict.fromkeys(way for read in by_label for way in read)
    return {way: [read[way] for read in by_label if way in read] for way in ways}


def _read(bench: Workbench, found: Inversion) -> Mapping[str, float]:
    held_out, searched = (_sizes(bench, images, found) for images in (bench.held_out, bench.clean))
    return {**held_out, "loss": found.loss, **{f"{way}, searched images": value for way, value in searched.items()}}


@torch.no_grad()
def _sizes(bench: Workbench, images: CleanImages, found: Inversion) -> dict[str, float]:
    clean = images.images[images.others(found.label)]
    triggered = found.trigger.on(clean)
    change, perceptual = triggered - clean, bench.perceptual
    lpips: Tensor = perceptual.distance(perceptual.features(clean), perceptual.features(triggered)).mean()
    return {"L1": change.abs().mean().item(), "MSE": change.square().mean().item(), "LPIPS": lpips.item()}


def distance(values: list[float], target: int | None) -> tuple[float, int]:
    """How far a label lies below the others, and its rank; the lowest where there is no target."""
    logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    label = int(logs.argmin()) if target is None else target
    others = np.delete(logs, label)
    return float((others.mean() - logs[label]) / others.std(ddof=1)), int((logs < logs[label]).sum()) + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(SCAN_IMAGES))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    set_up_torch(arguments.threads)
    data = load_dataset(arguments.dataset)
    rows: list[dict[str, Any]] = []
    for recipe in (r for r in ROSTER["tuning"] if r.dataset == arguments.dataset and is_trained(r)):
        case = Case(recipe, "standard", SCAN_IMAGES[arguments.dataset])
        model, bundle = place(case, load_victim(recipe, data, VICTIMS), data)
        with tempfile.TemporaryDirectory() as folder:
            read = readings(workbench(Path(folder), model, bundle, CONFIG, arguments.threads))
        distances = {way: distance(values, recipe.target) for way, values in read.items()}
        rows.append({"victim": recipe.name, "attack": case.attack, "readings": read, "distances": distances})
        print(recipe.name, {way: f"{far:.1f}" for way, (far, _) in distances.items()}, flush=True)
    write_result(f"readings-{arguments.dataset}", {"dataset": arguments.dataset, "use": "tuning", "rows": rows})
    attacks = dict.fromkeys(row["attack"] for row in rows)
    print(f"{'median distance (times lowest)':38}", *(f"{attack:>16}" for attack in attacks))
    for way in rows[0]["distances"]:
        cells = []
        for attack in attacks:
            of = [row["distances"][way] for row in rows if row["attack"] == attack]
            cells.append(f"{median(far for far, _ in of):6.1f} ({sum(rank == 1 for _, rank in of)} of {len(of)})")
        print(f"{way:38}", *(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
