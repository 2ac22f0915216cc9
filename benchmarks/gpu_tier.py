"""The paper's full nets: train, scan, repair and judge them, as one command: `python -m benchmarks.gpu_tier cifar10`

It can be stopped at any time, after ten minutes of a lent GPU, say, and goes on where it was: training is kept after
every epoch, a scan when it is done. Below `runs/gpu_tier` it leaves each net's report, pictures and repaired weights,
and in `benchmarks/results/` the figures. Scans are timed from start to end, with the start of their engines and without
that of the command, while `nvidia-smi` is asked how busy the GPU is; the floor is what `benchmarks.profiling` counts.

Where files can only be carried in pieces, `split --bytes=40M cifar10-train.npz` makes them and `cat` joins them.
"""

import argparse
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import mean, median
from typing import Any

import torch

from app.core.intake.declaration import DeclaredInput
from app.core.presets import PRESETS, preset_config
from app.local_scan import LocalResult, job_for, run_scan
from benchmarks.computing import set_up_torch
from benchmarks.datasets import REPOSITORY, Dataset, load_dataset
from benchmarks.detection import RUNS, SCAN_IMAGES, Case, place
from benchmarks.profiling import profile
from benchmarks.profiling import show as show_profile
from benchmarks.recording import kept, write_result
from benchmarks.repair import judge
from benchmarks.victims.roster import ROSTER
from benchmarks.victims.train import VICTIMS, Recipe, Victim, home, load_victim, train
from models.suspect import load_suspect

FOLDER = REPOSITORY / "runs" / "gpu_tier"
THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted({recipe.dataset for recipe in ROSTER["gpu"]}))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--repeats", type=int, default=3, help="timed scans of each net, of one seed each")
    arguments = parser.parse_args()
    set_up_torch(THREADS)
    for folder in (VICTIMS, RUNS):
        folder.mkdir(parents=True, exist_ok=True)
    data = load_dataset(arguments.dataset)
    recipes = [recipe for recipe in ROSTER["gpu"] if recipe.dataset == arguments.dataset]
    tiers = [Tier(recipe, data, arguments.device) for recipe in recipes]
    rows = [tier.row(arguments.repeats) for tier in tiers]
    card = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    result = {"dataset": arguments.dataset, "card": card, "threads": THREADS, "nets": rows}
    result["profile"] = kept(tiers[0].folder / "profile.json", tiers[0].profile, PRESETS["standard"])
    write_result(f"gpu_tier-{arguments.dataset}", result, arguments.device)
    for row in rows:
        show(row)
    show_profile(result["profile"])


class Tier:
    """One net of the tier and what is done with it."""

    def __init__(self, recipe: Recipe, data: Dataset, device: str) -> None:
        self.data, self.device = data, device
        if home(recipe, VICTIMS) is None:
            train(recipe, data, VICTIMS, device=device)
        self.victim: Victim = load_victim(recipe, data, VICTIMS)
        self.case = Case(recipe, "standard", SCAN_IMAGES[recipe.dataset], device=device)
        self.folder = FOLDER / self.case.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.files = place(self.case, self.victim, data)

    def row(self, repeats: int) -> dict[str, Any]:
        """All figures, those of an earlier run as they were."""
        row = {"net": self.case.recipe.name, "target": self.case.recipe.target, "accuracy": self.victim.accuracy}
        row |= {"attack_success_rate": self.victim.attack_success_rate, "images": self.case.images}
        config = PRESETS["standard"]
        scans = ((self.folder / f"scan-{seed}.json", partial(self.scan, seed)) for seed in range(repeats))
        row["scans"] = [kept(path, scan, config) for path, scan in scans]
        if self.victim.attack is not None:
            row["repair"] = kept(self.folder / "repair.json", self.repair, config)
        return row

    def scan(self, seed: int) -> dict[str, Any]:
        """A timed scan."""
        started = time.monotonic()
        with gpu_use() as used:
            done = self._run(f"scan-{seed}-files", seed)
        seconds, document = time.monotonic() - started, done.document
        assert document is not None
        figures = {
            "flagged": document["flagged_labels"],
            "verdict": document["verdict"],
            "timings": document["timings"],
        }
        return {"seed": seed, "seconds": seconds, **figures, **used}

    def profile(self) -> dict[str, Any]:
        return profile(*self.files, PRESETS["standard"], THREADS, self.device)

    def repair(self) -> dict[str, Any]:
        """What is accused is repaired, and judged with the attack's own trigger on all test images."""
        report = self._run("repair-files", seed=0, repair=True).document
        assert report is not None
        row = {"report": report["repair"], "before": judge(self.victim.net.to(self.device), self.victim, self.data)}
        weights = self.folder / "repair-files" / "repaired.pt"
        if weights.exists():
            row["after"] = judge(load_suspect(weights).module.to(self.device), self.victim, self.data)
        return row

    def _run(self, folder: str, seed: int, repair: bool = False) -> LocalResult:
        shutil.rmtree(self.folder / folder, ignore_errors=True)  # what a stopped run left there
        options: dict[str, Any] = {
            "input": DeclaredInput(),
            "device": self.device,
            "threads": THREADS,
            "repair": repair,
        }
        job = job_for(*self.files, config=preset_config("standard", seed), **options)
        return run_scan(job, *self.files, self.folder / folder, on_event=lambda event: None)


@contextmanager
def gpu_use() -> Iterator[dict[str, float]]:
    """Mean utilisation in per cent and most memory in MB of the first GPU meanwhile; nothing where there is none."""
    used: dict[str, float] = {}
    if shutil.which("nvidia-smi") is None:
        yield used
        return
    query = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--id=0", "-lms", "200"]
    with subprocess.Popen(["nvidia-smi", *query], stdout=subprocess.PIPE, text=True) as asking:
        yield used
        asking.terminate()
        told, _ = asking.communicate()
    rows = [tuple(map(float, line.split(","))) for line in told.splitlines() if line.count(",") == 1]
    if rows:
        used |= {"gpu_utilisation": mean(row[0] for row in rows), "gpu_megabytes": max(row[1] for row in rows)}


def show(row: dict[str, Any]) -> None:
    print(f"{row['net']}: accuracy {row['accuracy']:.4f}, attack success {row['attack_success_rate']}")
    for scan in row["scans"]:
        print(f"  {scan['seconds']:6.1f} s  flagged {scan['flagged']}  {scan['verdict']}  {scan['timings']}")
        print("          ", {name: round(scan[name]) for name in scan if name.startswith("gpu")})
    print(f"  median {median(scan['seconds'] for scan in row['scans']):.1f} s")
    if "repair" in row:
        print(
            f"  repair: {row['repair']['report']['status']}  {row['repair']['before']} -> {row['repair'].get('after')}"
        )


if __name__ == "__main__":
    main()
