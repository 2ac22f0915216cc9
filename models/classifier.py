"""A suspect module, its pixel range and its normalisation as one nn.Module over [0, 1] images.

    N image batch   C channels   H, W pixels   K labels

Everything that depends on how the module answers is dealt with here: logits, log-probabilities or probabilities; a
tensor, or the first tensor of a tuple or a dict; any batch or only the one it was traced with. It knows no files.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from app.core.errors import Refusal
from app.core.findings import InputSpec

# What a module raises on input it cannot take; the second is what a script of the jit itself asserts or raises.
MODULE_ERRORS = (RuntimeError, torch.jit.Error)
TRACED_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # that somebody may have traced with
EXPORT_ADVICE = "See docs/export.md for how to make a TorchScript image classifier."


class ModelFailedError(RuntimeError):
    """The suspect's own code failed on images of a kind that it took before."""


class Output(StrEnum):
    """What the module's scores are, recognised by measurement."""

    LOGITS = "logits"
    LOG_PROBABILITIES = "log_probabilities"
    PROBABILITIES = "probabilities"


class Classifier(nn.Module):
    """f: [0, 1] images NCHW to logits NK, differentiable in the images.

    Grey images are repeated for a module of three channels; colour images become luminance for a module of one; a
    module that takes blue first gets it first.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, spec: InputSpec, output: Output = Output.LOGITS) -> None:
        super().__init__()
        self.module = module
        self.spec = spec
        self.output = output
        low, high = spec.range
        self.scale = high - low
        self.low = low
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits NK, up to a constant per image; raises ModelFailedError for input that the module cannot take."""
        inputs_NCHW = self.normalised(match_channels(images_NCHW, self.spec.channels))
        try:
            scores_NK = first_tensor(self.module(inputs_NCHW)).float()
        except torch.OutOfMemoryError:
            raise
        except MODULE_ERRORS as error:
            raise ModelFailedError(_first_line(error)) from error
        return as_logits(scores_NK, self.output)

    def normalised(self, images_NCHW: Tensor) -> Tensor:
        """The module's own input: (x * (high - low) + low - mean) / std."""
        if self.spec.bgr:
            images_NCHW = images_NCHW.flip(1)
        return (images_NCHW * self.scale + self.low - self.mean) / self.std


class FixedBatch(nn.Module):
    """A module that was traced for one batch size, fed with batches of that size; the last one is filled up."""

    def __init__(self, module: nn.Module, size: int) -> None:
        super().__init__()
        self.module = module
        self.size = size

    def forward(self, inputs_NCHW: Tensor) -> Tensor:
        """Scores NK."""
        parts = inputs_NCHW.split(self.size)
        filled = [*parts[:-1], _filled(parts[-1], self.size)]
        return torch.cat([first_tensor(self.module(part)) for part in filled])[: len(inputs_NCHW)]


def baked_batch(module: nn.Module, inputs_NCHW: Tensor) -> int | None:
    """The only batch size that the module takes; None for one that takes any, or none of those people trace with."""
    several = inputs_NCHW[:1].expand(3, -1, -1, -1)  # no power of two, so nobody's habit
    if _answers(module, several):
        return None
    sizes = (size for size in TRACED_BATCHES if _answers(module, _filled(inputs_NCHW[:1], size)))
    return next(sizes, None)


def _answers(module: nn.Module, inputs_NCHW: Tensor) -> bool:
    """Whether the module has one answer for each of these inputs."""
    try:
        with torch.no_grad():
            return len(first_tensor(module(inputs_NCHW))) == len(inputs_NCHW)
    except (*MODULE_ERRORS, Refusal):
        return False


def _filled(part_NCHW: Tensor, size: int) -> Tensor:
    """The images, the last one repeated until there are so many."""
    last = part_NCHW[-1:].expand(size - len(part_NCHW), -1, -1, -1)
    return torch.cat([part_NCHW, last])


def as_logits(scores_NK: Tensor, output: Output) -> Tensor:
    """Scores up to a constant per image. A probability that underflowed counts as the smallest number there is."""
    if output is Output.PROBABILITIES:
        return scores_NK.clamp_min(torch.finfo(scores_NK.dtype).tiny).log()
    return scores_NK


