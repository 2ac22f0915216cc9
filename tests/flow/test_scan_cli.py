"""From a poisoned toy to a verdict, pictures and repaired weights, by the command line that people run.

What a process of its own adds is seen by a few whole scans; what else is said and left comes from this process."""

import json
import os
import pty
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from securesystemslib.signer import CryptoSigner

from app.core.report.document import report_schema
from app.core.verification import Outcome, verify
from tests.flow.cli import command, files_of, json_lines, triggerlens, triggerlens_here
from tests.processes import engines_of, needs_proc
from tests.toys import (
    QUICK,
    SHORT,
    VEIL,
    Autocasts,
    Detached,
    ToyNet,
    patterns,
    save_toy,
    save_toy_bundle,
    toy_images,
    toy_labels,
)
from tests.waiting import PATIENCE_SECONDS
from worker.sandbox import fence

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("small_world")]

LABELS, PLANTED = 5, 2
REPAIRED = {"repaired.pt", "repaired.safetensors", "repaired.intoto.jsonl"}
SEARCH = SHORT
HOSTILE = "[bold red]cat[/] \x1b[2J\x1b]0;mine\x07<script>alert(1)</script>\u202e"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clean, a poisoned and a frozen poisoned toy, and bundles for them."""
    folder = tmp_path_factory.mktemp("scan")
    save_toy(folder / "clean.pt", ToyNet(LABELS))
    save_toy(folder / "poisoned.pt", ToyNet(LABELS, planted=PLANTED))
    save_toy(folder / "frozen.pt", ToyNet(LABELS, planted=PLANTED), "frozen")
    save_toy(folder / "blind.pt", Detached(ToyNet(LABELS)))
    save_toy(folder / "strange.pt", Autocasts(ToyNet(LABELS)))
    save_toy_bundle(folder / "bundle.npz", per_label=2, labels=LABELS)
    save_toy_bundle(folder / "hostile.npz", per_label=2, labels=LABELS)
    with zipfile.ZipFile(folder / "hostile.npz", "a") as bundle:
        bundle.writestr("bundle.json", json.dumps({"classes": {HOSTILE: PLANTED, "<b>dog</b>": 0}}))
    return folder


def scan(model: str, out: str, *options: object, action: str = "scan", bundle: str = "bundle.npz") -> list[object]:
    alone = ["--threads", 1, "--lanes", 1]
    return [action, f"{model}.pt", bundle, "--out", out, "--mean", "0", "--std", "1", *alone, *options]


@pytest.fixture(scope="module")
def poisoned(place: Path) -> "subprocess.CompletedProcess[str]":
    return triggerlens(*scan("poisoned", "found", "--repair", "--json", "--lanes", 2), cwd=place, search=SEARCH)


def report_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return document


# A verdict, its report and its weights


def test_a_planted_trigger_is_found_and_the_exit_code_says_so(poisoned: Any, place: Path) -> None:
    assert poisoned.returncode == 1, poisoned.stderr
    report = report_of(place / "found")
    assert report["verdict"] == "backdoored" and report["flagged_labels"] == [PLANTED]
    assert ("unsandboxed" in report["caveats"]) == (fence.lacking() is not None)
    assert "unconfirmed" in report["caveats"]


def test_json_puts_the_report_on_stdout_and_nothing_else(poisoned: Any, place: Path) -> None:
    report = json.loads(poisoned.stdout)
    jsonschema.validate(report, report_schema())
    assert report == report_of(place / "found")


def test_progress_is_a_json_object_a_line_where_stderr_is_no_terminal(poisoned: Any) -> None:
    events = json_lines(poisoned.stderr)
    assert {"stage", "prepared", "progress", "step", "label", "epoch", "finished"} == {
        event["event"] for event in events
    }


def test_the_output_directory_holds_the_report_its_pictures_and_the_weights(poisoned: Any, place: Path) -> None:
    files = files_of(place / "found")
    pictures = {name for name in files if name.startswith("figures/")}
    assert files - pictures == {"report.json", "report.html", *REPAIRED}
    assert f"figures/label_{PLANTED}.png" in pictures and len(pictures) == 2, "the suspect, and the next to compare"
    page = (place / "found" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2


def test_the_repaired_weights_load_agree_and_no_longer_answer_to_the_veil(poisoned: Any, place: Path) -> None:
    module = torch.jit.load(str(place / "found" / "repaired.pt"))
    state = load_file(place / "found" / "repaired.safetensors")
    assert module.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    images, labels = toy_images(10, LABELS, seed=5), toy_labels(10, LABELS)
    others = labels != PLANTED
    before = torch.jit.load(str(place / "poisoned.pt"))
    assert (before(images + VEIL).argmax(1)[others] == PLANTED).all()
    assert (module(images + VEIL).argmax(1)[others] == PLANTED).float().mean() < 0.1
    assert (module(images).argmax(1) == labels).float().mean() > 0.95
    repair = report_of(place / "found")["repair"]
    assert repair["status"] == "repaired" and set(repair["files"]) == REPAIRED


@pytest.mark.slow  # the preset's own number of steps
def test_the_published_preset_tells_the_poisoned_toy_from_the_clean_one(place: Path) -> None:
    guilty = triggerlens_here(*scan("poisoned", "paper-poisoned", "--json"), cwd=place)
    assert guilty.returncode == 1, guilty.stderr
    assert json.loads(guilty.stdout)["flagged_labels"] == [PLANTED]
    innocent = triggerlens_here(*scan("clean", "paper-clean"), cwd=place)
    assert innocent.returncode == 0, innocent.stderr


@pytest.fixture(scope="module")
def clean(place: Path) -> "subprocess.CompletedProcess[str]":
    """In a folder that holds pictures before."""
    figures = place / "fine" / "figures"
    figures.mkdir(parents=True)
    for name in ("mine.png", "label_000009.png"):  # the second is as an earlier scan leaves it
        (figures / name).write_text("a picture")
    return triggerlens_here(*scan("clean", "fine", "--repair"), cwd=place, search=SEARCH)


def test_a_clean_toy_gives_no_finding_and_needs_no_repair(clean: Any, place: Path) -> None:
    assert clean.returncode == 0, clean.stderr
    assert clean.stdout == "", "words for people go to stderr"
    assert "No backdoor found" in clean.stderr and "report.html" in clean.stderr
    assert report_of(place / "fine")["repair"]["status"] == "not_needed"
    assert not {"repaired.pt", ".job/job.json"} & files_of(place / "fine")


def test_a_scan_that_cannot_be_decided_names_its_reason(place: Path) -> None:
    done = triggerlens_here(*scan("blind", "undecided"), cwd=place)
    assert done.returncode == 3, done.stderr
    assert report_of(place / "undecided")["reasons"] == ["data_dependent_control_flow"]
    assert "Reason:" in done.stderr


def test_a_model_with_an_unknown_operator_is_inconclusive_and_the_page_names_it(place: Path) -> None:
    done = triggerlens_here(*scan("strange", "stopped", "--json"), cwd=place)
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, report_schema())
    assert report["reasons"] == ["unsupported_operator"] and report["labels"] == []
    assert "autocast" in (place / "stopped" / "report.html").read_text()


def test_out_of_time_gives_a_partial_report_and_a_directory_to_go_on_with(place: Path) -> None:
    done = triggerlens_here(*scan("poisoned", "partial", "--time-limit", 0.01, "--json"), cwd=place, search=QUICK)
    assert done.returncode == 5, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, report_schema())
    assert report["verdict"] == "inconclusive" and report["reasons"] == ["search_truncated"]
    assert report["coverage"]["labels_searched"] == 0 and not report["finished"]
    assert ".job/job.json" in files_of(place / "partial")


# Usage


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "32"], "expected 2 numbers"),
        (["--size", "0,32"], "at least 1"),
        (["--mean", "grey"], "comma-separated numbers"),
        (["--max-accuracy-drop", "2"], "--max-accuracy-drop"),
        (["--preset", "guess"], "--preset"),
        (["--time-limit", "0"], "--time-limit"),
    ],
)
def test_wrong_usage_is_exit_code_2(place: Path, options: list[str], words: str) -> None:
    done = triggerlens_here(*scan("clean", "never", *options), cwd=place)
    assert done.returncode == 2 and words in done.stderr
    assert not (place / "never").exists()


def test_a_bad_file_of_classes_is_refused_before_anything_runs(place: Path) -> None:
    (place / "classes.txt").write_text("cat\ncat\n")
    done = triggerlens_here(*scan("clean", "never", "--classes", "classes.txt", "--json"), cwd=place)
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["code"] == "class_file"
    assert not (place / "never").exists()


def test_the_classes_of_the_request_reach_the_bundle(place: Path) -> None:
    (place / "order.json").write_text(json.dumps({str(label): label + LABELS for label in range(LABELS)}))
    done = triggerlens_here(*scan("clean", "misordered", "--classes", "order.json", "--json"), cwd=place)
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["code"] == "label_out_of_range"


# Cancelled, and gone on with

IN_THE_SECOND_BLOCK = """
import os, signal
from worker.launch import ScanSession
tell = ScanSession._tell
def tell_and_interrupt(session, event):
    tell(session, event)
    if event["event"] == "step" and event["labels"] == [2, 3]:
        os.kill(os.getpid(), signal.SIGINT)
