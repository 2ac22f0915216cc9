"""How far clean images lie from what a suspect was trained on, as its own batch norms remember it.

    N images   C channels   ... whatever else an input has

A batch norm keeps the mean and the variance that its inputs had in training. Held against those of the clean images
they tell two sources of images apart (Li et al. 2017, "Revisiting Batch Normalization for Practical Domain
Adaptation", sec. 3): for each channel the symmetric divergence of two Gaussians, as in Pan et al. 2018, "Two at Once:
Enhancing Learning and Generalization Capacities via IBN-Net", sec. 3.3. Its root is in standard deviations: means that
lie one apart are at a distance of 1. A few channels that hardly ever speak say little and would outweigh all others, so
a layer counts as its median channel does, and the layers by their median: what classes the bundle has shows in the last
ones only.

It is the suspect's own word. One that was fine-tuned with fixed batch norms remembers other images than it learned, so
the distance alone is no proof; see `graded`. Where norms were folded into weights, as freezing does, nothing is known.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from app.core.findings import Likeness, Shift

MOST_COMPARED = 50  # images; of fewer, statistics scatter more, and thresholds are higher
FARTHEST = 1e6  # any distance beyond it counts as this
SILENT = 1e-8  # a variance below it is of a channel that said nothing in training

# Chosen in docs/decisions/0008-images-from-elsewhere.md.
NEAR = 0.2  # a distance
FAR = 0.3
SHORT = 0.1  # of the accuracy


@torch.no_grad()
def distances(ask: Callable[[Tensor], Any], batches: Iterable[Tensor]) -> list[float]:
    """How far each batch norm's inputs lie from those of the training, in the order in which they are used."""
    with _Watching() as watching:
        for batch_NCHW in batches:
            ask(batch_NCHW)
    return [inputs.distance() for inputs in watching.layers.values()]


def graded(
    distances: Sequence[float],
    confidence: float,
    accuracy: tuple[float, float] | None,
    images: int,
    expected: float | None = None,
) -> Shift:
    """What the distances mean beside how sure the suspect is, and the interval in which its accuracy lies.

    Only where both are off the images are from elsewhere: batch norms can remember others than those of the training,
    and a suspect that is surer than right may have seen too little of it. What was declared goes before confidence.
    Few images scatter, by the root of their number.
    """
    distance = median(distances) if distances else None
    wanted = confidence if expected is None else expected
    shortfall = None if accuracy is None else max(0.0, wanted - accuracy[1])
    is_short = shortfall is not None and shortfall >= SHORT
    scatter = max(1.0, math.sqrt(MOST_COMPARED / images))
    if distance is None:
        likeness = Likeness.SOMEWHAT_DIFFERENT if is_short else Likeness.NOT_KNOWN
    elif distance >= FAR * scatter and is_short:
        likeness = Likeness.FROM_ELSEWHERE
    else:
        likeness = Likeness.SOMEWHAT_DIFFERENT if distance >= NEAR * scatter or is_short else Likeness.AS_TRAINED
    return Shift(likeness, distance, len(distances), images, shortfall)


@dataclass
class _Inputs:
    """What went into one batch norm so far, by channel."""

    mean_C: Tensor  # in training
    variance_C: Tensor
    count: int = 0
    sum_C: Tensor | float = 0.0  # of what they are off the mean
    squares_C: Tensor | float = 0.0

    def add(self, inputs: Tensor) -> None:
        over = [dimension for dimension in range(inputs.dim()) if dimension != 1]
        wide = inputs.float() if inputs.dtype.itemsize < 4 else inputs
        variance_C, mean_C = (each.double() for each in torch.var_mean(wide, over, correction=0))
        off_C, count = mean_C - self.mean_C, inputs.numel() // inputs.shape[1]
        self.count += count
        self.sum_C = self.sum_C + count * off_C
        self.squares_C = self.squares_C + count * (variance_C + off_C.square())

    def distance(self) -> float:
        """Of the median channel, the root of its divergence; 0 where no channel ever spoke."""
        speaks_C = self.variance_C > SILENT
        was_C = self.variance_C.double()[speaks_C]
        off_C = torch.as_tensor(self.sum_C)[speaks_C] / self.count
        squares_C = torch.as_tensor(self.squares_C)[speaks_C] / self.count
        is_C = (squares_C - off_C.square()).clamp_min(SILENT)
        divergences_C = ((is_C / was_C + was_C / is_C - 2) + off_C.square() * (1 / is_C + 1 / was_C)) / 2
        distances_C = divergences_C.sqrt().nan_to_num(nan=FARTHEST).clamp_max(FARTHEST)  # of numbers that overflow
        return distances_C.median().item() if len(distances_C) else 0.0


class _Watching(TorchDispatchMode):
    """While it is entered, the inputs of batch norms that use remembered statistics are added up.

    It goes by operators, whatever calls them: a rebuilt module or the jit.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: dict[int, _Inputs] = {}

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if "batch_norm" in str(operator):
            match args:
                case (Tensor() as inputs, _, _, Tensor() as mean_C, Tensor() as variance_C, *_):
                    self.layers.setdefault(mean_C.data_ptr(), _Inputs(mean_C, variance_C)).add(inputs)
        return operator(*args, **(kwargs or {}))
