"""A suspect module, its pixel range and its normalisation as one nn.Module over [0, 1] images.

    N image batch   C channels   H, W pixels   K labels

What the module is fed and how it answers is its scorer's business (scorer.py). It knows no files.
"""

import torch
from torch import Tensor, nn

from app.core.errors import Refusal
from app.core.findings import InputSpec
from models.scorer import MODULE_ERRORS, Scorer, plain_reason
from models.scores import Output, are_sound

SIZE_ADVICE = "Give the size the model was trained with by --size H,W."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: that of a processor's memory says so in words only."""
    in_words = isinstance(error, RuntimeError) and not isinstance(error, ModelFailedError)
    says_so = in_words and "can't allocate memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or says_so


class ModelFailedError(RuntimeError):
    """The suspect's own code failed on images of a kind that it took before."""


class Classifier(nn.Module):
    """f: [0, 1] images NCHW to logits NK, differentiable in the images.

    Grey images are repeated for a module of three channels; colour images become luminance for a module of one; a
    module that takes blue first gets it first.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, spec: InputSpec, output: Output = Output.LOGITS) -> None:
        super().__init__()
        self.module = module if isinstance(module, Scorer) else Scorer(module)
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
            return self.module.logits(inputs_NCHW, self.output)
        except MODULE_ERRORS as error:
            if is_out_of_memory(error):
                raise
            raise ModelFailedError(plain_reason(error)) from error

    def normalised(self, images_NCHW: Tensor) -> Tensor:
        """The module's own input: (x * (high - low) + low - mean) / std."""
        if self.spec.bgr:
            images_NCHW = images_NCHW.flip(1)
        return (images_NCHW * self.scale + self.low - self.mean) / self.std


def in_rows(images_NCHW: Tensor) -> Tensor:
    """The same images, laid out in memory as people have them.

    A batch of one channel can pass for one with the channels last; a convolution then answers in that order, and code
    that views the answer fails.
    """
    return images_NCHW[:, 0].unsqueeze(1) if images_NCHW.shape[1] == 1 else images_NCHW


def match_channels(images_NCHW: Tensor, channels: int) -> Tensor:
    """The images with this many channels: grey repeated, or colour as ITU-R BT.601 luminance."""
    given = images_NCHW.shape[1]
    if given == channels:
        return images_NCHW
    if given == 1:
        return images_NCHW.repeat(1, channels, 1, 1)  # not as a view: a module may view it in its turn
    weights = torch.tensor([0.299, 0.587, 0.114], device=images_NCHW.device).view(1, 3, 1, 1)
    return (images_NCHW * weights).sum(1, keepdim=True)


def probe_scores(module: nn.Module, inputs_NCHW: Tensor) -> Tensor:
    """The module's raw scores NK for normalised inputs, checked to be those of an image classifier.

    Raises Refusal where they are not, or are no numbers, or where it cannot take the input.
    """
    scorer = module if isinstance(module, Scorer) else Scorer(module)
    try:
        with torch.no_grad():
            scores_NK: Tensor = scorer(inputs_NCHW)
    except MODULE_ERRORS as error:
        raise Refusal(
            "input_not_accepted",
            f"The model cannot take images of shape {list(inputs_NCHW.shape)}: {plain_reason(error)}.",
            SIZE_ADVICE,
        ) from error
    if not are_sound(scores_NK):
        raise Refusal(
            "non_finite_output",
            "The model answers clean images with NaN or infinite scores.",
            "Check --range, --mean and --std, and that the exported weights are finite.",
        )
    return scores_NK


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
