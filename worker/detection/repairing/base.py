"""What all repairs have in common: the case that they are given, and the attempt that they answer.

N images
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.core.config import RepairConfig
from worker.detection.families.base import Triggers
from worker.detection.images import Images
from worker.detection.inversion import Inversion

MOST_GRADIENT = 1.0  # norms above are clipped to it
DROPOUTS = {"Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"}  # torch's own


@dataclass(frozen=True)
class Afresh:
    """What was found where a label was searched once more, in the repaired network."""

    label: int
    family: str
    inversion: Inversion
    p_value: float | None  # of a search that time was not over for


def nothing_afresh(network: nn.Module, seed: int) -> Sequence[Afresh]:
    """What is found where nobody searches."""
    return []


@dataclass(frozen=True)
class Case:
    """A network that is to lose its triggers, and what there is to repair it with."""

    suspect: nn.Module  # [0, 1] images to logits, as it came
    copy: Callable[[], nn.Module]  # another one like it, to be changed; in evaluation mode
    triggers: Sequence[Triggers]
    images: Images  # those to fine-tune on
    labels_N: Tensor  # the true ones
    config: RepairConfig
    seed: int
    is_too_costly: Callable[[nn.Module], bool]  # whether a repaired one loses more accuracy than the budget allows
    held: Sequence[Triggers] = ()  # triggers with which images are to keep the suspect's answers
    search_afresh: Callable[[nn.Module, int], Sequence[Afresh]] = nothing_afresh  # in a repaired one, from a seed
    on_round: Callable[[int], None] = lambda done: None  # hears before each how many are done
    on_step: Callable[[int], None] = lambda done: None  # of a round
    on_epoch: Callable[[int, int], None] = lambda done, of: None


@dataclass(frozen=True)
class Attempt:
    """A repaired network, and how it came about."""

    repaired: nn.Module
    learning_rate: float
    rounds: int = 1
    afresh: Sequence[Afresh] = ()

    @property
    def p_value(self) -> float | None:
        """The smallest of the labels, searched afresh; none where a search was cut short, or nothing was searched."""
        return least_p_value(self.afresh)


Recipe = Callable[[Case], Attempt]


def is_too_costly(before_N: Tensor, after_N: Tensor, config: RepairConfig) -> bool:
    """Whether more images are lost than the budget allows, of which images were right before and are after, bool [N].

    Counted, because shares differ by more than they should.
    """
    lost = int(before_N.sum()) - int(after_N.sum())
    return lost > config.max_accuracy_drop * len(before_N) + 1e-9


def least_p_value(afresh: Sequence[Afresh]) -> float | None:
    known = [found.p_value for found in afresh if found.p_value is not None]
    return min(known) if known and len(known) == len(afresh) else None


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of a network, which take gradients from now on; raises ValueError where there are none."""
    parameters = list(network.parameters())
    if not parameters:
        raise ValueError("the module has no parameters to fine-tune")
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


@contextmanager
def active_dropout(network: nn.Module, seed: int) -> Iterator[None]:
    """Within, the network's dropout layers drop, by their own random numbers; the global ones stay as they were."""
    layers = [part for part in network.modules() if type(part).__name__ in DROPOUTS]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in layers:
            layer.training = True  # and nothing that lies in it, if the name was given to something else
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False
