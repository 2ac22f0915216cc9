"""The warp family: every image is bent by the same smooth displacement of its pixels, as WaNet's trigger bends them
(Nguyen and Tran 2021, sec. 3.2). Nothing is known of the field but that it is smooth."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.detection.families.base import Beginning, Features, Triggers

KNOTS = 8  # of a side, at which the field is free; it is bicubic between them
START_PIXELS = 0.05


class Warps(Triggers):
    """A displacement field for each label. Norms are root mean square displacements in pixels."""

    rows_HK: Tensor
    columns_WK: Tensor
    unmoved_HW2: Tensor
    pixel_2: Tensor

    def __init__(self, knots_T2KK: Tensor, size: tuple[int, int]) -> None:
        """Displacements in x and y at the knots, in pixels, for images of this height and width."""
        super().__init__()
        self.knots_T2KK = nn.Parameter(knots_T2KK)
        self.size = size
        self.register_buffer("rows_HK", _bicubic(size[0], knots_T2KK.device), persistent=False)
        self.register_buffer("columns_WK", _bicubic(size[1], knots_T2KK.device), persistent=False)
        rows, columns = (torch.linspace(-1, 1, side, device=knots_T2KK.device) for side in size)
        unmoved_HW2 = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
        self.register_buffer("unmoved_HW2", unmoved_HW2, persistent=False)
        pixel_2 = torch.tensor([2 / max(side - 1, 1) for side in size[::-1]], device=knots_T2KK.device)
        self.register_buffer("pixel_2", pixel_2, persistent=False)

    @classmethod
    def begin(cls, beginning: Beginning, random: Sequence[torch.Generator]) -> Self:
        """Hardly a field for each label."""
        _, height, width = beginning.shape
        knots = [torch.randn((2, KNOTS, KNOTS), generator=of_label) for of_label in random]
        return cls(START_PIXELS * torch.stack(knots), (height, width))

    def field_THW2(self) -> Tensor:
        """Displacements of every pixel, in pixels."""
        return (self.rows_HK @ self.knots_T2KK @ self.columns_WK.T).permute(0, 2, 3, 1)

    def forward(self, images_TNCHW: Tensor) -> Tensor:
        places_THW2 = self.unmoved_HW2 + self.field_THW2() * self.pixel_2
        places = places_THW2[:, None].expand(-1, images_TNCHW.shape[1], -1, -1, -1).flatten(0, 1)
        bent = functional.grid_sample(images_TNCHW.flatten(0, 1), places, padding_mode="border", align_corners=True)
        return bent.view_as(images_TNCHW)

    def cost(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor, features: Features) -> Tensor:
        return self.norm(images_TNCHW, triggered_TNCHW)

    def norm(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor, weights_N: Tensor | None = None) -> Tensor:
        squares_T = self.field_THW2().square().sum(-1).mean((1, 2))
        return (squares_T + torch.finfo(squares_T.dtype).tiny).sqrt()  # the gradient of a root of zero is none

    def scaled(self, strengths_T: Tensor) -> Self:
        return type(self)(self.knots_T2KK.detach() * strengths_T.view(-1, 1, 1, 1), self.size)

    def of(self, index: int) -> Self:
        return type(self)(self.knots_T2KK.detach()[index : index + 1].clone(), self.size)


def _bicubic(side: int, device: torch.device) -> Tensor:
    """What each knot of a row has to do with each of its pixels, [side, KNOTS]: bicubic interpolation, as a product.

    Its gradient adds in one order, which that of torch's own interpolation does not on a GPU.
    """
    each_knot = torch.eye(KNOTS)[None, None]
    between = functional.interpolate(each_knot, (side, KNOTS), mode="bicubic", align_corners=True)
    return between[0, 0].to(device)
