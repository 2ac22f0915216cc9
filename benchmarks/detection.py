"""Does the scan name the target? `python -m benchmarks.detection digits|mnist|cifar10|gtsrb [--preset paper]`

Scans the victims of the roster that are to be reported on, or `--use tuning` those for tuning, none picked: how many
targets are named, how many clean nets are accused. Digits with 400 clean training images a scan, MNIST with 600 (1 %),
CIFAR-10 with 500 (1 %), GTSRB with 430 (1.6 %), or `--images` of them.

`mnist --preset paper` is the paper's own case: three WaNet victims (s = 0.5, k = 4), each scripted, traced and frozen.
`--attacks wanet badnets` scans the victims of these attacks only.

Victims are trained by `benchmarks.victims.train`; those that are missing are counted. Every finished scan is kept in
`runs/detection`, so a run that is stopped goes on where it was; the table goes to `benchmarks/results/`.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.core.config import ScanConfig
from app.core.intake.declaration import DeclaredInput
from app.core.intake.torchscript.code.syntax import ONE_PARSER_AT_A_TIME
from app.core.presets import PRESETS, preset_config
from app.local_scan import job_for, run_scan
from benchmarks.computing import set_up_torch
from benchmarks.datasets import REPOSITORY, Dataset, as_tensors, load_dataset
from benchmarks.recording import is_kept, kept, write_result
from benchmarks.victims.export import clean_sample, save_bundle, save_torchscript
from benchmarks.victims.roster import ROSTER
from benchmarks.victims.train import VICTIMS, Recipe, Victim, home, load_victim

RUNS = REPOSITORY / "runs" / "detection"
SCAN_IMAGES = {"digits": 400, "mnist": 600, "cifar10": 500, "gtsrb": 430}
READ = ("norm", "p_value", "flagged", "out_of_reach", "reference_norms")  # of each family's finding
NOTHING_DECLARED = DeclaredInput()
THREADS = 1  # of each scan; --jobs of them run side by side


@dataclass(frozen=True)
class Case:
    """One victim, and how it is scanned."""

    recipe: Recipe
    preset: str
    images: int
    repairs: bool = False  # what it accuses
    device: str = "cpu"
    seed: int = 0  # of the scan
    labelled: bool = True  # whether the bundle says what its images show
    without: int | None = None  # a class that the bundle has no image of
    declared: DeclaredInput = NOTHING_DECLARED

    @property
    def name(self) -> str:
        unusual = {
            f"-seed{self.seed}": self.seed,
            "-unlabelled": not self.labelled,
            f"-without{self.without}": self.without is not None,
            f"-mean{self.declared.mean}": self.declared.mean,
            "-repair": self.repairs,
        }
        return f"{self.recipe.name}-{self.preset}-{self.images}{''.join(filter(unusual.get, unusual))}"

    @property
    def attack(self) -> str:
        return "clean" if self.recipe.target is None else self.recipe.attack


def cases(dataset: str, preset: str, use: str, images: int, seed: int = 0) -> list[Case]:
    recipes = [recipe for recipe in ROSTER[use] if recipe.dataset == dataset]
    return [Case(recipe, preset, images, seed=seed) for recipe in recipes]


def is_trained(recipe: Recipe) -> bool:
    return home(recipe, VICTIMS) is not None


def chosen(dataset: str, number: int) -> list[Recipe]:
    """The first trained WaNet victims and clean nets of the data set."""
    listed = [recipe for recipe in ROSTER["reporting"] if recipe.dataset == dataset and is_trained(recipe)]
    attacked = [recipe for recipe in listed if recipe.target is not None and recipe.attack == "wanet"]
    clean = [recipe for recipe in listed if recipe.target is None]
    return [*attacked[:number], *clean[:number]]


def first_victims(dataset: str, data: Dataset, number: int) -> dict[Recipe, Victim]:
    """Those that are chosen, loaded."""
    return {recipe: load_victim(recipe, data, VICTIMS) for recipe in chosen(dataset, number)}


def place(case: Case, victim: Victim, data: Dataset) -> tuple[Path, Path]:
    """The victim's archive and a bundle of so many clean training images, as a user would hand them in."""
    model, bundle = RUNS / f"{case.name}.pt", RUNS / f"{case.name}-bundle.npz"
    if not bundle.exists():  # the same archive again, so that a scan that was stopped goes on
        with ONE_PARSER_AT_A_TIME:  # torch.jit.script's, while another thread's scan may be reading an archive
            save_torchscript(victim.net, as_tensors(data.x_test[:1]), "scripted", model)
        images, labels = clean_sample(data.x_train, data.y_train, case.images, seed=case.recipe.seed)
        there = labels != case.without
        save_bundle(images[there], labels[there] if case.labelled else None, bundle)
    return model, bundle


def scan(case: Case, victim: Victim, data: Dataset) -> dict[str, Any]:
    """The row of one case: scanned by the engine that users run, or read from an earlier run.

    A scan that went on to a repair says the same as one that did not.
    """
    config, with_repair = preset_config(case.preset, case.seed), replace(case, repairs=True)
    if is_kept(RUNS / f"{with_repair.name}.json", config):
        case = with_repair
    return kept(RUNS / f"{case.name}.json", lambda: _scanned(case, config, victim, data), config)


