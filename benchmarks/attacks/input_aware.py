"""Input-aware dynamic backdoor: every image gets a trigger of its own (Nguyen and Tran, NeurIPS 2020).

One network says where an image's trigger lies, another what it looks like. The first is learned before the victim, the
second together with it: the victim answers the target to an image that carries its own trigger and ignores the trigger
of another image (the "cross" examples), and the triggers of two images differ as much as the images do (L_div, sec. 3).

N image batch   C channel   H, W pixels
"""

import torch
from torch import Tensor, nn

from benchmarks.attacks.base import Attack, Shape

DENSITY = 0.032  # the share of an image that its trigger may cover
SHARPNESS = 40.0  # of a mask's edges, as published
DIVERSITY_WEIGHT = 1.0
DENSITY_WEIGHT = 100.0
MASK_STEPS = 400  # the paper's 25 epochs, cut to where the density has long been reached
MASK_RATE, PATTERN_RATE = 3e-3, 1e-3
BETAS = (0.5, 0.9)
BATCH = 64
COMPARED = 32  # images of a batch whose triggers are compared


class InputAware(Attack):
    """The two networks and the label that their triggers lead to."""

    def __init__(self, shape_CHW: Shape, target: int) -> None:
        channels = shape_CHW[0]
        self.target = target
        self.mask_net = _image_to_image(channels, 1)
        self.pattern_net = _image_to_image(channels, channels)

    @classmethod
    def draw(cls, shape_CHW: Shape, target: int, seed: int) -> "InputAware":
        """Two networks as they are before any training; heights and widths are multiples of four."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return cls(shape_CHW, target)

    def apply(self, images_NCHW: Tensor) -> Tensor:
        """The images, each with its own trigger."""
        return self._painted(images_NCHW, images_NCHW)

    def cross(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        """The images, each with the trigger of another one."""
        return self._painted(images_NCHW, _others(images_NCHW, generator))

    def networks(self) -> nn.Module:
        return nn.ModuleDict({"mask": self.mask_net, "pattern": self.pattern_net})

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.pattern_net.parameters(), PATTERN_RATE, BETAS)

    def prepare(self, images_NCHW: Tensor, generator: torch.Generator) -> None:
        """Learn the masks: small, and as different as the images."""
        optimizer = torch.optim.Adam(self.mask_net.parameters(), MASK_RATE, BETAS)
        for _ in range(MASK_STEPS):
            batch = images_NCHW[torch.randint(len(images_NCHW), (BATCH,), generator=generator)]
            partners = _others(batch, generator)
            masks = self._masks(batch)
            excess = (masks.mean((1, 2, 3)) - DENSITY).relu().mean()
            diversity = _diversity(batch, partners, masks, self._masks(partners))
            loss = DENSITY_WEIGHT * excess + DIVERSITY_WEIGHT * diversity
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    def loss(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        """L_div of the patterns."""
        batch = images_NCHW[:COMPARED]
        partners = _others(batch, generator)
        return DIVERSITY_WEIGHT * _diversity(batch, partners, self.pattern_net(batch), self.pattern_net(partners))

    def _painted(self, images_NCHW: Tensor, owners_NCHW: Tensor) -> Tensor:
        """The images with the triggers of their owners."""
        with torch.no_grad():
            masks_N1HW = self._masks(owners_NCHW)
        return torch.lerp(images_NCHW, self.pattern_net(owners_NCHW), masks_N1HW)

    def _masks(self, images_NCHW: Tensor) -> Tensor:
        """Where the triggers of these images lie: almost everywhere all or nothing."""
        return torch.sigmoid(SHARPNESS * (self.mask_net(images_NCHW) - 0.5))


def _others(images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """The same images in another order, in which (if there are two) none keeps its place."""
    steps = torch.randint(1, max(2, len(images_NCHW)), (), generator=generator)
    return images_NCHW.roll(int(steps), 0)


def _diversity(a_NCHW: Tensor, b_NCHW: Tensor, trigger_of_a: Tensor, trigger_of_b: Tensor) -> Tensor:
    """How far apart two images are, over how far apart their triggers are."""

    def distance(left: Tensor, right: Tensor) -> Tensor:
        return ((left - right).square().mean((1, 2, 3)) + 1e-8).sqrt()

    return (distance(a_NCHW, b_NCHW) / (distance(trigger_of_a, trigger_of_b) + 1e-3)).mean()


def _image_to_image(channels: int, outputs: int, width: int = 16) -> nn.Sequential:
    """A small encoder and decoder with outputs in [0, 1]; GroupNorm, so it knows no training mode."""

    def block(before: int, after: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(4, after), nn.ReLU()]

    return nn.Sequential(
        *block(channels, width, stride=2),
        *block(width, 2 * width, stride=2),
        *block(2 * width, 2 * width),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        *block(2 * width, width),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(width, outputs, 3, padding=1),
        nn.Sigmoid(),
    )
