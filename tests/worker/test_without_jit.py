"""What torch calls deprecated may go one day: a scan and its repair do without torch's own reader and writer."""

from pathlib import Path

import pytest
import torch

from app.core.findings import RepairStatus
from models.rebuilt import RebuiltModule
from models.suspect import load_suspect
from tests.processes import own_world
from tests.toys import SHORT, AsProbabilities, ToyNet, place_job, toy_images
from worker.engine.prepare import prepare
from worker.engine.repair import repair
from worker.engine.search import invert
from worker.engine.workbench import Workbench


def test_a_model_is_read_searched_repaired_and_read_again_where_the_jit_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, bundle = AsProbabilities(ToyNet(5, planted=2)), {"labels": 5, "per_label": 2}
    directory = place_job(tmp_path / "job", net, bundle, inversion=SHORT, repair=True)

    def gone(*_: object, **__: object) -> None:
        raise NotImplementedError("there is no TorchScript in this torch")

    for name in ("load", "save", "script", "trace", "freeze"):
        monkeypatch.setattr(torch.jit, name, gone)
    with own_world():
        bench = Workbench(directory, directory.read_job(), emit=lambda event, **data: None)
        prepare(bench)
        invert(bench, [2])
        repair(bench, [2])
        done = directory.read_repair()
        assert done is not None and done.status is RepairStatus.REPAIRED, done
        repaired = load_suspect(directory.repaired).module
    assert isinstance(repaired, RebuiltModule)
    assert not torch.equal(repaired(toy_images(1)), bench.suspect.module(toy_images(1)))
