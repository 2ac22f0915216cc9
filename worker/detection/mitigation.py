"""Unlearning a trigger: fine-tune on clean images and their triggered twins, in one of two ways.

Under the original labels, the paper's way (sec. 3.5 and 4.3): SGD with learning rate 1e-3 and momentum 0.9 for ten
epochs. Each epoch sees all clean images and the twins of at most 500, drawn anew: unlearning takes a number of twins,
and what goes beyond it costs accuracy (benchmarks/LOG.md). Neural Cleanse puts its trigger on a fifth of the images
(Wang et al. 2019, sec. VI-C).

By matching scores: both are to get the scores that the suspect gave the clean image (Hinton et al. 2015, "Distilling
the Knowledge in a Neural Network", sec. 2.1: at a high temperature this is a squared difference of logits). A few
images say more about a network by their scores than by their labels, so that the rest of it stays as it was. Of a class
without an image they say little, and what is learned about the others can ruin it: there the suspect's own answers are
kept on images with the triggers that lead to it, which is as close to that class as the images at hand come.

    N image batch   C channels   H, W pixels
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.config import RepairConfig
from models.classifier import Classifier
from worker.detection.clean import batches_of, random_numbers
from worker.detection.families.base import Triggers
from worker.detection.images import Images, at_once
from worker.detection.metrics import Transform, in_batches

MOST_GRADIENT = 1.0  # norms above are clipped to it
DROPOUTS = {"Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"}  # torch's own


def unlearn_trigger(
    classifier: Classifier,
    triggers: Sequence[Transform],
    images: Images,
    labels_N: Tensor,
    config: RepairConfig,
    seed: int,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Fine-tune the classifier's parameters in place; `labels_N` are the true labels.

    Dropout is active where the module still has it (a traced one has not); everything else stays in evaluation mode,
    so batch norms keep their statistics. Raises ValueError for a classifier without parameters.
    """
    parameters = _trainable(classifier)
    optimizer = torch.optim.SGD(parameters, config.learning_rate, momentum=config.momentum)
    random = torch.Generator().manual_seed(seed)
    with _active_dropout(classifier.module, seed):
        for epoch in range(config.epochs):
            for picked in _epoch(len(images), len(triggers), config, random).split(config.batch_size):
                optimizer.zero_grad(set_to_none=True)
                for part in picked.split(at_once(images)):
                    true = labels_N[(part % len(images)).to(labels_N.device)]
                    loss = functional.cross_entropy(classifier(_with_twins(images, triggers, part)), true)
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


def match_scores(
    classifier: Classifier,
    suspect: Transform,
    triggers: Sequence[Triggers],
    images: Images,
    config: RepairConfig,
    learning_rate: float,
    seed: int,
    held: Sequence[Triggers] = (),
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Fine-tune the classifier's parameters in place until it gives images and twins the suspect's scores of images.

    A batch has its twins by one trigger, the triggers take turns; so do those that are `held`, with which images get
    the scores that the suspect gives them. The module stays in evaluation mode. `on_step` hears the number of finished
    steps. Raises ValueError for a classifier without parameters.
    """
    assert config.matching is not None
    parameters = _trainable(classifier)
    optimizer = torch.optim.SGD(parameters, learning_rate, momentum=config.momentum)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.matching.steps)
    wanted_NK = _centred(in_batches(suspect, images))
    unit = wanted_NK.square().mean().clamp_min(1e-12)
    random = random_numbers(seed)
    batches = batches_of(torch.arange(len(images)), min(config.batch_size, len(images)), random)
    keeping = cycle(held)
    for step, trigger in zip(range(config.matching.steps), cycle(triggers), strict=False):
        picked = next(batches)
        shown, wanted = [images[picked]], [wanted_NK[picked.to(images.device)].repeat(2, 1)]
        with torch.no_grad():
            shown.append(trigger.varied(shown[0], random))
            if held:
                shown.append(next(keeping).on(shown[0]))
                wanted.append(_centred(in_batches(suspect, shown[-1])))
        optimizer.zero_grad(set_to_none=True)
        batch, together = torch.cat(shown), at_once(images)
        for part, wanted_part in zip(batch.split(together), torch.cat(wanted).split(together), strict=True):
            loss = (_centred(classifier(part)) - wanted_part).square().mean() / unit
            (len(part) / len(batch) * loss).backward()
        nn.utils.clip_grad_norm_(parameters, MOST_GRADIENT)
        optimizer.step()
        schedule.step()
        on_step(step + 1)
    for parameter in parameters:
        parameter.requires_grad_(False)


def _centred(scores_NK: Tensor) -> Tensor:
    """Scores as far as they matter: what is the same for all labels changes no probability."""
    return scores_NK - scores_NK.mean(1, keepdim=True)


def _trainable(classifier: Classifier) -> list[nn.Parameter]:
    parameters = list(classifier.module.parameters())
    if not parameters:
        raise ValueError("the module has no parameters to fine-tune")
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


@contextmanager
def _active_dropout(module: nn.Module, seed: int) -> Iterator[None]:
    """Within, the module's dropout layers drop, by their own random numbers; the global ones stay as they were."""
    layers = [part for part in module.modules() if type(part).__name__ in DROPOUTS]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in layers:
            layer.training = True  # and nothing that lies in it, if the name was given to something else
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False
