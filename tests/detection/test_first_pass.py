"""The coarse look at many labels: a planted one is easiest, whatever is looked at beside it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from app.core.config import FirstPassConfig
from app.core.presets import PRESETS
from models.generator import TriggerGenerator
from models.perceptual import PACKAGED, load_perceptual
from tests.detection.beginnings import SHAPE, each
from tests.toys import NotANumber, ToyNet, as_source, toy_images, toy_labels
from worker.detection.clean import CleanImages
from worker.detection.families.base import Beginning, triggers_of
from worker.detection.first_pass import easiness

LABELS = 6
LOOK = FirstPassConfig(images=12, steps=8)
SEARCHES = PRESETS["standard"].searches


@pytest.fixture(scope="module")
def clean() -> CleanImages:
    return CleanImages(as_source(toy_images(4)), toy_labels(4), load_perceptual(PACKAGED))


def scores(net: nn.Module, clean: CleanImages, family: str, labels: list[int]) -> list[float]:
    torch.manual_seed(0)  # whatever is looked at begins with the same generator
    generator = TriggerGenerator(1, 4, 2, "residual")
    beginning = Beginning(SHAPE, generator, clean.perceptual, SEARCHES[family])
    net = net.eval().requires_grad_(False)
    return easiness(net, clean, labels, triggers_of(family).begin(beginning, each(labels)), SEARCHES[family], LOOK)


@pytest.mark.parametrize("family", ["dynamic", "static"])  # the planted veil is no warp
def test_a_planted_label_is_the_easiest(family: str, clean: CleanImages) -> None:
    found = scores(ToyNet(planted=2), clean, family, list(range(LABELS)))
    assert min(range(LABELS), key=found.__getitem__) == 2


@pytest.mark.parametrize("family", SEARCHES)
def test_a_label_has_the_same_score_whatever_is_looked_at_beside_it(family: str, clean: CleanImages) -> None:
    net = ToyNet(planted=2)
    together, alone = scores(net, clean, family, list(range(LABELS))), scores(net, clean, family, [4])
    assert together[4] == pytest.approx(alone[0], abs=1e-3)


def test_how_far_images_of_the_label_itself_come_does_not_count(clean: CleanImages) -> None:
    images = toy_images(4)
    images[clean.labels_N == 1] = 0.0
    others_alike = replace(clean, images=as_source(images))
    for family in ("static", "warp"):  # whose norms do not depend on images
        (kept,), (changed,) = (scores(ToyNet(), of, family, [1]) for of in (clean, others_alike))
        assert changed == pytest.approx(kept, abs=0.05)


def test_what_comes_nowhere_is_hard_and_finite(clean: CleanImages) -> None:
    class Deaf(ToyNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * 0 + torch.arange(LABELS) - images.mean((1, 2, 3))[:, None]

    still = scores(Deaf(), clean, "static", [1, LABELS - 1])
    assert all(abs(score) < 20 for score in still)


def test_a_label_that_is_answered_without_a_number_has_no_score(clean: CleanImages) -> None:
    (score,) = scores(NotANumber(ToyNet()), clean, "static", [1])
    assert math.isnan(score)
