"""How the suspect wants its pixels, found by trying: on toys that are right under one convention only."""

import math

import pytest

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
from worker.detection.preprocessing import CONVENTIONS, fit, given_spec, infer_spec

LOOKALIKES = {"ImageNet mean and std", "CIFAR-10 mean and std", "CIFAR-100 mean and std"}
LABELS = toy_labels(10)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_convention_that_a_net_was_trained_with_is_recognised(name: str, channels: int) -> None:
    mean, std, bounds = CONVENTIONS[name]
    if channels == 1 and len(mean) == 3:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    net = Particular(mean, std, bounds, channels)
    chosen, close = infer_spec(net, toy_images(10, channels=channels), LABELS, channels)
    assert chosen.name == name and chosen.accuracy == 1.0
    assert chosen.spec.mean == pytest.approx(mean * (channels if len(mean) == 1 else 1))
    assert chosen.spec.range == bounds
    assert set(close) <= LOOKALIKES, "the others leave the net lost"


def test_conventions_that_fit_about_as_well_are_named() -> None:
    mean, std, bounds = CONVENTIONS["CIFAR-10 mean and std"]
    chosen, close = infer_spec(Particular(mean, std, bounds, 3), toy_images(10, channels=3), LABELS, channels=3)
    assert set(close) | {chosen.name} == LOOKALIKES


def test_a_convention_that_overflows_is_passed_over_and_only_nan_under_all_is_refused() -> None:
    chosen, _ = infer_spec(Overflowing(ToyNet()), toy_images(10), LABELS, channels=1)
    assert chosen.name != "bytes [0, 255]" and math.isfinite(chosen.cross_entropy)
    with pytest.raises(Refusal, match="NaN"):
        infer_spec(NotANumber(ToyNet()), toy_images(10), LABELS, channels=1)


def test_accuracy_is_measured_on_scores_or_probabilities_alike() -> None:
    images = toy_images(10)
    scores = fit(ToyNet(), images, LABELS, plain_spec(), "given")
    shares = fit(AsProbabilities(ToyNet()), images, LABELS, plain_spec(), "given")
    assert (scores.output, shares.output) == (Output.LOGITS, Output.PROBABILITIES)
    assert scores.accuracy == shares.accuracy == 1.0
    assert scores.cross_entropy == pytest.approx(shares.cross_entropy, rel=1e-4)


def test_without_labels_there_is_no_accuracy() -> None:
    unlabelled = fit(ToyNet(), toy_images(2), None, plain_spec(), "given")
    assert math.isnan(unlabelled.accuracy) and unlabelled.output is Output.LOGITS


def test_one_number_serves_all_channels_and_any_other_count_is_refused() -> None:
    images = toy_images(1, channels=3)
    spec = given_spec(images, 3, (0.5,), (0.1, 0.2, 0.3), (0.0, 1.0))
    assert (spec.mean, spec.std, spec.height, spec.width) == ((0.5,) * 3, (0.1, 0.2, 0.3), 16, 16)
    with pytest.raises(Refusal, match=r"--mean has 2 .* the model takes 3 channel"):
        given_spec(images, 3, (0.5, 0.5), (0.1,), (0.0, 1.0))
