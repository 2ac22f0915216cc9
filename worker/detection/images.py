"""The clean images of a scan as a source: kept as bytes, and numbers a batch at a time, where they are needed.

    N images   n of them   C channels   H, W pixels

Ten thousand images then take the memory of their bytes and of one batch. How large a batch may be is a matter of
bytes, too: what a network keeps of an image grows as the image does. Where memory is short, the images themselves know
that fewer of them are shown. Files are not known here.
"""

from collections.abc import Iterator
from copy import copy
from typing import Self

import torch
from torch import Tensor

from models.classifier import in_rows

# Bytes of images, as numbers, that a network is shown together. A net of photographs keeps some 50 times as much for
# its gradients: 13 images of 224 pixels on a CPU.
ON_CPU, ON_GPU = 8 * 2**20, 128 * 2**20
HELD_BY_GPU = 2**30  # bytes of all images, as they are kept; more stay beside it


class Images:
    """N images, each [0, 1] CHW on the device once it is asked for."""

    def __init__(self, pictures_NHWC: Tensor, device: torch.device) -> None:
        """`pictures_NHWC` are bytes: shared, not copied, unless a GPU takes them."""
        fits = pictures_NHWC.nbytes <= HELD_BY_GPU
        self._pictures_NHWC = pictures_NHWC.to(device) if fits else pictures_NHWC
        self._places_N = torch.arange(len(pictures_NHWC), device=self._pictures_NHWC.device)
        self.device = device
        self.most_at_once: int | None = None  # that a network is shown together, where memory is short

    def __len__(self) -> int:
        return len(self._places_N)

    @property
    def shape(self) -> torch.Size:
        """Of one image, CHW."""
        height, width, channels = self._pictures_NHWC.shape[1:]
        return torch.Size((channels, height, width))

    def __getitem__(self, picked: Tensor) -> Tensor:
        """Those with these indices, which may have any shape: [..., C, H, W]."""
        places_n = self._places_N[_sent(picked.flatten(), self._places_N.device)]
        pictures_nHWC = self._pictures_NHWC.index_select(0, places_n)
        images_nCHW = _sent(pictures_nHWC.permute(0, 3, 1, 2).contiguous(), self.device).float() / 255
        images: Tensor = in_rows(images_nCHW).unflatten(0, picked.shape)
        return images

    def split(self, size: int) -> Iterator[Tensor]:
        """All of them in their order, so many at a time, as a tensor of them would be split."""
        return (self[picked_n] for picked_n in torch.arange(len(self)).split(size))

    def subset(self, picked: Tensor) -> Self:
        """Those with these indices, or for which a mask is true, of the same bytes."""
        some = copy(self)
        some._places_N = self._places_N[picked.to(self._places_N.device)]
        return some

    def at_most(self, most: int | None) -> Self:
        """The same, of which a network is shown no more than so many together; None: as many as usual."""
        same = copy(self)
        same.most_at_once = most
        return same


def at_once(images: Images | Tensor) -> int:
    """How many of these images, or of any of their size, a network is shown together, at most."""
    most = ON_CPU if images.device.type == "cpu" else ON_GPU
    usual = max(1, most // (4 * images.shape[-3:].numel()))
    return min(usual, images.most_at_once or usual) if isinstance(images, Images) else usual


def _sent(numbers: Tensor, device: torch.device) -> Tensor:
    """The same on a device. A GPU is not waited for: what it gets was copied before this returns."""
    return numbers.to(device, non_blocking=device.type == "cuda")
