"""Does the scan name the target? `python -m benchmarks.detection digits|mnist`

digits   ten poisoned victims (seeds 1 to 10, target = seed mod 10) and ten clean ones (seeds 11 to 20), none picked;
         400 clean training images a scan. How many targets are named, how many clean nets are accused.
mnist    three WaNet victims as in the paper (s = 0.5, k = 4), each scripted, traced and frozen, scanned with 600 clean
         images (1 %), then repaired with 3,000 (5 %) and put to the test with the true trigger.

Victims are trained where `runs/victims` lacks them. Every finished scan is kept in `runs/detection`, so a run that is
stopped goes on where it was; the table goes to `benchmarks/results/`.
"""

import argparse
import json
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.core.config import preset_config
from app.core.intake.declaration import DeclaredInput
from app.local_scan import job_for, run_scan
from benchmarks.datasets import REPOSITORY, Dataset, as_tensors, load_dataset
from benchmarks.victims.export import FORMS, Form, clean_sample, save_bundle, save_torchscript
from benchmarks.victims.train import RECIPES, Recipe, Victim, accuracy, load_victim

VICTIMS = REPOSITORY / "runs" / "victims"
RUNS = REPOSITORY / "runs" / "detection"
RESULTS = REPOSITORY / "benchmarks" / "results"
MNIST_VICTIMS = ((0, 0), (1, 3), (2, 7))  # seed, target
SCAN_IMAGES = {"digits": 400, "mnist": 600}
REPAIR_IMAGES = 3000
SCRIPTING = threading.Lock()  # torch.jit.script is not safe to call from two threads
THREADS = 1  # of each scan; --jobs of them run side by side


@dataclass(frozen=True)
class Case:
    """One victim in one form."""

    recipe: Recipe
    form: Form

    @property
    def name(self) -> str:
        return f"{self.recipe.name}-{self.form}"


def cases(dataset: str) -> list[Case]:
    recipe = RECIPES[dataset]
    if dataset == "digits":
        poisoned = [replace(recipe, seed=seed, target=seed % 10) for seed in range(1, 11)]
        clean = [replace(recipe, seed=seed) for seed in range(11, 21)]
        return [Case(recipe, "scripted") for recipe in [*poisoned, *clean]]
    poisoned = [replace(recipe, seed=seed, target=target) for seed, target in MNIST_VICTIMS]
    return [Case(recipe, form) for recipe in poisoned for form in FORMS]


def place(case: Case, victim: Victim, data: Dataset, images: int, name: str) -> tuple[Path, Path]:
    """The victim's archive and a bundle of so many clean training images, as a user would hand them in."""
    model, bundle = RUNS / f"{name}.pt", RUNS / f"{name}-bundle.npz"
    with SCRIPTING:
        save_torchscript(victim.net, as_tensors(data.x_test[:1]), case.form, model)
    save_bundle(*clean_sample(data.x_train, data.y_train, images, seed=case.recipe.seed), bundle)
    return model, bundle


def scan(case: Case, victim: Victim, data: Dataset, seed: int) -> dict[str, Any]:
    """The row of one case: scanned by the engine that users run, or read from an earlier run."""
    kept = RUNS / f"{case.name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    model, bundle = place(case, victim, data, SCAN_IMAGES[case.recipe.dataset], case.name)
    job = job_for(
        model, bundle, config=preset_config("paper", seed=seed), input=DeclaredInput(), device="cpu", threads=THREADS
    )
    document = run_scan(job, model, bundle, RUNS / case.name, on_event=lambda event: None).document
    assert document is not None
    norms = [row["norm"] for row in document["labels"]]
    row = {
        "case": case.name,
        "target": case.recipe.target,
        "accuracy": victim.accuracy,
        "attack_success_rate": victim.attack_success_rate,
        "verdict": document["verdict"],
        "reasons": document["reasons"],
        "flagged": document["flagged_labels"],
        "smallest_norm": int(np.argmin(norms)),
        "model_anomaly_index": document["model_anomaly_index"],
        "norms": norms,
        "anomaly_indices": [row["anomaly_index"] for row in document["labels"]],
        "success": [row["attack_success_rate"] for row in document["labels"]],
        "seconds": document["timings"],
    }
    kept.write_text(json.dumps(row) + "\n")
    return row


