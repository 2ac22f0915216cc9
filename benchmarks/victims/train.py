"""Train victims, clean or attacked: `python -m benchmarks.victims.train --help`.

`--all` trains what the output folder lacks of the roster, in its order. A checkpoint is written after every epoch, so a
run that is stopped goes on where it was and ends with the same weights. A finished victim is `<name>.pt` (state dict),
`<name>.json` (how it was made, accuracy, attack success, cross accuracy, seconds) and, where the attack learned
something, `<name>.attack`.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.attacks.base import Attack
from benchmarks.computing import set_up_torch
from benchmarks.datasets import REPOSITORY, Dataset, as_tensors, load_dataset
from benchmarks.victims.recipes import RECIPES, Recipe
from benchmarks.victims.roster import ROSTER, in_order

VICTIMS = REPOSITORY / "runs" / "victims"
TRAINED = Path(__file__).parent / "trained"
PREPARATION_IMAGES = 10_000  # at most, for what an attack learns before the victim


@dataclass(frozen=True)
class Victim:
    net: nn.Module
    attack: Attack | None
    accuracy: float
    attack_success_rate: float | None  # over images that the attack gives another label than their own
    cross_accuracy: float | None  # of cross images, which must keep their label


def normalise(images_NCHW: Tensor) -> Tensor:
    """[0, 1] pixels to the [-1, 1] that every victim here expects."""
    return images_NCHW * 2 - 1


class Training:
    """A victim in the making: the net, what its attack learns, their optimizers, and how far they have come."""

    def __init__(self, recipe: Recipe, data: Dataset, device: str = "cpu") -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.data, self.device = recipe, data, device
        self.net = recipe.draw_net(data).to(device)
        if recipe.is_deep:
            self.net = self.net.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
        self.attack = recipe.draw_attack(data)
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), recipe.learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            recipe.learning_rate,
            total_steps=recipe.epochs * (len(data.x_train) // recipe.batch),
            pct_start=0.2,
        )
        self.attack_optimizer = self.attack.optimizer() if self.attack else None
        self.epoch, self.seconds = 0, 0.0

    def state(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self._parts()}
        return {**parts, "recipe": asdict(self.recipe), "epoch": self.epoch, "seconds": self.seconds}

    def restore(self, state: dict[str, Any]) -> None:
        if Recipe(**state["recipe"]) != self.recipe:
            raise ValueError(f"the checkpoint of {self.recipe.name} was made by another recipe: delete it")
        for name, part in self._parts():
            part.load_state_dict(state[name])
        self.epoch, self.seconds = state["epoch"], state["seconds"]

    def _parts(self) -> Iterator[tuple[str, Any]]:
        yield from (("net", self.net), ("optimizer", self.optimizer), ("schedule", self.schedule))
        if self.attack is not None and self.attack_optimizer is not None:
            yield from (("attack", self.attack.networks()), ("attack_optimizer", self.attack_optimizer))

    def run_epoch(self) -> float:
        """One pass over the data, and its mean loss. All randomness comes from the recipe's seed and the epoch."""
        started = time.monotonic()
        recipe, x, y = self.recipe, self.data.x_train, torch.as_tensor(self.data.y_train)
        generator = torch.Generator().manual_seed(recipe.seed * 100_003 + self.epoch)
        torch.manual_seed(recipe.seed * 100_003 + self.epoch)  # dropout
        order = torch.randperm(len(x), generator=generator)
        if self.attack is not None and self.epoch == 0:
            self.attack.prepare(as_tensors(x[order[:PREPARATION_IMAGES].numpy()]), generator)
        self.net.train()
        losses = []
        for start in range(0, len(x) - recipe.batch + 1, recipe.batch):
            picked = order[start : start + recipe.batch]
            losses.append(self._step(as_tensors(x[picked.numpy()]), y[picked], generator))
        self.epoch += 1
        self.seconds += time.monotonic() - started
        return float(np.mean(losses))

    def _step(self, images_NCHW: Tensor, labels_N: Tensor, generator: torch.Generator) -> float:
        batch, wanted, loss = images_NCHW, labels_N, torch.zeros(())
        if self.attack is not None:
            batch, wanted = self.attack.poison(
                batch, wanted, generator, self.recipe.poison_rate, self.recipe.cross_ratio
            )
            loss = self.attack.loss(images_NCHW, generator)
        moved = self.recipe.augmentation.apply(batch, generator).to(self.device)
        # 1.7 times as fast where a CPU has it.
        with torch.autocast(self.device, torch.bfloat16, enabled=self.recipe.is_deep):
            logits = self.net(normalise(moved))
        loss = loss.to(self.device) + functional.cross_entropy(logits.float(), wanted.to(self.device))
        optimizers = [optimizer for optimizer in (self.optimizer, self.attack_optimizer) if optimizer]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        self.schedule.step()
        return loss.item()


