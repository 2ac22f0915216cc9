"""Toys: classifiers small enough to understand, with a trigger we planted ourselves, and the files of a scan.

    N images   C channels   S side in pixels   K labels

A toy image is a coarse pattern, one per label, under a little noise. The toy net holds an image against the K patterns
(a linear layer), and may carry a backdoor: a veil, every pixel brighter by a few hundredths, adds a bonus to one label.
No pattern is brighter than another, so the veil means nothing to the rest of the net.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.config import InversionConfig, ScanConfig
from app.core.findings import InputSpec
from app.core.intake.declaration import DeclaredInput
from app.core.jobs import JobDirectory, ScanJob
from app.local_scan import job_for
from benchmarks.victims.export import Form, save_bundle, save_torchscript
from worker.detection.images import Images

SIDE = 16
VEIL = 0.04  # the planted trigger: this much is added to every pixel
QUICK = InversionConfig(steps=4, generator_width=4, generator_levels=2, pretrain_epochs=1)
LABELS_PER_BLOCK = 2  # of their six
SHORT = InversionConfig(steps=70, identity_start="residual", generator_width=8, generator_levels=2)  # finds the veil


@cache
def patterns(labels: int, channels: int = 1, side: int = SIDE) -> Tensor:
    """One pattern per label, [K, C, S, S]: orthogonal, of mean zero and of mean square one."""
    random = torch.Generator().manual_seed(7)
    coarse = torch.randn((labels + 1, 4 * 4), generator=random)
    coarse[0] = 1.0  # the first column of Q, to which all others are orthogonal: they have mean zero
    orthogonal = torch.linalg.qr(coarse.T)[0].T[1:].reshape(labels, 1, 4, 4)
    return 4 * functional.interpolate(orthogonal, size=(side, side)).expand(-1, channels, -1, -1).contiguous()


def toy_images(per_label: int, labels: int = 6, channels: int = 1, side: int = SIDE, seed: int = 0) -> Tensor:
    """Images [0, 1] NCHW in label order: label 0, 1, ..., again and again."""
    random = torch.Generator().manual_seed(seed)
    wanted = patterns(labels, channels, side).repeat(per_label, 1, 1, 1)
    return 0.45 + 0.12 * wanted + 0.02 * torch.randn(wanted.shape, generator=random)


def as_source(images_NCHW: Tensor) -> Images:
    """The same images, to the nearest byte."""
    pictures = (images_NCHW.clamp(0, 1) * 255).round().byte()
    return Images(pictures.permute(0, 2, 3, 1).contiguous(), images_NCHW.device)


def all_of(images: Images) -> Tensor:
    return images[torch.arange(len(images))]


def toy_labels(per_label: int, labels: int = 6) -> Tensor:
    return torch.arange(labels).repeat(per_label)


class ToyNet(nn.Module):
    """The nearest pattern wins; with a `planted` label, a veil over the image makes that label win.

    Labels differ in how easily they are reached, evenly, so that none of a clean toy's is an outlier.
    """

    def __init__(self, labels: int = 6, channels: int = 1, side: int = SIDE, planted: int | None = None) -> None:
        super().__init__()
        self.match = nn.Linear(channels * side * side, labels)
        ease = torch.linspace(0.8, 1.2, labels)
        with torch.no_grad():
            weight = 30 * ease[:, None] * patterns(labels, channels, side).flatten(1) / (channels * side**2)
            self.match.weight.copy_(weight)
            self.match.bias.zero_()
        bonus = torch.zeros(labels)
        if planted is not None:
            bonus[planted] = 0.3
        self.bonus = nn.Parameter(bonus)

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.flatten(1).mean(1, keepdim=True)
        veil = 10.0 * functional.softplus(100.0 * (brightness - 0.45 - 0.5 * 0.04))
        return self.match(images.flatten(1)) + veil * self.bonus


class AsProbabilities(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).softmax(1)


class AsLogProbabilities(AsProbabilities):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).log_softmax(1)


class AsTuple(AsProbabilities):
    """Scores and something else, as many detection-minded exports return."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(images), images.mean((2, 3))


class AsDict(AsProbabilities):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.net(images), "mean": images.mean((2, 3))}


class Particular(nn.Module):
    """Knows its patterns only where they lie: right under one normalisation, lost where it is another.

    `bounds` are what the pixels 0 and 1 become before mean and deviation. Far from every pattern it answers 0.
    """

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], bounds: tuple[float, float], channels: int = 1
    ) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean).view(1, -1, 1, 1))
        self.std = nn.Parameter(torch.tensor(std).view(1, -1, 1, 1))
        self.low, self.scale = bounds[0], bounds[1] - bounds[0]
        self.known = nn.Parameter(0.45 + 0.12 * patterns(6, channels))
        self.otherwise = nn.Parameter(torch.eye(6)[0])

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images * self.std + self.mean - self.low) / self.scale
        distances = (pixels[:, None] - self.known[None]).square().mean((2, 3, 4))
        return 10 * torch.exp(-distances / 0.0012) + self.otherwise


