"""How the suspect wants its pixels, found by trying: on toys that are right under one convention only."""

import pytest
import torch
from torch import Tensor, nn

from app.core.errors import Refusal
from models.scores import Output
from tests.toys import (
    AsProbabilities,
    NotANumber,
    Overflowing,
    Particular,
    ToyNet,
    plain_spec,
    toy_images,
    toy_labels,
)
from worker.detection.preprocessing import (
    BLUE_FIRST,
    CONVENTIONS,
    Fit,
    choose,
    fit,
    given_spec,
    shown_fits,
    try_conventions,
)

LOOKALIKES = {"ImageNet mean and std", "CIFAR-10 mean and std", "CIFAR-100 mean and std"}
LABELS = toy_labels(10)


def inferred(net: nn.Module, images: Tensor, labels: Tensor, bgr: bool | None = None) -> tuple[Fit, list[str]]:
    chosen, close = choose(try_conventions(net, images, images.shape[1], bgr, labels), labels)
    return chosen, [fit.name for fit in close]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_convention_that_a_net_was_trained_with_is_recognised(name: str, channels: int) -> None:
    mean, std, bounds = CONVENTIONS[name]
    if channels == 1 and len(mean) == 3:
        mean, std = (sum(mean) / 3,), (sum(std) / len(std),)
    net = Particular(mean, std, bounds, channels)
    chosen, close = inferred(net, toy_images(10, channels=channels), LABELS)
    assert chosen.accuracy(LABELS) == 1.0
    if name == "CIFAR-100 mean and std":  # of equals the more ordinary one is taken
        assert chosen.name in LOOKALIKES
        return
    assert chosen.name == name
    assert chosen.spec.mean == pytest.approx(mean * (channels if len(mean) == 1 else 1))
    assert chosen.spec.range == bounds and not chosen.spec.bgr
    assert set(close) <= LOOKALIKES, "the others leave the net lost"


def test_conventions_that_fit_about_as_well_are_named() -> None:
    mean, std, bounds = CONVENTIONS["CIFAR-10 mean and std"]
    chosen, close = inferred(Particular(mean, std, bounds, 3), toy_images(10, channels=3), LABELS, bgr=False)
    assert set(close) | {chosen.name} == LOOKALIKES


class Coloured(nn.Module):
    """Knows a class by the colour of its images, in the order in which it was shown colours."""

    def forward(self, images: Tensor) -> Tensor:
        return 8 * (images.mean((2, 3)) - images.mean((1, 2, 3))[:, None])


