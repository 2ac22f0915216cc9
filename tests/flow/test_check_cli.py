"""`triggerlens check`: what a scan would take for true, on the terminal and for programs, without a search."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.flow.cli import files_of, triggerlens, triggerlens_here
from tests.toys import Autocasts, ToyNet, TwoInputs, save_toy, save_toy_bundle

pytestmark = pytest.mark.usefixtures("small_world")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    save_toy(folder / "clean.pt", ToyNet())
    save_toy(folder / "two.pt", TwoInputs(ToyNet()))
    save_toy(folder / "strange.pt", Autocasts(ToyNet()))
    save_toy_bundle(folder / "bundle.npz", per_label=6)
    with np.load(folder / "bundle.npz") as arrays:
        shifted = {"images": arrays["images"], "labels": (arrays["labels"] + 1) % 6}
    np.savez(folder / "shifted.npz", **shifted)
    return folder


def check(
    place: Path, model: str, bundle: str, *options: object, ask: Callable[..., Any] = triggerlens_here
) -> tuple[int, str, str]:
    done = ask("check", f"{model}.pt", f"{bundle}.npz", "--threads", 1, *options, cwd=place)
    return done.returncode, done.stdout, " ".join(done.stderr.split())


def test_a_model_and_a_bundle_that_go_together_are_ready_and_nothing_is_left_behind(place: Path) -> None:
    before = files_of(place)
    declared = ("--mean", 0, "--std", 1, "--expected-accuracy", 0.9)
    code, out, words = check(place, "clean", "bundle", *declared, ask=triggerlens)
    assert (code, out) == (0, "") and files_of(place) == before
    for fact in (
        "Ready",
        "logits for 6 labels",
        "of 36 images",
        "90.0",
        "declared",
        "6 of each of 6 classes",
        "16 x 16",
    ):
        assert fact in " ".join(words.split()), fact


def test_json_holds_the_facts_and_nothing_else_is_on_stdout(place: Path) -> None:
    code, out, _ = check(place, "clean", "bundle", "--json")
    document = json.loads(out)
    assert code == (0 if document["ready"] else 3)
    inputs = document["inputs"]
    assert inputs["clean_accuracy"] == 1.0 and inputs["images_judged"] == 36 and inputs["label_source"] == "indices"
    assert inputs["input_source"] == "inferred" and inputs["conventions"][0]["name"] == inputs["convention"]
    assert 0 < inputs["confidence"] <= 1 and len(inputs["accuracy_interval"]) == 2
    assert inputs["images_per_label"] == [6] * 6 and "inferred_preprocessing" in document["caveats"]


def test_labels_that_the_models_answers_contradict_are_a_doubt_with_a_way_out(place: Path) -> None:
    code, _, words = check(place, "clean", "shifted", "--mean", 0, "--std", 1)
    assert (
        code == 3 and "In doubt" in words and "By the model's own answers" in words and "say so in bundle.json" in words
    )
    code, out, _ = check(place, "clean", "shifted", "--mean", 0, "--std", 1, "--json")
    document = json.loads(out)
    assert code == 3 and document["reasons"] == ["implausible_accuracy"] and not document["ready"]
    suggested = document["inputs"]["suggested_classes"]
    assert suggested == {str(label): (label - 1) % 6 for label in range(6)}
    (place / "classes.json").write_text(json.dumps(suggested))
    _, out, _ = check(place, "clean", "shifted", "--mean", 0, "--std", 1, "--classes", "classes.json", "--json")
    assert json.loads(out)["inputs"]["clean_accuracy"] == 1.0, "who says what was suggested is understood"


def test_what_blocks_a_scan_from_the_start_is_in_doubt_and_what_cannot_be_read_is_refused(place: Path) -> None:
    code, _, words = check(place, "strange", "bundle")
    assert code == 3 and "autocast" in words
    code, out, words = check(place, "two", "bundle", "--json")
    assert code == 4 and json.loads(out)["code"] == "several_inputs" and "Traceback" not in words
    (place / "folder.npz").mkdir()
    code, out, _ = check(place, "clean", "folder", "--json")
    assert code == 4 and "Pack a folder as a .zip" in json.loads(out)["advice"]
    code, _, words = check(place, "clean", "bundle", "--mean", 123.675)
    assert code == 4 and "--range 0,255" in words


def test_a_scan_says_the_same_before_its_verdict(place: Path) -> None:
    arguments = ("scan", "clean.pt", "shifted.npz", "--out", "out", "--mean", 0, "--std", 1, "--threads", 1)
    done = triggerlens_here(*arguments, cwd=place)
    words = " ".join(done.stderr.split())
    assert done.returncode == 3 and "By the model's own answers" in words
    assert words.index("of 36 images") < words.index("No verdict")
    page = (place / "out" / "report.html").read_text()
    assert page.index("What this scan took for true") < page.index("No verdict</h1>")
    report = json.loads((place / "out" / "report.json").read_text())
    assert report["inputs"]["doubts"] and report["inputs"]["clean_accuracy"] == 0.0
