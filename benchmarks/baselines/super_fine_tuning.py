"""Super-fine-tuning (Sha et al. 2022, "Fine-Tuning Is All You Need to Mitigate Backdoor Attacks", arXiv 2212.09067).

    N images   C channels   H, W pixels

SGD with momentum .9 on the clean images, whose learning rate rises and falls along a line: from 3e-4 to .1 and back, so
that the net forgets, then from 3e-4 to 1e-3 and back, so that it learns what it should not have forgotten; three epochs
each. How many times it does so in a phase is not said where we could read it: once here. Batches of 128.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.baselines.fine_tuning import batches, before_softmax
from benchmarks.victims.augmentation import Augmentation

LOW, HIGHS = 3e-4, (0.1, 1e-3)
EPOCHS, BATCH, MOMENTUM = 3, 128, 0.9


def super_fine_tuned(
    net: nn.Module, images_NCHW: Tensor, labels_N: Tensor, augmentation: Augmentation, seed: int
) -> nn.Module:
    """A copy of a victim, in evaluation mode; answers logits. Images in [0, 1]; the net takes [-1, 1]."""
    tuned = copy.deepcopy(before_softmax(net)).train().requires_grad_(True)
    torch.manual_seed(seed)  # dropout
    for phase, high in enumerate(HIGHS):
        optimizer = torch.optim.SGD(tuned.parameters(), LOW, momentum=MOMENTUM)
        half = max(1, EPOCHS * -(-len(images_NCHW) // BATCH) // 2)
        schedule = torch.optim.lr_scheduler.CyclicLR(optimizer, LOW, high, half, cycle_momentum=False)
        for shown, wanted in batches(images_NCHW, labels_N, augmentation, EPOCHS, BATCH, 2 * seed + phase):
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(tuned(shown), wanted).backward()
            optimizer.step()
            schedule.step()
    return tuned.eval().requires_grad_(False)
