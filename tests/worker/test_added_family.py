"""A trigger family that is added: one class and one entry, and every part of a scan knows it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest
import torch
from torch import Tensor, nn

from app.core import families
from app.core.config import ScanConfig, SearchConfig
from app.core.families import Family, Norm, Prior
from tests.processes import own_world
from tests.toys import QUICK, ToyNet, place_job
from worker import steps
from worker.detection.families.base import Beginning, Features, Triggers
from worker.engine.prepare import prepare
from worker.engine.search import invert
from worker.engine.workbench import Workbench

LABELS, PLANTED = 8, 2


class Veils(Triggers):
    """Each label's images become brighter by the same everywhere."""

    def __init__(self, veils_T: Tensor) -> None:
        super().__init__()
        self.veils_T = nn.Parameter(veils_T)

    @classmethod
    def begin(cls, beginning: Beginning, random: Sequence[torch.Generator]) -> Self:
        return cls(0.01 * torch.cat([torch.randn(1, generator=of_label) for of_label in random]))

    def forward(self, images_TNCHW: Tensor) -> Tensor:
        return (images_TNCHW + self.veils_T.view(-1, 1, 1, 1, 1)).clamp(0, 1)

    def cost(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor, features: Features) -> Tensor:
        return self.veils_T.square()

    def norm(self, images_TNCHW: Tensor, triggered_TNCHW: Tensor, weights_N: Tensor | None = None) -> Tensor:
        return self.veils_T.abs()

    def scaled(self, strengths_T: Tensor) -> Self:
        return type(self)(self.veils_T.detach() * strengths_T)

    def of(self, index: int) -> Self:
        return type(self)(self.veils_T.detach()[index : index + 1].clone())


ADDED = Family(
    triggers=f"{__name__}:Veils",
    title="veil: every image brighter by the same",
    norm=Norm("Brightness added to every pixel.", "Brightening each image by {}", "brightness", digits=3),
    prior=Prior(0.2, 8),
    prior_alone=Prior(0.2, 8),
)


def test_a_family_that_is_added_is_searched_judged_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(families.FAMILIES, "veil", ADDED)  # type: ignore[arg-type]
    search = SearchConfig(steps=60, learning_rate=0.01, success_level=0.95)
    config = ScanConfig(inversion=QUICK, families={"veil": search}, false_alarm_rate=0.05, labels_per_block=LABELS)
    directory = place_job(tmp_path / "job", ToyNet(LABELS, planted=PLANTED), {"labels": LABELS}, config=config)
    with own_world():
        bench = Workbench(directory, directory.read_job(), lambda event, **data: None)
        prepare(bench)
        invert(bench, range(LABELS))
    steps.decide(directory)
    steps.report(directory, "none")
    document, page = directory.read_report(), directory.page.read_text()
    assert document is not None and document["coverage"]["families"] == ["dynamic", "veil"]
    columns = [row["families"][1] for row in document["labels"]]
    easiest = min(columns, key=lambda found: found["norm"])
    assert easiest is columns[PLANTED] and all(found["p_value"] is not None for found in columns)
    assert ADDED.title in page and directory.trigger(PLANTED, "veil").exists()
