"""The benign corpus, behind the fence and in this process: the same verdicts and, to the bit, the same numbers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.core.jobs import JobDirectory
from app.local_scan import run_tasks
from benchmarks.victims.export import save_bundle
from models.outputs import named_outputs
from models.suspect import load_suspect
from tests.corpus.benign import BATCH_STATISTICS, BenignCase, small
from tests.processes import own_world
from tests.servers import need_fence
from tests.shared_process import sharing_process
from tests.toys import QUICK, quick_job
from tests.worker.sandbox.shared_fence import FencedProcess, sharing_fence
from worker.launch import ScanSession
from worker.sandbox.fence import Sandbox

pytestmark = [pytest.mark.slow, pytest.mark.real]
IMAGES = 12
HARDLY = replace(QUICK, steps=2)
PLAIN = (  # around one and the same net, of which the traces are alike but for what a fence does not see
    *("probabilities", "tuple", "named_tuple", "list", "dict"),
    *("normalises", "tied", "one_storage", "channels_last"),
)
CASES = [case for case in small() if case.form == "scripted" or (case.form == "traced" and case.family not in PLAIN)]


@pytest.fixture(scope="module")
def fenced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FencedProcess]:
    need_fence()
    with own_world():
        process = FencedProcess(tmp_path_factory.mktemp("fenced"))
        yield process
        process.end()


def report_of(case: BenignCase, root: Path, sandbox: Sandbox) -> dict[str, Any]:
    """What a scan with hardly any search says, but for how long it took and that there was no fence."""
    _, channels, height, width = case.input_shape
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, height, width, channels), np.uint8)
    directory = JobDirectory(root)
    root.mkdir()
    save_bundle(images, None, root / "bundle.npz")  # nobody trained these nets, so what they say is right
    directory.model.write_bytes(case.path().read_bytes())
    directory.write_job(quick_job(directory.model, root / "bundle.npz", HARDLY, 5, output=scores_of(case)))
    with ScanSession(directory, lambda event: None, sandbox=sandbox) as session:
        run_tasks([session], directory.read_job())
    report = directory.read_report()
    assert report is not None
    coverage = report["coverage"]
    coverage["not_searched"] = [said for said in coverage["not_searched"] if "no sandbox" not in said]
    report["caveats"] = [caveat for caveat in report["caveats"] if caveat != "unsandboxed"]
    return {name: value for name, value in report.items() if name not in ("timings", "environment")}


def scores_of(case: BenignCase) -> str | None:
    """What a user would call the scores of a net with several outputs; without labels nothing else tells."""
    with torch.no_grad():
        outputs = named_outputs(load_suspect(case.path()).module(case.example().float()))
    return next(iter(outputs)) if len(outputs) > 1 else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_benign_archive_gets_the_same_verdict_inside_and_outside_the_fence(
    case: BenignCase, fenced: FencedProcess, tmp_path: Path
) -> None:
    with sharing_fence(fenced):
        inside = report_of(case, fenced.folder / case.name, "bwrap")
    with sharing_process():
        outside = report_of(case, tmp_path / "outside", "none")
    assert inside == outside
    # An answer that depends on its batch is told by the probes, before anything is searched.
    searched = 0 if case.family == BATCH_STATISTICS else 10
    assert inside["coverage"]["labels_searched"] == searched


def test_there_are_enough_archives() -> None:
    assert len(CASES) >= 48
