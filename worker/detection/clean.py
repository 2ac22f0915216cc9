"""The clean images of a scan, what each is for, and the order in which searches see them.

N images   C channels   H, W pixels
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.perceptual import PerceptualDistance


@dataclass(frozen=True)
class CleanImages:
    """The clean images of a scan with what is computed from them once.

    `labels_N` are the true labels, or the classifier's own predictions where the images came without.
    """

    images_NCHW: Tensor
    labels_N: Tensor
    features: list[Tensor]  # of the perceptual network, each [N, ...]; none for images that nothing is searched on

    @classmethod
    def measure(cls, images_NCHW: Tensor, labels_N: Tensor, perceptual: PerceptualDistance) -> "CleanImages":
        with torch.no_grad():
            parts = [perceptual.features(batch) for batch in images_NCHW.split(256)]
        return cls(images_NCHW, labels_N, [torch.cat(layer) for layer in zip(*parts, strict=True)])

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def features_of(self, picked_N: Tensor) -> list[Tensor]:
        """The perceptual network's of these images."""
        return [layer[picked_N] for layer in self.features]

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


def random_numbers(seed: int, label: int = -1) -> torch.Generator:
    """Random numbers that depend on the scan's seed and the label, and on nothing else."""
    return torch.Generator().manual_seed((seed * 1_000_003 + label + 1) % 2**63)


def batches_of(indices: Tensor, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of indices: shuffled, each used once before any is used again."""
    while True:
        shuffled = indices[torch.randperm(len(indices), generator=random).to(indices.device)]
        yield from (part for part in shuffled.split(size) if len(part) == size)
