"""What the learning rate does to a repair, the paper's figure 5: `python -m benchmarks.learning_rates mnist`

Repairs the first WaNet victims of the roster that are to be reported on, with 5 % of the training images and one
learning rate after another: by fine-tuning (the paper's control), by the preset `paper`, which is told the target, and
by neural attention distillation; each otherwise as published. `standard` chooses its rate by itself and is not among
them. Judged on all test images with the attack's own trigger. Every finished repair is kept in `runs/detection`.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from app.core.presets import preset_config
from benchmarks.baselines.fine_tuning import WEAK, fine_tuned
from benchmarks.baselines.nad import distilled
from benchmarks.computing import set_up_torch
from benchmarks.datasets import Dataset, as_tensors, load_dataset
from benchmarks.detection import RUNS, SCAN_IMAGES, THREADS, Case, first_victims, place
from benchmarks.recording import kept, write_result
from benchmarks.repair import handed_out, judge, repair_target
from benchmarks.victims.export import clean_sample
from benchmarks.victims.train import Victim

RATES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)
METHODS = ("fine_tune_weak", "nad", "paper")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(SCAN_IMAGES))
    parser.add_argument("--images", type=int, help="in each bundle; without it 5 % of the training images")
    parser.add_argument("--victims", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="repairs side by side, one thread each")
    arguments = parser.parse_args()
    set_up_torch()
    RUNS.mkdir(parents=True, exist_ok=True)
    data = load_dataset(arguments.dataset)
    images = arguments.images or len(data.x_train) // 20
    attacked = {
        recipe: victim
        for recipe, victim in first_victims(arguments.dataset, data, arguments.victims).items()
        if victim.attack is not None
    }
    cases = {recipe: Case(recipe, "paper", images, repairs=True) for recipe in attacked}
    for recipe, case in cases.items():
        place(case, attacked[recipe], data)
    todo = [(method, rate, recipe) for method in METHODS for rate in RATES for recipe in attacked]

    def row_of(method: str, rate: float, recipe: Any) -> dict[str, Any]:
        path = RUNS / f"{recipe.name}-{images}-{method}-rate{rate:g}.json"
        return kept(path, partial(repair, method, rate, cases[recipe], attacked[recipe], data), preset_config("paper"))

    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda asked: row_of(*asked), todo))
    result = {"dataset": arguments.dataset, "images": images, "threads": THREADS, "repairs": rows}
    write_result(f"learning_rates-{arguments.dataset}", result)
    for row in rows:
        after = row["after"]
        print(
            f"{row['victim']:20} {row['method']:15} {row['rate']:7g}  {after['accuracy']:.4f} {after['true_asr']:.4f}"
        )


def repair(method: str, rate: float, case: Case, victim: Victim, data: Dataset) -> dict[str, Any]:
    """The row of one repair."""
    recipe = case.recipe
    images, labels = clean_sample(data.x_train, data.y_train, case.images, seed=recipe.seed)
    bundle = as_tensors(images), torch.as_tensor(labels)
    net: nn.Module
    if method == "fine_tune_weak":
        net = fine_tuned(replace(WEAK, learning_rate=rate), victim.net, *bundle, recipe.augmentation, recipe.seed)
    elif method == "nad":
        net = distilled(victim.net, *bundle, recipe.augmentation, recipe.seed, learning_rate=rate)
    else:
        net = unlearned(rate, case, victim, data)
    judged = {"before": judge(victim.net, victim, data), "after": judge(net, victim, data)}
    return {"victim": recipe.name, "method": method, "rate": rate, **judged}


def unlearned(rate: float, case: Case, victim: Victim, data: Dataset) -> nn.Module:
    """The victim after the paper's repair at this rate, whatever it costs; as it was if that refuses nonetheless."""
    config = preset_config("paper", max_accuracy_drop=1.0)
    config = replace(config, repair=replace(config.repair, learning_rate=rate))
    out = RUNS / f"{case.name}-rate{rate:g}"
    repair_target(case, victim, data, config, out)
    return handed_out(out) or victim.net


if __name__ == "__main__":
    main()
