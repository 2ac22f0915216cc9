"""Rates and norms, measured in batches without gradients.

N image batch   C channels   H, W pixels   K labels
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from worker.detection.images import Images, at_once

Transform = Callable[[Tensor], Tensor]
BATCH = 256


def batch_of(images: Images | Tensor) -> int:
    """How many of these images are measured at once."""
    return min(BATCH, at_once(images))


@torch.no_grad()
def in_batches(function: Transform, images: Images | Tensor) -> Tensor:
    """function over the images, a batch at a time."""
    return torch.cat([function(batch) for batch in images.split(batch_of(images))])


def predictions(classifier: Transform, images: Images | Tensor) -> Tensor:
    """The label with the highest score for each image, int64 [N]."""
    return in_batches(classifier, images).argmax(1)


def under(trigger: Transform, classifier: Transform) -> Transform:
    """What the classifier says of images once they have the trigger."""
    return lambda images: classifier(trigger(images))


def clean_accuracy(classifier: Transform, images: Images | Tensor, labels_N: Tensor) -> float:
    """The share of images that get their own label."""
    return (predictions(classifier, images) == labels_N).float().mean().item()


def accuracy_drop_bound(right_before_N: Tensor, right_after_N: Tensor) -> float:
    """A one-sided 95 % bound of the accuracy lost, from the same images before and after, bool [N].

    Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions": half an image is
    added to each of the four kinds of pairs.
    """
    lost = int((right_before_N & ~right_after_N).sum()) + 0.5
    won = int((~right_before_N & right_after_N).sum()) + 0.5
    images = len(right_before_N) + 2
    drop = (lost - won) / images
    return drop + 1.645 * math.sqrt((lost + won) / images - drop**2) / math.sqrt(images)


def attack_success_rate(classifier: Transform, triggered: Images | Tensor, labels_N: Tensor, target: int) -> float:
    """The share of triggered images that get the target label, over images whose true label is another."""
    carried_N = predictions(classifier, triggered) == target
    return carried_N[labels_N != target].float().mean().item()


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), which holds its level for few trials and extreme shares, too."""
    z = 1.96
    share, spread = hits / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
