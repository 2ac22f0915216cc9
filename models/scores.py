"""What a module's scores are, and the logits behind them: a trigger is searched by gradients that logits do not lose.

    N image batch   K labels

A softmax in single precision knows no probability below 1e-45, and its logarithm has a gradient that is lost long
before. So the input of the softmax is used, where a module whose operators can be watched shows that its scores are
nothing but the softmax of that.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

NOTHING_LEFT = -104.0  # the logarithm of less than the smallest number there is


class Output(StrEnum):
    """What the module's scores are, recognised by measurement."""

    LOGITS = "logits"
    LOG_PROBABILITIES = "log_probabilities"
    PROBABILITIES = "probabilities"


def recognise_output(scores_NK: Tensor) -> Output:
    """Logits, log-probabilities or probabilities, by whether they (or their exponentials) sum to one."""

    def sums_to_one(p_NK: Tensor) -> bool:
        return bool((p_NK >= 0).all() and (p_NK.sum(1) - 1).abs().max() < 1e-3)

    scores_NK = scores_NK.double()
    if sums_to_one(scores_NK):
        return Output.PROBABILITIES
    return Output.LOG_PROBABILITIES if sums_to_one(scores_NK.exp()) else Output.LOGITS


def are_sound(scores_NK: Tensor) -> bool:
    """Whether all scores are numbers; the logarithm of a probability that underflowed is one, too."""
    if scores_NK.isfinite().all():
        return True
    lost = scores_NK.isneginf()
    return bool((scores_NK.isfinite() | lost).all()) and recognise_output(scores_NK) is Output.LOG_PROBABILITIES


def as_logits(scores_NK: Tensor, output: Output) -> Tensor:
    """Scores up to a constant per image. A probability that underflowed counts as the smallest number there is."""
    if output is Output.PROBABILITIES:
        logits_NK: Tensor = _LogOfShares.apply(scores_NK)
        return logits_NK
    return torch.where(scores_NK.isneginf(), NOTHING_LEFT, scores_NK)


class _LogOfShares(torch.autograd.Function):
    """The logarithm of probabilities, with a gradient that is finite and never cut."""

    @staticmethod
    def forward(ctx: Any, shares_NK: Tensor) -> Tensor:
        ctx.save_for_backward(shares_NK)
        return shares_NK.log().clamp_min(NOTHING_LEFT)

    @staticmethod
    def backward(ctx: Any, *gradients_NK: Tensor) -> Tensor:
        (shares_NK,) = ctx.saved_tensors
        kind = torch.finfo(shares_NK.dtype)
        gradients: Tensor = gradients_NK[0] / shares_NK.clamp_min(kind.tiny)
        return gradients.clamp(kind.min, kind.max)


class Softmaxes(TorchFunctionMode):
    """While it is entered, softmaxes and their logarithms are noted with what they were taken of."""

    def __init__(self) -> None:
        super().__init__()
        self._taken: list[_Taken] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        match getattr(function, "__name__", ""), args:
            case "softmax" | "log_softmax" as name, (Tensor() as of, int(dim), *_):
                self._taken.append(_Taken(result, of, dim % max(of.dim(), 1), name == "log_softmax"))
            case "log" | "exp" as name, (Tensor() as of,):
                taken = self._behind(of)
                if taken is not None and taken.is_log == (name == "exp"):
                    self._taken.append(_Taken(result, taken.of, taken.dim, not taken.is_log))
        return result

    def before(self, scores_NK: Tensor) -> Tensor | None:
        """What the scores are the softmax of, or its logarithm, label by label, in the same shape; None if unknown."""
        taken = self._behind(scores_NK)
        return None if taken is None or not taken.is_of_labels(scores_NK.shape[1]) else taken.of.reshape_as(scores_NK)

    def _behind(self, tensor: Tensor) -> "_Taken | None":
        return next((taken for taken in reversed(self._taken) if taken.is_still(tensor)), None)


class _Taken:
    """A softmax, or its logarithm, of a tensor along a dimension."""

    def __init__(self, result: Tensor, of: Tensor, dim: int, is_log: bool) -> None:
        self.result, self.of, self.dim, self.is_log = result, of, dim, is_log
        self._versions = _version(result), _version(of)

    def is_still(self, tensor: Tensor) -> bool:
        """Whether a tensor is the result, perhaps in another shape, and nothing was changed in place since."""
        if tensor.numel() != self.result.numel() or self._versions != (_version(self.result), _version(self.of)):
            return False
        result = self.result.reshape(tensor.shape)
        return result.data_ptr() == tensor.data_ptr() and result.stride() == tensor.stride()

    def is_of_labels(self, labels: int) -> bool:
        """Whether it was taken over the labels of each image, and over nothing else."""
        others = [size for dim, size in enumerate(self.of.shape) if dim not in (0, self.dim)]
        over_images = self.dim == 0 and self.of.numel() != labels
        return self.of.shape[self.dim] == labels and not over_images and all(size == 1 for size in others)


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; of those of the inference mode nobody counts."""
    return 0 if tensor.is_inference() else tensor._version
