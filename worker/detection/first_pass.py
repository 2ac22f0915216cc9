"""The first pass over many labels: a few steps of the search of a family, for a score of how easy each is to reach.

    T labels   N images, the same for each   C channels   H, W pixels   K labels of the classifier

Every label gets the same few steps on the same few images, which is not enough to reach it: norms at equal success
cannot be read. What can be told is how far the images have come on their way, the target's lead over the best other
score, and how much the trigger changes them for it. The score is the logarithm of the norm that would take them all of
the way at that rate: low for a label that is easy to reach, in a unit that nobody needs. It serves to choose the labels
that are searched in full, and is no evidence.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.config import FirstPassConfig, SearchConfig
from worker.detection.clean import CleanImages
from worker.detection.families.base import Triggers
from worker.detection.images import at_once
from worker.detection.recorded import adam

LEAST = 1e-3  # of the way: what has come no farther is as hard as any


def easiness(
    classifier: nn.Module,
    clean: CleanImages,
    targets: Sequence[int],
    triggers: Triggers,
    config: SearchConfig,
    first_pass: FirstPassConfig,
) -> list[float]:
    """The score of each target label; `triggers` are where the search starts, and are changed.

    How far images that have the target as their label come does not count.
    """
    device = clean.images.device
    picked_N = _spread(clean.labels_N, first_pass.images)
    images_NCHW, labels_N = clean.images[picked_N], clean.labels_N[picked_N]
    targets_T1 = torch.tensor(targets, device=device)[:, None]
    counts_TN = (labels_N != targets_T1).float()
    weights_TN = counts_TN / counts_TN.sum(1, keepdim=True).clamp_min(1)
    parts = torch.arange(len(picked_N), device=device).split(max(1, at_once(clean.images) // len(targets)))

    def shown(part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Some of the images, once for each label; the same with the triggers; and what is said of those."""
        images = images_NCHW[part].expand(len(targets), -1, -1, -1, -1)
        triggered = triggers(images)
        return images, triggered, classifier(triggered.flatten(0, 1)).unflatten(0, triggered.shape[:2])

    optimizer = adam(triggers.requires_grad_(True).parameters(), config.learning_rate, betas=config.betas)
    for _ in range(first_pass.steps):
        optimizer.zero_grad(set_to_none=True)
        for part in parts:
            images, triggered, logits_TNK = shown(part)
            triggered.register_hook(lambda gradient: gradient.nan_to_num(0, 0, 0))
            wanted = targets_T1.expand(-1, len(part)).flatten()
            attack = functional.cross_entropy(logits_TNK.flatten(0, 1), wanted, reduction="none")
            features = partial(_features, clean, picked_N[part], images)
            cost_T = triggers.cost(images, triggered, features)
            share = len(part) / len(picked_N)
            loss = (weights_TN[:, part].flatten() * attack).sum() * first_pass.lambda_attack + share * cost_T.sum()
            loss.backward()
        optimizer.step()
    triggers.requires_grad_(False)
    with torch.no_grad():
        before_T, after_T, norm_T = (torch.zeros(len(targets), device=device) for _ in range(3))
        for part in parts:
            images, triggered, logits_TNK = shown(part)
            norm_T += triggers.norm(images, triggered) * len(part) / len(picked_N)
            after_T += (weights_TN[:, part] * _short_of(logits_TNK, targets_T1)).sum(1)
            clean_TNK = classifier(images_NCHW[part]).expand(len(targets), -1, -1)
            before_T += (weights_TN[:, part] * _short_of(clean_TNK, targets_T1)).sum(1)
    come_T = (1 - after_T / before_T.clamp_min(LEAST)).clamp_min(LEAST)
    scores_T = torch.where(come_T <= LEAST, -math.log(LEAST), norm_T.log() - come_T.log())
    return scores_T.tolist()


def _spread(labels_N: Tensor, images: int) -> Tensor:
    """Indices of so many images or all, of classes that lie evenly among all."""
    places = torch.linspace(0, len(labels_N) - 1, min(images, len(labels_N)), device=labels_N.device)
    return labels_N.argsort(stable=True)[places.long()]


def _features(clean: CleanImages, picked_n: Tensor, images_TnCHW: Tensor) -> list[Tensor]:
    """The perceptual network's of the images, once for each label."""
    labels = len(images_TnCHW)
    of_one = clean.features_of(picked_n, images_TnCHW[0])
    return [layer.expand(labels, *layer.shape).flatten(0, 1) for layer in of_one]


def _short_of(logits_TNK: Tensor, targets_T1: Tensor) -> Tensor:
    """By how much each label's score is short of the best other one, [T, N]."""
    where = targets_T1[:, :, None].expand(-1, logits_TNK.shape[1], -1)
    own_TN = logits_TNK.gather(2, where)[..., 0]
    return logits_TNK.scatter(2, where, -torch.inf).amax(2) - own_TN