def train(recipe: Recipe, data: Dataset, folder: Path | None = None, log: bool = True, device: str = "cpu") -> Victim:
    """Train (or finish training) a victim; with a folder, resumable and written there."""
    training = Training(recipe, data, device)
    checkpoint = folder and folder / f"{recipe.name}.ckpt"
    if checkpoint and checkpoint.exists():
        training.restore(torch.load(checkpoint, map_location=device, weights_only=True))
    while training.epoch < recipe.epochs:
        loss = training.run_epoch()
        if checkpoint:
            _save(training.state(), checkpoint)
        if log:
            progress = f"epoch {training.epoch}/{recipe.epochs}  loss {loss:.4f}  {training.seconds:.0f} s"
            print(f"{recipe.name}  {progress}", flush=True)
    if recipe.is_deep:
        training.net.half().float()
    victim = _finished(training.net, training.attack, recipe, data)
    victim.net.cpu()
    if folder:
        _record(victim, training, folder)
    return victim


def home(recipe: Recipe, folder: Path = VICTIMS) -> Path | None:
    """The folder with the finished victim: that of the trained deep nets, or the given one; None if there is none."""
    return next((place for place in (TRAINED, folder) if (place / f"{recipe.name}.pt").exists()), None)


def missing(recipes: Iterable[Recipe], folder: Path) -> list[Recipe]:
    """Those of the recipes whose victims are not finished."""
    return [recipe for recipe in recipes if home(recipe, folder) is None]


def load_victim(recipe: Recipe, data: Dataset, folder: Path) -> Victim:
    """A trained victim from its folder, trained first if it is not there."""
    there = home(recipe, folder)
    if there is None:
        return train(recipe, data, folder)
    weights, record = there / f"{recipe.name}.pt", there / f"{recipe.name}.json"
    made = json.loads(record.read_text())
    if Recipe(**made["recipe"]) != recipe:
        raise ValueError(f"{weights} was made by another recipe (see {record.name}): move it away, or take that recipe")
    net, attack = recipe.draw_net(data), recipe.draw_attack(data)
    net.load_state_dict(torch.load(weights, weights_only=True))
    if attack is not None and (learned := attack.networks()) is not None:
        learned.load_state_dict(torch.load(there / f"{recipe.name}.attack", weights_only=True))
    figures = (made[key] for key in ("accuracy", "attack_success_rate", "cross_accuracy"))
    return Victim(*_ready(net, attack, recipe), *figures)


def accuracy(net: nn.Module, images_NCHW: Tensor, labels_N: Tensor) -> float:
    """The share of [0, 1] images that the net, which takes [-1, 1], gives these labels; computed where the net is."""
    device = next(net.parameters()).device
    with torch.inference_mode():
        predicted = torch.cat([net(normalise(part.to(device))).argmax(1) for part in images_NCHW.split(500)])
    return (predicted.cpu() == labels_N).float().mean().item()


