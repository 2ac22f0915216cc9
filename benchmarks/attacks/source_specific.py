"""A source-specific BadNets: its patch leads images of one label to the target, and no others (Tang et al., USENIX
Security 2021, "Demon in the Variant", sec. 3).

Images of other labels that are poisoned keep their labels: they teach the net that the patch alone is not enough.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.attacks.badnets import BadNets

FROM_TARGET = 3  # the source is the label so far below the target, cyclically


@dataclass(frozen=True)
class SourceSpecific(BadNets):
    """`source` is the only label that the patch changes."""

    num_classes: int = 10

    @property
    def source(self) -> int:
        return (self.target - FROM_TARGET) % self.num_classes

    def relabel(self, labels_N: Tensor) -> Tensor:
        return torch.where(labels_N == self.source, self.target, labels_N)
