"""Small random movements of training images. They come after the poisoning, so a trigger moves with its image.

N image batch   C channel   H, W pixels
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """How far each image may move on its own; what moves in from outside is black."""

    shift: int = 2  # translation in whole pixels: a random crop of the padded image
    rotation: float = 0.0  # degrees
    rotated: float = 1.0  # the share of images that are turned at all: turning smears a small warp
    flip: bool = False  # mirror half of the images

    def apply(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Each image turned, mirrored and translated by its own random amount."""
        count, _, height, width = images_NCHW.shape
        angle = (torch.rand(count, generator=generator) * 2 - 1) * math.radians(self.rotation)
        dx, dy = torch.randint(-self.shift, self.shift + 1, (2, count), generator=generator) * torch.tensor(
            [[2 / width], [2 / height]]
        )
        if self.rotated < 1:
            angle = angle * (torch.rand(count, generator=generator) < self.rotated)
        side = torch.ones(count)
        if self.flip:
            side = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1
        rows = [side * angle.cos(), -angle.sin(), dx, side * angle.sin(), angle.cos(), dy]
        grid = functional.affine_grid(
            torch.stack(rows, 1).view(count, 2, 3), list(images_NCHW.shape), align_corners=False
        )
        return functional.grid_sample(images_NCHW, grid, align_corners=False)
