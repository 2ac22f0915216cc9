"""Does the scan name the target? `python -m benchmarks.detection digits|mnist [--preset paper]`

Scans the victims of the roster that are to be reported on, or `--use tuning` those for tuning, none picked: how many
targets are named, how many clean nets are accused. Digits with 400 clean training images a scan, MNIST with 600 (1 %).

`mnist --preset paper` is the paper's own case: three WaNet victims (s = 0.5, k = 4), each scripted, traced and frozen.
With `--repair` poisoned victims are repaired with 3,000 images (5 % of MNIST), and the true trigger is tried again.

Victims are trained by `benchmarks.victims.train`; those that are missing are counted. Every finished scan is kept in
`runs/detection`, so a run that is stopped goes on where it was; the table goes to `benchmarks/results/`.
"""

import argparse
import json
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.core.config import PRESETS, preset_config
from app.core.intake.declaration import DeclaredInput
from app.local_scan import job_for, run_scan
from benchmarks.datasets import REPOSITORY, Dataset, as_tensors, load_dataset
from benchmarks.victims.export import FORMS, Form, clean_sample, save_bundle, save_torchscript
from benchmarks.victims.roster import ROSTER
from benchmarks.victims.train import Recipe, Victim, accuracy, load_victim

VICTIMS = REPOSITORY / "runs" / "victims"
RUNS = REPOSITORY / "runs" / "detection"
RESULTS = REPOSITORY / "benchmarks" / "results"
PAPERS_SEEDS = (0, 1, 2)  # of the WaNet victims that the paper's case has
SCAN_IMAGES = {"digits": 400, "mnist": 600}
REPAIR_IMAGES = 3000
SCRIPTING = threading.Lock()  # torch.jit.script is not safe to call from two threads
THREADS = 1  # of each scan; --jobs of them run side by side


@dataclass(frozen=True)
class Case:
    """One victim in one form, and how it is scanned."""

    recipe: Recipe
    form: Form
    preset: str

    @property
    def name(self) -> str:
        return f"{self.recipe.name}-{self.form}-{self.preset}"


def cases(dataset: str, preset: str, use: str) -> list[Case]:
    recipes = [recipe for recipe in ROSTER[use] if recipe.dataset == dataset]
    if (dataset, preset, use) == ("mnist", "paper", "reporting"):
        return [Case(recipe, form, preset) for recipe in recipes if recipe.seed in PAPERS_SEEDS for form in FORMS]
    return [Case(recipe, "scripted", preset) for recipe in recipes]


def is_trained(recipe: Recipe) -> bool:
    return (VICTIMS / f"{recipe.name}.pt").exists() and (VICTIMS / f"{recipe.name}.json").exists()


def place(case: Case, victim: Victim, data: Dataset, images: int, name: str) -> tuple[Path, Path]:
    """The victim's archive and a bundle of so many clean training images, as a user would hand them in."""
    model, bundle = RUNS / f"{name}.pt", RUNS / f"{name}-bundle.npz"
    if not bundle.exists():  # the same archive again, so that a scan that was stopped goes on
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
        model, bundle, config=preset_config(case.preset, seed), input=DeclaredInput(), device="cpu", threads=THREADS
    )
    document = run_scan(job, model, bundle, RUNS / case.name, on_event=lambda event: None).document
    assert document is not None
    norms = [row["norm"] for row in document["labels"]]
    row = {
        "case": case.name,
        "attack": case.recipe.attack if case.recipe.target is not None else "clean",
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
        "families": {
            family: [
                {name: found[name] for name in ("norm", "p_value", "flagged", "out_of_reach", "reference_norms")}
                for label in document["labels"]
                for found in label["families"]
                if found["family"] == family
            ]
            for family in document["coverage"]["families"]
        },
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
    config = preset_config(case.preset, seed=case.recipe.seed)
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
    parser.add_argument("--preset", choices=list(PRESETS), default="standard")
    parser.add_argument("--use", choices=list(ROSTER), default="reporting")
    parser.add_argument("--repair", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the scans")
    parser.add_argument("--jobs", type=int, default=2, help="scans side by side, one thread each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for folder in (VICTIMS, RUNS, RESULTS):
        folder.mkdir(parents=True, exist_ok=True)
    data = load_dataset(arguments.dataset)
    listed = cases(arguments.dataset, arguments.preset, arguments.use)
    todo = [case for case in listed if is_trained(case.recipe)]
    victims = {case.recipe: load_victim(case.recipe, data, VICTIMS) for case in todo}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda case: scan(case, victims[case.recipe], data, arguments.seed), todo))
        repairable = [c for c in todo if arguments.repair and c.recipe.target is not None and c.form != "frozen"]
        repairs = list(pool.map(lambda case: repair(case, victims[case.recipe], data), repairable))
    result = {"dataset": arguments.dataset, "preset": arguments.preset, "use": arguments.use, "seed": arguments.seed}
    result |= {"not_trained": len(listed) - len(todo), **summary(rows)}
    result |= {"threads": THREADS, "torch": torch.__version__, "machine": platform.machine()}
    kind = "" if arguments.use == "reporting" else f"-{arguments.use}"
    path = RESULTS / f"detection-{arguments.dataset}-{arguments.preset}{kind}_cpu_2026-11.json"
    path.write_text(json.dumps({**result, "scans": rows, "repairs": repairs}, indent=1) + "\n")
    show(rows, repairs, result)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts for each attack, and for clean nets how many were accused or not decided."""
    attacks = {}
    for attack in sorted({row["attack"] for row in rows} - {"clean"}):
        of = [row for row in rows if row["attack"] == attack]
        attacks[attack] = {
            "victims": len(of),
            "target_named": sum(row["target"] in row["flagged"] for row in of),
            "target_alone_named": sum(row["flagged"] == [row["target"]] for row in of),
            "target_smallest_norm": sum(row["target"] == row["smallest_norm"] for row in of),
        }
    clean = [row for row in rows if row["attack"] == "clean"]
    return {
        "attacks": attacks,
        "clean": len(clean),
        "clean_accused": sum(bool(row["flagged"]) for row in clean),
        "inconclusive": sum(row["verdict"] == "inconclusive" for row in rows),
    }


def show(rows: list[dict[str, Any]], repairs: list[dict[str, Any]], result: dict[str, Any]) -> None:
    print(f"{'case':44} {'acc':>6} {'asr':>6} {'target':>6} {'smallest':>8} {'AI':>6}  flagged")
    for row in rows:
        asr = "-" if row["attack_success_rate"] is None else f"{row['attack_success_rate']:.4f}"
        target = "-" if row["target"] is None else row["target"]
        index = row["model_anomaly_index"]
        print(
            f"{row['case']:44} {row['accuracy']:6.4f} {asr:>6} {target:>6} {row['smallest_norm']:8} {index:6.2f}  "
            f"{row['flagged']} {row['verdict'] if row['reasons'] else ''}"
        )
    for row in repairs:
        figures = "  ".join(
            f"{name} {' -> '.join(f'{value:.4f}' for value in row[name])}" for name in ("accuracy", "true_asr")
        )
        print(f"repair {row['case']:44} {row['status']:9} {figures}")
    for attack, counts in result["attacks"].items():
        print(attack, counts)
    print({key: result[key] for key in ("clean", "clean_accused", "inconclusive", "not_trained")})


if __name__ == "__main__":
    main()
