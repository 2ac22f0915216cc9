"""Trigger inversion: for each label, search a trigger that changes images as little as it can and still reaches it.

    T labels   N images of each   C channels   H, W pixels   K labels of the classifier

Several labels are inverted in one call: each has its own trigger and its own random numbers, drawn from (seed, label);
the suspect classifier sees the batches of all of them at once.

With fixed weights this is the paper's search. A label that is hard to reach then has a small norm, because its trigger
has not reached it yet. So the weight of the cross-entropy can be steered, label by label, until each trigger carries
the same share of its batches; and norms are read where each carries the same share of the same images. Images that the
network gives the label as they are say nothing of a trigger and do not count then, and classes weigh alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.config import SearchConfig
from models.student import Student
from worker.detection.clean import CleanImages, batches_of, classes_alike, random_numbers
from worker.detection.families.base import Triggers
from worker.detection.metrics import in_batches, predictions
from worker.detection.recorded import Recorded, adam

AVERAGED_STEPS = 10  # the reported loss is the mean over this many last steps

# Steering: the weight's logarithm moves by at most STEERING a step, fully where success is NEAR or more from its level.
STEERING, NEAR, MEMORY = 0.07, 0.05, 0.9

# Reading at equal success: strengths tried, by bisection, on so many images of other labels.
WEAKEST, STRONGEST, HALVINGS, READ_IMAGES = 0.5, 1.6, 6, 120
READ_AT_ONCE = 40  # of these, for each label
ROUNDING = 1e-5  # of a sum of shares


@dataclass(frozen=True)
class Inversion:
    """The trigger found for one label, with the evidence of how it was found."""

    label: int
    trigger: Triggers
    norm: float  # over images of other labels; of the dynamic family m_t, eq. (5)
    attack_success_rate: float
    loss: float  # eq. (4), mean over the last steps
    steps: int
    truncated: bool
    out_of_reach: bool  # no strength of the trigger has the success at which norms are compared


def invert_triggers(
    classifier: nn.Module,
    clean: CleanImages,
    held_out: CleanImages,
    targets: Sequence[int],
    triggers: Triggers,
    config: SearchConfig,
    seed: int,
    on_step: Callable[[int], None] = lambda step: None,
    out_of_time: Callable[[], bool] = lambda: False,
) -> list[Inversion]:
    """Invert the trigger of each target label: minimise eq. (4) over images whose label is not the target.

    Norms and attack success are those on the images that are held out. `triggers` are where the search starts, and are
    changed. `on_step` hears the number of finished steps; when `out_of_time` says so, the search stops where it is and
    its inversions are marked as truncated. Raises ValueError for a target without images of other labels.
    """
    others = [clean.others(target) for target in targets]
    size = max(1, min(config.batch_size, clean.fewest_others))  # the same for every label of a scan
    batches = [batches_of(i, size, random_numbers(seed, t)) for t, i in zip(targets, others, strict=True)]
    targets_N = torch.tensor(targets, device=clean.images_NCHW.device).repeat_interleave(size)
    weights = _Weights(len(targets), config, clean.images_NCHW.device)
    optimizer = adam(triggers.requires_grad_(True).parameters(), config.learning_rate, betas=config.betas)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    picked_N = torch.empty_like(targets_N)
    lost_T = torch.empty(len(targets), device=targets_N.device)

    def descend() -> None:
        images = clean.images_NCHW[picked_N].unflatten(0, (len(targets), size))
        triggered = triggers(images)
        triggered.register_hook(_without_nan)
        logits_NK = classifier(triggered.flatten(0, 1))
        attack_T = functional.cross_entropy(logits_NK, targets_N, reduction="none").view(-1, size).mean(1)
        cost_T = triggers.cost(images, triggered, partial(clean.features_of, picked_N))
        losses_T = weights.attack_T * attack_T + cost_T
        optimizer.zero_grad(set_to_none=True)
        losses_T.sum().backward()
        optimizer.step()
        weights.steer((logits_NK.detach().argmax(1) == targets_N).view(-1, size))
        lost_T.copy_(losses_T.detach())

    descent = Recorded(descend, targets_N.device) if isinstance(classifier, Student) else descend
    recent_TL: list[Tensor] = []
    step = 0
    while step < config.steps and not out_of_time():
        torch.cat([next(batch) for batch in batches], out=picked_N)
        descent()
        schedule.step()
        recent_TL = [*recent_TL, lost_T.clone()][-AVERAGED_STEPS:]
        step += 1
        on_step(step)
    triggers.requires_grad_(False)
    read_on = [held_out.others(target) for target in targets]
    reached = torch.ones(len(targets), dtype=torch.bool)
    if config.success_level is not None:
        said_N = predictions(classifier, held_out.images_NCHW)
        read_on = [held_out.told_by(target, said_N) for target in targets]
        triggers, reached = at_equal_success(classifier, held_out, read_on, targets, triggers, config.success_level)
    losses = torch.stack(recent_TL).mean(0).tolist() if recent_TL else [float("nan")] * len(targets)
    return [
        measure(
            classifier,
            held_out.images_NCHW[read_on[index]],
            classes_alike(held_out.labels_N[read_on[index]]) if config.success_level is not None else None,
            target,
            triggers.of(index),
            losses[index],
            step,
            truncated=step < config.steps,
            out_of_reach=not reached[index],
        )
        for index, target in enumerate(targets)
    ]


def _without_nan(gradient: Tensor) -> Tensor:
    """What a suspect's code makes of an image may have no gradient; a trigger then stays as it is."""
    return gradient.nan_to_num(0, 0, 0)


