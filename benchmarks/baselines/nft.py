"""NFT, neural mask fine-tuning (Karim et al., ECCV 2024): learn how much of each neuron to keep, and nothing else.

    N images   C channels   H, W pixels

Weights and bias of every neuron (an output of a convolution or a linear layer) are multiplied by a mask of one number,
which starts at 1 and stays between a floor, .8 exp(-.5 depth), and 1: the first layers are changed least. SGD .05 with
momentum .95 on cross-entropy of mixed images (MixUp, alpha 1) plus 1e-3 times the distance of the masks from 1, summed.
100 epochs, batches of 128, batch norms in evaluation mode.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from benchmarks.baselines.fine_tuning import batches, before_softmax
from benchmarks.victims.augmentation import Augmentation

EPOCHS, BATCH, LEARNING_RATE, MOMENTUM = 100, 128, 0.05, 0.95
ALPHA, FLOOR, STEEPNESS, DISTANCE = 1.0, 0.8, 0.5, 1e-3


def masked(net: nn.Module, images_NCHW: Tensor, labels_N: Tensor, augmentation: Augmentation, seed: int) -> nn.Module:
    """A copy of a victim, in evaluation mode; answers logits. Images in [0, 1]; the net takes [-1, 1]."""
    tuned = copy.deepcopy(before_softmax(net)).eval().requires_grad_(False)
    layers = {name: part for name, part in tuned.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    masks = {name: torch.ones(len(part.weight), requires_grad=True) for name, part in layers.items()}
    optimizer = torch.optim.SGD(masks.values(), LEARNING_RATE, momentum=MOMENTUM)
    torch.manual_seed(seed)  # of how images are mixed
    for shown, wanted in batches(images_NCHW, labels_N, augmentation, EPOCHS, BATCH, seed):
        mixed, order, share = mix(shown)
        scores = functional_call(tuned, _scaled(layers, masks), (mixed,))
        loss = share * functional.cross_entropy(scores, wanted)
        loss = loss + (1 - share) * functional.cross_entropy(scores, wanted[order])
        loss = loss + DISTANCE * torch.cat([1 - mask for mask in masks.values()]).abs().sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mask, low in zip(masks.values(), floors(len(masks)), strict=True):
                mask.clamp_(low, 1.0)
    with torch.no_grad():
        for name, weights in _scaled(layers, masks).items():
            tuned.get_parameter(name).copy_(weights)
    return tuned


def floors(layers: int) -> list[float]:
    """The least that may be kept of the neurons of each layer."""
    return [FLOOR * float(torch.tensor(-STEEPNESS * depth).exp()) for depth in range(1, layers + 1)]


def mix(images_NCHW: Tensor) -> tuple[Tensor, Tensor, float]:
    """Each image mixed with another one; which, and the share of the first."""
    share = float(torch.distributions.Beta(ALPHA, ALPHA).sample())
    order = torch.randperm(len(images_NCHW))
    return share * images_NCHW + (1 - share) * images_NCHW[order], order, share


def _scaled(layers: Mapping[str, nn.Module], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """The layers' parameters by their full names, those of each neuron times its mask."""
    return {
        f"{name}.{kind}": weights * masks[name].view(-1, *[1] * (weights.dim() - 1))
        for name, layer in layers.items()
        for kind, weights in layer.named_parameters(recurse=False)
    }
