"""SAU, shared adversarial unlearning (Wei et al., NeurIPS 2023): unlearn what fools victim and repaired net alike.

    N images   C channels   H, W pixels   K labels

A change of an image that leads both nets to the same wrong label is likely one that the trigger could be. For each
batch it is searched (five steps of .2, at most .2 a pixel: .01 times both nets' cross-entropy, minus the Jensen-Shannon
divergence of their answers, is raised), and where the victim is led to a wrong label, that label is made unlikely:
cross-entropy on clean images, and -log(1 - p) of the label. Adam 1e-4, 100 rounds of batches of 256, batch norms in
evaluation mode, as in the authors' program. Changes are made to pixels in [0, 1].
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.baselines.fine_tuning import batches, before_softmax
from benchmarks.victims.augmentation import Augmentation

EPOCHS, BATCH, LEARNING_RATE = 100, 256, 1e-4
BOUND, STEPS, STEP, FOOLED = 0.2, 5, 0.2, 0.01
PIXEL = 2.0  # a pixel in [0, 1] is twice as much in a victim's [-1, 1]


def unlearned(
    net: nn.Module, images_NCHW: Tensor, labels_N: Tensor, augmentation: Augmentation, seed: int
) -> nn.Module:
    """A copy of a victim, in evaluation mode; answers logits. Images in [0, 1]; the net takes [-1, 1]."""
    victim = copy.deepcopy(before_softmax(net)).eval().requires_grad_(False)
    tuned = copy.deepcopy(victim).requires_grad_(True)
    optimizer = torch.optim.Adam(tuned.parameters(), LEARNING_RATE)
    for shown, wanted in batches(images_NCHW, labels_N, augmentation, EPOCHS, BATCH, seed):
        fooling = shared(victim, tuned, shown, wanted)
        loss = functional.cross_entropy(tuned(shown), wanted)
        with torch.no_grad():
            led = victim(fooling).argmax(1)
        fooled = led != wanted
        if fooled.any():
            share = tuned(fooling[fooled]).softmax(1).gather(1, led[fooled, None])
            loss = loss - (1 - share).clamp_min(1e-6).log().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return tuned.requires_grad_(False)


def shared(victim: nn.Module, tuned: nn.Module, shown_NCHW: Tensor, wanted_N: Tensor) -> Tensor:
    """Images changed a little that both nets answer alike, and wrongly."""
    change = torch.zeros_like(shown_NCHW)
    for _ in range(STEPS):
        change.requires_grad_(True)
        ours, theirs = (net(shown_NCHW + change) for net in (tuned, victim))
        wrong = functional.cross_entropy(ours, wanted_N) + functional.cross_entropy(theirs, wanted_N)
        (slope,) = torch.autograd.grad(FOOLED * wrong - divergence(ours, theirs), change)
        change = (change.detach() + PIXEL * STEP * slope.sign()).clamp(-PIXEL * BOUND, PIXEL * BOUND)
        change = (shown_NCHW + change).clamp(-1, 1) - shown_NCHW
    return shown_NCHW + change


def divergence(ours_NK: Tensor, theirs_NK: Tensor) -> Tensor:
    """The mean Jensen-Shannon divergence of answers, in [0, log 2]."""
    ours, theirs = ours_NK.log_softmax(1), theirs_NK.log_softmax(1)
    middle = torch.stack([ours, theirs]).logsumexp(0) - torch.tensor(2.0).log()
    apart = [functional.kl_div(middle, of, reduction="batchmean", log_target=True) for of in (ours, theirs)]
    return torch.stack(apart).mean()
