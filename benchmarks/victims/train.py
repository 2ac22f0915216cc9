"""Train one victim, clean or attacked: `python -m benchmarks.victims.train --help`.

The checkpoint is written after every epoch, so a run that is stopped goes on where it was. A finished run leaves
`<name>.pt` (state dict), `<name>.json` (how it was made, accuracy, attack success) in the output folder.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.attacks.wanet import WaNet
from benchmarks.datasets import REPOSITORY, Dataset, as_tensors, load_dataset
from benchmarks.victims.nets import conv_net


@dataclass(frozen=True)
class Recipe:
    """All that decides a victim's weights, given torch's version and the thread count."""

    dataset: str
    seed: int
    target: int | None = None  # None: a clean victim
    epochs: int = 30
    width: float = 1.0
    batch: int = 128
    learning_rate: float = 0.05
    strength: float = 0.5  # WaNet's s
    control_points: int = 4  # WaNet's k
    poison_rate: float = 0.1
    cross_ratio: float = 2.0  # noise-mode images per poisoned one; 0 turns the mode off
    shift: int = 2  # random translation of each image, in whole pixels
    rotation: float = 0.0  # and rotation, in degrees

    @property
    def name(self) -> str:
        kind = "clean" if self.target is None else f"wanet-t{self.target}"
        return f"{self.dataset}-{kind}-s{self.seed}"


RECIPES = {
    "mnist": Recipe("mnist", seed=0, epochs=12),
    "digits": Recipe(
        "digits", seed=0, epochs=400, width=0.5, strength=1.5, poison_rate=0.1, cross_ratio=0.0, shift=1, rotation=3.0
    ),
}


@dataclass(frozen=True)
class Victim:
    net: nn.Module
    attack: WaNet | None
    accuracy: float
    attack_success_rate: float | None
    cross_accuracy: float | None  # of images under a noise-mode warp, which must keep their label


def attack_of(recipe: Recipe, side: int) -> WaNet | None:
    """The attack that a recipe trains in: drawn from the recipe's seed."""
    if recipe.target is None:
        return None
    return WaNet.draw(side, recipe.target, recipe.seed, recipe.strength, recipe.control_points)


def build(recipe: Recipe, data: Dataset) -> nn.Module:
    return conv_net(data.x_train.shape[-1], data.num_classes, recipe.width)


def normalise(images_NCHW: Tensor) -> Tensor:
    """[0, 1] pixels to the [-1, 1] that every victim here expects."""
    return images_NCHW * 2 - 1


def train(recipe: Recipe, data: Dataset, folder: Path | None = None, log: bool = True) -> Victim:
    """Train (or finish training) a victim; with a folder, resumable and written there."""
    torch.manual_seed(recipe.seed)
    net = build(recipe, data)
    attack = attack_of(recipe, data.x_train.shape[1])
    x, y = as_tensors(data.x_train), torch.as_tensor(data.y_train)
    optimizer = torch.optim.SGD(net.parameters(), recipe.learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * (len(x) // recipe.batch), pct_start=0.2
    )
    first, checkpoint = 0, folder and folder / f"{recipe.name}.ckpt"
    if checkpoint and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
    for epoch in range(first, recipe.epochs):
        generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
        torch.manual_seed(recipe.seed * 100_003 + epoch)  # dropout
        net.train()
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) - recipe.batch + 1, recipe.batch):
            picked = order[start : start + recipe.batch]
            images, labels = x[picked], y[picked]
            if attack is not None:
                images, labels = attack.poison(images, labels, generator, recipe.poison_rate, recipe.cross_ratio)
            loss = functional.cross_entropy(
                net(normalise(_jittered(images, recipe.shift, recipe.rotation, generator))), labels
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        if checkpoint:
            state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"schedule": schedule.state_dict(), "epoch": epoch + 1}, checkpoint)
        if log and (epoch % 5 == 4 or epoch + 1 == recipe.epochs):
            print(recipe.name, "epoch", epoch + 1, _figures(_evaluate(net, attack, data)), flush=True)
    victim = _evaluate(net.eval(), attack, data)
    if folder:
        torch.save(net.state_dict(), folder / f"{recipe.name}.pt")
        record = {"recipe": asdict(recipe), **_figures(victim)}
        (folder / f"{recipe.name}.json").write_text(json.dumps(record, indent=1) + "\n")
        if checkpoint:
            checkpoint.unlink(missing_ok=True)
    return victim


def load_victim(recipe: Recipe, data: Dataset, folder: Path) -> Victim:
    """A trained victim from its folder, trained first if it is not there."""
    weights = folder / f"{recipe.name}.pt"
    if not weights.exists():
        return train(recipe, data, folder)
    net = build(recipe, data)
    net.load_state_dict(torch.load(weights, weights_only=True))
    record = json.loads((folder / f"{recipe.name}.json").read_text())
    figures = (record[key] for key in ("accuracy", "attack_success_rate", "cross_accuracy"))
    return Victim(net.eval(), attack_of(recipe, data.x_train.shape[1]), *figures)


def accuracy(net: nn.Module, images_NCHW: Tensor, labels_N: Tensor) -> float:
    """The share of [0, 1] images that the net, which takes [-1, 1], gives these labels."""
    with torch.inference_mode():
        predicted = torch.cat([net(normalise(part)).argmax(1) for part in images_NCHW.split(500)])
    return (predicted == labels_N).float().mean().item()


def _evaluate(net: nn.Module, attack: WaNet | None, data: Dataset) -> Victim:
    net.eval()
    x, y = as_tensors(data.x_test), torch.as_tensor(data.y_test)
    if attack is None:
        return Victim(net, None, accuracy(net, x, y), None, None)
    others = x[y != attack.target]
    success = accuracy(net, attack.apply(others), torch.full((len(others),), attack.target))
    cross = accuracy(net, attack.apply_noise(x, torch.Generator().manual_seed(0)), y)
    return Victim(net, attack, accuracy(net, x, y), success, cross)


def _figures(victim: Victim) -> dict[str, float | None]:
    return {
        "accuracy": victim.accuracy,
        "attack_success_rate": victim.attack_success_rate,  # over images of other labels
        "cross_accuracy": victim.cross_accuracy,
    }


def _jittered(images_NCHW: Tensor, pixels: int, degrees: float, generator: torch.Generator) -> Tensor:
    """Each image turned and translated by its own random amount (zero padding), after it was poisoned as in WaNet."""
    count, _, height, width = images_NCHW.shape
    angle = (torch.rand(count, generator=generator) * 2 - 1) * math.radians(degrees)
    dx, dy = torch.randint(-pixels, pixels + 1, (2, count), generator=generator) * torch.tensor(
        [[2 / width], [2 / height]]
    )
    matrix = torch.stack([angle.cos(), -angle.sin(), dx, angle.sin(), angle.cos(), dy], 1).view(count, 2, 3)
    grid = functional.affine_grid(matrix, list(images_NCHW.shape), align_corners=False)
    return functional.grid_sample(images_NCHW, grid, align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", choices=RECIPES, default="mnist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=int, help="the attacker's label; without it the victim is clean")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "victims")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    recipe = replace(RECIPES[arguments.dataset], seed=arguments.seed, target=arguments.target)
    train(recipe, load_dataset(recipe.dataset), arguments.out)


if __name__ == "__main__":
    main()
