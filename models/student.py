"""A reference student: a small convolutional net that learns a suspect's task from the clean images alone."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 16
POOLED_SIDE = 4


class Student(nn.Sequential):
    """[0, 1] images NCHW of any size to logits NK: three strided convolutions and two linear layers."""

    def __init__(self, channels: int, labels: int) -> None:
        widths = [channels, WIDTH, 2 * WIDTH, 4 * WIDTH]
        super().__init__(
            nn.BatchNorm2d(channels),
            *(layer for a, b in pairwise(widths) for layer in _halved(a, b)),
            Pooled(),
            nn.Flatten(),
            nn.Linear(4 * WIDTH * POOLED_SIDE**2, 8 * WIDTH),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(8 * WIDTH, labels),
        )


class Pooled(nn.Module):
    """Average pooling to POOLED_SIDE, where there is anything to pool."""

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        if maps_NCHW.shape[-2:] == (POOLED_SIDE, POOLED_SIDE):
            return maps_NCHW
        return functional.adaptive_avg_pool2d(maps_NCHW, POOLED_SIDE)


def _halved(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def random_student(channels: int, labels: int, seed: int) -> Student:
    """An untrained one; the global random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Student(channels, labels)
