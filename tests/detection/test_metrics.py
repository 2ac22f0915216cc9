"""Rates and norms on numbers small enough to count by hand."""

import torch
from torch import Tensor

from worker.detection.metrics import (
    BATCH,
    accuracy_drop_bound,
    attack_success_rate,
    clean_accuracy,
    in_batches,
    predictions,
)


def brightest_channel(images_NCHW: Tensor) -> Tensor:
    """A classifier of three labels: the channel with the highest mean."""
    return images_NCHW.mean((2, 3))


def of_channels(channels: list[int]) -> Tensor:
    images = torch.zeros(len(channels), 3, 2, 2)
    images[range(len(channels)), channels] = 1.0
    return images


def test_clean_accuracy_is_the_share_of_right_answers() -> None:
    assert clean_accuracy(brightest_channel, of_channels([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0])) == 0.75


def test_attack_success_leaves_out_images_of_the_target_label() -> None:
    labels = torch.tensor([2, 2, 2, 0, 0, 1, 1])
    triggered = of_channels([2, 2, 2, 2, 0, 1, 1])  # of four images of other labels one is carried to label 2
    assert attack_success_rate(brightest_channel, triggered, labels, 2) == 0.25


def test_batches_are_put_together_again_and_leave_no_gradient_behind() -> None:
    images = torch.rand(BATCH + 3, 3, 2, 2, requires_grad=True)
    doubled = in_batches(lambda batch: 2 * batch, images)
    assert torch.equal(doubled, 2 * images) and not doubled.requires_grad
    assert torch.equal(predictions(brightest_channel, images), images.mean((2, 3)).argmax(1))


def test_the_bound_of_an_accuracy_drop_covers_it_about_as_often_as_it_says() -> None:
    """Of 1,000 images a net that loses 2 % of its answers and wins 1 %: a drop of one point."""
    random, covered = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        fate = torch.rand(1000, generator=random)
        before, after = fate >= 0.01, (fate < 0.01) | (fate >= 0.03)
        covered += accuracy_drop_bound(before, after) >= 0.01
    assert 0.92 <= covered / 400 <= 0.98
    nothing = torch.ones(120, dtype=torch.bool)
    assert 0 < accuracy_drop_bound(nothing, nothing) < 0.02, "no drop seen is not no drop"
