"""What every trigger family promises, and that each finds a trigger of its own kind."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.config import InversionConfig, SearchConfig
from models.perceptual import PACKAGED, load_perceptual
from tests.detection.beginnings import SHAPE, begun, each
from tests.toys import SIDE, ToyNet, as_source, toy_images, toy_labels
from worker.detection.clean import CleanImages, random_numbers
from worker.detection.families.base import Beginning, Triggers
from worker.detection.families.dynamic import Generators, pretrain_generator
from worker.detection.families.static import Patches
from worker.detection.families.warp import Warps
from worker.detection.inversion import Inversion, invert_triggers

LABELS, PLANTED = 3, 1
IMAGES_TNCHW = torch.rand((LABELS, 4, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0))


def clean_images(labels: int = 6) -> CleanImages:
    return CleanImages(as_source(toy_images(4, labels)), toy_labels(4, labels), load_perceptual(PACKAGED))


def generators(norm: Literal["l1", "lpips"] = "l1") -> Triggers:
    config = InversionConfig(generator_width=4, generator_levels=1, norm=norm)
    start = pretrain_generator(clean_images(), load_perceptual(PACKAGED), config, seed=0)
    triggers = Generators.begin(Beginning(SHAPE, start, load_perceptual(PACKAGED), config), each(range(LABELS)))
    for index in range(LABELS):  # as if they were trained
        nn.init.constant_(triggers.drawing(index).last.bias, 0.01 * (index + 1))  # type: ignore[arg-type]
    return triggers


def warps() -> Triggers:
    triggers = begun("warp", range(LABELS))
    return triggers.scaled(torch.full((LABELS,), 10.0))


MAKERS: dict[str, Callable[[], Triggers]] = {
    "dynamic": generators,
    "dynamic by LPIPS": lambda: generators("lpips"),
    "static": lambda: begun("static", range(LABELS)),
    "warp": warps,
}


@pytest.mark.parametrize("family", MAKERS)
def test_one_labels_trigger_does_alone_what_it_does_among_others(family: str) -> None:
    triggers = MAKERS[family]()
    together = triggers(IMAGES_TNCHW)
    assert together.shape == IMAGES_TNCHW.shape and together.min() >= 0 and together.max() <= 1
    for index in range(LABELS):
        alone = triggers.of(index)
        torch.testing.assert_close(alone.on(IMAGES_TNCHW[index]), together[index])
        norm = alone.norm(IMAGES_TNCHW[index][None], together[index][None])
        torch.testing.assert_close(norm, triggers.norm(IMAGES_TNCHW, together)[index : index + 1])
        assert {name: value.shape for name, value in alone.state_dict().items()}, "it can be saved"


@pytest.mark.parametrize("family", MAKERS)
def test_strength_scales_the_norm_and_zero_is_no_trigger(family: str) -> None:
    triggers = MAKERS[family]()
    inner = 0.2 + 0.6 * IMAGES_TNCHW  # nothing is clamped
    norms_T = triggers.norm(inner, triggers(inner))
    scaled = triggers.scaled(torch.tensor([1e-9, 0.5, 1.0]))
    torch.testing.assert_close(scaled(inner)[0], inner[0], atol=1e-5, rtol=0)
    about = 0.05 if "LPIPS" in family else 1e-5  # which sees edges, and they are not twice as sharp
    torch.testing.assert_close(
        scaled.norm(inner, scaled(inner))[1:], norms_T[1:] * torch.tensor([0.5, 1.0]), rtol=about, atol=1e-6
    )
    torch.testing.assert_close(triggers.norm(inner, triggers(inner)), norms_T, msg="the original stays as it was")


@pytest.mark.parametrize("family", MAKERS)
def test_costs_are_one_for_each_label_and_reach_its_parameters_only(family: str) -> None:
    triggers = MAKERS[family]().requires_grad_(True)
    triggered = triggers(IMAGES_TNCHW)
    cost_T = triggers.cost(
        IMAGES_TNCHW, triggered, lambda: load_perceptual(PACKAGED).features(IMAGES_TNCHW.flatten(0, 1))
    )
    assert cost_T.shape == (LABELS,) and (cost_T > 0).all()
    (first, *_) = torch.autograd.grad(cost_T[1], list(triggers.parameters()), allow_unused=True)
    if not family.startswith("dynamic"):  # whose labels have parameters each of their own
        assert first[1].abs().max() > 0 and first[[0, 2]].abs().max() == 0


@pytest.mark.parametrize("family", MAKERS)
def test_a_norm_is_the_same_over_batches_of_the_images(family: str) -> None:
    trigger, weights = MAKERS[family]().of(1), torch.tensor([0.1, 0.2, 0.3, 0.4])
    images, triggered = IMAGES_TNCHW[1], trigger.on(IMAGES_TNCHW[1])
    over = trigger.norm_over(iter(images.split(3)), weights)
    torch.testing.assert_close(over, trigger.norm(images[None], triggered[None], weights))


def test_by_lpips_a_norm_is_the_root_of_the_mean_distance() -> None:
    triggers, perceptual = generators("lpips"), load_perceptual(PACKAGED)
    triggered = triggers(IMAGES_TNCHW)
    for label, norm in enumerate(triggers.norm(IMAGES_TNCHW, triggered)):
        features = (perceptual.features(images[label]) for images in (IMAGES_TNCHW, triggered))
        torch.testing.assert_close(norm**2, perceptual.distance(*features).mean())


def test_a_field_of_one_displacement_moves_the_image_by_it() -> None:
    knots = torch.zeros((1, 2, 8, 8))
    knots[:, 0] = 2.0  # in x
    moved = Warps(knots, (SIDE, SIDE)).on(IMAGES_TNCHW[0])
    torch.testing.assert_close(moved[..., :-2], IMAGES_TNCHW[0][..., 2:])


class Patched(nn.Module):
    """A toy that answers PLANTED to a bright corner."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ToyNet()

    def forward(self, images: Tensor) -> Tensor:
        corner = images[:, :, :3, :3].mean((1, 2, 3))
        seen = torch.sigmoid(20 * (corner - 0.75))
        return self.net(images) + 400 * seen[:, None] * functional.one_hot(torch.tensor(PLANTED), 6)