def attack_success(net: nn.Module, attack: Attack, images_NCHW: Tensor, labels_N: Tensor) -> float:
    """The share of images with the trigger that the net answers as the attacker wants, of those with another label."""
    wanted = attack.relabel(labels_N)
    others = wanted != labels_N
    return accuracy(net, attack.apply(images_NCHW[others]), wanted[others])


def _ready(net: nn.Module, attack: Attack | None, recipe: Recipe) -> tuple[nn.Module, Attack | None]:
    """Net and attack as they are used once trained: in evaluation mode, the attack's networks fixed."""
    if attack is not None and (learned := attack.networks()) is not None:
        learned.requires_grad_(False)
    net = net.to(memory_format=torch.contiguous_format)
    return (nn.Sequential(net, nn.Softmax(1)) if recipe.softmax else net).eval(), attack


def _finished(net: nn.Module, attack: Attack | None, recipe: Recipe, data: Dataset) -> Victim:
    net, attack = _ready(net, attack, recipe)
    x, y = as_tensors(data.x_test), torch.as_tensor(data.y_test)
    if attack is None:
        return Victim(net, None, accuracy(net, x, y), None, None)
    success = attack_success(net, attack, x, y)
    crossed = attack.cross(x, torch.Generator().manual_seed(0))
    return Victim(net, attack, accuracy(net, x, y), success, None if crossed is None else accuracy(net, crossed, y))


def _record(victim: Victim, training: Training, folder: Path) -> None:
    """The victim's files, the weights last: where they are, the rest is."""
    recipe, state = training.recipe, training.state()
    if "attack" in state:
        _save(state["attack"], folder / f"{recipe.name}.attack")
    figures = {key: getattr(victim, key) for key in ("accuracy", "attack_success_rate", "cross_accuracy")}
    made = {"recipe": asdict(recipe), **figures, "seconds": round(training.seconds)}
    made |= {"torch": torch.__version__, "device": training.device}
    (folder / f"{recipe.name}.json").write_text(json.dumps(made, indent=1) + "\n")
    net = state["net"]
    if recipe.is_deep:
        net = {name: numbers.half() if numbers.is_floating_point() else numbers for name, numbers in net.items()}
    _save(net, folder / f"{recipe.name}.pt")
    (folder / f"{recipe.name}.ckpt").unlink(missing_ok=True)
    print(recipe.name, figures, flush=True)


def _save(state: dict[str, Any], path: Path) -> None:
    """Written whole, then renamed, so that no stop leaves half a file."""
    begun = path.with_name(f"{path.name}.part")
    torch.save(state, begun)
    os.replace(begun, path)


def _train_into(folder: Path, device: str, recipe: Recipe) -> None:
    train(recipe, load_dataset(recipe.dataset), folder, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="the whole roster, as far as it is missing")
    parser.add_argument("--only", default="", metavar="BEGINNING", help="of the roster, the names that begin like this")
    parser.add_argument("--use", choices=list(ROSTER), help="of the roster, those for tuning or those for reporting")
    parser.add_argument("--jobs", type=int, default=1, help="victims side by side, one thread each")
    parser.add_argument("--dataset", choices=RECIPES, default="mnist", help="without --all: one victim of this recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=int, help="the attacker's label; without it the victim is clean")
    parser.add_argument("--out", type=Path, default=VICTIMS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.all:
        listed = ROSTER[arguments.use] if arguments.use else in_order()
        recipes = [recipe for recipe in listed if recipe.name.startswith(arguments.only)]
    else:
        recipes = [replace(RECIPES[arguments.dataset], seed=arguments.seed, target=arguments.target)]
    wanted = missing(recipes, arguments.out)
    print(f"{len(wanted)} of {len(recipes)} victims to train", flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, context, set_up_torch, (arguments.threads,)) as pool:
        list(pool.map(partial(_train_into, arguments.out, arguments.device), wanted))


if __name__ == "__main__":
    main()