def coloured(per_label: int) -> tuple[Tensor, Tensor]:
    """Images that are red, green or blue, a little noisy, and their labels 0, 1, 2."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(per_label)
    images = 0.3 + 0.05 * torch.rand((len(labels), 3, 8, 8), generator=random)
    images[torch.arange(len(labels)), labels] += 0.4
    return images, labels


def test_a_net_that_takes_blue_first_is_recognised() -> None:
    images, labels = coloured(20)
    chosen, _ = inferred(Coloured(), images.flip(1), labels)  # as OpenCV reads what is stored as RGB
    assert chosen.spec.bgr and chosen.name.endswith(BLUE_FIRST) and chosen.accuracy(labels) == 1.0
    chosen, _ = inferred(Coloured(), images, labels)
    assert not chosen.spec.bgr and chosen.accuracy(labels) == 1.0
    said, _ = inferred(Coloured(), images, labels, bgr=False)
    assert not said.spec.bgr


class Picky(nn.Module):
    """Right on all images in [0, 1] with blue first, and on none with red first; otherwise on three in four, or two.

    Images are redder than blue; where green is brightest says the label, and where it is darkest which fourth it is of.
    """

    def forward(self, images: Tensor) -> Tensor:
        is_blue_first = images[:, 2].mean() > images[:, 0].mean()
        is_unit = images.amin() >= 0 and images.amax() <= 1
        right = (4 if is_blue_first else 0) if is_unit else (3 if is_blue_first else 2)
        green = images[:, 1].flatten(1)
        labels = torch.where(green.argmin(1) - 8 < right, green.argmax(1), (green.argmax(1) + 1) % 3)
        return 5 * torch.nn.functional.one_hot(labels, 3) + 0 * images.mean((1, 2, 3))[:, None]


def test_once_blue_seems_to_come_first_every_convention_is_tried_so() -> None:
    labels = torch.arange(3).repeat(8)
    images = torch.tensor([0.6, 0.5, 0.3]).view(1, 3, 1, 1).repeat(len(labels), 1, 4, 4)
    green = images[:, 1].flatten(1)
    green[torch.arange(len(labels)), labels] = 0.7
    green[torch.arange(len(labels)), 8 + torch.arange(len(labels)) // 3 % 4] = 0.4
    images[:, 1] = green.view(-1, 4, 4)
    chosen, _ = inferred(Picky(), images, labels)
    assert (chosen.name, chosen.accuracy(labels)) == ("unit range [0, 1]" + BLUE_FIRST, 1.0)


def test_contrast_that_makes_a_net_surer_and_not_righter_does_not_choose_a_convention() -> None:
    """All images are right in [0, 1] and in [0, 255], where the loss is 0 to the last digit."""
    images = toy_images(10)
    fits = {fit.name: fit for fit in try_conventions(ToyNet(), images, 1, None, LABELS)}
    loud = fit(ToyNet(), images, given_spec(images, 1, (0.0,), (1.0,), (0.0, 255.0)), "bytes [0, 255]")
    assert loud.accuracy(LABELS) == 1.0 and loud.confidence > fits["unit range [0, 1]"].confidence
    chosen, close = choose([loud, fits["unit range [0, 1]"]], LABELS)
    assert chosen.name == "unit range [0, 1]" and [fit.name for fit in close] == ["bytes [0, 255]"]


def test_of_equals_a_grey_net_was_trained_with_what_was_made_for_one_channel() -> None:
    names = "ImageNet mean and std", "symmetric range [-1, 1]"
    for channels, taken in ((1, names[1]), (3, names[0])):
        images = toy_images(10, channels=channels)
        equals = [fit(ToyNet(channels=channels), images, plain_spec(channels=channels), name) for name in names]
        assert choose(equals, LABELS)[0].name == taken


def test_losses_are_compared_at_the_best_temperature() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn((60, 6), generator=random) + 2 * torch.nn.functional.one_hot(LABELS, 6)
    quiet, loud = (Fit("one", plain_spec(), Output.LOGITS, scale * logits) for scale in (0.01, 100.0))
    assert quiet.losses(LABELS).mean().item() == pytest.approx(loud.losses(LABELS).mean().item(), rel=1e-3)
    assert quiet.losses(LABELS, coolest=0.0).mean() > 1.7 * quiet.losses(LABELS).mean(), "only cooled, never heated"


def test_what_is_shown_of_each_convention_is_held_against_the_one_that_was_taken() -> None:
    images = toy_images(10, channels=3)
    mean, std, bounds = CONVENTIONS["CIFAR-10 mean and std"]
    fits = try_conventions(Particular(mean, std, bounds, 3), images, 3, False, LABELS)
    first, *others = shown_fits(fits, "CIFAR-10 mean and std", LABELS)
    assert (first.name, first.accuracy, first.agreement) == ("CIFAR-10 mean and std", 1.0, 1.0)
    assert len(others) == len(fits) - 1
    assert [other.accuracy for other in others] == sorted((other.accuracy for other in others), reverse=True)


def test_a_convention_that_overflows_is_passed_over_and_only_nan_under_all_is_refused() -> None:
    chosen, _ = inferred(Overflowing(ToyNet()), toy_images(10), LABELS)
    assert chosen.name != "bytes [0, 255]" and chosen.logits_NK.isfinite().all()
    with pytest.raises(Refusal, match="NaN"):
        inferred(NotANumber(ToyNet()), toy_images(10), LABELS)


def test_accuracy_is_measured_on_scores_or_probabilities_alike() -> None:
    images = toy_images(10)
    scores = fit(ToyNet(), images, plain_spec(), "given")
    shares = fit(AsProbabilities(ToyNet()), images, plain_spec(), "given")
    assert (scores.output, shares.output) == (Output.LOGITS, Output.PROBABILITIES)
    assert scores.accuracy(LABELS) == shares.accuracy(LABELS) == 1.0
    assert scores.confidence == pytest.approx(shares.confidence, rel=1e-4)


@pytest.mark.parametrize(
    ("mean", "std", "bounds", "said"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), (0.0, 1.0), "--range 0,255"),
        ((0.5,), (127.5,), (0.0, 1.0), "--range 0,255"),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (0.0, 255.0), "leave `--range` out"),
        ((-3.0,), (1.0,), (-1.0, 1.0), "unit of the range"),
    ],
)
def test_a_mean_in_another_unit_than_the_range_is_refused_with_the_way_out(
    mean: tuple[float, ...], std: tuple[float, ...], bounds: tuple[float, float], said: str
) -> None:
    with pytest.raises(Refusal) as refused:
        given_spec(toy_images(1, channels=3), 3, mean, std, bounds)
    assert refused.value.problem.code == "normalisation_range" and said in refused.value.problem.advice
    assert f"{mean[0]:g}" in refused.value.problem.detail or f"{std[0]:g}" in refused.value.problem.detail


def test_one_number_serves_all_channels_and_any_other_count_is_refused() -> None:
    images = toy_images(1, channels=3)
    spec = given_spec(images, 3, (0.5,), (0.1, 0.2, 0.3), (0.0, 1.0))
    assert (spec.mean, spec.std, spec.height, spec.width) == ((0.5,) * 3, (0.1, 0.2, 0.3), 16, 16)
    with pytest.raises(Refusal, match=r"--mean has 2 .* the model takes 3 channel"):
        given_spec(images, 3, (0.5, 0.5), (0.1,), (0.0, 1.0))
