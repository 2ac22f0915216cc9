"""Rivals get a fair shot: what they were made for, they find, and their stopping rules work."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.baselines import ft_sam, nad, neural_cleanse, nft, sau, super_fine_tuning
from benchmarks.baselines.fine_tuning import STRONG, WEAK, fine_tuned
from benchmarks.baselines.nad import WEIGHTS, attention, depths
from benchmarks.baselines.neural_cleanse import Patch, flagged_labels, smallest_patch
from benchmarks.datasets import REPOSITORY, as_tensors
from benchmarks.repair import RIVALS
from benchmarks.victims.augmentation import Augmentation
from benchmarks.victims.recipes import NETS
from benchmarks.victims.train import accuracy, normalise

LABELS, PLANTED = 5, 3
STILL = Augmentation(shift=0)
IMAGES = torch.rand((60, 1, 6, 6), generator=torch.Generator().manual_seed(0))
READ = torch.randn((LABELS, 36), generator=torch.Generator().manual_seed(1))


def patched(images: Tensor) -> Tensor:
    """Linear scores, and a white corner pixel that leads to PLANTED."""
    corner = 40 * torch.sigmoid(12 * (images[:, 0, 0, 0] - 0.9))
    return images.flatten(1) @ READ.T + corner[:, None] * functional.one_hot(torch.tensor(PLANTED), LABELS)


def test_neural_cleanse_finds_a_patch_and_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neural_cleanse, "BATCHES", 8)
    patches = [smallest_patch(patched, IMAGES, label, seed=0) for label in range(LABELS)]
    assert all(patch.stopped_early and patch.batches < 1000 * 8 for patch in patches)
    assert min(patches, key=lambda patch: patch.norm).label == PLANTED and patches[PLANTED].norm < 1.5
    assert patches[PLANTED].mask_HW.argmax() == 0


def test_the_weight_moves_as_rounds_end() -> None:
    weight = neural_cleanse._Weight()
    for _ in range(5):
        assert weight.value == 0.0
        weight.round(True)
    assert weight.value == neural_cleanse.FIRST_WEIGHT and not weight.moved_both_ways
    for is_success in [True] * 5 + [False] * 4 + [True] + [False] * 5:
        weight.round(is_success)
    assert weight.value == neural_cleanse.FIRST_WEIGHT * 2 / 2**1.5 and weight.moved_both_ways


def test_a_label_is_accused_by_the_anomaly_index() -> None:
    nothing = torch.zeros(1)
    norms = [80.0, 90.0, 4.0, 70.0, 85.0, 95.0]
    patches = [Patch(label, nothing, nothing, norm, 31, True) for label, norm in enumerate(norms)]
    labels, indices = flagged_labels(patches)
    assert labels == [2] and indices[2] > 2 and indices[1] == 0


def test_a_cap_of_batches_is_kept() -> None:
    patch = smallest_patch(patched, IMAGES, 0, seed=0, most_batches=62)
    assert patch.batches == 62 and not patch.stopped_early


def test_fine_tuning_learns_the_labels_and_leaves_the_victim_alone() -> None:
    torch.manual_seed(0)
    victim = nn.Sequential(nn.Flatten(), nn.Linear(36, LABELS))
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    labels = (IMAGES.flatten(1) @ READ.T).argmax(1)

    def right(net: nn.Module) -> float:
        return (net(IMAGES * 2 - 1).argmax(1) == labels).float().mean().item()

    weak, strong = (fine_tuned(how, victim, IMAGES, labels, Augmentation(shift=0), seed=0) for how in (WEAK, STRONG))
    assert right(victim) < right(weak) < right(strong) and right(strong) > 0.8
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())


@pytest.mark.parametrize("name", NETS)
def test_attention_is_watched_at_three_depths_ever_smaller(name: str) -> None:
    net, image = NETS[name](3, 10, 0.125).eval(), torch.rand(1, 3, 32, 32)
    sides = [net[: depth + 1](image).shape[-1] for depth in depths(net, image)]
    assert len(sides) == len(WEIGHTS) and sorted(sides, reverse=True) == sides and len({*sides}) == 3 and sides[-1] > 1


def test_attention_says_where_and_not_how_much() -> None:
    maps = torch.rand(4, 3, 5, 5)
    assert torch.allclose(attention(maps), attention(7 * maps)) and attention(maps).shape == (4, 25)


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A small net that has learned the digits, and what it learned from."""
    torch.manual_seed(0)
    with np.load(REPOSITORY / "examples" / "digits_bundle.npz") as bundle:
        images, labels = as_tensors(bundle["images"]), torch.as_tensor(bundle["labels"])
    untrained = NETS["conv"](1, 10, 0.25).eval()
    return fine_tuned(replace(STRONG, batch=64, epochs=20), untrained, images, labels, STILL, seed=0), images, labels


