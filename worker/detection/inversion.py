"""Trigger inversion: for each label, train a generator that changes images as little as it can and still reaches it.

    N image batch   C channels   H, W pixels   K labels

Several labels are inverted in one call: each has its own generator and its own random numbers, drawn from (seed,
label); the suspect classifier and the perceptual network see the batches of all of them at once.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.core.config import InversionConfig
from models.classifier import Classifier
from models.generator import TriggerGenerator
from models.perceptual import PerceptualDistance
from worker.detection.metrics import attack_success_rate, in_batches, residual_norm
from worker.detection.objectives import attack_loss, reconstruction_loss

AVERAGED_STEPS = 10  # the reported loss is the mean over this many last steps


@dataclass(frozen=True)
class CleanImages:
    """The clean images of a scan with what is computed from them once.

    `labels_N` are the true labels, or the classifier's own predictions where the images came without.
    """

    images_NCHW: Tensor
    labels_N: Tensor
    features: list[Tensor]  # of the perceptual network, each [N, ...]

    @classmethod
    def measure(cls, images_NCHW: Tensor, labels_N: Tensor, perceptual: PerceptualDistance) -> "CleanImages":
        with torch.no_grad():
            parts = [perceptual.features(batch) for batch in images_NCHW.split(256)]
        return cls(images_NCHW, labels_N, [torch.cat(layer) for layer in zip(*parts, strict=True)])

    def __len__(self) -> int:
        return len(self.images_NCHW)


@dataclass(frozen=True)
class Inversion:
    """The trigger found for one label, with the evidence of how it was found."""

    label: int
    generator: TriggerGenerator
    norm: float  # m_t, eq. (5)
    attack_success_rate: float
    loss: float  # eq. (4), mean over the last steps
    steps: int
    truncated: bool


def pretrain_generator(
    clean: CleanImages, perceptual: PerceptualDistance, config: InversionConfig, seed: int
) -> TriggerGenerator:
    """The generator every label starts from: one that gives back its input (paper, sec. 4.1).

    With identity_start "residual" it does so by construction; with "trained" it learns to by L_rec.
    """
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    channels = clean.images_NCHW.shape[1]
    generator = TriggerGenerator(channels, config.generator_width, config.generator_levels, config.identity_start)
    torch.random.set_rng_state(torch_state)
    generator.to(clean.images_NCHW.device)
    if config.identity_start == "residual":
        return generator
    optimizer = torch.optim.Adam(generator.parameters(), config.learning_rate)
    batches = _batches(torch.arange(len(clean)), config.batch_size, _random(seed))
    for _ in range(config.pretrain_epochs * max(1, len(clean) // config.batch_size)):
        picked = next(batches)
        images = clean.images_NCHW[picked]
        features = [layer[picked] for layer in clean.features]
        loss = reconstruction_loss(images, generator(images), features, perceptual, config).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return generator


def invert_triggers(
    classifier: Classifier,
    clean: CleanImages,
    targets: Sequence[int],
    start: TriggerGenerator,
    perceptual: PerceptualDistance,
    config: InversionConfig,
    seed: int,
    on_step: Callable[[int], None] = lambda step: None,
    out_of_time: Callable[[], bool] = lambda: False,
) -> list[Inversion]:
    """Invert the trigger of each target label: minimise eq. (4) over images whose label is not the target.

    `on_step` hears the number of finished steps; when `out_of_time` says so, the search stops where it is and its
    inversions are marked as truncated. Raises ValueError for a target without images of other labels.
    """
    generators = [copy.deepcopy(start).requires_grad_(True) for _ in targets]
    others = [torch.nonzero(clean.labels_N != target).flatten() for target in targets]
    for target, indices in zip(targets, others, strict=True):
        if len(indices) == 0:
            raise ValueError(f"label {target}: there is no image of another label to put a trigger on")
    batches = [_batches(i, config.batch_size, _random(seed, t)) for t, i in zip(targets, others, strict=True)]
    optimizer = torch.optim.Adam([p for g in generators for p in g.parameters()], config.learning_rate, foreach=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    recent_TL: list[Tensor] = []
    step = 0
    while step < config.steps and not out_of_time():
        picked = [next(batch) for batch in batches]
        sizes = [len(part) for part in picked]
        together = torch.cat(picked)
        images = clean.images_NCHW[together]
        generated = torch.cat([g(part) for g, part in zip(generators, images.split(sizes), strict=True)])
        targets_N = torch.repeat_interleave(torch.tensor(targets), torch.tensor(sizes)).to(images.device)
        features = [layer[together] for layer in clean.features]
        loss_N = attack_loss(classifier(generated), targets_N, config)
        loss_N = loss_N + reconstruction_loss(images, generated, features, perceptual, config)
        losses_T = torch.stack([part.mean() for part in loss_N.split(sizes)])
        optimizer.zero_grad(set_to_none=True)
        losses_T.sum().backward()
        optimizer.step()
        schedule.step()
        recent_TL = [*recent_TL, losses_T.detach()][-AVERAGED_STEPS:]
        step += 1
        on_step(step)
    losses = torch.stack(recent_TL).mean(0).tolist() if recent_TL else [float("nan")] * len(targets)
    return [
        measure(classifier, clean, target, generator.eval(), loss, step, truncated=step < config.steps)
        for target, generator, loss in zip(targets, generators, losses, strict=True)
    ]


def measure(
    classifier: Classifier,
    clean: CleanImages,
    target: int,
    generator: TriggerGenerator,
    loss: float,
    steps: int,
    truncated: bool,
) -> Inversion:
    """Read a generator's norm and attack success over all clean images of other labels."""
    triggered = in_batches(generator, clean.images_NCHW)
    norm = residual_norm(clean.images_NCHW, triggered, clean.labels_N, target)
    success = attack_success_rate(classifier, triggered, clean.labels_N, target)
    return Inversion(target, generator, norm, success, loss, steps, truncated)


def _random(seed: int, label: int = -1) -> torch.Generator:
    """Random numbers that depend on the scan's seed and the label, and on nothing else."""
    return torch.Generator().manual_seed((seed * 1_000_003 + label + 1) % 2**63)


def _batches(indices: Tensor, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of indices: shuffled, each used once before any is used again."""
    size = min(size, len(indices))
    while True:
        shuffled = indices[torch.randperm(len(indices), generator=random).to(indices.device)]
        yield from (part for part in shuffled.split(size) if len(part) == size)
