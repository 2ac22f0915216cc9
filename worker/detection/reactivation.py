"""How soon is a backdoor back? Tests of a network that is said to have lost it.

A repair can hide a backdoor instead of removing it: then its trigger fails, and a few poisoned images bring it back
(Min et al. 2024, "Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense"). Or it works as
before with a little noise over it (Zhu et al. 2024, "Breaking the False Sense of Security in Backdoor Defense through
Re-Activation Attack"). Neither says much alone: any network learns a trigger in time, and can be fooled by noise. So a
network that never had the backdoor is tried in the same way beside it.

    N images   C channels   H, W pixels
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.findings import ComesBack, Reactivation
from worker.detection.clean import batches_of, random_numbers, sample
from worker.detection.images import Images, at_once
from worker.detection.metrics import Transform, attack_success_rate, clean_accuracy, under
from worker.detection.repairing.base import MOST_GRADIENT, active_dropout, trainable

# Re-tuning, as Min et al. do it: five poisoned images among 2 % of CIFAR-10, five epochs.
POISONED, MOST_IMAGES, EPOCHS, LEARNING_RATE, MOMENTUM, BATCH = 5, 1000, 5, 0.01, 0.9, 64
NOISE, NOISE_STEPS, NOISE_STEP = 0.05, 50, 0.005  # per pixel of [0, 1]; steps along the gradient's sign
LINE = tuple(tenth / 10 for tenth in range(11))  # of the way from the repaired weights to the suspect's
MOST_TRIED = 10  # triggers; each takes about as long as a round of unlearning
HARDLY, QUICKLY = 0.1, 0.5  # more success after re-tuning than a network has that never had the backdoor


class Known(NamedTuple):
    """Images with their true labels."""

    images: Images
    labels_N: Tensor


def comes_back(retuned: float, reference: float | None) -> ComesBack:
    """What a success after re-tuning means beside the reference's; without one, beside none at all."""
    more = retuned - (reference or 0.0)
    if more <= HARDLY:
        return ComesBack.HARDLY
    return ComesBack.PARTLY if more < QUICKLY else ComesBack.QUICKLY


def soonest(found: Sequence[Reactivation]) -> ComesBack | None:
    """Of the trigger that comes back soonest; None where none was tried."""
    return max((one.comes_back for one in found), key=list(ComesBack).index, default=None)


def retune(
    network: nn.Module, trigger: Transform, target: int, known: Known, seed: int, poisoned: int = POISONED
) -> None:
    """Fine-tune the network in place on images of which a few of other labels have the trigger and the target's label.

    Batch norms keep their statistics, and gradients are clipped: what such a network does at this learning rate would
    otherwise be chance.
    """
    known = _at_most(known, MOST_IMAGES)
    parameters, random = trainable(network), random_numbers(seed, target)
    optimizer = torch.optim.SGD(parameters, LEARNING_RATE, momentum=MOMENTUM)
    others = torch.nonzero(known.labels_N.cpu() != target).flatten()
    chosen = others[torch.randperm(len(others), generator=random)[:poisoned]]
    wanted_N = known.labels_N.clone()
    wanted_N[chosen.to(wanted_N.device)] = target
    with active_dropout(network, seed):
        for _ in range(EPOCHS):
            for picked in torch.randperm(len(known.images), generator=random).split(BATCH):
                optimizer.zero_grad(set_to_none=True)
                for part in picked.split(at_once(known.images)):
                    shown_NCHW = _with_trigger(trigger, known.images[part], torch.isin(part, chosen))
                    loss = functional.cross_entropy(network(shown_NCHW), wanted_N[part.to(wanted_N.device)])
                    (len(part) / len(picked) * loss).backward()
                nn.utils.clip_grad_norm_(parameters, MOST_GRADIENT)
                optimizer.step()
    for parameter in parameters:
        parameter.requires_grad_(False)


@torch.no_grad()
def _with_trigger(trigger: Transform, images_NCHW: Tensor, which_N: Tensor) -> Tensor:
    at = torch.nonzero(which_N).flatten().to(images_NCHW.device)
    if len(at):
        images_NCHW[at] = trigger(images_NCHW[at])
    return images_NCHW


def noise_beyond(network: nn.Module, trigger: Transform, target: int, known: Known, seed: int) -> Transform:
    """The trigger with the same noise over every image, at most NOISE a pixel, that makes it work best."""
    random = random_numbers(seed, target)
    others = torch.nonzero(known.labels_N.cpu() != target).flatten()
    size = min(BATCH, len(others), at_once(known.images))
    batches = batches_of(others, size, random)
    noise_CHW = torch.zeros(known.images.shape, device=known.images.device)
    wanted_N = torch.full((size,), target, device=known.images.device)
    for _ in range(NOISE_STEPS):
        with torch.no_grad():
            triggered_NCHW = trigger(known.images[next(batches)])
        noise_CHW.requires_grad_(True)
        lost = functional.cross_entropy(network((triggered_NCHW + noise_CHW).clamp(0, 1)), wanted_N)
        (gradient_CHW,) = torch.autograd.grad(lost, noise_CHW)
        stepped_CHW = noise_CHW.detach() - NOISE_STEP * gradient_CHW.nan_to_num().sign()
        noise_CHW = stepped_CHW.clamp(-NOISE, NOISE)
    return lambda images_NCHW: (trigger(images_NCHW) + noise_CHW).clamp(0, 1)


class Returned(NamedTuple):
    """What one network comes to, on images that it was not tuned on."""

    retuned: float  # the trigger's success after re-tuning
    retuned_accuracy: float
    with_noise: float  # the trigger's success with noise over it


def tried(
    copy: Callable[[], nn.Module], trigger: Transform, target: int, seen: Known, judges: Known, seed: int
) -> Returned:
    """Try to bring a trigger back in a network, of which `copy` gives another one each time."""
    network = copy()
    noisy = noise_beyond(network, trigger, target, seen, seed)
    with_noise = attack_success_rate(under(noisy, network), *judges, target)
    retune(network, trigger, target, seen, seed)
    retuned = attack_success_rate(under(trigger, network), *judges, target)
    return Returned(retuned, clean_accuracy(network, *judges), with_noise)


def success_on_the_line(
    network: nn.Module, suspect: nn.Module, trigger: Transform, target: int, judges: Known
) -> list[float]:
    """The trigger's success at weights between the network's, which are changed on the way, and the suspect's."""
    begins, ends = _numbers(network), _numbers(suspect)
    starts = [numbers.clone() for numbers in begins]
    success = []
    for share in LINE:
        for numbers, start, end in zip(begins, starts, ends, strict=True):
            numbers.copy_(start.lerp(end, share))
        success.append(attack_success_rate(under(trigger, network), *judges, target))
    return success


def _numbers(network: nn.Module) -> list[Tensor]:
    """Weights, and what batch norms remember, to be read or written."""
    return [of.detach() for of in (*network.parameters(), *network.buffers()) if of.is_floating_point()]


def _at_most(known: Known, most: int) -> Known:
    picked = sample(known.labels_N, most)
    return Known(known.images.subset(picked), known.labels_N[picked])
