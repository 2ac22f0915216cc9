"""BadNets: a backdoor whose trigger is a small patch in a corner (Gu, Dolan-Gavitt and Garg, 2017).

N image batch   C channel   H, W pixels
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from benchmarks.attacks.base import Attack, Shape

SIDE = 3
MARGIN = 1  # pixels between the patch and the edges


@dataclass(frozen=True)
class BadNets(Attack):
    """Pixels that are painted over, where `mask_HW` is 1, and the label they lead to."""

    mask_HW: Tensor
    pattern_HW: Tensor
    target: int

    @classmethod
    def draw(cls, shape_CHW: Shape, target: int, seed: int, chequered: bool = False, **more: Any) -> Self:
        """A patch of 3 x 3 pixels, all white, or black and white in turn, in one of the four corners."""
        _, height, width = shape_CHW
        low, right = torch.randint(0, 2, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
        top = height - MARGIN - SIDE if low else MARGIN
        left = width - MARGIN - SIDE if right else MARGIN
        y_HW, x_HW = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        mask = (top <= y_HW) & (y_HW < top + SIDE) & (left <= x_HW) & (x_HW < left + SIDE)
        white = (y_HW - top + x_HW - left) % 2 == 0 if chequered else torch.ones_like(mask)
        return cls(mask.float(), white.float(), target, **more)

    def apply(self, images_NCHW: Tensor) -> Tensor:
        """The images with the patch."""
        return images_NCHW * (1 - self.mask_HW) + self.pattern_HW * self.mask_HW
