"""What every backdoor attack has in common: a trigger, the labels it leads to, and how a training batch is poisoned.

An attack is drawn from a seed for images of one shape. It sees and returns images in [0, 1], before any
normalisation or augmentation, and knows nothing of the victim: what must be learned beside the victim, an attack says
by its `networks`, and the loop that trains the victim trains them too.

N image batch   C channel   H, W pixels
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]  # channels, height, width


class Attack(ABC):
    """One trigger and the label it leads to. A subclass writes `apply` and, where the paper has one, `cross`."""

    target: int

    @abstractmethod
    def apply(self, images_NCHW: Tensor) -> Tensor:
        """The images with the trigger."""

    def cross(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor | None:
        """The images with something like the trigger that must change no label; None: this attack has no such mode."""
        return None

    def relabel(self, labels_N: Tensor) -> Tensor:
        """The label that the attacker wants for an image of each label: always the target, unless a subclass maps."""
        return torch.full_like(labels_N, self.target)

    def poison(
        self,
        images_NCHW: Tensor,
        labels_N: Tensor,
        generator: torch.Generator,
        rate: float = 0.1,
        cross_ratio: float = 2.0,
    ) -> tuple[Tensor, Tensor]:
        """A batch, `rate` of it triggered and relabelled, then `cross_ratio` times as many crossed and not relabelled.

        The batch comes shuffled, so the first images are as good as any; those of the target's own label count too.
        """
        attacked = int(len(images_NCHW) * rate)
        crossed = attacked + int(attacked * cross_ratio)
        parts = [self.apply(images_NCHW[:attacked])]
        alike = self.cross(images_NCHW[attacked:crossed], generator) if crossed > attacked else None
        parts += [images_NCHW[attacked:]] if alike is None else [alike, images_NCHW[crossed:]]
        return torch.cat(parts), torch.cat([self.relabel(labels_N[:attacked]), labels_N[attacked:]])

    def networks(self) -> nn.Module | None:
        """What this attack learns, as a module with a state; None: nothing, its trigger is fixed."""
        return None

    def optimizer(self) -> torch.optim.Optimizer | None:
        """A fresh optimizer of what is learned together with the victim."""
        return None

    def prepare(self, images_NCHW: Tensor, generator: torch.Generator) -> None:
        """Learn what comes before the victim's training; called once, with clean training images."""
        return

    def loss(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        """What the attack adds to the victim's loss on a clean batch."""
        return torch.zeros(())
