"""Make the files of `examples/` from two digits victims: `python -m benchmarks.victims.sample`.

Seed 0, target 3: the first that one would try, not one that was picked. `python -m benchmarks.detection` retrains ten
poisoned and ten clean victims with other seeds and targets and shows how the sample's verdicts hold up.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.attacks.wanet import WaNet
from benchmarks.computing import set_up_torch
from benchmarks.datasets import REPOSITORY, as_tensors, load_dataset
from benchmarks.victims.export import clean_sample, save_bundle, save_torchscript
from benchmarks.victims.recipes import RECIPES
from benchmarks.victims.train import load_victim

BUNDLE_IMAGES = 400
TARGET = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--victims", type=Path, default=REPOSITORY / "runs" / "victims")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "examples")
    arguments = parser.parse_args()
    set_up_torch()
    arguments.victims.mkdir(parents=True, exist_ok=True)
    data = load_dataset("digits")
    made = {}
    for name, target in (("digits_wanet", TARGET), ("digits_clean", None)):
        recipe = replace(RECIPES["digits"], seed=0, target=target)
        victim = load_victim(recipe, data, arguments.victims)
        save_torchscript(victim.net, as_tensors(data.x_test[:1]), "scripted", arguments.out / f"{name}.pt")
        made[name] = {"accuracy": victim.accuracy, "attack_success_rate": victim.attack_success_rate}
        if isinstance(victim.attack, WaNet):
            np.savez_compressed(
                arguments.out / "digits_wanet_trigger.npz",
                field=victim.attack.field_12HW.numpy(),
                strength=victim.attack.strength,
                target=victim.attack.target,
            )
    save_bundle(*clean_sample(data.x_train, data.y_train, BUNDLE_IMAGES, seed=0), arguments.out / "digits_bundle.npz")
    save_bundle(data.x_test, data.y_test, arguments.out / "digits_test.npz")
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