def repair(case: Case, victim: Victim, data: Dataset) -> dict[str, Any]:
    """Repair one victim through `triggerlens repair`'s job, and judge it by the true trigger on the test images."""
    kept = RUNS / f"{case.name}-repair.json"
    if kept.exists():
        return json.loads(kept.read_text())
    target = case.recipe.target
    assert target is not None
    assert victim.attack is not None
    model, bundle = place(case, victim, data, REPAIR_IMAGES, f"{case.name}-repair")
    config = preset_config("paper", seed=case.recipe.seed)
    options = {"input": DeclaredInput(), "device": "cpu", "threads": THREADS}
    job = job_for(model, bundle, config=config, repair=True, repair_label=target, **options)
    out = RUNS / f"{case.name}-repair"
    report = run_scan(job, model, bundle, out, on_event=lambda event: None).repair
    assert report is not None
    images, labels = as_tensors(data.x_test), torch.as_tensor(data.y_test)
    others = images[labels != target]
    triggered, targets = victim.attack.apply(others), torch.full((len(others),), target)
    row = {"case": case.name, "status": report.status.value, "accuracy": [victim.accuracy], "true_asr": []}
    row["true_asr"].append(accuracy(victim.net, triggered, targets))
    if (out / "repaired.pt").exists():
        net = torch.jit.load(str(out / "repaired.pt")).eval()
        row["accuracy"].append(accuracy(net, images, labels))
        row["true_asr"].append(accuracy(net, triggered, targets))
    kept.write_text(json.dumps(row) + "\n")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=["digits", "mnist"])
    parser.add_argument("--seed", type=int, default=0, help="of the scans")
    parser.add_argument("--jobs", type=int, default=2, help="scans side by side, one thread each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for folder in (VICTIMS, RUNS, RESULTS):
        folder.mkdir(parents=True, exist_ok=True)
    data = load_dataset(arguments.dataset)
    todo = cases(arguments.dataset)
    victims = {case.recipe: load_victim(case.recipe, data, VICTIMS) for case in todo}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda case: scan(case, victims[case.recipe], data, arguments.seed), todo))
        repairable = [
            c for c in todo if c.recipe.target is not None and c.form != "frozen" and c.recipe.dataset == "mnist"
        ]
        repairs = list(pool.map(lambda case: repair(case, victims[case.recipe], data), repairable))
    result = {"dataset": arguments.dataset, "preset": "paper", "seed": arguments.seed, **summary(rows)}
    result |= {"threads": THREADS, "torch": torch.__version__, "machine": platform.machine()}
    path = RESULTS / f"detection-{arguments.dataset}_cpu_2026-11.json"
    path.write_text(json.dumps({**result, "scans": rows, "repairs": repairs}, indent=1) + "\n")
    show(rows, repairs, result)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    poisoned = [row for row in rows if row["target"] is not None]
    clean = [row for row in rows if row["target"] is None]
    return {
        "poisoned": len(poisoned),
        "target_named": sum(row["target"] in row["flagged"] for row in poisoned),
        "target_alone_named": sum(row["flagged"] == [row["target"]] for row in poisoned),
        "target_smallest_norm": sum(row["target"] == row["smallest_norm"] for row in poisoned),
        "clean": len(clean),
        "clean_accused": sum(bool(row["flagged"]) for row in clean),
        "inconclusive": sum(row["verdict"] == "inconclusive" for row in rows),
    }


def show(rows: list[dict[str, Any]], repairs: list[dict[str, Any]], result: dict[str, Any]) -> None:
    print(f"{'case':32} {'acc':>6} {'asr':>6} {'target':>6} {'smallest':>8} {'AI':>6}  flagged")
    for row in rows:
        asr = "-" if row["attack_success_rate"] is None else f"{row['attack_success_rate']:.4f}"
        target = "-" if row["target"] is None else row["target"]
        index = row["model_anomaly_index"]
        print(
            f"{row['case']:32} {row['accuracy']:6.4f} {asr:>6} {target:>6} {row['smallest_norm']:8} {index:6.2f}  "
            f"{row['flagged']} {row['verdict'] if row['reasons'] else ''}"
        )
    for row in repairs:
        figures = "  ".join(
            f"{name} {' -> '.join(f'{value:.4f}' for value in row[name])}" for name in ("accuracy", "true_asr")
        )
        print(f"repair {row['case']:32} {row['status']:9} {figures}")
    print({key: result[key] for key in summary([])})


if __name__ == "__main__":
    main()
