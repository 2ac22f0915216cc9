"""Blended: a backdoor whose trigger is one fixed picture, laid over the whole image (Chen et al., 2017).

N image batch   C channel   H, W pixels
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.attacks.base import Attack, Shape


@dataclass(frozen=True)
class Blended(Attack):
    """The picture, how much of it is blended in, and the label it leads to."""

    pattern_CHW: Tensor
    target: int
    alpha: float

    @classmethod
    def draw(cls, shape_CHW: Shape, target: int, seed: int, alpha: float = 0.2) -> "Blended":
        """The paper's random pattern: every pixel of every channel drawn on its own."""
        return cls(torch.rand(shape_CHW, generator=torch.Generator().manual_seed(seed)), target, alpha)

    def apply(self, images_NCHW: Tensor) -> Tensor:
        """The images with the picture shining through."""
        return torch.lerp(images_NCHW, self.pattern_CHW.expand_as(images_NCHW), self.alpha)
