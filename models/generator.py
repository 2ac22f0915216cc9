"""The trigger generator: a U-Net from clean images to images that carry an inverted trigger (paper, sec. 3.3).

    N image batch   C channels   H, W pixels

GroupNorm, not BatchNorm: a generator behaves the same while it is trained and while its norm is read.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class TriggerGenerator(nn.Module):
    """G: [0, 1] images NCHW to images NCHW of the same size.

    `levels` is the number of poolings; `width` the channels of the first level, doubled at each further one. Any image
    size is taken: the input is padded by its edges to a multiple of 2 ** levels, the output cropped.

    With start "residual" G(x) = x + U(x) where the last layer of U is zero: the identity from the first step. With
    "trained" G(x) = U(x), to be brought to the identity by minimising L_rec as the paper does.
    """

    def __init__(
        self, channels: int, width: int = 16, levels: int = 3, start: Literal["trained", "residual"] = "trained"
    ) -> None:
        super().__init__()
        self.start = start
        self.multiple = 2**levels
        sizes = [width * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(_double_conv(a, b) for a, b in zip([channels, *sizes], sizes, strict=False))
        self.up = nn.ModuleList(_double_conv(a + b, a) for a, b in zip(sizes[-2::-1], sizes[:0:-1], strict=True))
        self.last = nn.Conv2d(width, channels, 1)
        if start == "residual":
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """The images with the trigger, clamped to [0, 1]; the clamp lets gradients of values out of range pass."""
        height, width = images_NCHW.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        x = functional.pad(images_NCHW, padding, mode="replicate")
        skips = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skips.pop()], 1))
        generated = self.last(x)[..., :height, :width]
        return _clamp_with_gradient(images_NCHW + generated if self.start == "residual" else generated)


def _clamp_with_gradient(x: Tensor) -> Tensor:
    """clamp(x, 0, 1) forward, the identity backward: a pixel pushed out of range can still come back."""
    return x + (x.clamp(0, 1) - x).detach()


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    groups = max(1, outputs // 8)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(groups, outputs),
        nn.LeakyReLU(0.2),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(groups, outputs),
        nn.LeakyReLU(0.2),
    )
