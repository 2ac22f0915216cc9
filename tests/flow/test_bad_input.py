"""What cannot be scanned: exit code 4, one clear sentence with advice, and nothing half-written.

The command line and the engine's program are the real ones. They share this process, because each of the many cases
would otherwise pay for an import of torch of its own; two cases are repeated with real processes.
"""

import io
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from app.cli import main
from app.core.errors import Refusal
from app.core.findings import RepairStatus
from app.local_scan import run_scan
from tests.flow.cli import files_of, json_lines, triggerlens
from tests.shared_process import sharing_process
from tests.toys import (
    QUICK,
    SHORT,
    Crashing,
    Demanding,
    FailsOnTriggers,
    Maps,
    NotANumber,
    OneScore,
    ToyNet,
    TwoInputs,
    quick_job,
    save_toy,
    save_toy_bundle,
)
from worker.sandbox.events import Event
from worker.sandbox.fence import lacking

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("small_world")]

Make = Callable[[Path], Any]


@pytest.fixture
def shared_process() -> Iterator[None]:
    with sharing_process():
        yield


# Models


def of_bytes(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def toy(wrap: Callable[[nn.Module], nn.Module]) -> Make:
    return lambda path: save_toy(path, wrap(ToyNet()))


def zip_of(**members: bytes) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return make


# Bundles


def arrays(**named: np.ndarray) -> Make:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **named)

    return make


def pixels(count: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 1), dtype=np.uint8)


def png(side: int = 16, claimed: int | None = None) -> bytes:
    """A grey PNG; one that claims another size has a header to match, and hardly any data."""
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "PNG")
    content = buffer.getvalue()
    if claimed is not None:
        header = b"IHDR" + struct.pack(">II", claimed, claimed) + content[24:29]
        content = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    return content


def damaged(path: Path) -> None:
    save_toy_bundle(path)
    path.write_bytes(path.read_bytes()[:-200])


needs_bwrap = pytest.mark.skipif(lacking() is not None, reason="there is no bubblewrap here")
GOOD_MODEL, GOOD_BUNDLE = toy(lambda net: net), save_toy_bundle
HALVES = np.arange(12) % 2

