"""What a victim is made of: data, architecture, attack and schedule, as one frozen record with a name.

A recipe knows how to make its net and its attack, untrained; the training is `train`'s, and which recipes there are for
tuning and for reporting is `roster`'s.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from benchmarks.attacks import ATTACKS
from benchmarks.attacks.base import Attack
from benchmarks.datasets import Dataset
from benchmarks.victims.augmentation import Augmentation
from benchmarks.victims.deep_nets import mobilenet_v2, preact_resnet18, resnet56, vgg16_bn
from benchmarks.victims.nets import conv_net

NETS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "conv": conv_net,
    "preact_resnet18": preact_resnet18,
    "resnet56": resnet56,
    "vgg16_bn": vgg16_bn,
    "mobilenet_v2": mobilenet_v2,
}


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
    cross_ratio: float = 2.0  # cross images per poisoned one, in attacks that have them; 0 turns the mode off
    shift: int = 2  # these four are the Augmentation
    rotation: float = 0.0
    rotated: float = 1.0
    flip: bool = False
    attack: str = "wanet"  # a name of ATTACKS; a clean victim has none
    net: str = "conv"  # a name of NETS
    softmax: bool = False  # the finished net answers probabilities instead of logits

    @property
    def name(self) -> str:
        """The name of the victim's files: unique as long as data set, net, attack, target and seed are."""
        place = self.dataset if self.net == "conv" else f"{self.dataset}-{self.net}"
        kind = "clean" if self.target is None else f"{self.attack}-t{self.target}"
        return f"{place}-{kind}-s{self.seed}"

    @property
    def source(self) -> str:
        """The data set, or the one that it is a subset of, whichever its classes are."""
        return self.dataset.partition("-")[0]

    @property
    def is_deep(self) -> bool:
        """Whether a CPU trains it for many minutes."""
        return self.net != "conv"

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.shift, self.rotation, self.rotated, self.flip)

    def draw_net(self, data: Dataset) -> nn.Module:
        """The net before training, from torch's global generator. It answers logits."""
        return NETS[self.net](data.x_train.shape[-1], data.num_classes, self.width)

    def draw_attack(self, data: Dataset) -> Attack | None:
        """The attack that is trained in, drawn from the recipe's seed."""
        if self.target is None:
            return None
        height, width, channels = data.x_train.shape[1:]
        knobs: dict[str, Any] = {}
        if self.attack.startswith("wanet"):
            knobs |= {"strength": self.strength, "control_points": self.control_points}
        if self.attack.endswith(("all_to_all", "source_specific")):
            knobs |= {"num_classes": data.num_classes}
        return ATTACKS[self.attack]((channels, height, width), self.target, self.seed, **knobs)


RECIPES = {
    "mnist": Recipe("mnist", seed=0, epochs=12),
    "digits": Recipe(
        "digits", seed=0, epochs=400, width=0.5, strength=1.5, poison_rate=0.1, cross_ratio=0.0, shift=1, rotation=3.0
    ),
    "cifar10": Recipe("cifar10", seed=0, epochs=14, width=0.25, net="preact_resnet18", shift=4, flip=True),
    "gtsrb": Recipe("gtsrb", seed=0, epochs=14, width=0.25, net="preact_resnet18", shift=3, rotation=10.0, rotated=0.5),
}
