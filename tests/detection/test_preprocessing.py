"""How the suspect wants its pixels, found by trying: on toys that are right under one convention only."""

import math

import pytest
import torch
from torch import nn

from app.core.errors import Refusal
from models.classifier import Output
from tests.toys import AsProbabilities, NotANumber, ToyNet, TwoInputs, Wanting, plain_spec, toy_images, toy_labels
from worker.detection.preprocessing import CONVENTIONS, accepted_channels, fit, given_spec, infer_spec

IMAGES, LABELS = toy_images(10), toy_labels(10)


class OfBytes(nn.Module):
    """Right for pixels from 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ToyNet()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images / 255)


class Saturating(nn.Module):
    """Sound on [0, 1], and infinite where pixels are as large as bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ToyNet()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images) + (images.amax((1, 2, 3)) - 1).clamp_min(0).mul(50).exp()[:, None]


def sharp(net: nn.Module) -> nn.Module:
    """A net whose confidence depends on the scale of its input, so that cross-entropy can tell conventions apart."""
    return net.requires_grad_(False)


@pytest.mark.parametrize(
    ("net", "convention"),
    [
        (ToyNet(), "unit range [0, 1]"),
        (OfBytes(), "bytes [0, 255]"),
    ],
    ids=["unit", "bytes"],
)
def test_the_convention_that_the_toy_was_made_for_is_recognised(net: nn.Module, convention: str) -> None:
    chosen, close = infer_spec(net, IMAGES, LABELS, channels=1)
    assert convention in (chosen.name, *close)
    assert chosen.accuracy == 1.0