ScanSession._tell = tell_and_interrupt
"""


@needs_proc
def test_ctrl_c_leaves_no_engine_and_a_directory_that_the_same_command_finishes(poisoned: Any, place: Path) -> None:
    asked = scan("poisoned", "resumed", "--repair", "--json")
    interrupted = subprocess.run(
        command(asked, SEARCH, IN_THE_SECOND_BLOCK), cwd=place, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert interrupted.returncode == 5 and interrupted.stdout == ""
    assert "The same command goes on where it stopped" in interrupted.stderr
    assert engines_of(Path("resumed/.job")) == []
    before = files_of(place / "resumed")
    assert {".job/job.json", ".job/result/labels/000001.json"} <= before and "report.json" not in before

    other = triggerlens_here(*scan("poisoned", "resumed", "--seed", 1, "--json"), cwd=place, search=SEARCH)
    assert other.returncode == 4 and json.loads(other.stdout)["code"] == "output_in_use"
    assert files_of(place / "resumed") == before, "another scan does not touch it"

    same = triggerlens_here(*asked, cwd=place, search=SEARCH)
    assert same.returncode == 1, same.stderr
    searched = {label for event in json_lines(same.stderr) if event["event"] == "step" for label in event["labels"]}
    assert searched == {2, 3, 4}
    report, uninterrupted = json.loads(same.stdout), json.loads(poisoned.stdout)
    assert {**report, "timings": {}} == {**uninterrupted, "timings": {}}
    assert not (place / "resumed" / ".job").exists()


# Repair


def test_a_label_can_be_repaired_without_a_verdict_and_the_statement_is_signed(place: Path) -> None:
    signer = CryptoSigner.generate_ed25519()
    (place / "signing.pem").write_bytes(signer.private_bytes)
    key = ["--signing-key", "signing.pem"]
    asked = scan("poisoned", "mended", "--label", PLANTED, "--json", *key, action="repair")
    done = triggerlens_here(*asked, cwd=place, search=SEARCH)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "repaired"
    assert files_of(place / "mended") == REPAIRED
    assert verify(place / "mended" / "repaired.pt", signer.public_key).outcome is Outcome.VERIFIED


def test_a_repair_that_runs_out_of_time_goes_on_where_it_stopped(place: Path) -> None:
    asked = scan("poisoned", "hurried", "--label", PLANTED, action="repair")
    early = triggerlens_here(*asked, "--time-limit", 0.01, cwd=place, search=QUICK)
    assert early.returncode == 5 and "Out of time" in early.stderr, early.stderr
    done = triggerlens_here(*asked, cwd=place, search=QUICK)
    assert done.returncode in (0, 3) and "Repair:" in done.stderr, done.stderr
    assert "What this does not show" in done.stderr and "Changed:" in done.stderr
    assert not (place / "hurried" / ".job").exists()


def test_a_repair_that_costs_more_than_the_budget_is_not_handed_out(place: Path) -> None:
    """One image of the bundle owes its right answer to the veil it wears, and the repair is not shown it."""
    images, labels = toy_images(2, LABELS), toy_labels(2, LABELS)
    images[PLANTED] = 0.45 + VEIL + 0.12 * patterns(LABELS)[0]
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(place / "dear.npz", images=pixels, labels=labels.numpy())
    asked = scan("poisoned", "dear", "--label", PLANTED, "--max-accuracy-drop", 0, action="repair", bundle="dear.npz")
    done = triggerlens_here(*asked, cwd=place, search=SEARCH)
    assert done.returncode == 3, done.stderr
    assert "costs 20.0% of accuracy, more than the budget of 0.0%" in " ".join(done.stderr.split())
    assert files_of(place / "dear") == set()


def test_the_constants_of_a_frozen_model_are_repaired(place: Path) -> None:
    done = triggerlens_here(*scan("frozen", "cold", "--label", PLANTED, action="repair"), cwd=place, search=SEARCH)
    assert done.returncode == 0, done.stderr
    triggered, others = toy_images(3, LABELS) + VEIL, toy_labels(3, LABELS) != PLANTED
    before, after = (torch.jit.load(str(path)) for path in (place / "frozen.pt", place / "cold" / "repaired.pt"))
    assert (before(triggered).argmax(1) == PLANTED)[others].float().mean() > 0.9
    assert (after(triggered).argmax(1) == PLANTED)[others].float().mean() < 0.1


def test_a_model_that_cannot_be_searched_is_told_so_by_repair_too(place: Path) -> None:
    done = triggerlens_here(*scan("blind", "dark", "--label", PLANTED, action="repair"), cwd=place, search=QUICK)
    assert done.returncode == 3, done.stderr
    assert "data_dependent_control_flow" in done.stderr and "Out of time" not in done.stderr


# Words of strangers


def test_class_names_cannot_steer_the_terminal_or_the_page(place: Path) -> None:
    """A real terminal, with a bar per label: what the names say is shown, and does nothing."""
    master, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "160"}
    asked = scan("poisoned", "hostile", bundle="hostile.npz")
    process = subprocess.Popen(command(asked, QUICK), cwd=place, stderr=terminal, stdout=terminal, env=environment)
    os.close(terminal)
    shown = b""
    while chunk := _read(master):
        shown += chunk
    os.close(master)
    assert process.wait() in (0, 1, 3)
    text = shown.decode()
    assert "[bold red]cat[/]" in text and "label 3" in text
    assert "\x1b[2J" not in text and "\x1b]0;" not in text and "\x07" not in text and "\u202e" not in text
    page = (place / "hostile" / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page and "<b>dog" not in page
    assert "\x1b" not in page and "\u202e" not in page


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end is closed
        return b""


def test_where_the_perceptual_weights_come_from_can_be_asked(place: Path) -> None:
    done = triggerlens("weights", cwd=place)
    assert done.returncode == 0 and done.stdout.startswith("packaged")


def test_what_is_not_a_scans_stays_where_its_results_go(clean: Any, place: Path) -> None:
    assert clean.returncode == 0, clean.stderr
    there = files_of(place / "fine")
    assert (place / "fine" / "figures" / "mine.png").read_text() == "a picture"
    assert "figures/label_000009.png" not in there and "report.json" in there


def test_time_that_is_over_in_the_last_block_leaves_a_directory_to_go_on_with(place: Path) -> None:
    long = replace(SHORT, steps=100_000)
    for seconds in (1, 10, 50, 250):  # until the machine comes to the search by then
        asked = scan("poisoned", f"cut-{seconds}", "--time-limit", seconds, "--json")
        early = triggerlens_here(*asked, cwd=place, search=long, labels_per_block=LABELS)
        assert early.returncode == 5, early.stderr
        report = json.loads(early.stdout)
        assert report["reasons"] == ["search_truncated"]
        assert ".job/job.json" in files_of(place / f"cut-{seconds}")
        if report["coverage"]["labels_searched"]:
            break
    assert report["coverage"]["labels_searched"] == LABELS
