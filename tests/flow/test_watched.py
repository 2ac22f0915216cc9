"""A model that is another one while it is watched ends without a verdict, behind the fence and without it."""

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.core.config import InversionConfig
from app.core.intake.declaration import DeclaredInput
from app.core.presets import PRESETS
from app.local_scan import job_for, run_scan
from tests.flow.cli import triggerlens_here
from tests.servers import need_fence
from tests.shared_process import sharing_process
from tests.toys import QUICK, SHORT, SubtractsTheBatchMean, save_toy, save_toy_bundle
from worker.sandbox.fence import Sandbox

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("small_world")]

EXAMPLES = Path(__file__).parents[2] / "examples"
SANDBOXES: tuple[Sandbox, ...] = ("none", "bwrap")


def scanned(model: Path, bundle: Path, out: Path, search: InversionConfig, sandbox: Sandbox) -> dict[str, Any]:
    if sandbox == "bwrap":
        need_fence()
    config = replace(PRESETS["paper"], inversion=search)
    job = job_for(model, bundle, config=config, input=DeclaredInput(mean=(0.0,), std=(1.0,)), device="cpu")
    with sharing_process() if sandbox == "none" else nullcontext():
        result = run_scan(job, model, bundle, out, lambda event: None, sandbox=sandbox)
    assert result.document is not None
    assert result.exit_code == {"no_backdoor_found": 0, "backdoored": 1, "inconclusive": 3}[result.document["verdict"]]
    return result.document


@pytest.fixture
def watching(tmp_path: Path) -> Path:
    save_toy_bundle(tmp_path / "bundle.npz")
    return save_toy(tmp_path / "net.pt", SubtractsTheBatchMean().eval())


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_a_net_that_answers_by_its_batch_is_not_searched(watching: Path, sandbox: Sandbox) -> None:
    report = scanned(watching, watching.with_name("bundle.npz"), watching.with_name("out"), SHORT, sandbox)
    assert (report["verdict"], report["reasons"]) == ("inconclusive", ["environment_sensitive_model"])
    assert [probe["probe"] for probe in report["coverage"]["probes"] if probe["disagrees"]] == [
        "batch_size",
        "neighbours",
    ]
    assert report["coverage"]["labels_searched"] == 0 and "invert_seconds" not in report["timings"]


@pytest.mark.slow
def test_the_clean_sample_gets_the_same_report_behind_the_fence_and_without(tmp_path: Path) -> None:
    model, bundle = EXAMPLES / "digits_clean.pt", EXAMPLES / "digits_bundle.npz"
    outside, inside = (scanned(model, bundle, tmp_path / sandbox, QUICK, sandbox) for sandbox in SANDBOXES)
    for report, caveats in ((outside, {"unsandboxed"}), (inside, set[str]())):
        assert not any(probe["disagrees"] for probe in report["coverage"]["probes"])
        assert "environment_sensitive_model" not in report["reasons"]
        assert caveats == {"unsandboxed"} & set(report["caveats"])
    same = ("verdict", "reasons", "labels", "flagged_labels", "model_anomaly_index")
    assert [outside[part] for part in same] == [inside[part] for part in same]
    assert outside["coverage"]["probes"] == inside["coverage"]["probes"]


def test_the_command_names_the_probe_and_says_by_how_much(watching: Path) -> None:
    options = ("--mean", "0", "--std", "1", "--threads", 1, "--out", "out")
    done = triggerlens_here("scan", "net.pt", "bundle.npz", *options, cwd=watching.parent, search=QUICK)
    assert done.returncode == 3, done.stderr
    words = " ".join(done.stderr.replace("\u2502", " ").split())
    assert "Such a model can answer otherwise in use than it does while it is scanned" in words
    assert re.search("Answers depend on the batch size: a score moved by [0-9.]+ times the lead", words), words
    assert "environment_sensitive_model" in json.loads((watching.parent / "out" / "report.json").read_text())["reasons"]
