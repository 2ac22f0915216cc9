"""How the suspect wants its pixels: as the user says, or else the convention under which it is most accurate.

    N image batch   C channels   H, W pixels   K labels

Accuracy alone chooses wrongly among conventions that are close, and cross-entropy rewards contrast once every image is
right: 255 times larger pixels make a net surer, not righter. So of the conventions within sampling error of the best
accuracy those are taken whose cross-entropy is lowest at the best temperature of each. Among equals the ordinary ones
come before the rare, and of these the one that needs no heating: a net may be surer than it is right, by training, but
one that is less sure than it is right does not see the contrast that it was trained with.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.errors import Refusal
from app.core.findings import ConventionFit, InputSpec
from models.classifier import Classifier, match_channels, probe_scores
from models.scores import Output, as_logits, recognise_output
from worker.detection.images import Images, at_once

# Mean, deviation and range of what people train with, the most ordinary first; grey models use the mean over channels,
# which is less ordinary than what was made for one channel.
CONVENTIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, float]]] = {
    "unit range [0, 1]": ((0.0,), (1.0,), (0.0, 1.0)),
    "ImageNet mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (0.0, 1.0)),
    "symmetric range [-1, 1]": ((0.5,), (0.5,), (0.0, 1.0)),
    "MNIST mean and std": ((0.1307,), (0.3081,), (0.0, 1.0)),
    "CIFAR-10 mean and std": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616), (0.0, 1.0)),
    "CIFAR-100 mean and std": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), (0.0, 1.0)),
    "bytes [0, 255]": ((0.0,), (1.0,), (0.0, 255.0)),
    "bytes less the ImageNet mean": ((123.675, 116.28, 103.53), (1.0,), (0.0, 255.0)),
}
BLUE_FIRST = ", blue first (BGR)"
RARE = ("bytes [0, 255]", "bytes less the ImageNet mean")  # and whatever takes blue first
NATS = 3.0  # of evidence in all images together, below which two conventions are equals
FITTED_AT_ONCE = 50  # images that are shown together, where they are small
FIRST_LOOK = 16  # images, after which hopeless conventions are dropped
MOST_HOPEFUL = 3
HOTTEST = 12.0  # the largest logarithm of a temperature, or of its inverse


@dataclass(frozen=True, eq=False)
class Fit:
    """One convention held against the clean images."""

    name: str
    spec: InputSpec
    output: Output
    logits_NK: Tensor  # up to a constant per image

    def __len__(self) -> int:
        return len(self.logits_NK)

    @property
    def predictions_N(self) -> Tensor:
        return self.logits_NK.argmax(1)

    @property
    def confidence(self) -> float:
        """The mean probability of the first choice."""
        return self.logits_NK.softmax(1).amax(1).mean().item()

    def followed_by(self, more: "Fit") -> "Fit":
        """The same of further images, too."""
        return replace(self, logits_NK=torch.cat([self.logits_NK, more.logits_NK]))

    def accuracy(self, labels_N: Tensor) -> float:
        return (self.predictions_N == labels_N).float().mean().item()

    def losses(self, labels_N: Tensor, coolest: float = -HOTTEST) -> Tensor:
        """The cross-entropy of each image at the temperature, above exp(coolest), at which their mean is lowest."""
        logits_NK = self.logits_NK.double()
        low, high = coolest, HOTTEST
        for _ in range(40):  # the mean is convex in 1 / temperature, so thirds of an interval close in on its minimum
            third = (high - low) / 3
            cooler, hotter = (_losses(logits_NK, labels_N, at).mean() for at in (low + third, high - third))
            low, high = (low, high - third) if cooler <= hotter else (low + third, high)
        return _losses(logits_NK, labels_N, (low + high) / 2)


def _losses(logits_NK: Tensor, labels_N: Tensor, log_temperature: float) -> Tensor:
    return functional.cross_entropy(logits_NK / math.exp(log_temperature), labels_N, reduction="none")


def given_spec(
    images_NCHW: Tensor,
    channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    low_high: tuple[float, float],
    bgr: bool = False,
) -> InputSpec:
    """The spec for a given normalisation; one number serves all channels. Raises Refusal if it cannot be meant."""
    if len(mean) not in (1, channels) or len(std) not in (1, channels):
        raise Refusal(
            "normalisation_channels",
            f"--mean has {len(mean)} and --std {len(std)} numbers, but the model takes {channels} channel(s).",
            "Give one number, or one per channel.",
        )
    _check_units(mean, std, low_high)
    height, width = images_NCHW.shape[-2:]
    spec = InputSpec(height, width, channels, _per_channel(mean, channels), _per_channel(std, channels), low_high)
    return replace(spec, bgr=bgr and channels == 3)


def _check_units(mean: tuple[float, ...], std: tuple[float, ...], low_high: tuple[float, float]) -> None:
    """Mean and deviation are in the unit of the range: of bytes with 0,255, of shares of white with 0,1."""
    low, high = low_high
    span = f"{low:g},{high:g}"
    outside = next((number for number in mean if not low <= number <= high), None)
    if outside is not None or max(std) > high - low:
        number, what = (max(std), "deviation") if outside is None else (outside, "mean")
        advice = "Mean and std are in the unit of the range."
        if max(*mean, *std) > 1 and high <= 1:
            advice += " These look like bytes: give `--range 0,255` too, or divide both by 255."
        raise Refusal(
            "normalisation_range",
            f"The {what} {number:g} does not fit pixels that range from {low:g} to {high:g} (`--range {span}`).",
            advice,
        )
    if high > 100 and max(std) < 1 and 0 < max(mean) < 1:
        raise Refusal(
            "normalisation_range",
            f"The mean {mean[0]:g} and the deviation {std[0]:g} look like shares of white, but the pixels range from "
            f"{low:g} to {high:g} (`--range {span}`).",
            "Mean and std are in the unit of the range: leave `--range` out, or multiply both by 255.",
        )


def fitted_at_once(images: Images | Tensor) -> int:
    """How many of these images are shown together to see what the suspect answers."""
    return min(FITTED_AT_ONCE, at_once(images))


def fit(module: nn.Module, images: Images | Tensor, spec: InputSpec, name: str) -> Fit:
    """What the suspect answers under one spec. Raises Refusal."""
    classifier = Classifier(module, spec).to(images.device)
    with torch.no_grad():
        inputs = (match_channels(part, spec.channels) for part in images.split(fitted_at_once(images)))
        raw_NK = torch.cat([probe_scores(module, classifier.normalised(part)) for part in inputs])
        output = recognise_output(raw_NK)
        return Fit(name, spec, output, as_logits(raw_NK, output).float())


def continued(module: nn.Module, begun: Fit, more: Images) -> Fit:
    """The same convention held against more images, too. Raises Refusal."""
    return begun.followed_by(fit(module, more, begun.spec, begun.name)) if len(more) else begun


def try_conventions(
    module: nn.Module, images_NCHW: Tensor, channels: int, bgr: bool | None, labels_N: Tensor | None
) -> list[Fit]:
    """What the suspect answers under each convention; given labels, without those that a first look shows hopeless.

    `bgr` is whether blue comes first; None: that is not known, and is tried with what fits best. Raises Refusal.
    """
    specs = _specs(images_NCHW, channels, bool(bgr))
    if labels_N is None:
        return _fits(module, images_NCHW, specs)
    first, labels = images_NCHW[:FIRST_LOOK], labels_N[:FIRST_LOOK]
    fits = _hopeful(_fits(module, first, specs), labels)
    if bgr is None and channels == 3 and images_NCHW.shape[1] == 3:
        usual = {fit.name + BLUE_FIRST: fit for fit in fits}
        mirrored = _fits(module, first, blue_first(fits))
        if any(_is_above(usual[fit.name].losses(labels), fit.losses(labels), 0.0) for fit in mirrored):
            fits = _hopeful([*fits, *_fits(module, first, _specs(images_NCHW, channels, bgr=True))], labels)
    if len(images_NCHW) <= FIRST_LOOK:
        return fits
    others = _fits(module, images_NCHW[FIRST_LOOK:], {fit.name: fit.spec for fit in fits})
    begun = {fit.name: fit for fit in fits}
    return [begun[fit.name].followed_by(fit) for fit in others]


def blue_first(fits: Sequence[Fit]) -> dict[str, InputSpec]:
    """The same conventions with the channels, and so mean and deviation, in the other order."""
    return {
        fit.name + BLUE_FIRST: replace(fit.spec, mean=fit.spec.mean[::-1], std=fit.spec.std[::-1], bgr=True)
        for fit in fits
        if not fit.spec.bgr
    }


def choose(fits: Sequence[Fit], labels_N: Tensor) -> tuple[Fit, list[Fit]]:
    """The convention to take, and the others within sampling error of the best accuracy."""
    best = max(fit.accuracy(labels_N) for fit in fits)
    error = 2 * math.sqrt(max(best * (1 - best), 1 / len(labels_N)) / len(labels_N))
    close = [fit for fit in fits if fit.accuracy(labels_N) >= best - error]
    losses = {fit.name: fit.losses(labels_N) for fit in close}
    lowest = min(losses.values(), key=lambda losses_N: losses_N.mean().item())
    equals = [fit for fit in close if not _is_above(losses[fit.name], lowest)]
    equals = [fit for fit in equals if not _is_rare(fit)] or equals
    calibrated = {fit.name: fit.losses(labels_N, coolest=0.0) for fit in equals}
    lowest = min(calibrated.values(), key=lambda losses_N: losses_N.mean().item())
    chosen = next(fit for fit in sorted(equals, key=_rank) if not _is_above(calibrated[fit.name], lowest))
    return chosen, [fit for fit in close if fit is not chosen]


def shown_fits(fits: Sequence[Fit], taken: str, labels_N: Tensor) -> tuple[ConventionFit, ...]:
    """All that was tried to the end, as reports show it: first the one of this name, then by accuracy."""
    chosen = next(fit for fit in fits if fit.name == taken)
    shown = [
        ConventionFit(
            fit.name,
            fit.accuracy(labels_N),
            fit.losses(labels_N).mean().item(),
            (fit.predictions_N == chosen.predictions_N).float().mean().item(),
        )
        for fit in fits
    ]
    return tuple(sorted(shown, key=lambda one: (one.name != taken, -one.accuracy, one.cross_entropy)))


def _is_above(losses_N: Tensor, lowest_N: Tensor, errors: float = 2.0) -> bool:
    """Whether losses are above others by more than chance (so many standard errors), and by more than a trifle."""
    more_N = losses_N - lowest_N
    total = more_N.sum().item()
    return total > NATS and total > errors * math.sqrt(len(more_N)) * more_N.std(correction=0).item()


def _is_rare(fit: Fit) -> bool:
    return fit.spec.bgr or fit.name in RARE


def _rank(fit: Fit) -> tuple[bool, bool, int]:
    """How ordinary a convention is: the lower, the more."""
    name = fit.name.removesuffix(BLUE_FIRST)
    is_of_colours = len(CONVENTIONS[name][0]) == 3
    return fit.spec.bgr, is_of_colours and fit.spec.channels == 1, [*CONVENTIONS].index(name)


def _hopeful(fits: Sequence[Fit], labels_N: Tensor) -> list[Fit]:
    """Those whose accuracy may yet turn out to be the best; of many the best."""
    best = max(fit.accuracy(labels_N) for fit in fits)
    error = 2 * math.sqrt(0.5 / len(labels_N))  # of a difference between two shares near one half
    near = [fit for fit in fits if fit.accuracy(labels_N) >= best - error]
    return sorted(near, key=lambda fit: (-fit.accuracy(labels_N), fit.losses(labels_N).mean().item()))[:MOST_HOPEFUL]


def _specs(images_NCHW: Tensor, channels: int, bgr: bool) -> dict[str, InputSpec]:
    specs = {}
    for name, (mean, std, low_high) in CONVENTIONS.items():
        if channels == 1 and len(mean) == 3:
            mean, std = (sum(mean) / 3,), (sum(std) / len(std),)
        if bgr:
            name, mean, std = name + BLUE_FIRST, mean[::-1], std[::-1]
        specs[name] = given_spec(images_NCHW, channels, mean, std, low_high, bgr)
    return specs


def _fits(module: nn.Module, images_NCHW: Tensor, specs: Mapping[str, InputSpec]) -> list[Fit]:
    """What the suspect answers under each spec that does not drive it out of its range; all of them may not."""
    fits: list[Fit] = []
    overflow: Refusal | None = None
    for name, spec in specs.items():
        try:
            fits.append(fit(module, images_NCHW, spec, name))
        except Refusal as refusal:
            if refusal.problem.code != "non_finite_output":
                raise
            overflow = refusal
    if not fits:
        assert overflow is not None
        raise overflow
    return fits


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values
