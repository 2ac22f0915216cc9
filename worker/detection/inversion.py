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
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.config import SearchConfig
from models.student import Student
from worker.detection.clean import CleanImages, batches_of, classes_alike, random_numbers
from worker.detection.families.base import Triggers
from worker.detection.images import Images, at_once
from worker.detection.metrics import batch_of, predictions, under
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
    on_reading: Callable[[int], None] = lambda reading: None,
) -> list[Inversion]:
    """Invert the trigger of each target label: minimise eq. (4) over images whose label is not the target.

    Norms and attack success are those on the images that are held out. `triggers` are where the search starts, and are
    changed. `on_step` hears the number of finished steps, `on_reading` that of finished readings, from 0; when
    `out_of_time` says so, the search stops where it is and its inversions are marked as truncated. Raises ValueError
    for a target without images of other labels.
    """
    others = [clean.others(target).cpu() for target in targets]
    size = max(1, min(config.batch_size, clean.fewest_others))  # the same for every label of a scan
    batches = [batches_of(i, size, random_numbers(seed, t)) for t, i in zip(targets, others, strict=True)]
    device, together = clean.images.device, of_each_at_once(clean.images, len(targets))
    targets_T1 = torch.tensor(targets, device=device)[:, None]
    weights = _Weights(len(targets), config, device)
    optimizer = adam(triggers.requires_grad_(True).parameters(), config.learning_rate, betas=config.betas)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    picked_TN = torch.empty((len(targets), size), dtype=torch.long, device=device)
    images_TNCHW = torch.empty((len(targets), size, *clean.images.shape), device=device)
    lost_T = torch.empty(len(targets), device=device)

    def descend() -> None:
        optimizer.zero_grad(set_to_none=True)
        lost_T.zero_()
        carried = []
        for images, picked in zip(images_TNCHW.split(together, 1), picked_TN.split(together, 1), strict=True):
            triggered = triggers(images)
            triggered.register_hook(_without_nan)
            logits_NK, targets_N = classifier(triggered.flatten(0, 1)), targets_T1.expand_as(picked).flatten()
            attack_T = functional.cross_entropy(logits_NK, targets_N, reduction="none").view_as(picked).mean(1)
            features = partial(clean.features_of, picked.flatten(), images.flatten(0, 1))
            losses_T = weights.attack_T * attack_T + triggers.cost(images, triggered, features)
            share = picked.shape[1] / size
            (share * losses_T.sum()).backward()
            lost_T.add_(losses_T.detach(), alpha=share)
            carried.append(logits_NK.detach().argmax(1).view_as(picked) == targets_T1)
        optimizer.step()
        weights.steer(torch.cat(carried, 1))

    descent = Recorded(descend, device) if isinstance(classifier, Student) else descend
    recent_TL: list[Tensor] = []
    step = 0
    while step < config.steps and not out_of_time():
        picked = torch.stack([next(batch) for batch in batches])
        picked_TN.copy_(picked, non_blocking=True)
        images_TNCHW.copy_(clean.images[picked])
        descent()
        schedule.step()
        recent_TL = [*recent_TL, lost_T.clone()][-AVERAGED_STEPS:]
        step += 1
        on_step(step)
    triggers.requires_grad_(False)
    readings = count(1)
    on_reading(0)
    read_on = [held_out.others(target) for target in targets]
    reached = torch.ones(len(targets), dtype=torch.bool)
    if config.success_level is not None:
        said_N = predictions(classifier, held_out.images)
        read_on = [held_out.told_by(target, said_N) for target in targets]
        triggers, reached = at_equal_success(
            classifier,
            held_out,
            read_on,
            targets,
            triggers,
            config.success_level,
            lambda: on_reading(next(readings)),
        )
    losses = torch.stack(recent_TL).mean(0).tolist() if recent_TL else [float("nan")] * len(targets)
    found = []
    for index, target in enumerate(targets):
        inversion = measure(
            classifier,
            held_out.images.subset(read_on[index]),
            classes_alike(held_out.labels_N[read_on[index]]) if config.success_level is not None else None,
            target,
            triggers.of(index),
            losses[index],
            step,
            truncated=step < config.steps,
            out_of_reach=not reached[index],
        )
        found.append(inversion)
        on_reading(next(readings))
    return found


def _without_nan(gradient: Tensor) -> Tensor:
    """What a suspect's code makes of an image may have no gradient; a trigger then stays as it is."""
    return gradient.nan_to_num(0, 0, 0)


def of_each_at_once(images: Images, labels: int) -> int:
    """How many images of each label the suspect is shown together: memory does not grow with what they have to tell."""
    return max(1, at_once(images) // labels)


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
    on_reading: Callable[[], None] = lambda: None,
) -> tuple[Triggers, Tensor]:
    """The triggers, as weak as each can be to carry this share of its images, and which of them can, bool [T].

    `read_on` are the indices of each label's images; where they are few, some are shown twice. Strengths are found by
    bisection between WEAKEST and STRONGEST; `on_reading` hears of each that was tried. A trigger that cannot stays as
    it is.
    """
    device = clean.images.device
    number = max(1, min(READ_IMAGES, clean.fewest_others))  # the same for every label of a scan
    spread_TN = torch.stack([i[torch.linspace(0, len(i) - 1, number).long().to(device)] for i in read_on])
    weights_TN = torch.stack([classes_alike(labels_N) for labels_N in clean.labels_N[spread_TN]])
    targets_T1 = torch.tensor(targets, device=device)[:, None]
    parts = spread_TN.split(min(READ_AT_ONCE, of_each_at_once(clean.images, len(targets))), 1)

    def carried(strengths_T: Tensor) -> Tensor:
        scaled = triggers.scaled(strengths_T)
        said = [classifier(scaled(clean.images[part]).flatten(0, 1)).argmax(1).view_as(part) for part in parts]
        hits_TN = torch.cat(said, 1) == targets_T1
        on_reading()
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
    images: Images,
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
    norm = trigger.norm_over(images.split(batch_of(images)), weights_N).item()
    carried_N = (predictions(under(trigger.on, classifier), images) == target).float()
    success = carried_N.mean() if weights_N is None else carried_N @ weights_N
    return Inversion(target, trigger, norm, min(success.item(), 1.0), loss, steps, truncated, out_of_reach)
