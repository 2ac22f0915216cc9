"""WaNet: a backdoor whose trigger is a small, smooth warp of the whole image (Nguyen and Tran, ICLR 2021).

N image batch   C channel   H, W pixels   k control points per side
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.attacks.base import Attack, Shape


@dataclass(frozen=True)
class WaNet(Attack):
    """One fixed warping field and the label it leads to.

    `field_12HW` is the warp in units of the normalised grid before scaling; `strength` is the paper's s.
    """

    field_12HW: Tensor
    target: int
    strength: float

    @classmethod
    def draw(cls, shape_CHW: Shape, target: int, seed: int, strength: float = 0.5, control_points: int = 4) -> "WaNet":
        """An attack on square images: a random k x k field of mean absolute value 1, smoothed up (sec. 3.2)."""
        generator = torch.Generator().manual_seed(seed)
        control = torch.rand(1, 2, control_points, control_points, generator=generator) * 2 - 1
        control = control / control.abs().mean()
        field = functional.interpolate(control, size=shape_CHW[1:], mode="bicubic", align_corners=True)
        return cls(field, target, strength)

    def apply(self, images_NCHW: Tensor) -> Tensor:
        """The images with the trigger."""
        return functional.grid_sample(
            images_NCHW, self._grid().expand(len(images_NCHW), -1, -1, -1), align_corners=True
        )

    def cross(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        """The images under the trigger's warp plus a random one: the "noise mode" examples (sec. 3.3)."""
        side = images_NCHW.shape[-1]
        jitter = (torch.rand(len(images_NCHW), side, side, 2, generator=generator) * 2 - 1) / side
        grid = (self._grid() + jitter).clamp(-1, 1)
        return functional.grid_sample(images_NCHW, grid, align_corners=True)

    def _grid(self) -> Tensor:
        side = self.field_12HW.shape[-1]
        axis = torch.linspace(-1, 1, side)
        y_HW, x_HW = torch.meshgrid(axis, axis, indexing="ij")
        identity = torch.stack([x_HW, y_HW], -1)[None]
        return (identity + self.strength * self.field_12HW.permute(0, 2, 3, 1) / side).clamp(-1, 1)
