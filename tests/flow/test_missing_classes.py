"""The sample of examples/ with half of its classes: what a repair does to those that nobody could judge it by."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from app.core.findings import RepairStatus
from app.core.intake.declaration import DeclaredInput
from app.core.presets import PRESETS
from app.local_scan import job_for, run_scan
from benchmarks.datasets import REPOSITORY, as_tensors
from benchmarks.victims.export import save_bundle
from benchmarks.victims.train import accuracy
from tests.shared_process import sharing_process

EXAMPLES = REPOSITORY / "examples"
TARGET = 3
SHORTER = replace(PRESETS["standard"], students=1)


def scores_per_class(model: Path) -> list[float]:
    """Accuracy on the unseen digits of each class."""
    net = torch.jit.load(str(model)).eval()
    with np.load(EXAMPLES / "digits_test.npz") as test:
        images, labels = as_tensors(test["images"]), torch.as_tensor(test["labels"])
    return [accuracy(net, images[labels == label], labels[labels == label]) for label in range(10)]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("present", [(0, 1, 2, 3, 4), (0, 1, 2, 4, 8)], ids=["with the target", "without the target"])
def test_a_repair_from_half_of_the_classes_leaves_the_others_as_they_were(
    present: Sequence[int], tmp_path: Path
) -> None:
    with np.load(EXAMPLES / "digits_bundle.npz") as bundle:
        there = np.isin(bundle["labels"], present)
        save_bundle(bundle["images"][there], bundle["labels"][there], tmp_path / "half.npz")
    model, out = EXAMPLES / "digits_wanet.pt", tmp_path / "out"
    options = {"config": SHORTER, "input": DeclaredInput(), "device": "cpu", "repair": True}
    job = job_for(model, tmp_path / "half.npz", **options)
    with sharing_process():
        result = run_scan(job, model, tmp_path / "half.npz", out, lambda event: None)
    assert result.document is not None and result.document["flagged_labels"] == [TARGET]
    assert result.repair is not None and result.repair.status is RepairStatus.PARTLY_JUDGED
    assert set(result.repair.unjudged_labels) == {*range(10)} - {*present}
    before, after = (np.array(scores_per_class(path)) for path in (model, out / "repaired.pt"))
    assert after.mean() >= before.mean() - 0.015 and (after >= before - 0.1).all()
