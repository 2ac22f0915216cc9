"""How far images lie from those of a training, on a small net that is trained here and on layers that are made up."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.findings import Likeness, Shift
from models.suspect import load_suspect
from tests.toys import WithADefaultTheRebuildLacks, save_toy, toy_images, toy_labels
from worker.detection.metrics import wilson_interval
from worker.detection.shift import FAR, NEAR, SHORT, distances, graded

Change = Callable[[Tensor], Tensor]
LABELS, SIDE = 6, 16


class Trained(nn.Module):
    """Two convolutions, each with a batch norm, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.second_norm = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.last = nn.Linear(16 * 16, LABELS)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.first_norm(self.first(images)))
        hidden = functional.relu(self.second_norm(self.second(hidden)))
        return self.last(functional.adaptive_avg_pool2d(hidden, 4).flatten(1))


@cache
def trained() -> Trained:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Trained()
        images, labels = noisy(40), toy_labels(40, LABELS)
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for step in range(60):
            picked = torch.randperm(len(labels), generator=torch.Generator().manual_seed(step))[:48]
            optimizer.zero_grad()
            functional.cross_entropy(net(images[picked]), labels[picked]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def noisy(per_label: int, seed: int = 0) -> Tensor:
    """Toy images that are not all right at once."""
    images = toy_images(per_label, LABELS, seed=seed)
    return images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def shift_of(change: Change, per_label: int = 10) -> Shift:
    """Of images that the net was not trained on, once they are changed."""
    net, images, labels = trained(), change(noisy(per_label, seed=1)), toy_labels(per_label, LABELS)
    scores = net(images)
    right = int((scores.argmax(1) == labels).sum())
    confidence = scores.softmax(1).amax(1).mean().item()
    interval = wilson_interval(right, len(labels))
    return graded(distances(net, images.split(20)), confidence, interval, len(images))


@pytest.mark.parametrize("per_label", [3, 10])
def test_images_like_those_of_the_training_are_said_to_be_like_them(per_label: int) -> None:
    shift = shift_of(lambda images: images, per_label)
    assert shift.likeness is Likeness.AS_TRAINED and (shift.distance or 1) < NEAR and not shift.shortfall
    assert (shift.layers, shift.images) == (2, per_label * LABELS)


CHANGES: dict[str, Change] = {
    "inverted": lambda images: 1 - images,
    "blurred": lambda images: functional.avg_pool2d(images, 7, 1, 3),
    "noise": lambda images: torch.rand(images.shape, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_images_that_the_net_has_never_seen_the_like_of_and_takes_for_others_are_from_elsewhere(change: str) -> None:
    shift = shift_of(CHANGES[change])
    assert shift.likeness is Likeness.FROM_ELSEWHERE, shift


def test_brighter_images_that_are_still_known_are_somewhat_different() -> None:
    shift = shift_of(lambda images: images + 0.3)
    assert shift.likeness is Likeness.SOMEWHAT_DIFFERENT, shift


SURE = (0.8, 0.95)


@pytest.mark.parametrize(
    ("found", "accuracy", "expected", "likeness"),
    [
        ([], SURE, None, Likeness.NOT_KNOWN),
        ([], (0.2, 0.4), None, Likeness.SOMEWHAT_DIFFERENT),
        ([NEAR / 2], (0.2, 0.4), None, Likeness.SOMEWHAT_DIFFERENT),
        ([9.0], SURE, None, Likeness.SOMEWHAT_DIFFERENT),
        ([9.0], None, None, Likeness.SOMEWHAT_DIFFERENT),
        ([FAR], (0.2, 0.9 - SHORT - 0.01), None, Likeness.FROM_ELSEWHERE),
        ([FAR], (0.2, 0.9 - SHORT - 0.01), 0.4, Likeness.SOMEWHAT_DIFFERENT),
        ([0.0, 0.0, 9.0], SURE, None, Likeness.AS_TRAINED),
    ],
    ids=[
        "no batch norm",
        "no batch norm, and wrong",
        "near, and wrong",
        "far, and right: fine-tuned with fixed norms",
        "far, and nobody knows whether it is right",
        "far, and wrong",
        "far, and as wrong as was declared",
        "one layer of three",
    ],
)
def test_only_what_is_far_away_and_taken_for_something_else_is_from_elsewhere(
    found: list[float], accuracy: tuple[float, float] | None, expected: float | None, likeness: Likeness
) -> None:
    assert graded(found, 0.9, accuracy, 100, expected).likeness is likeness


def test_a_dozen_images_scatter_and_may_lie_further_away() -> None:
    wrong, away = (0.2, 0.5), 1.5 * FAR
    assert graded([1.5 * NEAR], 0.9, SURE, 12).likeness is Likeness.AS_TRAINED
    assert graded([away], 0.9, wrong, 12).likeness is Likeness.SOMEWHAT_DIFFERENT
    assert graded([away], 0.9, wrong, 50).likeness is Likeness.FROM_ELSEWHERE


@pytest.mark.parametrize(("off", "wider", "distance"), [(0.0, 1.0, 0.0), (1.0, 1.0, 1.0), (0.0, 2.0, 1.0607)])
def test_a_distance_is_in_standard_deviations(off: float, wider: float, distance: float) -> None:
    norm = nn.BatchNorm2d(3).eval()
    norm.running_mean, norm.running_var = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 9.0, 0.0])
    drawn = torch.randn((100, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    drawn = (drawn - drawn.mean((0, 2, 3), keepdim=True)) / drawn.std((0, 2, 3), keepdim=True)
    scale = torch.tensor([2.0, 3.0, 0.0]).view(1, 3, 1, 1)
    inputs = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1) + scale * (off + wider * drawn)
    (found,) = distances(norm, inputs.split(30))
    assert found == pytest.approx(distance, abs=0.01), "a channel that never spoke does not count"


@pytest.mark.parametrize("variance", [math.inf, math.nan, 1e-7, 1e38])
def test_whatever_a_norm_remembers_a_distance_is_a_number(variance: float) -> None:
    norm = nn.BatchNorm2d(3).eval()
    norm.running_var = torch.full((3,), variance)
    for images in (torch.rand(2, 3, 4, 4), torch.full((2, 3, 4, 4), 1e30)):
        (found,) = distances(norm, [images])
        assert graded([found], 1.0, SURE, 2).distance == found


@pytest.mark.parametrize("form", ["scripted", "traced", "frozen"])
def test_a_rebuilt_net_is_seen_through_unless_freezing_has_folded_its_norms(tmp_path: Path, form: str) -> None:
    suspect = load_suspect(save_toy(tmp_path / "net.pt", trained(), form)).module  # type: ignore[arg-type]
    images = noisy(4, seed=1)
    expected = [] if form == "frozen" else distances(trained(), [images])
    assert distances(suspect, [images]) == pytest.approx(expected, rel=1e-3)


def test_a_net_that_the_jit_runs_is_seen_through_as_well(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "net.pt", WithADefaultTheRebuildLacks(trained()))
    suspect, images = load_suspect(path).module, noisy(4, seed=1)
    assert isinstance(suspect, torch.jit.ScriptModule)
    assert distances(suspect, [images]) == pytest.approx(distances(trained(), [images]), rel=1e-3)
