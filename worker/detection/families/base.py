"""What all trigger families have in common.

    T labels   N images of each   C channels   H, W pixels

The triggers of several labels are one module, so that a search changes all of their parameters in one step and shows
the suspect one batch. The trigger of one label is the same module with T = 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from app.core.config import SearchConfig
from app.core.families import FAMILIES
from models.generator import TriggerGenerator
from models.perceptual import PerceptualDistance

Features = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Beginning:
    """What the triggers of a scan may begin with."""

    shape: torch.Size  # of an image, CHW
    generator: TriggerGenerator  # that gives back its input
    perceptual: PerceptualDistance
    config: SearchConfig  # of the family


class Triggers(nn.Module, ABC):
    """The triggers of T labels, each of which changes images a little."""

    may_be_a_part: ClassVar[bool] = False  # whether a planted trigger of this family may suffice in part

    @classmethod
    @abstractmethod
    def begin(cls, beginning: Beginning, random: Sequence[torch.Generator]) -> Self:
        """Triggers that change hardly anything, one for each label; each label has its own random numbers."""

    @abstractmethod
    def forward(self, images_TNCHW: Tensor) -> Tensor:
        """The images with the triggers of their labels, in [0, 1], of the same shape."""

    @abstractmethod
    def cost(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor, features: Features) -> Tensor:
        """What the search keeps small, one number for each label, [T].

        `features` gives the perceptual network's of the images, each [T * N, ...], to who needs them.
        """

    @abstractmethod
    def norm(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor, weights_N: Tensor | None = None) -> Tensor:
        """How much the triggers change these images, [T]: what is compared between labels.

        `weights_N` is how much each image counts, adding up to 1; without it all count alike.
        """

    def norm_over(self, batches: Iterable[Tensor], weights_N: Tensor | None = None) -> Tensor:
        """The same of the only label's trigger over batches NCHW of images, of which one is there at a time, [1].

        Of most families it is the triggers' own, and one batch tells as much of it as all; a family whose norm depends
        on the images has to say here how batches add up.
        """
        images_NCHW = next(iter(batches))
        return self.norm(images_NCHW[None], self.on(images_NCHW)[None])

    @abstractmethod
    def scaled(self, strengths_T: Tensor) -> Self:
        """The same triggers, each so many times as strong: 0 would change nothing."""

    @abstractmethod
    def of(self, index: int) -> Self:
        """The trigger of one label, a module with T = 1 and parameters of its own."""

    def varied(self, images_NCHW: Tensor, random: torch.Generator) -> Tensor:
        """The images with variants of the only label's trigger: what was found is only as large as it has to be."""
        return self.on(images_NCHW)

    def on(self, images_NCHW: Tensor) -> Tensor:
        """The images with the trigger of the only label, NCHW."""
        triggered: Tensor = self(images_NCHW[None])[0]
        return triggered


def triggers_of(family: str) -> type[Triggers]:
    """The class of a family's triggers."""
    module, _, name = FAMILIES[family].triggers.partition(":")
    triggers: type[Triggers] = getattr(import_module(module), name)
    return triggers
