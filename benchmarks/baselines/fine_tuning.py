"""Fine-tuning on the clean images and nothing else: the control that a repair has to beat.

    N images   C channels   H, W pixels

Weak as in the paper (sec. 4.3: SGD 1e-3, momentum .9, ten epochs), strong as in BackdoorBench (Wu et al. 2022: SGD 1e-2
with a cosine schedule, momentum .9, weight decay 5e-4, batches of 256, 100 epochs). Batch norms learn as in training.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.victims.augmentation import Augmentation
from benchmarks.victims.train import normalise


def before_softmax(net: nn.Module) -> nn.Module:
    """The part of a victim that answers logits."""
    return net[0] if isinstance(net, nn.Sequential) and isinstance(net[-1], nn.Softmax) else net


@dataclass(frozen=True)
class FineTuning:
    """A schedule of SGD with momentum .9."""

    learning_rate: float
    epochs: int
    batch: int
    weight_decay: float = 0.0
    cosine: bool = False


WEAK = FineTuning(learning_rate=1e-3, epochs=10, batch=32)
STRONG = FineTuning(learning_rate=1e-2, epochs=100, batch=256, weight_decay=5e-4, cosine=True)


def batches(
    images_NCHW: Tensor, labels_N: Tensor, augmentation: Augmentation, epochs: int, batch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """What a victim is fine-tuned on: images moved and normalised, with their labels, `batch` at most at a time."""
    random = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for picked in torch.randperm(len(images_NCHW), generator=random).tensor_split(-(-len(images_NCHW) // batch)):
            yield normalise(augmentation.apply(images_NCHW[picked], random)), labels_N[picked]


def fine_tuned(
    how: FineTuning, net: nn.Module, images_NCHW: Tensor, labels_N: Tensor, augmentation: Augmentation, seed: int
) -> nn.Module:
    """A fine-tuned copy of a victim, in evaluation mode; answers logits. Images in [0, 1]; the net takes [-1, 1]."""
    tuned = copy.deepcopy(before_softmax(net)).train().requires_grad_(True)
    optimizer = torch.optim.SGD(tuned.parameters(), how.learning_rate, momentum=0.9, weight_decay=how.weight_decay)
    steps = how.epochs * -(-len(images_NCHW) // how.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if how.cosine else None
    torch.manual_seed(seed)  # dropout
    for shown, wanted in batches(images_NCHW, labels_N, augmentation, how.epochs, how.batch, seed):
        loss = functional.cross_entropy(tuned(shown), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if schedule:
            schedule.step()
    return tuned.eval().requires_grad_(False)