def match_channels(images_NCHW: Tensor, channels: int) -> Tensor:
    """The images with this many channels: grey repeated, or colour as ITU-R BT.601 luminance."""
    given = images_NCHW.shape[1]
    if given == channels:
        return images_NCHW
    if given == 1:
        return images_NCHW.expand(-1, channels, -1, -1)
    weights = torch.tensor([0.299, 0.587, 0.114], device=images_NCHW.device).view(1, 3, 1, 1)
    return (images_NCHW * weights).sum(1, keepdim=True)


def first_tensor(output: Any) -> Tensor:
    """The scores in a module's output: itself, or the first tensor of a tuple, a list or a dict."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, Sequence):
        for item in output:
            if isinstance(item, Tensor):
                return item
    raise Refusal(
        "unsupported_output",
        f"The model returns {type(output).__name__}, not a tensor of one score per class.",
        "Wrap the model so that it returns its scores. " + EXPORT_ADVICE,
    )


def probe_scores(module: nn.Module, inputs_NCHW: Tensor) -> Tensor:
    """The module's raw scores NK for normalised inputs, checked to be those of an image classifier.

    Raises Refusal: several inputs, an input it cannot take, an output that is not [N, K], K = 1, or NaN scores.
    """
    try:
        with torch.no_grad():
            scores = first_tensor(module(inputs_NCHW))
    except MODULE_ERRORS as error:
        if "missing value for argument" in str(error):
            raise Refusal(
                "several_inputs",
                "The model's forward takes more than one input.",
                "Wrap it so that forward takes one batch of images. " + EXPORT_ADVICE,
            ) from error
        raise Refusal(
            "input_not_accepted",
            f"The model cannot take images of shape {list(inputs_NCHW.shape)}: {_first_line(error)}.",
            "Give the size the model was trained with by --size H,W; a model of other than 1 or 3 channels cannot be "
            "scanned.",
        ) from error
    if scores.ndim != 2 or len(scores) != len(inputs_NCHW):
        raise Refusal(
            "output_not_scores",
            f"The model answers {len(inputs_NCHW)} images with shape {list(scores.shape)}, not [N, K] scores.",
            "Detection, segmentation and embedding models cannot be scanned. " + EXPORT_ADVICE,
        )
    if scores.shape[1] < 2:
        raise Refusal(
            "single_output",
            "The model has one output (K = 1); a scan compares labels, so it needs at least two.",
            "Export a binary classifier with two outputs, one per class.",
        )
    if not scores.isfinite().all():
        raise Refusal(
            "non_finite_output",
            "The model answers clean images with NaN or infinite scores.",
            "Check --range, --mean and --std, and that the exported weights are finite.",
        )
    return scores


def recognise_output(scores_NK: Tensor) -> Output:
    """Logits, log-probabilities or probabilities, by whether they (or their exponentials) sum to one."""

    def sums_to_one(p_NK: Tensor) -> bool:
        return bool((p_NK >= 0).all() and (p_NK.sum(1) - 1).abs().max() < 1e-3)

    scores_NK = scores_NK.double()
    if sums_to_one(scores_NK):
        return Output.PROBABILITIES
    return Output.LOG_PROBABILITIES if sums_to_one(scores_NK.exp()) else Output.LOGITS


def has_input_gradient(classifier: Classifier, images_NCHW: Tensor) -> bool:
    """Whether the scores' gradient reaches the pixels; without it no trigger can be searched."""
    images = images_NCHW.detach().requires_grad_(True)
    try:
        logits_NK = classifier(images)
        if not logits_NK.requires_grad:
            return False
        top_N = logits_NK.logsumexp(1) - logits_NK.mean(1)
        (gradient,) = torch.autograd.grad(top_N.sum(), images, allow_unused=True)
    except MODULE_ERRORS:  # code that cannot run backwards, or not while anybody wants it to
        return False
    return gradient is not None and bool(gradient.isfinite().all()) and bool((gradient != 0).any())


def _first_line(error: Exception) -> str:
    """The message line of a TorchScript error that says what went wrong: the last, without its prefix."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("RuntimeError: ")[:200].rstrip(".") if lines else type(error).__name__