def search(suspect: nn.Module, triggers: Triggers, labels: int = 6) -> list[Inversion]:
    config = SearchConfig(steps=150, success_level=0.95)
    clean = clean_images()
    return invert_triggers(suspect.requires_grad_(False), clean, clean, range(labels), triggers, config, seed=0)


def test_the_static_family_finds_a_planted_patch_and_where_it_is() -> None:
    found = search(Patched(), begun("static", range(6)))
    norms = [inversion.norm for inversion in found]
    assert min(norms) == norms[PLANTED] and norms[PLANTED] < 0.7 * sorted(norms)[1]
    assert all(inversion.attack_success_rate >= 0.9 and not inversion.out_of_reach for inversion in found)
    mask = found[PLANTED].trigger.state_dict()["mask_T1HW"].sigmoid()[0, 0]
    assert mask[:3, :3].mean() > 3 * mask[4:, 4:].mean()


def test_of_two_masks_with_the_same_sum_the_thin_overlay_has_the_smaller_norm() -> None:
    overlay, patch = torch.full((1, 16, 16), 1 / 16), torch.zeros(1, 16, 16)
    patch[:, :4, :4] = 1.0
    masks, pattern = torch.stack([overlay, patch]).logit(eps=1e-6), torch.zeros(2, *SHAPE)
    triggers, images = Patches(masks, pattern), torch.rand(2, 3, *SHAPE)
    triggered = triggers(images)
    costs = triggers.cost(images, triggered, list)
    assert torch.allclose(costs, torch.tensor([1 / 16, 1 / 16]), rtol=1e-3)
    assert torch.allclose(triggers.norm(images, triggered), torch.tensor([1 / 16, 1 / 4]), rtol=1e-3)


def test_a_patch_is_varied_where_it_is_and_nowhere_else() -> None:
    mask, pattern = torch.full((1, 1, 16, 16), -9.0), torch.full((1, 1, 16, 16), 9.0)
    mask[:, :, 4:6, 4:6] = 9.0
    patch, images = Patches(mask, pattern), torch.full((300, 1, 16, 16), 0.5)
    varied = patch.varied(images, random_numbers(0))
    changed = ((varied - images).abs() > 1e-2)[:, 0]
    assert changed[:, 4:6, 4:6].any((1, 2)).all(), "every image has some of it"
    far = torch.ones(16, 16, dtype=torch.bool)
    far[0:10, 0:10] = False
    assert not changed[:, far].any()
    white = (varied > 0.99)[:, 0]
    whole = changed[:, 4:6, 4:6].all(2).all(1)
    assert 0.4 < whole.float().mean() < 0.9, "the patch itself, or a rectangle that covers some of it"
    heights = white.any(2).sum(1)[~whole]
    assert {*heights.tolist()} == {2, 3, 4, 5}
    assert torch.equal(varied, patch.varied(images, random_numbers(0)))
    overlay = Patches(torch.zeros(1, 1, 16, 16), pattern)
    assert torch.equal(overlay.varied(images, random_numbers(0)), overlay.on(images)), "all of it is the trigger"


def test_a_label_that_nothing_leads_to_is_out_of_reach() -> None:
    class Never(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return ToyNet()(images) - 1e4 * functional.one_hot(torch.tensor(PLANTED), 6)

    found = search(Never(), begun("static", range(6)))
    assert [inversion.out_of_reach for inversion in found] == [label == PLANTED for label in range(6)]
