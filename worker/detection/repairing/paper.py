"""The paper's repair (sec. 3.5 and 4.3): fine-tune on clean images and their triggered twins, under the true labels.

SGD with learning rate 1e-3 and momentum 0.9 for ten epochs. Each epoch sees all clean images and the twins of at most
500, drawn anew: unlearning takes a number of twins, and what goes beyond it costs accuracy (benchmarks/LOG.md). Neural
Cleanse puts its trigger on a fifth of the images (Wang et al. 2019, sec. VI-C).

    N image batch   C channels   H, W pixels
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.config import RepairConfig
from worker.detection.images import Images, at_once
from worker.detection.metrics import Transform
from worker.detection.repairing.base import Attempt, Case, active_dropout, trainable


def repair(case: Case) -> Attempt:
    """One fine-tuning, with whatever accuracy it costs."""
    repaired, config = case.copy(), case.config
    case.on_round(0)

    def tell(epoch: int) -> None:
        case.on_step(epoch)
        case.on_epoch(epoch, config.epochs)

    unlearn_trigger(
        repaired,
        [trigger.on for trigger in case.triggers],
        case.images,
        case.labels_N,
        config,
        case.seed,
        on_epoch=tell,
    )
    return Attempt(repaired, config.learning_rate)


def unlearn_trigger(
    network: nn.Module,
    triggers: Sequence[Transform],
    images: Images,
    labels_N: Tensor,
    config: RepairConfig,
    seed: int,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Fine-tune the network's parameters in place; `labels_N` are the true labels.

    Dropout is active where the module still has it (a traced one has not); everything else stays in evaluation mode,
    so batch norms keep their statistics. Raises ValueError for a network without parameters.
    """
    parameters = trainable(network)
    optimizer = torch.optim.SGD(parameters, config.learning_rate, momentum=config.momentum)
    random = torch.Generator().manual_seed(seed)
    with active_dropout(network, seed):
        for epoch in range(config.epochs):
            for picked in _epoch(len(images), len(triggers), config, random).split(config.batch_size):
                optimizer.zero_grad(set_to_none=True)
                for part in picked.split(at_once(images)):
                    true = labels_N[(part % len(images)).to(labels_N.device)]
                    loss = functional.cross_entropy(network(_with_twins(images, triggers, part)), true)
                    (len(part) / len(picked) * loss).backward()
                optimizer.step()
            on_epoch(epoch + 1)
    for parameter in parameters:
        parameter.requires_grad_(False)


def _epoch(clean: int, triggers: int, config: RepairConfig, random: torch.Generator) -> Tensor:
    """Shuffled indices of all clean images and, per trigger, of some of the twins that follow them."""
    twins = [(n + 1) * clean + torch.randperm(clean, generator=random)[: config.twins] for n in range(triggers)]
    indices = torch.cat([torch.arange(clean), *twins])
    return indices[torch.randperm(len(indices), generator=random)]


@torch.no_grad()
def _with_twins(images: Images, triggers: Sequence[Transform], picked: Tensor) -> Tensor:
    """Of the clean images, and of the twins by each trigger that follow them, those with these indices."""
    shown_NCHW = images[picked % len(images)]
    for number, trigger in enumerate(triggers, 1):
        twins = torch.nonzero(picked // len(images) == number).flatten().to(images.device)
        if len(twins):
            shown_NCHW[twins] = trigger(shown_NCHW[twins])
    return shown_NCHW
