"""How the suspect wants its pixels: as the user says, or else the convention under which it is most accurate.

    N image batch   C channels   H, W pixels   K labels

Accuracy alone chooses wrongly among conventions that are close, so of those within sampling error of the best the one
with the lowest cross-entropy is taken, and all of them are named.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.errors import Refusal
from app.core.findings import InputSpec
from models.classifier import Classifier, match_channels, probe_scores
from models.scores import Output, as_logits, recognise_output

# Mean, deviation and range of what people train with; grey models use the mean over the channels.
CONVENTIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, float]]] = {
    "unit range [0, 1]": ((0.0,), (1.0,), (0.0, 1.0)),
    "symmetric range [-1, 1]": ((0.5,), (0.5,), (0.0, 1.0)),
    "ImageNet mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (0.0, 1.0)),
    "CIFAR-10 mean and std": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616), (0.0, 1.0)),
    "CIFAR-100 mean and std": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), (0.0, 1.0)),
    "MNIST mean and std": ((0.1307,), (0.3081,), (0.0, 1.0)),
    "bytes [0, 255]": ((0.0,), (1.0,), (0.0, 255.0)),
}


@dataclass(frozen=True)
class Fit:
    """One convention held against the clean images."""

    name: str
    spec: InputSpec
    output: Output
    accuracy: float
    cross_entropy: float


def given_spec(
    images_NCHW: Tensor, channels: int, mean: tuple[float, ...], std: tuple[float, ...], low_high: tuple[float, float]
) -> InputSpec:
    """The spec for a given normalisation; one number serves all channels. Raises Refusal if the counts do not fit."""
    if len(mean) not in (1, channels) or len(std) not in (1, channels):
        raise Refusal(
            "normalisation_channels",
            f"--mean has {len(mean)} and --std {len(std)} numbers, but the model takes {channels} channel(s).",
            "Give one number, or one per channel.",
        )
    height, width = images_NCHW.shape[-2:]
    return InputSpec(height, width, channels, _per_channel(mean, channels), _per_channel(std, channels), low_high)


def fit(module: nn.Module, images_NCHW: Tensor, labels_N: Tensor | None, spec: InputSpec, name: str) -> Fit:
    """How well the labels come out under one spec; without labels the accuracy is NaN. Raises Refusal."""
    classifier = Classifier(module, spec).to(images_NCHW.device)
    with torch.no_grad():
        inputs = (match_channels(part, spec.channels) for part in images_NCHW.split(256))
        raw_NK = torch.cat([probe_scores(module, classifier.normalised(part)) for part in inputs])
        output = recognise_output(raw_NK)
        logits_NK = as_logits(raw_NK, output)
    if labels_N is None:
        return Fit(name, spec, output, math.nan, math.nan)
    accuracy = (logits_NK.argmax(1) == labels_N).float().mean().item()
    return Fit(name, spec, output, accuracy, functional.cross_entropy(logits_NK.float(), labels_N).item())


def infer_spec(module: nn.Module, images_NCHW: Tensor, labels_N: Tensor, channels: int) -> tuple[Fit, tuple[str, ...]]:
    """The best convention, and the names of the others within sampling error of its accuracy."""
    fits: list[Fit] = []
    overflow: Refusal | None = None
    for name, (mean, std, low_high) in CONVENTIONS.items():
        if channels == 1 and len(mean) == 3:
            mean, std = (sum(mean) / 3,), (sum(std) / 3,)
        spec = given_spec(images_NCHW, channels, mean, std, low_high)
        try:
            fits.append(fit(module, images_NCHW, labels_N, spec, name))
        except Refusal as refusal:  # one convention may drive a sound model out of its range; all of them may not
            if refusal.problem.code != "non_finite_output":
                raise
            overflow = refusal
    if not fits:
        assert overflow is not None
        raise overflow
    best = max(fit.accuracy for fit in fits)
    error = 2 * math.sqrt(max(best * (1 - best), 1 / len(labels_N)) / len(labels_N))
    close = [fit for fit in fits if fit.accuracy >= best - error]
    chosen = min(close, key=lambda fit: fit.cross_entropy)
    return chosen, tuple(fit.name for fit in close if fit is not chosen)


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values
