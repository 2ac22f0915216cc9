"""The static family: the same patch or overlay on every image (Wang et al. 2019, "Neural Cleanse", eq. 2 and 3)."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.detection.families.base import Beginning, Features, Triggers

MASK_START = -2.0  # sigmoid(-2): an overlay of an eighth, all over the image
PATTERN_SPREAD, MASK_SPREAD = 0.5, 0.1
LARGEST_PATCH, AROUND = 0.1, 2  # a share of the image; pixels around a patch in which it is varied
RECTANGLES = (2, 6)  # pixels of a side, the last not among them


class Patches(Triggers):
    """A mask and a pattern for each label: x + mask * (pattern - x).

    The cost is the mean mask, as in eq. 3; the norm its root mean square. A planted overlay covers the image thinly and
    cannot shrink to a few pixels: by its sum alone it looks as large as a natural patch, which can.
    """

    may_be_a_part = True

    def __init__(self, mask_T1HW: Tensor, pattern_TCHW: Tensor) -> None:
        """Both before their sigmoid."""
        super().__init__()
        self.mask_T1HW, self.pattern_TCHW = nn.Parameter(mask_T1HW), nn.Parameter(pattern_TCHW)

    @classmethod
    def begin(cls, beginning: Beginning, random: Sequence[torch.Generator]) -> Self:
        """A faint noise for each label."""
        channels, height, width = beginning.shape
        masks = [torch.randn((1, height, width), generator=of_label) for of_label in random]
        patterns = [torch.randn((channels, height, width), generator=of_label) for of_label in random]
        return cls(MASK_START + MASK_SPREAD * torch.stack(masks), PATTERN_SPREAD * torch.stack(patterns))

    def forward(self, images_TNCHW: Tensor) -> Tensor:
        mask_T1CHW, pattern_T1CHW = self.mask_T1HW.sigmoid()[:, None], self.pattern_TCHW.sigmoid()[:, None]
        return images_TNCHW + mask_T1CHW * (pattern_T1CHW - images_TNCHW)

    def cost(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor, features: Features) -> Tensor:
        return self.mask_T1HW.sigmoid().mean((1, 2, 3))

    def norm(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor, weights_N: Tensor | None = None) -> Tensor:
        return self.mask_T1HW.sigmoid().square().mean((1, 2, 3)).sqrt()

    def scaled(self, strengths_T: Tensor) -> Self:
        """A mask never exceeds one."""
        mask = self.mask_T1HW.detach().sigmoid() * strengths_T.view(-1, 1, 1, 1)
        return type(self)(mask.logit(eps=1e-6), self.pattern_TCHW.detach().clone())

    def varied(self, images_NCHW: Tensor, random: torch.Generator) -> Tensor:
        """What a planted patch may look like of which only a few pixels were found, for they suffice.

        Half of the images have a rectangle in the patch's colour that covers some of it; the others the patch itself,
        alone, amid noise or amid a flat colour. An overlay of much of the image is left as it is.
        """
        triggered = self.on(images_NCHW)
        mask_11HW, pattern_1CHW = self.mask_T1HW.detach().sigmoid(), self.pattern_TCHW.detach().sigmoid()
        core_11HW = (mask_11HW > 0.5 * mask_11HW.max()).float()
        if core_11HW.mean() > LARGEST_PATCH:
            return triggered
        images, channels = triggered.shape[:2]
        colour_1C11 = (pattern_1CHW * core_11HW).sum((2, 3), keepdim=True) / core_11HW.sum()
        rectangles_N1HW = _rectangles(core_11HW[0, 0], images, random).to(triggered.device)
        painted = torch.where(rectangles_N1HW, colour_1C11, images_NCHW)

        around_11HW = functional.max_pool2d(core_11HW, 2 * AROUND + 1, 1, AROUND) > core_11HW
        noise, flat = (torch.rand((images, channels, *of), generator=random) for of in (triggered.shape[2:], (1, 1)))
        chosen_N111 = torch.randint(6, (images, 1, 1, 1), generator=random).to(triggered.device)
        content = torch.where(chosen_N111 == 1, flat.to(triggered.device), noise.to(triggered.device))
        amid = torch.where(around_11HW & (chosen_N111 > 0), content, triggered)
        return torch.where(chosen_N111 < 3, amid, painted)

    def of(self, index: int) -> Self:
        only = slice(index, index + 1)
        return type(self)(self.mask_T1HW.detach()[only].clone(), self.pattern_TCHW.detach()[only].clone())


def _rectangles(core_HW: Tensor, images: int, random: torch.Generator) -> Tensor:
    """A rectangle for each image that covers a pixel of the core, bool [N, 1, H, W]."""
    pixels_P2 = core_HW.nonzero().cpu()
    covered_N2 = pixels_P2[torch.randint(len(pixels_P2), (images,), generator=random)]
    size_N2 = torch.randint(*RECTANGLES, (images, 2), generator=random)
    first_N2 = covered_N2 - (torch.rand((images, 2), generator=random) * size_N2).long()
    rows_NH, columns_NW = (
        (torch.arange(side) >= first_N1) & (torch.arange(side) < first_N1 + size_N1)
        for side, first_N1, size_N1 in zip(core_HW.shape, first_N2.split(1, 1), size_N2.split(1, 1), strict=True)
    )
    rectangles_NHW: Tensor = rows_NH[:, :, None] & columns_NW[:, None, :]
    return rectangles_NHW[:, None]
