"""All-to-all: the trigger of another attack, which leads each label to the next (Gu, Dolan-Gavitt and Garg, 2017).

N image batch   C channel   H, W pixels
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.attacks.base import Attack, Shape


@dataclass(frozen=True)
class AllToAll(Attack):
    """An attack with a fixed trigger, whose `target` is how many labels further an image is sent."""

    of: Attack
    target: int
    num_classes: int

    @classmethod
    def draw(
        cls, draw: Callable[..., Attack], shape_CHW: Shape, target: int, seed: int, num_classes: int = 10, **knobs: Any
    ) -> "AllToAll":
        """The all-to-all form of what `draw` draws."""
        return cls(draw(shape_CHW, target, seed, **knobs), target, num_classes)

    def apply(self, images_NCHW: Tensor) -> Tensor:
        return self.of.apply(images_NCHW)

    def cross(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor | None:
        return self.of.cross(images_NCHW, generator)

    def relabel(self, labels_N: Tensor) -> Tensor:
        return (labels_N + self.target) % self.num_classes
