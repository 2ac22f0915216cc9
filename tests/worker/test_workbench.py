"""What a workbench reads on and asks of a suspect does not grow with the bundle."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.core.config import ScanConfig
from models.scorer import Manner
from tests.processes import own_world
from tests.shared_process import sharing_process
from tests.toys import QUICK, SIDE, place_job
from worker.detection import images
from worker.engine import __main__ as engine
from worker.engine import workbench
from worker.engine.prepare import prepare
from worker.engine.understanding import _most_at_once
from worker.engine.workbench import Workbench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    """Over 240 images of six labels, whose roles are separate."""
    config = ScanConfig(inversion=QUICK, separate_roles=True)
    directory = place_job(tmp_path / "job", bundle={"per_label": 40}, config=config)
    with own_world():
        bench = Workbench(directory, directory.read_job(), lambda event, **data: None)
        prepare(bench)
        yield bench


def test_readings_are_on_a_sample_of_the_confirm_images_with_every_class_alike(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(bench.held_out) == len(bench.roles.confirm) == 48, "so few are all read"
    again = Workbench(bench.directory, bench.job, bench.emit)
    monkeypatch.setattr(workbench, "MOST_HELD_OUT", 24)
    assert again.held_out.labels_N.bincount().tolist() == [4] * 6
    shown = again.held_out.images[torch.arange(24)]
    confirm = again.images[again.roles.confirm]
    assert all((confirm == image).flatten(1).all(1).any() for image in shown)


def test_what_is_shown_at_most_is_what_memory_allows(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _most_at_once(bench, 6) == 256
    monkeypatch.setattr(images, "ON_CPU", 30 * 4 * SIDE**2)
    assert _most_at_once(bench, 6) == 30


def test_a_suspect_is_asked_as_it_was_found_to_be_asked_best(bench: Workbench) -> None:
    known = Workbench(bench.directory, bench.job, bench.emit)
    known.preparation = replace(bench.preparation, fixed_batch=4, channels_last=True)
    assert known.classifier.module.manner == Manner(batch=4, channels_last=True)


def test_a_workbench_is_opened_without_torchs_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To import that takes as long as torch itself, and many an engine never comes to what needs it."""
    directory = place_job(tmp_path / "job")
    with sharing_process(), monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch._inductor.config", None)
        engine.open_workbench(directory, lambda event, **data: None)
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