BAD: dict[str, tuple[Make, Make, str, str]] = {
    "no file": (lambda path: None, GOOD_BUNDLE, "model_not_found", "no file .* Check the path"),
    "no zip": (of_bytes(b"not a model"), GOOD_BUNDLE, "model_not_torchscript", r"no zip archive.*`torch\.jit\.script"),
    "a zip that is no TorchScript": (
        zip_of(readme=b"hello"), GOOD_BUNDLE, "model_not_torchscript", r"no TorchScript.*`torch\.jit\.script"
    ),
    "a state dict": (
        lambda path: torch.save(ToyNet().state_dict(), path), GOOD_BUNDLE,
        "model_is_state_dict", r"weights without the network.* Build the network in Python.*docs/export\.md",
    ),
    "a pickled module": (
        lambda path: torch.save(ToyNet(), path), GOOD_BUNDLE,
        "model_is_pickle", r"pickled `tests\.toys\.ToyNet`.*`torch\.jit\.script.*docs/export\.md",
    ),
    "several inputs": (toy(TwoInputs), GOOD_BUNDLE, "several_inputs", "more than one input.* Wrap it"),
    "a map of scores": (toy(Maps), GOOD_BUNDLE, "output_not_scores", r"\[N, K\].*segmentation"),
    "one score": (toy(OneScore), GOOD_BUNDLE, "single_output", r"K = 1.* two outputs"),
    "NaN": (toy(NotANumber), GOOD_BUNDLE, "non_finite_output", "NaN .* Check --range, --mean"),
    "a model that raises": (toy(Demanding), GOOD_BUNDLE, "input_not_accepted", "I take 224x224 only.* --size H,W"),
    "images of another size": (
        GOOD_MODEL, arrays(images=pixels(12, side=20), labels=HALVES),
        "input_not_accepted", "cannot take images of 20x20; it takes 16x16.* --size 16,16",
    ),
    "no bundle": (GOOD_MODEL, lambda path: None, "bundle_not_found", "no file .* Check the path"),
    "an unreadable bundle": (GOOD_MODEL, of_bytes(b"\0" * 99), "bundle_format", r"neither a \.zip nor an \.npz.* Pack"),
    "a damaged bundle": (GOOD_MODEL, damaged, "bundle_truncated", "cannot be read .* fetch the file again"),
    "an empty file": (GOOD_MODEL, of_bytes(b""), "bundle_empty", "no images.* at least 10"),
    "an empty bundle": (
        GOOD_MODEL, arrays(images=pixels(0), labels=HALVES[:0]), "bundle_empty", "no images.* at least 10"
    ),
    "a single class": (
        GOOD_MODEL, arrays(images=pixels(12), labels=HALVES * 0), "single_class", "have the label 0.* more classes"
    ),
    "a label that the model does not have": (
        GOOD_MODEL, arrays(images=pixels(12), labels=HALVES * 6), "label_out_of_range", "6.* belongs to this model"
    ),
    "Python objects": (
        GOOD_MODEL, arrays(images=np.array([{}, []], dtype=object), labels=HALVES[:2]),
        "object_array", r"can run code.*`np\.stack",
    ),
    "a picture of 60,000 x 60,000": (
        GOOD_MODEL, zip_of(**{"0/a.png": png(), "1/b.png": png(claimed=60_000)}),
        "image_too_large", r"more than 100 million pixels",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("shared_process")
@pytest.mark.parametrize("output_exists", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_advice_and_nothing_half_written(
    tmp_path: Path, case: str, output_exists: bool
) -> None:
    make_model, make_bundle, code, words = BAD[case]
    model, bundle, out = tmp_path / "model.pt", tmp_path / "bundle.npz", tmp_path / "out"
    make_model(model)
    make_bundle(bundle)
    if output_exists:
        out.mkdir()
        (out / "report.json").write_text("of an earlier scan")
    asked = ["scan", str(model), str(bundle), "--out", str(out), "--threads", "1", "--json"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 4, done.output
    problem = json.loads(done.stdout)
    assert problem["code"] == code and not problem["retryable"]
    assert re.search(words, f"{problem['detail']} {problem['advice']}"), problem
    assert "\n" not in problem["detail"] and "Traceback" not in done.output
    assert (files_of(out) == {"report.json"}) if output_exists else not out.exists()
    assert files_of(tmp_path) - {"model.pt", "bundle.npz", "out/report.json"} == set()


@pytest.mark.parametrize("case", ["no zip", "several inputs"])
def test_a_refusal_is_the_same_with_real_processes(tmp_path: Path, case: str) -> None:
    make_model, make_bundle, code, words = BAD[case]
    make_model(tmp_path / "model.pt")
    make_bundle(tmp_path / "bundle.npz")
    done = triggerlens("scan", "model.pt", "bundle.npz", "--out", "out", "--json", cwd=tmp_path)
    assert done.returncode == 4
    problem = json.loads(done.stdout)
    assert problem["code"] == code and problem["type"] == f"urn:triggerlens:problem:{code}"
    assert re.search(words, f"{problem['detail']} {problem['advice']}")
    assert files_of(tmp_path) == {"model.pt", "bundle.npz"}


@pytest.mark.parametrize("sandbox", ["none", pytest.param("bwrap", marks=needs_bwrap)])
def test_a_model_that_crashes_torch_is_a_problem_with_advice(tmp_path: Path, sandbox: str) -> None:
    save_toy(tmp_path / "model.pt", Crashing(ToyNet()))
    save_toy_bundle(tmp_path / "bundle.npz")
    asked = ["scan", "model.pt", "bundle.npz", "--out", "out", "--json", "--sandbox", sandbox]
    done = triggerlens(*asked, cwd=tmp_path)
    assert done.returncode == 4
    problem = json.loads(done.stdout)
    assert problem["code"] == "engine_crashed" and "ended with SIGFPE" in problem["detail"]
    assert "made torch itself crash" in problem["advice"] and "another export" in problem["advice"]
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.usefixtures("shared_process")
def test_a_model_that_fails_on_triggers_only_is_refused_in_the_middle_of_the_scan(tmp_path: Path) -> None:
    model = save_toy(tmp_path / "model.pt", FailsOnTriggers(ToyNet()))
    bundle = save_toy_bundle(tmp_path / "bundle.npz")
    job = quick_job(model, bundle, inversion=SHORT)
    with pytest.raises(Refusal, match=r"in the middle of the scan: .*dazzled") as refused:
        run_scan(job, model, bundle, tmp_path / "out", lambda event: None)
    assert refused.value.problem.code == "model_failed" and "ask the supplier" in refused.value.problem.advice
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("shared_process")
def test_people_read_a_refusal_without_what_a_stranger_put_into_it(tmp_path: Path) -> None:
    """The model's own error is quoted, and it is written to steer a terminal."""
    model, bundle = save_toy(tmp_path / "model.pt", Demanding(ToyNet())), save_toy_bundle(tmp_path / "bundle.npz")
    done = CliRunner().invoke(main, ["scan", str(model), str(bundle), "--out", str(tmp_path / "out")])
    assert done.exit_code == 4 and done.stdout == ""
    assert "[bold]or nothing[/bold]" in " ".join(done.stderr.split("\n")) and "\x1b" not in done.stderr


@pytest.mark.usefixtures("shared_process")
def test_a_repair_of_a_label_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    model, bundle = save_toy(tmp_path / "model.pt", ToyNet()), save_toy_bundle(tmp_path / "bundle.npz")
    asked = ["repair", str(model), str(bundle), "--label", "6", "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 4
    assert json.loads(done.stdout)["detail"] == "The model has the labels 0 to 5, not 6."
    stages = [event["stage"] for event in json_lines(done.stderr) if event["event"] == "stage"]
    assert stages[-1] == "prepare", "nothing was trained for it"
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("shared_process")
def test_a_repair_without_an_image_to_learn_from_is_refused(tmp_path: Path) -> None:
    model, bundle = save_toy(tmp_path / "model.pt", ToyNet()), save_toy_bundle(tmp_path / "bundle.npz", per_label=1)
    done = run_scan(quick_job(model, bundle, repair_label=2), model, bundle, tmp_path / "out", lambda event: None)
    assert done.exit_code == 3 and done.repair is not None
    assert done.repair.status is RepairStatus.REFUSED and "Bring more clean images" in done.repair.detail


@pytest.mark.usefixtures("shared_process")
def test_a_defect_never_ends_with_an_exit_code_that_reads_as_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bundle = save_toy(tmp_path / "model.pt", ToyNet()), save_toy_bundle(tmp_path / "bundle.npz")
    (tmp_path / "out" / ".job").mkdir(parents=True)
    (tmp_path / "out" / ".job" / "job.json").write_text("{}")  # of another version, say
    done = CliRunner().invoke(main, ["scan", str(model), str(bundle), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 4 and json.loads(done.stdout)["code"] == "internal_error"


# Places that cannot be written


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own, which needs root and the right to mount."""
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("shared_process")
@pytest.mark.parametrize("kilobytes", [16, 128, 256])
def test_a_full_disk_is_refused_at_any_moment_and_the_same_job_goes_on_with_more_space(
    tmp_path: Path, kilobytes: int
) -> None:
    """The space ends while the inputs are copied, in the preparation, and in the search."""
    model, bundle = save_toy(tmp_path / "model.pt", ToyNet()), save_toy_bundle(tmp_path / "bundle.npz", per_label=10)
    job = quick_job(model, bundle, replace(QUICK, generator_width=8), repair=True)
    with mounted(tmp_path / "small", f"size={kilobytes}k") as disk:
        out = disk / "out"
        with pytest.raises(Refusal, match=r"disk is full.* Free some space") as caught:
            run_scan(job, model, bundle, out, lambda event: None)
        assert caught.value.problem.code == "disk_full" and caught.value.problem.retryable
        left = files_of(disk)
        assert not any(name.endswith(".partial") for name in left) and "out/report.json" not in left
        assert left == set() or "out/.job/job.json" in left, "all of the inputs, or nothing"
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        finished = run_scan(job, model, bundle, out, lambda event: None)
        assert finished.document is not None and finished.document["finished"]
        assert {"report.json", "report.html"} <= files_of(out) and not (out / ".job").exists()


@pytest.mark.usefixtures("shared_process")
def test_a_disk_that_is_full_at_the_end_costs_only_the_report(tmp_path: Path) -> None:
    model, bundle = save_toy(tmp_path / "model.pt", ToyNet()), save_toy_bundle(tmp_path / "bundle.npz")
    job = quick_job(model, bundle)
    with mounted(tmp_path / "small", "size=2m") as disk:
        out, filler = disk / "out", disk / "filler"

        def fill(event: Event) -> None:
            if event == {"event": "stage", "stage": "report"}:
                with suppress(OSError), filler.open("wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass

        with pytest.raises(Refusal, match="disk is full"):
            run_scan(job, model, bundle, out, fill)
        assert not {"report.json", "report.html"} & files_of(out)
        filler.unlink()
        events: list[Event] = []
        finished = run_scan(job, model, bundle, out, events.append)
        assert finished.document is not None and finished.document["finished"]
        assert "step" not in {event["event"] for event in events}, "nothing was searched again"


@pytest.mark.parametrize("below", ["a file", "a read-only disk"])
def test_an_output_directory_that_cannot_be_written_is_refused(tmp_path: Path, below: str) -> None:
    model, bundle = save_toy(tmp_path / "model.pt", ToyNet()), save_toy_bundle(tmp_path / "bundle.npz")

    def refuse(out: Path) -> None:
        done = CliRunner().invoke(main, ["scan", str(model), str(bundle), "--out", str(out), "--json"])
        assert done.exit_code == 4, done.output
        problem = json.loads(done.stdout)
        assert problem["code"] == "output_not_writable"
        assert re.search(
            r"cannot be written: .+\. Choose another one by --out", f"{problem['detail']} {problem['advice']}"
        )

    if below == "a file":
        (tmp_path / "file").write_text("mine")
        refuse(tmp_path / "file")
        refuse(tmp_path / "file" / "out")
        assert (tmp_path / "file").read_text() == "mine"
    else:
        with mounted(tmp_path / "fixed", "ro") as disk:
            refuse(disk / "out")
            assert files_of(disk) == set()
