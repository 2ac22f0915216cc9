"""A suspect asked in its own manner: images NCHW in, scores NK out, whatever its habits are.

    N image batch   C channels   H, W pixels   K labels

Habits are how it wants its images handed over, in which order of memory it is fastest, a batch size that tracing has
baked in, and the output that has the scores, of several. How they are found out is not known here (inputs.py).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from app.core.findings import Takes
from app.core.text import printable
from models.outputs import named_outputs, scores_of
from models.scores import Output, Softmaxes, as_logits

# What a module raises on input it cannot take; the second is what a script of the jit itself asserts or raises.
MODULE_ERRORS = (RuntimeError, torch.jit.Error)
LONGEST_MESSAGE = 200

# What torch says where images do not fit, and what it means to the owner of the model.
_REASONS = (
    (r"to have (\d+) channels, but got (\d+) channels", r"it was made for \1 channels and got \2"),
    (r"mat1 and mat2 shapes cannot be multiplied", "its layers were made for images of another size"),
    (r"shape '.*' is invalid for input of size|size mismatch", "its layers were made for images of another size"),
    (r"[Kk]ernel size can't be greater than|[Oo]utput size is too small", "the images are too small for it"),
    (r"must match the size of tensor|must match the existing size", "its layers were made for images of another size"),
    (r"The model's own code raised: (.*)", r"its own code raised: \1"),
    (r"not compatible with input tensor's size and stride", "it views a tensor in a way that needs another order"),
)


@dataclass(frozen=True)
class Manner:
    """How a module is asked, and where its scores are."""

    takes: Takes = Takes.BATCH
    batch: int | None = None  # the only batch size that it takes
    output: str | None = None  # the name of the scores among its outputs; None where there is only one
    channels_last: bool = False  # in memory, not in shape

    @property
    def at_once(self) -> int | None:
        return 1 if self.takes in (Takes.SINGLE, Takes.SINGLE_CHANNELS_LAST) else self.batch


class Scorer(nn.Module):
    """A module with its manner."""

    def __init__(self, module: nn.Module, manner: Manner | None = None) -> None:
        super().__init__()
        self.module = module
        self.manner = manner or Manner()

    def forward(self, inputs_NCHW: Tensor) -> Tensor:
        """The module's own scores NK; raises Refusal where it has none, or what the module raises."""
        return self._in_portions(inputs_NCHW, lambda part: self._scores(self.answer(part), len(part)))

    def logits(self, inputs_NCHW: Tensor, output: Output) -> Tensor:
        """Logits NK, up to a constant per image, of a module whose scores are of this kind."""
        if output is Output.LOGITS:
            scores_NK: Tensor = self(inputs_NCHW)
            return scores_NK
        return self._in_portions(inputs_NCHW, lambda part: self._logits(part, output))

    def named(self, output: str | None) -> "Scorer":
        """The same module, asked for another of its outputs."""
        return Scorer(self.module, replace(self.manner, output=output))

    def answer(self, part_NCHW: Tensor) -> Any:
        """Whatever the module answers, to no more images than it takes at once."""
        match self.manner.takes:
            case Takes.BATCH if self.manner.channels_last:
                return self.module(part_NCHW.contiguous(memory_format=torch.channels_last))
            case Takes.BATCH:
                return self.module(part_NCHW)
            case Takes.CHANNELS_LAST:
                return self.module(part_NCHW.movedim(1, -1))
            case Takes.LIST:
                return self.module([*part_NCHW])
            case Takes.SINGLE:
                return _as_a_batch(self.module(part_NCHW[0]))
            case Takes.SINGLE_CHANNELS_LAST:
                return _as_a_batch(self.module(part_NCHW[0].movedim(0, -1)))

    def _in_portions(self, inputs_NCHW: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """The answers to as many images as the module takes at once, one after the other; the last is filled up."""
        size = self.manner.at_once
        if size is None:
            return ask(inputs_NCHW)
        parts = inputs_NCHW.split(size)
        return torch.cat([ask(part) for part in (*parts[:-1], filled(parts[-1], size))])[: len(inputs_NCHW)]

    def _logits(self, part_NCHW: Tensor, output: Output) -> Tensor:
        with Softmaxes() as softmaxes:
            answer = self.answer(part_NCHW)
        raw_NK = scores_of(answer, len(part_NCHW), self.manner.output)
        before_NK = softmaxes.before(raw_NK)
        return as_logits(raw_NK.float(), output) if before_NK is None else before_NK.float()

    def _scores(self, answer: Any, images: int) -> Tensor:
        return scores_of(answer, images, self.manner.output).float()


def plain_reason(error: Exception) -> str:
    """What an error of the module means, in words for people; what torch itself says is for those who wrote it."""
    for pattern, meaning in _REASONS:
        if found := re.search(pattern, str(error)):
            return printable(found.expand(meaning), LONGEST_MESSAGE).rstrip(".")
    return "its code fails on them"


def filled(part_NCHW: Tensor, size: int) -> Tensor:
    """The images, the last one repeated until there are so many."""
    last = part_NCHW[-1:].expand(size - len(part_NCHW), -1, -1, -1)
    return torch.cat([part_NCHW, last])


def _as_a_batch(answer: Any) -> dict[str, Any]:
    """The outputs for one image as if they were for a batch of one."""
    return {name: _batched(value) for name, value in named_outputs(answer).items()}


def _batched(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.dim() or (value.dim() > 1 and len(value) == 1):
        return value
    return value[None]
