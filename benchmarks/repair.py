"""Is the backdoor gone, and at what price? `python -m benchmarks.repair digits|mnist|cifar10|gtsrb [--images N]`

Repairs the attacked victims of the roster that are to be reported on, or `--use tuning` those for tuning, in several
ways, each with the same clean training images, and judges what came of it on all test images: accuracy, and the success
of the attack's true trigger.

standard            a whole scan with `--repair`, which repairs what it accuses; a victim that it misses stays as it is
paper               `triggerlens repair --preset paper --label TARGET`: the label is told, the verdict left out
fine_tune_weak      the paper's control, on the clean images alone
fine_tune_strong    the control that is hard to beat (benchmarks/baselines/fine_tuning.py)
nad                 neural attention distillation (benchmarks/baselines/nad.py)
super_fine_tune     fine-tuning at rates that rise and fall (benchmarks/baselines/super_fine_tuning.py)
ft_sam              fine-tuning with sharpness-aware minimisation (benchmarks/baselines/ft_sam.py)
sau                 shared adversarial unlearning (benchmarks/baselines/sau.py)
nft                 neural mask fine-tuning (benchmarks/baselines/nft.py)

Every finished repair is kept in `runs/detection`. The table goes to `benchmarks/results/` where all methods and attacks
are asked for.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from app.core.config import ScanConfig
from app.core.intake.declaration import DeclaredInput
from app.core.presets import preset_config
from app.local_scan import job_for, run_scan
from benchmarks.attacks import ATTACKS
from benchmarks.baselines.fine_tuning import STRONG, WEAK, fine_tuned
from benchmarks.baselines.ft_sam import sharpness_aware
from benchmarks.baselines.nad import distilled
from benchmarks.baselines.nft import masked
from benchmarks.baselines.sau import unlearned
from benchmarks.baselines.super_fine_tuning import super_fine_tuned
from benchmarks.computing import set_up_torch
from benchmarks.datasets import Dataset, as_tensors, load_dataset
from benchmarks.detection import RUNS, SCAN_IMAGES, THREADS, VICTIMS, Case, is_trained, place, scan
from benchmarks.recording import kept, write_result
from benchmarks.victims.augmentation import Augmentation
from benchmarks.victims.export import clean_sample
from benchmarks.victims.roster import ROSTER
from benchmarks.victims.train import Victim, accuracy, attack_success, load_victim
from models.suspect import load_suspect

Rival = Callable[[nn.Sequential, Tensor, Tensor, Augmentation, int], nn.Module]
RIVALS: dict[str, Rival] = {
    "fine_tune_weak": partial(fine_tuned, WEAK),
    "fine_tune_strong": partial(fine_tuned, STRONG),
    "nad": distilled,
    "super_fine_tune": super_fine_tuned,
    "ft_sam": sharpness_aware,
    "sau": unlearned,
    "nft": masked,
}
METHODS = ("standard", "paper", *RIVALS)
REPAIRED = ("wanet", "badnets", "badnets_grid")


def repaired(method: str, case: Case, victim: Victim, data: Dataset) -> tuple[nn.Module | None, dict[str, Any]]:
    """The net after one way of repair, None where none was handed out, and what was said of it."""
    if method in RIVALS:
        recipe = case.recipe
        images, labels = clean_sample(data.x_train, data.y_train, case.images, seed=recipe.seed)
        bundle = as_tensors(images), torch.as_tensor(labels)
        return RIVALS[method](victim.net, *bundle, recipe.augmentation, recipe.seed), {}
    if method == "standard":
        report, out = scan(case, victim, data)["repair"], RUNS / case.name
    else:
        out = RUNS / case.name
        report = repair_target(case, victim, data, preset_config(case.preset), out)
    return handed_out(out), {"report": report}


def repair_target(case: Case, victim: Victim, data: Dataset, config: ScanConfig, out: Path) -> dict[str, Any]:
    """Have the engine unlearn the target, which it is told, as far as `out`; what it says of it."""
    model, bundle = place(case, victim, data)
    options: dict[str, Any] = {"input": DeclaredInput(), "device": "cpu", "threads": THREADS}
    job = job_for(model, bundle, config=config, repair=True, repair_label=case.recipe.target, **options)
    report = run_scan(job, model, bundle, out, on_event=lambda event: None).repair
    assert report is not None
    return {"status": report.status.value, "detail": report.detail}


def handed_out(out: Path) -> nn.Module | None:
    """The repaired net, where the engine gave one."""
    weights = out / "repaired.pt"
    return load_suspect(weights).module if weights.exists() else None


def repair(method: str, case: Case, victim: Victim, data: Dataset) -> dict[str, Any]:
    """The row of one repair, made now or read from an earlier run."""

    def row() -> dict[str, Any]:
        net, said = repaired(method, case, victim, data)
        judged = {"before": judge(victim.net, victim, data), "after": judge(net or victim.net, victim, data)}
        return {"victim": case.recipe.name, "attack": case.attack, "method": method, **said, **judged}

    config = None if method in RIVALS else preset_config(case.preset)
    return kept(RUNS / f"{case.recipe.name}-{case.images}-{method}-repair.json", row, config)


def judge(net: nn.Module, victim: Victim, data: Dataset) -> dict[str, float]:
    """Accuracy, and the success of the true trigger, on all test images."""
    assert victim.attack is not None
    images, labels = as_tensors(data.x_test), torch.as_tensor(data.y_test)
    success = attack_success(net, victim.attack, images, labels)
    return {"accuracy": accuracy(net, images, labels), "true_asr": success}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(SCAN_IMAGES))
    parser.add_argument("--images", type=int, help="in each bundle")
    parser.add_argument("--use", choices=list(ROSTER), default="reporting")
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=REPAIRED)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--jobs", type=int, default=2, help="repairs side by side, one thread each")
    arguments = parser.parse_args()
    set_up_torch()
    for folder in (VICTIMS, RUNS):
        folder.mkdir(parents=True, exist_ok=True)
    data, images = load_dataset(arguments.dataset), arguments.images or SCAN_IMAGES[arguments.dataset]
    listed = [r for r in ROSTER[arguments.use] if r.dataset == arguments.dataset and r.target is not None]
    recipes = [recipe for recipe in listed if recipe.attack in arguments.attacks and is_trained(recipe)]
    victims = {recipe: load_victim(recipe, data, VICTIMS) for recipe in recipes}

    def row_of(method: str, recipe: Any) -> dict[str, Any]:
        preset = "standard" if method in RIVALS else method
        return repair(method, Case(recipe, preset, images, repairs=True), victims[recipe], data)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda pair: row_of(*pair), [(m, r) for m in arguments.methods for r in recipes]))
    show(rows)
    if ({*arguments.methods}, {*arguments.attacks}) != ({*METHODS}, {*REPAIRED}):
        return  # a part takes the place of nothing
    result = {"dataset": arguments.dataset, "use": arguments.use, "images": images, "threads": THREADS}
    use = "" if arguments.use == "reporting" else f"-{arguments.use}"
    write_result(f"repair-{arguments.dataset}-{images}{use}", {**result, "repairs": rows})


def show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        before, after, status = row["before"], row["after"], row.get("report") and row["report"]["status"]
        print(
            f"{row['victim']:26} {row['method']:17} success {before['true_asr']:.4f} -> {after['true_asr']:.4f}  "
            f"accuracy {before['accuracy']:.4f} -> {after['accuracy']:.4f}  {status or ''}"
        )
    print(f"{'method':17} {'attack':14} {'n':>3}   success: median   worst   points lost: median  worst")
    for method, attack in sorted({(row["method"], row["attack"]) for row in rows}):
        of = [row for row in rows if (row["method"], row["attack"]) == (method, attack)]
        success = [row["after"]["true_asr"] for row in of]
        lost = [100 * (row["before"]["accuracy"] - row["after"]["accuracy"]) for row in of]
        print(
            f"{method:17} {attack:14} {len(of):3} {median(success):17.4f} {max(success):7.4f} "
            f"{median(lost):21.2f} {max(lost):6.2f}"
        )


if __name__ == "__main__":
    main()
