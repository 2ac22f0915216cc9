"""The trigger generator: a U-Net from clean images to images that carry an inverted trigger (paper, sec. 3.3).

    N image batch   C channels   H, W pixels

Two choices make it cheap and calm (docs/decisions/0001). It works on 2x2 blocks of pixels as channels, so that no
convolution runs at full resolution; and it has GroupNorm, not BatchNorm, so that it behaves the same while it is
trained and while its norm is read.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 2  # side of the pixel blocks


class TriggerGenerator(nn.Module):
    """G: [0, 1] images NCHW to images NCHW of the same size.

    `levels` is the number of poolings; `width` the channels of the first level, doubled at each further one. Any image
    size is taken: the input is padded by its edges to a multiple of 2 ** (levels + 1), the output cropped.

    With start "residual" G(x) = x + U(x) where the last layer of U is zero: the identity from the first step. With
    "trained" G(x) = U(x), to be brought to the identity by minimising L_rec as the paper does.
    """

    def __init__(
        self, channels: int, width: int = 16, levels: int = 2, start: Literal["trained", "residual"] = "residual"
    ) -> None:
        super().__init__()
        self.start = start
        self.multiple = BLOCK * 2**levels
        sizes = [width * 2**level for level in range(levels + 1)]
        folded = channels * BLOCK**2
        self.down = nn.ModuleList(
            nn.Sequential(*_conv(a, b), *_conv(b, b)) for a, b in zip([folded, *sizes], sizes, strict=False)
        )
        self.narrow = nn.ModuleList(
            nn.Conv2d(b, a, 1, bias=False) for a, b in zip(sizes[-2::-1], sizes[:0:-1], strict=True)
        )
        self.up = nn.ModuleList(nn.Sequential(*_conv(2 * size, size)) for size in sizes[-2::-1])
        self.last = nn.Conv2d(width, folded, 1)
        if start == "residual":
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """The images with the trigger, clamped to [0, 1]; the clamp lets gradients of values out of range pass."""
        height, width = images_NCHW.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        x = functional.pixel_unshuffle(functional.pad(images_NCHW, padding, mode="replicate"), BLOCK)
        skips = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for narrow, block in zip(self.narrow, self.up, strict=True):
            x = functional.interpolate(narrow(x), scale_factor=2, mode="nearest")
            x = block(torch.cat([x, skips.pop()], 1))
        generated = functional.pixel_shuffle(self.last(x), BLOCK)[..., :height, :width]
        return _clamp_with_gradient(images_NCHW + generated if self.start == "residual" else generated)


def _clamp_with_gradient(x: Tensor) -> Tensor:
    """clamp(x, 0, 1) forward, the identity backward: a pixel pushed out of range can still come back."""
    return x + (x.clamp(0, 1) - x).detach()


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    """A 3x3 convolution with its norm and activation."""
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(max(1, outputs // 8), outputs),
        nn.LeakyReLU(0.2, inplace=True),
    ]
