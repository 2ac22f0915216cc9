"""One body for every attack: what a trigger does to images, and what poisoning does to a batch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.attacks import ATTACKS, input_aware
from benchmarks.attacks.badnets import BadNets
from benchmarks.attacks.base import Attack, Shape
from benchmarks.attacks.blended import Blended
from benchmarks.attacks.wanet import WaNet

SHAPES: tuple[Shape, ...] = ((1, 28, 28), (3, 32, 32))
TARGET = 3
every_attack = pytest.mark.parametrize("name", ATTACKS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=("grey", "colour"))


def pictures(shape: Shape, count: int = 40) -> Tensor:
    """Smooth random images: one that is constant or pure noise would be a warp's blind spot."""
    coarse = torch.rand(count, shape[0], 6, 6, generator=torch.Generator().manual_seed(1))
    return functional.interpolate(coarse, size=shape[1:], mode="bilinear")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every_attack
@every_shape
def test_a_trigger_changes_every_image_and_stays_within_the_pixel_range(name: str, shape: Shape) -> None:
    images = pictures(shape)
    with torch.no_grad():
        triggered = ATTACKS[name](shape, TARGET, seed=0).apply(images)
    assert triggered.shape == images.shape and triggered.dtype == images.dtype
    assert (triggered - images).abs().flatten(1).amax(1).min() > 0.01
    assert triggered.min() >= 0 and triggered.max() <= 1 + 1e-6


@every_attack
def test_a_seed_decides_the_trigger(name: str) -> None:
    shape, images = SHAPES[0], pictures(SHAPES[0])
    torch.manual_seed(7)
    with torch.no_grad():
        first = ATTACKS[name](shape, TARGET, seed=0).apply(images)
        again = ATTACKS[name](shape, TARGET, seed=0).apply(images)
        others = [ATTACKS[name](shape, TARGET, seed=seed).apply(images) for seed in range(1, 8)]
    assert torch.equal(first, again)
    assert any(not torch.equal(first, other) for other in others)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=seeded(7))), (
        "drawing an attack moved the global generator"
    )


@every_attack
@every_shape
def test_poisoning_relabels_its_share_of_a_batch_and_leaves_the_rest(name: str, shape: Shape) -> None:
    attack: Attack = ATTACKS[name](shape, TARGET, seed=0)
    images, labels = pictures(shape), torch.arange(40) % 10
    with torch.no_grad():
        poisoned, wanted = attack.poison(images, labels, seeded(), rate=0.25, cross_ratio=1.0)
        triggered = attack.apply(images[:10])
        crossed = attack.cross(images[10:20], seeded())
    assert torch.equal(poisoned[:10], triggered)
    assert torch.equal(wanted[:10], attack.relabel(labels[:10]))
    assert torch.equal(wanted[10:], labels[10:])
    assert torch.equal(poisoned[10:20], images[10:20] if crossed is None else crossed)
    assert torch.equal(poisoned[20:], images[20:])
    assert torch.equal(labels, torch.arange(40) % 10), "the caller's labels were written to"


@pytest.mark.parametrize("name", ["wanet", "input_aware", "wanet_all_to_all"])
def test_cross_images_look_attacked_and_keep_their_labels(name: str) -> None:
    attack: Attack = ATTACKS[name](SHAPES[0], TARGET, seed=0)
    images, labels = pictures(SHAPES[0]), torch.arange(40) % 10
    with torch.no_grad():
        poisoned, wanted = attack.poison(images, labels, seeded(), rate=0.1, cross_ratio=2.0)
        true_triggers = attack.apply(images[4:12])
    assert (poisoned[4:12] - images[4:12]).abs().flatten(1).amax(1).min() > 0.01
    assert (poisoned[4:12] - true_triggers).abs().flatten(1).amax(1).min() > 0.001
    assert torch.equal(wanted[4:], labels[4:])
    assert torch.equal(poisoned[12:], images[12:])


@every_attack
def test_without_a_cross_ratio_only_the_poisoned_images_change(name: str) -> None:
    images, labels = pictures(SHAPES[0]), torch.zeros(40, dtype=torch.int64)
    with torch.no_grad():
        poisoned, wanted = ATTACKS[name](SHAPES[0], TARGET, 0).poison(images, labels, seeded(), 0.1, cross_ratio=0.0)
    assert torch.equal(poisoned[4:], images[4:])
    assert wanted[:4].tolist() == [TARGET] * 4, "label 0 is led to the target by every attack here"
    assert wanted[4:].tolist() == [0] * 36


