"""Rivals get a fair shot: what they were made for, they find, and their stopping rules work."""

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.baselines import neural_cleanse
from benchmarks.baselines.neural_cleanse import Patch, flagged_labels, smallest_patch

LABELS, PLANTED = 5, 3
IMAGES = torch.rand((60, 1, 6, 6), generator=torch.Generator().manual_seed(0))
READ = torch.randn((LABELS, 36), generator=torch.Generator().manual_seed(1))


def patched(images: Tensor) -> Tensor:
    """Linear scores, and a white corner pixel that leads to PLANTED."""
    corner = 40 * torch.sigmoid(12 * (images[:, 0, 0, 0] - 0.9))
    return images.flatten(1) @ READ.T + corner[:, None] * functional.one_hot(torch.tensor(PLANTED), LABELS)


def test_neural_cleanse_finds_a_patch_stops_early() -> None:
    patches = [smallest_patch(patched, IMAGES, label, seed=0) for label in range(LABELS)]
    assert all(patch.stopped_early and patch.batches < 1000 * 31 for patch in patches)
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