class _Weights:
    """Lambda 1 of each label: as configured, or steered so that each trigger carries its share of the batches."""

    def __init__(self, labels: int, config: SearchConfig, device: torch.device) -> None:
        self.attack_T = torch.full((labels,), config.lambda_attack, device=device)
        self.level = config.success_level
        self.success_T = torch.zeros(labels, device=device)

    def steer(self, carried_TN: Tensor) -> None:
        if self.level is None:
            return
        self.success_T.copy_(MEMORY * self.success_T + (1 - MEMORY) * carried_TN.float().mean(1))
        missing_T = ((self.level - self.success_T) / NEAR).clamp(-1, 1)
        self.attack_T.mul_((STEERING * missing_T).exp())


@torch.no_grad()
def at_equal_success(
    classifier: nn.Module,
    clean: CleanImages,
    read_on: Sequence[Tensor],
    targets: Sequence[int],
    triggers: Triggers,
    level: float,
) -> tuple[Triggers, Tensor]:
    """The triggers, as weak as each can be to carry this share of its images, and which of them can, bool [T].

    `read_on` are the indices of each label's images; where they are few, some are shown twice. Strengths are found by
    bisection between WEAKEST and STRONGEST. A trigger that cannot stays as it is.
    """
    device = clean.images_NCHW.device
    number = max(1, min(READ_IMAGES, clean.fewest_others))  # the same for every label of a scan
    spread_TN = torch.stack([i[torch.linspace(0, len(i) - 1, number).long().to(device)] for i in read_on])
    images = clean.images_NCHW[spread_TN]
    weights_TN = torch.stack([classes_alike(labels_N) for labels_N in clean.labels_N[spread_TN]])
    targets_T1 = torch.tensor(targets, device=device)[:, None]

    def carried(strengths_T: Tensor) -> Tensor:
        scaled = triggers.scaled(strengths_T)
        parts = [classifier(scaled(part).flatten(0, 1)).argmax(1) for part in images.split(READ_AT_ONCE, 1)]
        hits_TN = torch.cat([part.view(len(targets), -1) == targets_T1 for part in parts], 1)
        return (hits_TN * weights_TN).sum(1) >= level - ROUNDING

    weak, strong = (torch.full((len(targets),), strength, device=device) for strength in (WEAKEST, STRONGEST))
    reached_T = carried(strong)
    for _ in range(HALVINGS):
        middle = (weak * strong).sqrt()
        enough = carried(middle)
        reached_T = reached_T | enough
        weak, strong = torch.where(enough, weak, middle), torch.where(enough, middle, strong)
    return triggers.scaled(torch.where(reached_T, strong, 1.0)), reached_T


@torch.no_grad()
def measure(
    classifier: nn.Module,
    images_NCHW: Tensor,
    weights_N: Tensor | None,
    target: int,
    trigger: Triggers,
    loss: float,
    steps: int,
    truncated: bool,
    out_of_reach: bool,
) -> Inversion:
    """Read the norm and the attack success of one label's trigger over these images, which may have weights."""
    trigger.requires_grad_(False).eval()
    triggered = in_batches(trigger.on, images_NCHW)
    norm = trigger.norm(images_NCHW[None], triggered[None], weights_N).item()
    carried_N = (predictions(classifier, triggered) == target).float()
    success = carried_N.mean() if weights_N is None else carried_N @ weights_N
    return Inversion(target, trigger, norm, min(success.item(), 1.0), loss, steps, truncated, out_of_reach)