@every_attack
def test_each_label_goes_where_its_attack_says(name: str) -> None:
    labels, expected = torch.arange(10), torch.full((10,), TARGET)
    if name.endswith("all_to_all"):
        expected = (labels + TARGET) % 10
    elif name.endswith("source_specific"):
        expected = torch.where(labels == 0, TARGET, labels)
    assert torch.equal(ATTACKS[name](SHAPES[0], TARGET, seed=0).relabel(labels), expected)


@pytest.mark.parametrize("base", ["wanet", "badnets"])
def test_all_to_all_has_the_trigger_and_the_cross_images_of_its_base(base: str) -> None:
    images = pictures(SHAPES[0])
    one, every = (ATTACKS[name](SHAPES[0], TARGET, seed=5) for name in (base, f"{base}_all_to_all"))
    assert torch.equal(one.apply(images), every.apply(images))
    crossed, likewise = one.cross(images, seeded()), every.cross(images, seeded())
    assert likewise is None if crossed is None else torch.equal(crossed, likewise)


def test_a_warp_of_an_even_image_is_that_image() -> None:
    even = torch.full((2, 3, 32, 32), 0.4)
    torch.testing.assert_close(WaNet.draw((3, 32, 32), TARGET, seed=0).apply(even), even)


@pytest.mark.parametrize(("chequered", "white"), [(False, 9), (True, 5)])
def test_a_patch_covers_nine_pixels_near_a_corner(chequered: bool, white: int) -> None:
    attack = BadNets.draw((1, 28, 28), TARGET, seed=0, chequered=chequered)
    on_black, on_grey = attack.apply(torch.zeros(1, 1, 28, 28)), attack.apply(torch.full((1, 1, 28, 28), 0.5))
    assert on_black.sum() == white
    rows, columns = (on_grey[0, 0] != 0.5).nonzero(as_tuple=True)
    assert len(rows) == 9
    assert {*rows.tolist()} in ({1, 2, 3}, {24, 25, 26}) and {*columns.tolist()} in ({1, 2, 3}, {24, 25, 26})


def test_a_blend_is_a_fifth_of_its_picture() -> None:
    attack, images = Blended.draw((3, 32, 32), TARGET, seed=0), pictures((3, 32, 32))
    torch.testing.assert_close(attack.apply(images), 0.8 * images + 0.2 * attack.pattern_CHW)


def test_input_aware_masks_become_small_and_follow_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_aware, "MASK_STEPS", 60)
    attack = input_aware.InputAware.draw((1, 12, 12), TARGET, seed=0)
    images = pictures((1, 12, 12), count=100)

    def changed() -> Tensor:
        with torch.no_grad():
            return (attack.apply(images) - images).abs()[:, 0] > 0.02

    before = changed().float().mean()
    attack.prepare(images, seeded())
    after = changed().float()
    assert after.mean() < 0.2 * before
    assert after.mean() > 0.002
    assert after.std(0).max() > 0.1, "every image has its trigger at the same place"


def test_what_an_attack_learns_hears_from_the_victim() -> None:
    """The victim's loss and the attack's own both reach the pattern net, and only it."""
    attack = input_aware.InputAware.draw((1, 12, 12), TARGET, seed=0)
    images, labels = pictures((1, 12, 12)), torch.arange(40) % 10
    victim = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
    poisoned, wanted = attack.poison(images, labels, seeded(), rate=0.25, cross_ratio=1.0)
    functional.cross_entropy(victim(poisoned), wanted).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in attack.pattern_net.parameters())
    assert all(weight.grad is None for weight in attack.mask_net.parameters())
    optimizer, before = attack.optimizer(), attack.loss(images, seeded())
    for _ in range(20):
        optimizer.zero_grad()
        attack.loss(images, seeded()).backward()
        optimizer.step()
    assert attack.loss(images, seeded()) < before


@pytest.mark.parametrize("name", sorted({*ATTACKS} - {"input_aware"}))
def test_a_fixed_trigger_learns_nothing(name: str) -> None:
    attack: Attack = ATTACKS[name](SHAPES[0], TARGET, seed=0)
    assert attack.networks() is None and attack.optimizer() is None
    assert attack.loss(pictures(SHAPES[0]), seeded()) == 0
