"""Unlearning a trigger: fine-tune on clean images and their triggered twins, both under the original labels.

Paper, sec. 3.5 and 4.3: SGD with learning rate 1e-3 and momentum 0.9 for ten epochs. Each epoch sees all clean images
and the twins of at most 500, drawn anew: unlearning takes a number of twins, and what goes beyond it costs accuracy
(benchmarks/LOG.md). Neural Cleanse puts its trigger on a fifth of the images (Wang et al. 2019, sec. VI-C).

    N image batch   C channels   H, W pixels
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.config import RepairConfig
from models.classifier import Classifier
from worker.detection.metrics import Transform, in_batches


def unlearn_trigger(
    classifier: Classifier,
    triggers: Sequence[Transform],
    images_NCHW: Tensor,
    labels_N: Tensor,
    config: RepairConfig,
    seed: int,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Fine-tune the classifier's parameters in place; `labels_N` are the true labels.

    Dropout is active where the module still has it (a traced one has not); everything else stays in evaluation mode,
    so batch norms keep their statistics. Raises ValueError for a classifier without parameters.
    """
    parameters = list(classifier.module.parameters())
    if not parameters:
        raise ValueError("the module has no parameters to fine-tune")
    clean = len(images_NCHW)
    twins = [in_batches(trigger, images_NCHW) for trigger in triggers]
    images, labels = torch.cat([images_NCHW, *twins]), labels_N.repeat(1 + len(twins))
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(parameters, config.learning_rate, momentum=config.momentum)
    random = torch.Generator().manual_seed(seed)
    with _active_dropout(classifier.module, seed):
        for epoch in range(config.epochs):
            for picked in _epoch(clean, len(twins), config, random).to(images.device).split(config.batch_size):
                loss = functional.cross_entropy(classifier(images[picked]), labels[picked])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            on_epoch(epoch + 1)
    for parameter in parameters:
        parameter.requires_grad_(False)


def _epoch(clean: int, triggers: int, config: RepairConfig, random: torch.Generator) -> Tensor:
    """Shuffled indices of all clean images and, per trigger, of some of the twins that follow them."""
    twins = [(n + 1) * clean + torch.randperm(clean, generator=random)[: config.twins] for n in range(triggers)]
    indices = torch.cat([torch.arange(clean), *twins])
    return indices[torch.randperm(len(indices), generator=random)]


@contextmanager
def _active_dropout(module: nn.Module, seed: int) -> Iterator[None]:
    """Within, the module's dropout layers drop, by their own random numbers; the global ones stay as they were."""
    layers = [part for part in module.modules() if "Dropout" in type(part).__name__]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in layers:
            layer.train()
        yield
        for layer in layers:
            layer.eval()
