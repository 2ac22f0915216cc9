"""What a repair did, in figures for its card: class by class, trigger by trigger, tensor by tensor.

N accept images
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from app.core.findings import ClassAccuracy, TensorChange, finite
from app.core.text import printable
from worker.detection.metrics import accuracy_drop_bound

MOST_CLASSES = 2000
MOST_TENSORS = 10  # those that changed most are named, the others counted
LONGEST_NAME = 200  # of a tensor, in characters


def class_accuracies(right_before_N: Tensor, right_after_N: Tensor, labels_N: Tensor) -> tuple[ClassAccuracy, ...]:
    """The accuracy on the images of each label that has any, before and after; of very many, those that lost most."""
    classes = [
        ClassAccuracy(
            label,
            images=int(own.sum()),
            accuracy_before=right_before_N[own].float().mean().item(),
            accuracy_after=right_after_N[own].float().mean().item(),
            accuracy_drop_bound=accuracy_drop_bound(right_before_N[own], right_after_N[own]),
        )
        for label in sorted(set(labels_N.tolist()))
        for own in [labels_N == label]
    ]
    lost_most = sorted(classes, key=lambda found: found.accuracy_after - found.accuracy_before)[:MOST_CLASSES]
    return tuple(sorted(lost_most, key=lambda found: found.label))


def tensor_changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[TensorChange, ...]:
    """Every tensor that is another one, most changed first: one that was all zeros before is beyond comparison."""
    changes = [
        TensorChange(printable(name, LONGEST_NAME), _relative_change(before[name], tensor))
        for name, tensor in after.items()
        if not torch.equal(before[name], tensor)
    ]
    return tuple(sorted(changes, key=lambda change: -math.inf if change.relative is None else -change.relative))


def _relative_change(before: Tensor, after: Tensor) -> float | None:
    was = before.double()
    size = was.norm().item()
    return finite((after.double() - was).norm().item() / size) if size > 0 else None
