"""The dynamic family: a generator per label draws another trigger on each image (paper, sec. 3.3)."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from app.core.config import InversionConfig
from models.generator import TriggerGenerator
from models.perceptual import PerceptualDistance
from worker.detection.clean import CleanImages, batches_of, random_numbers
from worker.detection.families.base import Beginning, Features, Triggers
from worker.detection.metrics import batch_of

EPOCH = 2_000  # images of the pre-training's, at most


def reconstruction_loss(
    images_NCHW: Tensor,
    generated_NCHW: Tensor,
    clean_features: list[Tensor],
    perceptual: PerceptualDistance,
    config: InversionConfig,
) -> Tensor:
    """L_rec = lambda 2 * MSE(x, G(x)) + lambda 3 * LPIPS(x, G(x)), eq. (3), of each image, [N].

    `clean_features` are `perceptual.features(images_NCHW)`, which never change and are computed once per scan.
    """
    mse_N = (generated_NCHW - images_NCHW).square().mean((1, 2, 3))
    lpips_N = perceptual.distance(clean_features, perceptual.features(generated_NCHW))
    return config.lambda_mse * mse_N + config.lambda_perceptual * lpips_N


def pretrain_generator(
    clean: CleanImages,
    perceptual: PerceptualDistance,
    config: InversionConfig,
    seed: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> TriggerGenerator:
    """The generator every label starts from: one that gives back its input (paper, sec. 4.1).

    With identity_start "residual" it does so by construction; with "trained" it learns to by L_rec, and `on_step` hears
    the number of finished steps.
    """
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    channels = clean.images.shape[0]
    generator = TriggerGenerator(channels, config.generator_width, config.generator_levels, config.identity_start)
    torch.random.set_rng_state(torch_state)
    generator.to(clean.images.device)
    if config.identity_start == "residual":
        return generator
    optimizer = torch.optim.Adam(generator.parameters(), config.learning_rate)
    size = min(config.batch_size, len(clean))
    batches = batches_of(torch.arange(len(clean)), size, random_numbers(seed))
    for step in range(config.pretrain_epochs * max(1, min(len(clean), EPOCH) // config.batch_size)):
        picked = next(batches)
        images = clean.images[picked]
        features = clean.features_of(picked, images)
        loss = reconstruction_loss(images, generator(images), features, perceptual, config).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        on_step(step + 1)
    return generator


class Generators(Triggers):
    """One U-Net for each label, all from the same start.

    Norms are mean absolute changes of a pixel, eq. (5), or roots of mean perceptual distances, as the config says.
    """

    def __init__(
        self, generators: Iterable[TriggerGenerator], perceptual: PerceptualDistance, config: InversionConfig
    ) -> None:
        super().__init__()
        self.generators = nn.ModuleList(generators)
        self.config = config
        self._perceptual = [perceptual]  # in a list, so that it is no part of the module

    @classmethod
    def begin(cls, beginning: Beginning, random: Sequence[torch.Generator]) -> Self:
        """A copy of the generator that all begin as for each label; nothing in it is random."""
        assert isinstance(beginning.config, InversionConfig)
        copies = [copy.deepcopy(beginning.generator) for _ in random]
        return cls(copies, beginning.perceptual, beginning.config)

    def forward(self, images_TNCHW: Tensor) -> Tensor:
        return torch.stack([draw(images) for draw, images in zip(self.generators, images_TNCHW, strict=True)])

    def cost(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor, features: Features) -> Tensor:
        images, triggered = images_TNCHW.flatten(0, 1), triggered_TNCHW.flatten(0, 1)
        loss_N = reconstruction_loss(images, triggered, features(), self._perceptual[0], self.config)
        return loss_N.view(images_TNCHW.shape[:2]).mean(1)

    def norm(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor, weights_N: Tensor | None = None) -> Tensor:
        return self._norm(self._changes(images_TNCHW, triggered_TNCHW), weights_N)

    def norm_over(self, batches: Iterable[Tensor], weights_N: Tensor | None = None) -> Tensor:
        changes = [self._changes(images_NCHW[None], self.on(images_NCHW)[None]) for images_NCHW in batches]
        return self._norm(torch.cat(changes, 1), weights_N)

    def _norm(self, changes_TN: Tensor, weights_N: Tensor | None) -> Tensor:
        mean_T = changes_TN.mean(1) if weights_N is None else changes_TN @ weights_N
        return mean_T if self.config.norm == "l1" else mean_T.sqrt()

    def _changes(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor) -> Tensor:
        """How much each image is changed, [T, N]."""
        if self.config.norm == "l1":
            return (triggered_TNCHW - images_TNCHW).abs().mean((2, 3, 4))
        pairs = zip(images_TNCHW, triggered_TNCHW, strict=True)
        return torch.stack([self._lpips(*pair) for pair in pairs])

    def _lpips(self, images_NCHW: Tensor, triggered_NCHW: Tensor) -> Tensor:
        """The perceptual distance of each pair, [N]: a mean of squares, so its root grows as a change does."""
        perceptual, size = self._perceptual[0], batch_of(images_NCHW)
        pairs = zip(images_NCHW.split(size), triggered_NCHW.split(size), strict=True)
        return torch.cat([perceptual.distance(perceptual.features(x), perceptual.features(y)) for x, y in pairs])

    def scaled(self, strengths_T: Tensor) -> Self:
        """Exact for a residual generator up to the clamp: its last layer is linear. Others cannot be scaled."""
        assert self.config.identity_start == "residual"
        scaled = [self.of(index) for index in range(len(self.generators))]
        for generators, strength in zip(scaled, strengths_T, strict=True):
            for parameter in generators.drawing(0).last.parameters():
                parameter.data *= strength
        return type(self)([generators.drawing(0) for generators in scaled], self._perceptual[0], self.config)

    def of(self, index: int) -> Self:
        return type(self)([copy.deepcopy(self.drawing(index))], self._perceptual[0], self.config)

    def drawing(self, index: int) -> TriggerGenerator:
        """The generator of one label."""
        generator = self.generators[index]
        assert isinstance(generator, TriggerGenerator)
        return generator
