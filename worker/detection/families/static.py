"""The static family: the same patch or overlay on every image (Wang et al. 2019, "Neural Cleanse", eq. 2 and 3)."""

from typing import Self

import torch
from torch import Tensor, nn

from worker.detection.families.base import Features, Triggers

MASK_START = -2.0  # sigmoid(-2): an overlay of an eighth, all over the image
PATTERN_SPREAD, MASK_SPREAD = 0.5, 0.1


class Patches(Triggers):
    """A mask and a pattern for each label: x + mask * (pattern - x). Norms are mean masks, the covered share."""

    def __init__(self, mask_T1HW: Tensor, pattern_TCHW: Tensor) -> None:
        """Both before their sigmoid."""
        super().__init__()
        self.mask_T1HW, self.pattern_TCHW = nn.Parameter(mask_T1HW), nn.Parameter(pattern_TCHW)

    @classmethod
    def random(cls, shape: torch.Size, generators: list[torch.Generator]) -> Self:
        """A faint noise for each label, for images of shape CHW."""
        channels, height, width = shape
        masks = [torch.randn((1, height, width), generator=random) for random in generators]
        patterns = [torch.randn((channels, height, width), generator=random) for random in generators]
        return cls(MASK_START + MASK_SPREAD * torch.stack(masks), PATTERN_SPREAD * torch.stack(patterns))

    def forward(self, images_TNCHW: Tensor) -> Tensor:
        mask_T1CHW, pattern_T1CHW = self.mask_T1HW.sigmoid()[:, None], self.pattern_TCHW.sigmoid()[:, None]
        return images_TNCHW + mask_T1CHW * (pattern_T1CHW - images_TNCHW)

    def cost(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor, features: Features) -> Tensor:
        return self.norm(images_TNCHW, triggered_TNCHW)

    def norm(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor) -> Tensor:
        return self.mask_T1HW.sigmoid().mean((1, 2, 3))

    def scaled(self, strengths_T: Tensor) -> Self:
        """A mask never exceeds one."""
        mask = self.mask_T1HW.detach().sigmoid() * strengths_T.view(-1, 1, 1, 1)
        return type(self)(mask.logit(eps=1e-6), self.pattern_TCHW.detach().clone())

    def of(self, index: int) -> Self:
        only = slice(index, index + 1)
        return type(self)(self.mask_T1HW.detach()[only].clone(), self.pattern_TCHW.detach()[only].clone())
