"""Rivals get a fair shot: what they were made for, they find, and their stopping rules work."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.baselines import nad, neural_cleanse
from benchmarks.baselines.fine_tuning import STRONG, WEAK, fine_tuned
from benchmarks.baselines.nad import WEIGHTS, attention, depths, distilled
from benchmarks.baselines.neural_cleanse import Patch, flagged_labels, smallest_patch
from benchmarks.datasets import REPOSITORY, as_tensors
from benchmarks.victims.augmentation import Augmentation
from benchmarks.victims.recipes import NETS
from benchmarks.victims.train import accuracy

LABELS, PLANTED = 5, 3
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


def test_distillation_leaves_the_victim_as_it_is_and_its_copy_able(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    with np.load(REPOSITORY / "examples" / "digits_bundle.npz") as bundle:
        images, labels = as_tensors(bundle["images"]), torch.as_tensor(bundle["labels"])
    untrained, still = NETS["conv"](1, 10, 0.25).eval(), Augmentation(shift=0)
    victim = fine_tuned(replace(STRONG, batch=64, epochs=20), untrained, images, labels, still, seed=0)
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    student = distilled(victim, images, labels, still, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())
    assert accuracy(victim, images, labels) > 0.9 and accuracy(student, images, labels) > 0.9
    monkeypatch.setattr(nad, "EPOCHS", 1)
    nets = (victim, nn.Sequential(victim, nn.Softmax(1)))
    plain, of_shares = (distilled(net, images[:64], labels[:64], still, seed=0).parameters() for net in nets)
    assert all(map(torch.equal, plain, of_shares)), "by logits"
