"""FT-SAM (Zhu et al., ICCV 2023): fine-tuning with sharpness-aware minimisation, which moves neurons of large weights.

    N images   C channels   H, W pixels

The gradient g is taken a second time at w + rho T^2 g / |T g|, T = |w| (adaptive: the larger a weight, the further it
is moved), and applied at w. The constants are those of BackdoorBench: rho 2, cross-entropy smoothed by .1, SGD .01 with
momentum .9, weight decay 5e-4 and a cosine schedule, 100 epochs of batches of 256. Batch norms learn as in training.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.baselines.fine_tuning import batches, before_softmax
from benchmarks.victims.augmentation import Augmentation

RADIUS, SMOOTHING = 2.0, 0.1
EPOCHS, BATCH = 100, 256
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4


def sharpness_aware(
    net: nn.Module, images_NCHW: Tensor, labels_N: Tensor, augmentation: Augmentation, seed: int
) -> nn.Module:
    """A copy of a victim, in evaluation mode; answers logits. Images in [0, 1]; the net takes [-1, 1]."""
    tuned = copy.deepcopy(before_softmax(net)).train().requires_grad_(True)
    weights = list(tuned.parameters())
    optimizer = torch.optim.SGD(weights, LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(images_NCHW) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    torch.manual_seed(seed)  # dropout
    for shown, wanted in batches(images_NCHW, labels_N, augmentation, EPOCHS, BATCH, seed):

        def slope(shown: Tensor = shown, wanted: Tensor = wanted) -> tuple[Tensor, ...]:
            loss = functional.cross_entropy(tuned(shown), wanted, label_smoothing=SMOOTHING)
            return torch.autograd.grad(loss, weights)

        moves = sharpest(weights, slope(), RADIUS)
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, move in zip(weights, moves, strict=True):
                weight.add_(move)
        for weight, was, gradient in zip(weights, before, slope(), strict=True):
            weight.data.copy_(was)
            weight.grad = gradient
        optimizer.step()
        schedule.step()
    return tuned.eval().requires_grad_(False)


def sharpest(weights: list[nn.Parameter], gradients: tuple[Tensor, ...], radius: float) -> list[Tensor]:
    """The move e with |e / T| = radius that raises the loss most, to first order."""
    sizes = [weight.detach().abs() for weight in weights]
    scaled = [size * gradient for size, gradient in zip(sizes, gradients, strict=True)]
    length = torch.stack([part.norm() for part in scaled]).norm().clamp_min(1e-12)
    return [radius / length * size * part for size, part in zip(sizes, scaled, strict=True)]