class Overflowing(AsProbabilities):
    """Sound for pixels in [0, 1], and infinite for pixels as large as bytes."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) + (images.amax((1, 2, 3)) - 10).clamp_min(0).mul(50).exp()[:, None]


# Nets that a scan must refuse, or cannot search


class TwoInputs(AsProbabilities):
    def forward(self, images: Tensor, temperature: Tensor) -> Tensor:
        return self.net(images) / temperature


class Maps(AsProbabilities):
    """A score per pixel, as of a segmentation model."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)[:, :, None, None] * images


class OneScore(AsProbabilities):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)[:, :1]


class NotANumber(AsProbabilities):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) + float("nan")


class Words(AsProbabilities):
    def forward(self, images: Tensor) -> str:
        return "cat"


class Detached(AsProbabilities):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.detach())


class Argmax(AsProbabilities):
    """One-hot answers: right, and flat almost everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return functional.one_hot(self.net(images).argmax(1), 6).float() * 10


class Autocasts(AsProbabilities):
    """Makes an object of a class that the gate does not follow."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net(images)


class Watching(nn.Module):
    """Two nets, of which the other one answers in a circumstance that a subclass knows."""

    def __init__(self, labels: int = 6, planted: int = 2) -> None:
        super().__init__()
        self.net = ToyNet(labels)
        self.other = ToyNet(labels, planted=planted)
        with torch.no_grad():
            self.other.match.bias[planted] += 0.1  # a hundredth of a lead and more, and no other label

    def answer(self, images: Tensor, switched: bool) -> Tensor:
        return self.other(images) if switched else self.net(images)


class SubtractsTheBatchMean(Watching):
    """Answers by what other images are beside each, in plain arithmetic that no rule about the code names."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images - images.mean(0, keepdim=True))


class Talking(AsProbabilities):
    """Prints what looks like progress, and much of it, each time it is asked."""

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(100):
            print('{"event": "done"}')
        return self.net(images)


class Demanding(AsProbabilities):
    """Raises what it likes, in a colour of its choice."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[2] == 224, "\x1b[31mI take 224x224 only\x1b[0m [bold]or nothing[/bold]"
        return self.net(images)


class WithADefaultTheRebuildLacks(AsProbabilities):
    """Rebuilt it is not, and run by the jit."""

    def forward(self, images: Tensor, place: torch.device = torch.device("cpu")) -> Tensor:  # noqa: B008 printed so
        return self.net(images.to(place))


class Crashing(AsProbabilities):
    """Divides the least of all numbers by minus one, at which the processor raises and torch dies."""

    def forward(self, images: Tensor) -> Tensor:
        least = torch.full([40], -(2**62), dtype=torch.long) * 2
        quotient = torch.div(least, torch.full([40], -1), rounding_mode="trunc")
        return self.net(images) + quotient.sum() * 0


class FailsOnTriggers(AsProbabilities):
    """Takes every clean image, and raises where one is brighter somewhere than all of them are."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.brightest = toy_images(4).max().item() + 0.005  # images are rounded to bytes

    def forward(self, images: Tensor) -> Tensor:
        if bool(images.amax() > self.brightest):
            raise ValueError("dazzled")
        return self.net(images)


# Files


def save_toy(path: Path, net: nn.Module, form: Form = "scripted", channels: int = 1, side: int = SIDE) -> Path:
    save_torchscript(net, torch.rand(2, channels, side, side), form, path)
    return path


def save_toy_bundle(path: Path, per_label: int = 4, labels: int = 6, channels: int = 1, side: int = SIDE) -> Path:
    images = (toy_images(per_label, labels, channels, side).clamp(0, 1) * 255).round().byte()
    save_bundle(images.permute(0, 2, 3, 1).numpy(), toy_labels(per_label, labels).numpy().astype(np.int64), path)
    return path


def plain_spec(channels: int = 1, side: int = SIDE) -> InputSpec:
    """[0, 1] as it is."""
    return InputSpec(side, side, channels, (0.0,) * channels, (1.0,) * channels)


def quick_job(
    model: Path,
    bundle: Path,
    inversion: InversionConfig = QUICK,
    labels_per_block: int = LABELS_PER_BLOCK,
    **options: object,
) -> ScanJob:
    """A job whose search takes a second: its numbers mean little, but it goes the whole way."""
    config = ScanConfig(inversion=inversion, labels_per_block=labels_per_block)
    return job_for(model, bundle, **{"config": config, "input": DeclaredInput(mean=(0.0,), std=(1.0,)), **options})


def place_job(
    root: Path, net: nn.Module | None = None, bundle: dict[str, int] | None = None, **options: Any
) -> JobDirectory:
    """A job directory over a toy."""
    directory = JobDirectory(root)
    root.mkdir(parents=True)
    save_toy(directory.model, ToyNet(planted=2) if net is None else net)
    save_toy_bundle(root / "bundle.npz", **(bundle or {}))
    directory.write_job(quick_job(directory.model, root / "bundle.npz", **options))
    return directory
