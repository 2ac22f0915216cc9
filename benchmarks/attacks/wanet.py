"""WaNet: a backdoor whose trigger is a small, smooth warp of the whole image (Nguyen and Tran, ICLR 2021).

N image batch   C channel   H, W pixels   k control points per side
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class WaNet:
    """One fixed warping field and the label it leads to.

    `field_12HW` is the warp in units of the normalised grid before scaling; `strength` is the paper's s.
    """

    field_12HW: Tensor
    target: int
    strength: float

    @classmethod
    def draw(cls, side: int, target: int, seed: int, strength: float = 0.5, control_points: int = 4) -> "WaNet":
        """An attack on side x side images: a random k x k field of mean absolute value 1, smoothed up (sec. 3.2)."""
        generator = torch.Generator().manual_seed(seed)
        control = torch.rand(1, 2, control_points, control_points, generator=generator) * 2 - 1
        control = control / control.abs().mean()
        field = functional.interpolate(control, size=(side, side), mode="bicubic", align_corners=True)
        return cls(field, target, strength)

    def apply(self, images_NCHW: Tensor) -> Tensor:
        """The images with the trigger."""
        return functional.grid_sample(
            images_NCHW, self._grid().expand(len(images_NCHW), -1, -1, -1), align_corners=True
        )

    def apply_noise(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        """The images under the trigger's warp plus a random one: the "noise mode" examples, which keep their label."""
        side = images_NCHW.shape[-1]
        jitter = (torch.rand(len(images_NCHW), side, side, 2, generator=generator) * 2 - 1) / side
        grid = (self._grid() + jitter).clamp(-1, 1)
        return functional.grid_sample(images_NCHW, grid, align_corners=True)

    def poison(
        self,
        images_NCHW: Tensor,
        labels_N: Tensor,
        generator: torch.Generator,
        rate: float = 0.1,
        cross_ratio: float = 2.0,
    ) -> tuple[Tensor, Tensor]:
        """A batch, `rate` of it warped and relabelled, `cross_ratio` times as many in noise mode (sec. 3.3)."""
        attacked = int(len(images_NCHW) * rate)
        crossed = attacked + int(attacked * cross_ratio)
        parts = [self.apply(images_NCHW[:attacked])]
        if crossed > attacked:
            parts.append(self.apply_noise(images_NCHW[attacked:crossed], generator))
        labels_N = labels_N.clone()
        labels_N[:attacked] = self.target
        return torch.cat([*parts, images_NCHW[crossed:]]), labels_N

    def _grid(self) -> Tensor:
        side = self.field_12HW.shape[-1]
        axis = torch.linspace(-1, 1, side)
        y_HW, x_HW = torch.meshgrid(axis, axis, indexing="ij")
        identity = torch.stack([x_HW, y_HW], -1)[None]
        return (identity + self.strength * self.field_12HW.permute(0, 2, 3, 1) / side).clamp(-1, 1)
