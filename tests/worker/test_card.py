"""The figures of a repair's card, from answers and tensors that are written by hand."""

import math

import pytest
import torch

from worker.detection.metrics import accuracy_drop_bound
from worker.engine import card
from worker.engine.card import class_accuracies, tensor_changes


def test_each_class_with_an_image_is_judged_by_its_own() -> None:
    labels = torch.tensor([4, 0, 4, 0, 4, 4])
    before, after = torch.tensor([1, 1, 1, 0, 1, 1]).bool(), torch.tensor([1, 1, 0, 1, 1, 1]).bool()
    zero, four = class_accuracies(before, after, labels)
    assert (zero.label, zero.images, zero.accuracy_before, zero.accuracy_after) == (0, 2, 0.5, 1.0)
    assert (four.label, four.images, four.accuracy_before, four.accuracy_after) == (4, 4, 1.0, 0.75)
    assert four.accuracy_drop_bound == accuracy_drop_bound(before[labels == 4], after[labels == 4])


def test_of_very_many_classes_those_are_named_that_lost_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "MOST_CLASSES", 2)
    right = torch.ones(4).bool()
    after = torch.tensor([1, 0, 1, 0]).bool()
    assert [found.label for found in class_accuracies(right, after, torch.arange(4))] == [1, 3]


def test_tensors_are_told_by_how_far_they_moved_for_their_size() -> None:
    before = {"same": torch.ones(3), "far": torch.tensor([3.0, 4.0]), "near": torch.ones(100), "zero": torch.zeros(2)}
    before["count"] = torch.tensor(4)
    after = {name: tensor.clone() for name, tensor in before.items()}
    after["far"][0], after["near"][0], after["zero"][0], after["count"] = 0.0, 0.9, 1.0, torch.tensor(5)
    changes = tensor_changes(before, after)
    assert [change.name for change in changes] == ["zero", "far", "count", "near"]
    assert [change.relative for change in changes] == [
        None,
        pytest.approx(0.6),
        pytest.approx(0.25),
        pytest.approx(0.01),
    ]


def test_what_is_not_finite_has_no_size_and_a_long_name_is_cut() -> None:
    name = "layer\x1b" * 1000
    (change,) = tensor_changes({name: torch.ones(2)}, {name: torch.tensor([1.0, math.nan])})
    assert change.relative is None and len(change.name) == 200 and change.name.isprintable()