def _scanned(case: Case, config: ScanConfig, victim: Victim, data: Dataset) -> dict[str, Any]:
    model, bundle = place(case, victim, data)
    options: dict[str, Any] = {"input": case.declared, "device": case.device, "threads": THREADS}
    job = job_for(model, bundle, config=config, repair=case.repairs, **options)
    document = run_scan(job, model, bundle, RUNS / case.name, on_event=lambda event: None).document
    assert document is not None
    return {
        "case": case.name,
        "attack": case.attack,
        "target": None if case.attack.endswith("all_to_all") else case.recipe.target,
        "accuracy": victim.accuracy,
        "attack_success_rate": victim.attack_success_rate,
        "verdict": document["verdict"],
        "reasons": document["reasons"],
        "flagged": document["flagged_labels"],
        "model_anomaly_index": document["model_anomaly_index"],
        "norms": [row["norm"] for row in document["labels"]],
        "anomaly_indices": [row["anomaly_index"] for row in document["labels"]],
        "success": [row["attack_success_rate"] for row in document["labels"]],
        "families": {
            family: [
                {name: found[name] for name in READ} | {"p_value_again": (found["confirmation"] or {}).get("p_value")}
                for label in document["labels"]
                for found in label["families"]
                if found["family"] == family
            ]
            for family in document["coverage"]["families"]
        },
        "device": case.device,
        "seconds": document["timings"],
        "repair": document["repair"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(SCAN_IMAGES))
    parser.add_argument("--preset", choices=list(PRESETS), default="standard")
    parser.add_argument("--use", choices=list(ROSTER), default="reporting")
    parser.add_argument("--images", type=int, help="in each bundle")
    parser.add_argument("--attacks", nargs="+", help="only those that begin like this; nothing is written")
    parser.add_argument("--seed", type=int, default=0, help="of the scans")
    parser.add_argument("--jobs", type=int, default=2, help="scans side by side, one thread each")
    arguments = parser.parse_args()
    set_up_torch()
    for folder in (VICTIMS, RUNS):
        folder.mkdir(parents=True, exist_ok=True)
    data = load_dataset(arguments.dataset)
    images = arguments.images or SCAN_IMAGES[arguments.dataset]
    listed = cases(arguments.dataset, arguments.preset, arguments.use, images, arguments.seed)
    if arguments.attacks:
        listed = [case for case in listed if case.attack.startswith(tuple(arguments.attacks))]
    todo = [case for case in listed if is_trained(case.recipe)]
    victims = {case.recipe: load_victim(case.recipe, data, VICTIMS) for case in todo}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda case: scan(case, victims[case.recipe], data), todo))
    result = {"dataset": arguments.dataset, "preset": arguments.preset, "use": arguments.use, "seed": arguments.seed}
    result |= {"images": images, "not_trained": len(listed) - len(todo), **summary(rows)}
    result |= {"threads": THREADS}
    show(rows, result)
    if arguments.attacks:
        return  # a part takes the place of nothing
    unusual = {
        f"-{images}": images != SCAN_IMAGES[arguments.dataset],
        f"-{arguments.use}": arguments.use != "reporting",
        f"-seed{arguments.seed}": arguments.seed,
    }
    name = f"detection-{arguments.dataset}-{arguments.preset}{''.join(filter(unusual.get, unusual))}"
    write_result(name, {**result, "scans": rows})


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts for each attack, and for clean nets how many were accused or not decided."""
    attacks = {}
    for attack in sorted({row["attack"] for row in rows} - {"clean"}):
        of = [row for row in rows if row["attack"] == attack]
        attacks[attack] = {
            "victims": len(of),
            "accused": sum(bool(row["flagged"]) for row in of),
            "target_named": sum(row["target"] in row["flagged"] for row in of),
            "target_alone_named": sum(row["flagged"] == [row["target"]] for row in of),
        }
    clean = [row for row in rows if row["attack"] == "clean"]
    return {
        "attacks": attacks,
        "clean": len(clean),
        "clean_accused": sum(bool(row["flagged"]) for row in clean),
        "inconclusive": sum(row["verdict"] == "inconclusive" for row in rows),
    }


def show(rows: list[dict[str, Any]], result: dict[str, Any]) -> None:
    print(f"{'case':44} {'acc':>6} {'asr':>6} {'target':>6} {'AI':>6}  flagged")
    for row in rows:
        asr = "-" if row["attack_success_rate"] is None else f"{row['attack_success_rate']:.4f}"
        target = "-" if row["target"] is None else row["target"]
        index = row["model_anomaly_index"]
        print(
            f"{row['case']:44} {row['accuracy']:6.4f} {asr:>6} {target:>6} {index:6.2f}  "
            f"{row['flagged']} {row['verdict'] if row['reasons'] else ''}"
        )
    for attack, counts in result["attacks"].items():
        print(attack, counts)
    print({key: result[key] for key in ("clean", "clean_accused", "inconclusive", "not_trained")})


if __name__ == "__main__":
    main()
