"""Which output of a suspect is scanned, where it has several: the one that is named, else the one that fits the labels.

    N image batch   K labels

An output of [N, K] numbers could be the scores. One is taken if it alone could be, or if every other one is right about
fewer than half as many images, beyond chance. It may also be that the others say the same: where one is the softmax of
another, or its logarithm, as the module itself computes it, they count as one. What agrees on the clean images alone
does not: a backdoor may be in one output and not in the other. Else it is left open which one is used.
"""

import math
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from app.core.errors import Refusal
from app.core.findings import OtherOutput
from models.outputs import candidates, named_outputs, scores_of, shape_of
from models.scorer import Scorer, filled
from models.scores import Output, Softmaxes, recognise_output

RULED_OUT = 0.5  # of the best output's accuracy beyond chance: who has less is taken for something else than scores


@dataclass(frozen=True)
class Choice:
    """A suspect that is asked for one of its outputs."""

    scorer: Scorer
    others: tuple[OtherOutput, ...] = ()
    is_ambiguous: bool = False  # another output may be the one that is used


def choose_output(
    scorer: Scorer, inputs_NCHW: Tensor, labels_N: Tensor | None, said: str | None, accuracy: Callable[[Scorer], float]
) -> Choice:
    """The output to scan; `accuracy` measures it for a scorer, and is asked only where there is something to choose.

    Raises Refusal where none of them has scores, or not the one that was said.
    """
    size = scorer.manner.at_once or len(inputs_NCHW)
    part_NCHW = filled(inputs_NCHW[:size], size)
    with torch.no_grad(), Softmaxes() as softmaxes:
        answer = scorer.answer(part_NCHW)
    outputs, found = named_outputs(answer), candidates(answer, size)
    if said is not None or not found:
        scores_of(answer, size, said)  # refuses what is not there
    if len(outputs) == 1 and said is None:
        return Choice(scorer)
    accuracies = _accuracies(scorer, found, labels_N, accuracy)
    groups = _groups(found, softmaxes)
    name = said or _best(found, groups, accuracies)
    rivals = [other for other in found if groups[other] != groups[name] and _may_be(other, name, found, accuracies)]
    others = tuple(
        OtherOutput(
            other,
            shape_of(value, size),
            could_be_scores=other in found,
            clean_accuracy=accuracies.get(other),
            same_as_chosen=other in found and groups[other] == groups[name],
        )
        for other, value in outputs.items()
        if other != name
    )
    return Choice(scorer.named(name), others, is_ambiguous=said is None and bool(rivals))


def _accuracies(
    scorer: Scorer, found: Mapping[str, Tensor], labels_N: Tensor | None, accuracy: Callable[[Scorer], float]
) -> dict[str, float]:
    """How often each output is right, of those that have all labels; nothing where that cannot be told."""
    accuracies: dict[str, float] = {}
    for name, scores_NK in found.items():
        if labels_N is not None and scores_NK.shape[1] > int(labels_N.max()):
            with suppress(Refusal):  # its numbers are none; of the one that is chosen, this is said later
                accuracies[name] = accuracy(scorer.named(name))
    return accuracies


def _groups(found: Mapping[str, Tensor], softmaxes: Softmaxes) -> dict[str, Hashable]:
    """Where the scores of each output lie; it is one place where the module computes one from another by a softmax."""
    places = {}
    for name, scores_NK in found.items():
        of_NK = softmaxes.before(scores_NK)
        place_NK = scores_NK if of_NK is None else of_NK
        places[name] = place_NK.data_ptr(), place_NK.shape, place_NK.stride()
    return places


def _best(found: Mapping[str, Tensor], groups: Mapping[str, Hashable], accuracies: Mapping[str, float]) -> str:
    """The output that is right most often, or the first; of its group the one that has logits."""
    fitting = [name for name in found if name in accuracies] or [*found]
    best = max(fitting, key=lambda name: accuracies.get(name, 0.0))
    same = [name for name in found if groups[name] == groups[best]]
    return next((name for name in same if recognise_output(found[name]) is Output.LOGITS), best)


def _may_be(other: str, name: str, found: Mapping[str, Tensor], accuracies: Mapping[str, float]) -> bool:
    """Whether another output may be the scores, too."""
    if not accuracies:
        return True
    if other not in accuracies:
        return False
    chances = {each: 1 / found[each].shape[1] for each in (other, name)}
    beyond = {each: accuracies[each] - chances[each] for each in (other, name)}
    return math.isnan(beyond[name]) or beyond[other] >= RULED_OUT * beyond[name]
