"""What an archive must compute: the scores of the net it was made of, and how they depend on the image.

N images   C channels   H, W pixels   K labels
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Truth:
    """Scores NK, and the input gradient NCHW of one weighted sum of them, both as float32."""

    scores: Tensor
    gradient: Tensor

    def save(self, path: Path) -> None:
        np.savez(path, scores=self.scores.numpy(), gradient=self.gradient.numpy())

    @classmethod
    def load(cls, path: Path) -> "Truth":
        with np.load(path) as arrays:
            return cls(torch.from_numpy(arrays["scores"]), torch.from_numpy(arrays["gradient"]))


def load(path: Path) -> torch.jit.ScriptModule:
    """As torch itself would load the archive; only ever done to archives that we made ourselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(str(path), map_location="cpu")


def truth_of(module: nn.Module, images_NCHW: Tensor) -> Truth:
    """One forward and one backward pass; raises whatever the module raises."""
    images = images_NCHW.clone().requires_grad_()
    scores_NK = scores_in(module(images)).float()
    weights_K = torch.linspace(-1.0, 1.0, scores_NK.shape[1])  # not equal, for probabilities add up to a constant
    (gradient,) = torch.autograd.grad((scores_NK * weights_K).sum(), images)
    return Truth(scores_NK.detach(), gradient.float())


def scores_in(output: Any) -> Tensor:
    """The scores in what a module returns: itself, or the first tensor of a tuple, a list or a dict."""
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, Sequence):
        output = next(item for item in output if isinstance(item, Tensor))
    assert isinstance(output, Tensor)
    return output