Digits = tuple[nn.Module, Tensor, Tensor]
FEW_EPOCHS = {nad: 20, super_fine_tuning: 3, ft_sam: 8, sau: 2, nft: 8}


@pytest.mark.parametrize("name", [name for name in RIVALS if not name.startswith("fine_tune")])
def test_a_rival_leaves_the_victim_as_it_is_and_its_copy_able(
    name: str, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, epochs in FEW_EPOCHS.items():
        monkeypatch.setattr(module, "EPOCHS", epochs)
    victim, images, labels = digits
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    repaired = RIVALS[name](victim, images, labels, STILL, 0)
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())
    assert accuracy(victim, images, labels) > 0.9 and accuracy(repaired, images, labels) > 0.85
    assert not repaired.training and not any(weight.requires_grad for weight in repaired.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in repaired.state_dict().items())
    for module in FEW_EPOCHS:
        monkeypatch.setattr(module, "EPOCHS", 1)
    nets = (victim, nn.Sequential(victim, nn.Softmax(1)))
    plain, of_shares = (RIVALS[name](net, images[:64], labels[:64], STILL, 0).parameters() for net in nets)
    assert all(map(torch.equal, plain, of_shares)), "by logits"


def test_the_sharpest_move_is_as_long_as_asked_and_none_raises_the_loss_more() -> None:
    random = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=random)) for shape in ((3, 4), (5,))]
    slopes = tuple(torch.randn(weight.shape, generator=random) for weight in weights)

    def rise(moves: list[Tensor]) -> float:
        return sum((move * slope).sum().item() for move, slope in zip(moves, slopes, strict=True))

    def length(moves: list[Tensor]) -> float:
        return torch.cat([(move / weight).flatten() for move, weight in zip(moves, weights, strict=True)]).norm().item()

    moves = ft_sam.sharpest(weights, slopes, 2.0)
    assert length(moves) == pytest.approx(2.0)
    for _ in range(20):
        other = [torch.randn(weight.shape, generator=random) * weight.detach() for weight in weights]
        assert rise(other) * 2.0 / length(other) < rise(moves)


def test_what_fools_both_nets_stays_close_and_answers_are_told_apart(digits: Digits) -> None:
    victim, images, labels = digits
    shown = normalise(images[:32])
    fooling = sau.shared(victim, victim, shown, labels[:32])
    assert (fooling - shown).abs().max() <= sau.PIXEL * sau.BOUND + 1e-6 and fooling.abs().max() <= 1.0
    assert (victim(fooling).argmax(1) != labels[:32]).float().mean() > 0.5
    one, other = torch.tensor([[30.0, 0.0]]), torch.tensor([[0.0, 30.0]])
    assert sau.divergence(one, one).item() == pytest.approx(0.0, abs=1e-6)
    assert sau.divergence(one, other).item() == pytest.approx(np.log(2), abs=1e-4)


def test_masks_only_weaken_neurons_and_those_of_first_layers_least(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nft, "EPOCHS", 2)
    monkeypatch.setattr(nft, "DISTANCE", -1.0)  # wants masks that are far from 1
    victim, images, labels = digits
    repaired = nft.masked(victim, images, labels, STILL, 0)
    lows = []
    for before, after in zip(victim.modules(), repaired.modules(), strict=True):
        if isinstance(before, nn.Conv2d | nn.Linear):
            kept = after.weight.flatten(1).norm(dim=1) / before.weight.flatten(1).norm(dim=1)  # type: ignore[operator,union-attr]
            assert kept.max() <= 1 + 1e-6
            lows.append(kept.min().item())
        elif isinstance(before, nn.BatchNorm2d):
            assert torch.equal(before.running_mean, after.running_mean)  # type: ignore[arg-type]
    assert lows == pytest.approx(nft.floors(len(lows)), abs=1e-5) and lows == sorted(lows, reverse=True)
