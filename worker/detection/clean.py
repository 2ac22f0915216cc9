"""The clean images of a scan, what each is for, and the order in which searches see them.

N images   n of them   C channels   H, W pixels
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from models.perceptual import PerceptualDistance
from worker.detection.images import Images
from worker.detection.metrics import batch_of

MOST_FEATURES = 128 * 2**20  # bytes of perceptual features that are kept: 2,300 grey images of 28 pixels


@dataclass(frozen=True)
class CleanImages:
    """The clean images of a scan for one purpose, with their labels.

    `labels_N` are the true labels, or the classifier's own predictions where the images came without.
    """

    images: Images
    labels_N: Tensor
    perceptual: PerceptualDistance

    def __len__(self) -> int:
        return len(self.images)

    def features_of(self, picked_n: Tensor, images_nCHW: Tensor) -> list[Tensor]:
        """The perceptual network's of these images: computed once where those of all of them can be kept."""
        if self._features is not None:
            return [layer[picked_n] for layer in self._features]
        with torch.no_grad():
            return self.perceptual.features(images_nCHW)

    @cached_property
    def _features(self) -> list[Tensor] | None:
        """Of all images, each [N, ...]; none where that is too much."""
        with torch.no_grad():
            of_one = self.perceptual.features(self.images[torch.zeros(1, dtype=torch.long)])
            if len(self) * sum(layer.nbytes for layer in of_one) > MOST_FEATURES:
                return None
            parts = [self.perceptual.features(batch) for batch in self.images.split(batch_of(self.images))]
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    @property
    def fewest_others(self) -> int:
        """How many images have another label than the most frequent one."""
        return len(self) - int(self.labels_N.bincount().max())

    def others(self, target: int) -> Tensor:
        """Indices of the images whose label is not the target; raises ValueError where there is none."""
        indices = torch.nonzero(self.labels_N != target).flatten()
        if len(indices) == 0:
            raise ValueError(f"label {target}: there is no image of another label to put a trigger on")
        return indices

    def told_by(self, target: int, said_N: Tensor) -> Tensor:
        """Of the others, those that a network does not give the target as they are: these tell what a trigger does.

        All of the others where there is none.
        """
        others = self.others(target)
        told = others[said_N[others] != target]
        return told if len(told) else others


def classes_alike(labels_N: Tensor) -> Tensor:
    """How much each image counts, so that each class that is there counts as much as any other: adds up to 1."""
    count_K = labels_N.bincount()
    return (count_K.count_nonzero() * count_K[labels_N]).float().reciprocal()


class Roles(NamedTuple):
    """Indices of the images by what they are for."""

    invert: Tensor  # triggers are searched on these
    confirm: Tensor  # these say how large and how good the triggers are
    accept: Tensor  # these say what a repair came to


def roles_of(labels_N: Tensor) -> Roles:
    """Three fifths, one and one of each label's images, in the order of the bundle; its first is for acceptance."""
    by_label = labels_N.argsort(stable=True)
    count_K = labels_N.bincount()
    before_K = count_K.cumsum(0) - count_K
    place = (torch.arange(len(by_label), device=labels_N.device) - before_K[labels_N[by_label]]) % 5
    return Roles(*(by_label[mask].sort().values for mask in ((place % 2 == 1) | (place == 4), place == 2, place == 0)))


def round_robin(labels_N: Tensor) -> Tensor:
    """All indices, such that any first few of them have as many images of each label as there are: [N]."""
    shuffled = torch.randperm(len(labels_N), generator=random_numbers(0))  # neighbours in a bundle are often alike
    by_label = shuffled[labels_N[shuffled].argsort(stable=True)]
    count_K = labels_N.bincount()
    turn = torch.arange(len(by_label)) - (count_K.cumsum(0) - count_K)[labels_N[by_label]]
    return by_label[turn.argsort(stable=True)]


def sample(labels_N: Tensor, most: int) -> Tensor:
    """Indices of all images or of so many, in their order; of these as many of each label as there are."""
    if len(labels_N) <= most:
        return torch.arange(len(labels_N), device=labels_N.device)
    return round_robin(labels_N.cpu())[:most].sort().values.to(labels_N.device)


def random_numbers(seed: int, label: int = -1) -> torch.Generator:
    """Random numbers that depend on the scan's seed and the label, and on nothing else."""
    return torch.Generator().manual_seed((seed * 1_000_003 + label + 1) % 2**63)


def batches_of(indices: Tensor, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of indices: shuffled, each used once before any is used again."""
    while True:
        shuffled = indices[torch.randperm(len(indices), generator=random).to(indices.device)]
        yield from (part for part in shuffled.split(size) if len(part) == size)
