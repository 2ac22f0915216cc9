"""What a search takes of memory: what autograd keeps of a step until its gradients are taken, and how much of it fits.

T labels   N images of all labels together
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MARGIN = 1.5  # times as much as is kept: gradients on their way, and what layers lay aside while they compute


@dataclass(frozen=True)
class Footprint:
    """Bytes that a step needs at its peak, of what it does for itself, for each label and for each image."""

    step: int
    label: int
    image: int

    def of(self, labels: int, images: int) -> int:
        return int(MARGIN * (self.step + labels * self.label + images * self.image))


def footprint(step: Callable[[int, int], Tensor], portion: int = 1) -> Footprint:
    """That of a step over so many labels and images of each, which returns a loss that nobody takes gradients of.

    It is tried on as few images as tell it: one and two portions, which is what a network takes at once.
    """
    one, two, other = kept(lambda: step(1, portion)), kept(lambda: step(1, 2 * portion)), kept(lambda: step(2, portion))
    image = max(0, two - one) // portion
    label = max(0, other - two)
    return Footprint(max(0, one - portion * image - label), label, image)


def kept(compute: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps of a computation, each place in memory once."""
    places: dict[int, torch.UntypedStorage] = {}  # held, so that no address is given out twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        places[storage.data_ptr()] = storage
        return tensor.detach()  # the tensor itself would hold the graph that holds it

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute()
    del result
    return sum(storage.nbytes() for storage in places.values())


def fitting(footprint: Footprint, labels: int, images: int, left: float) -> tuple[int, int]:
    """How many of so many labels can be searched together, and how many images shown together, in the memory left.

    First fewer images are shown, which changes only the order of sums; where there is one of each label, fewer labels.
    """
    if footprint.of(labels, images) <= left:
        return labels, images
    room = left / MARGIN - footprint.step
    fewer = int((room - labels * footprint.label) // max(1, footprint.image))
    if fewer >= labels:
        return labels, min(images, fewer)
    most = max(1, min(labels, int(room // max(1, footprint.label + footprint.image))))
    return most, most
