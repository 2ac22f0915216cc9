"""The repair of `standard`: unlearn by matching scores, search again, unlearn what was found as well.

Clean images and their triggered twins are to get the scores that the suspect gave the clean image (Hinton et al. 2015,
"Distilling the Knowledge in a Neural Network", sec. 2.1: at a high temperature this is a squared difference of logits).
A few images say more about a network by their scores than by their labels, so that the rest of it stays as it was. Of a
class without an image they say little, and what is learned about the others can ruin it: there the suspect's own
answers are kept on images with the triggers that lead to it, which is as close to that class as the images at hand
come.

A minimum beside the suspect's weights is one from which the way back is short. So the gradient can be taken at a point
that is moved back towards them, where more of the backdoor is left to unlearn, and applied where the weights are
(path-aware minimisation: Min et al. 2024, "Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor
Defense", sec. 4).

    N image batch   C channels   H, W pixels
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

import torch
from torch import Tensor, nn

from app.core.config import MatchingConfig, RepairConfig
from worker.detection.clean import batches_of, random_numbers
from worker.detection.families.base import Triggers
from worker.detection.images import Images, at_once
from worker.detection.metrics import Transform, in_batches
from worker.detection.repairing.base import MOST_GRADIENT, Attempt, Case, least_p_value, trainable

UNREMARKABLE = 0.5  # a label with this p-value is as easy to reach as others: nothing is left to unlearn


def repair(case: Case) -> Attempt:
    """At the highest learning rate that the accuracy budget allows; else at the lowest."""
    assert case.config.matching is not None
    for learning_rate in case.config.matching.learning_rates:
        attempt = _in_rounds(case, case.config.matching, learning_rate)
        if not case.is_too_costly(attempt.repaired):
            break
    return attempt


def _in_rounds(case: Case, matching: MatchingConfig, learning_rate: float) -> Attempt:
    """Unlearn, search the labels afresh, unlearn what was found as well: until the labels are unremarkable.

    The first trigger found is only as large as it has to be, so the planted one can outlive it. A search that asks for
    a success of .95 does not see what is left of one that still works now and then; so where all that is known may be a
    part of what was planted, a second round is done in any case.
    """
    repaired, known = case.copy(), list(case.triggers)
    fewest = 2 if all(trigger.may_be_a_part for trigger in known) else 1
    for done in range(1, matching.rounds + 1):
        seed = case.seed + done
        case.on_round(done - 1)
        given = case.images, case.config, learning_rate, seed, case.held
        match_scores(repaired, case.suspect, known, *given, on_step=case.on_step)
        case.on_epoch(done, matching.rounds)
        afresh = case.search_afresh(repaired, seed)
        p_value = least_p_value(afresh)
        if p_value is None or (p_value >= UNREMARKABLE and done >= fewest):
            break
        known += [found.inversion.trigger for found in afresh]
    return Attempt(repaired, learning_rate, done, afresh)


def match_scores(
    network: nn.Module,
    suspect: Transform,
    triggers: Sequence[Triggers],
    images: Images,
    config: RepairConfig,
    learning_rate: float,
    seed: int,
    held: Sequence[Triggers] = (),
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Fine-tune the network's parameters in place until it gives images and twins the suspect's scores of images.

    A batch has its twins by one trigger, the triggers take turns; so do those that are `held`, with which images get
    the scores that the suspect gives them. The module stays in evaluation mode. `on_step` hears the number of finished
    steps. Raises ValueError for a network without parameters.
    """
    assert config.matching is not None
    parameters = trainable(network)
    origins = [parameter.detach().clone() for parameter in parameters]
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
        with _moved_back(parameters, origins, config.matching.path_step):
            for part, wanted_part in zip(batch.split(together), torch.cat(wanted).split(together), strict=True):
                loss = (_centred(network(part)) - wanted_part).square().mean() / unit
                (len(part) / len(batch) * loss).backward()
        nn.utils.clip_grad_norm_(parameters, MOST_GRADIENT)
        optimizer.step()
        schedule.step()
        on_step(step + 1)
    for parameter in parameters:
        parameter.requires_grad_(False)


@contextmanager
def _moved_back(parameters: Sequence[nn.Parameter], origins: Sequence[Tensor], step: float) -> Iterator[None]:
    """Within, the weights w are w + step (w0 - w) / |w0 - w|; afterwards they are what they were, to the bit."""
    if step == 0:
        yield
        return
    now = [parameter.detach().clone() for parameter in parameters]
    ways = [origin - parameter for origin, parameter in zip(origins, now, strict=True)]
    length = torch.stack([way.norm() for way in ways]).norm().clamp_min(1e-12)
    with torch.no_grad():
        for parameter, way in zip(parameters, ways, strict=True):
            parameter.add_(way * (step / length))
    yield
    with torch.no_grad():
        for parameter, was in zip(parameters, now, strict=True):
            parameter.copy_(was)


def _centred(scores_NK: Tensor) -> Tensor:
    """Scores as far as they matter: what is the same for all labels changes no probability."""
    return scores_NK - scores_NK.mean(1, keepdim=True)
