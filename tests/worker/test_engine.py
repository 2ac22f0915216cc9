"""Real engine processes on toys: what they leave, and that they can be killed at any time.

None outlives its launcher.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.core.findings import Reason, RepairStatus, Verdict
from app.core.jobs import JobDirectory
from tests.processes import engines_of, needs_proc, own_world
from tests.toys import (
    QUICK,
    SHORT,
    AsProbabilities,
    NoGrad,
    Talking,
    ToyNet,
    TwoInputs,
    quick_job,
    save_toy,
    save_toy_bundle,
)
from worker.launch import LOG, EngineCrashError, Event, run_engine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def small_world() -> Iterator[None]:
    with own_world():
        yield


def place(root: Path, net: torch.nn.Module | None = None, bundle: dict[str, int] | None = None, **options: Any) -> Path:
    """A job directory over a toy."""
    directory = JobDirectory(root)
    root.mkdir(parents=True)
    save_toy(directory.model, ToyNet(planted=2) if net is None else net)
    save_toy_bundle(root / "bundle.npz", **(bundle or {}))
    directory.write_job(quick_job(directory.model, root / "bundle.npz", **options))
    return root


def run(root: Path, time_limit: float | None = None) -> list[Event]:
    events: list[Event] = []
    assert run_engine(root, events.append, time_limit)
    return events


def contents(root: Path) -> dict[str, Any]:
    """Everything in the result directory but durations, in a form that can be compared to the last bit."""
    read: dict[str, Callable[[Path], Any]] = {
        ".json": lambda path: json.loads(path.read_text()),
        ".npz": lambda path: {name: array.tobytes() for name, array in np.load(path).items()},
        ".safetensors": lambda path: path.read_bytes(),
        ".pt": lambda path: [p.tolist() for p in torch.jit.load(str(path)).state_dict().values()],
    }
    files = (path for path in sorted((root / "result").rglob("*")) if path.is_file() and path.name != "timings.json")
    return {str(path.relative_to(root / "result")): read[path.suffix](path) for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """An uninterrupted run over six labels in three blocks, then the repair of whatever was flagged."""
    root = place(tmp_path_factory.mktemp("engine") / "job", repair=True)
    return root, run(root)


def test_a_result_directory_holds_what_was_promised(finished: tuple[Path, list[Event]]) -> None:
    root, _ = finished
    labels = [f"{label:06d}" for label in range(6)]
    expected = {"preparation.json", "start.safetensors", "decision.json", "repair.json"}
    expected |= {f"labels/{label}.json" for label in labels}
    expected |= {f"generators/{label}.safetensors" for label in labels} | {f"examples/{label}.npz" for label in labels}
    assert set(contents(root)) - {"repaired.pt", "repaired.safetensors"} == expected
    directory = JobDirectory(root)
    preparation, decision = directory.read_preparation(), directory.read_decision()
    assert preparation is not None and decision is not None and directory.read_repair() is not None
    assert (preparation.num_labels, preparation.clean_accuracy, preparation.threads) == (6, 1.0, 1)
    assert preparation.images_per_label == (4,) * 6 and preparation.perceptual == "packaged"
    assert [finding.label for finding in decision.labels] == list(range(6))
    assert {"prepare_seconds", "pretrain_seconds", "invert_seconds"} <= set(directory.read_timings())
    with np.load(directory.examples(3)) as arrays:
        assert arrays["clean"].shape == arrays["generated"].shape == (8, 16, 16, 1)
    assert not list(root.rglob("*.partial"))


def test_progress_tells_each_stage_step_and_label_in_order(finished: tuple[Path, list[Event]]) -> None:
    _, events = finished
    kinds = [event["event"] for event in events]
    assert kinds.index("prepared") < kinds.index("step") < kinds.index("label") and kinds[-1] == "finished"
    assert [event["label"] for event in events if event["event"] == "label"] == list(range(6))
    steps = [(event["labels"], event["done"], event["of"]) for event in events if event["event"] == "step"]
    assert steps == [([first, first + 1], done, 4) for first in (0, 2, 4) for done in (1, 2, 3, 4)]


def test_the_same_job_gives_the_same_numbers_again(finished: tuple[Path, list[Event]], tmp_path: Path) -> None:
    run(place(tmp_path / "again", repair=True))
    assert contents(tmp_path / "again") == contents(finished[0])


@needs_proc
def test_an_engine_killed_after_a_block_goes_on_there_and_ends_the_same(
    finished: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    root = place(tmp_path / "job", repair=True)

    def kill_after_the_first_block(event: Event) -> None:
        if event["event"] == "step" and event["labels"] == [2, 3]:
            (engine,) = engines_of(root)
            os.kill(engine, signal.SIGKILL)

    with pytest.raises(EngineCrashError) as crash:
        run_engine(root, kill_after_the_first_block)
    assert crash.value.code == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (root / "result").rglob("00000[01].*")}
    assert len(kept) == 6, "finding, generator and examples of labels 0 and 1"
    events = run(root)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished labels are not searched again"
    assert [event["labels"] for event in events if event["event"] == "step"] == [[2, 3]] * 4 + [[4, 5]] * 4
    assert [event["label"] for event in events if event["event"] == "label"] == list(range(6)), "but they are told"
    assert contents(root) == contents(finished[0])


@needs_proc
def test_an_engine_ends_when_its_launcher_dies(tmp_path: Path) -> None:
    root = place(tmp_path / "job", inversion=replace(QUICK, steps=100_000))
    code = "import sys; from pathlib import Path; from worker.launch import run_engine; "
    code += "run_engine(Path(sys.argv[1]), lambda event: print(event['event'], flush=True))"
    launcher = subprocess.Popen([sys.executable, "-c", code, str(root)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if line.strip() == "step":
            break
    assert engines_of(root), "it is in the middle of its work"
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 10
    while engines_of(root) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert engines_of(root) == []


@needs_proc
def test_a_listener_that_fails_leaves_no_engine_behind(tmp_path: Path) -> None:
    root = place(tmp_path / "job", inversion=replace(QUICK, steps=100_000))

    def give_up(event: Event) -> None:
        if event["event"] == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_engine(root, give_up)
    assert engines_of(root) == []


def test_what_a_model_prints_goes_to_the_log_and_not_into_progress(tmp_path: Path) -> None:
    root = place(tmp_path / "job", Talking(ToyNet()), inversion=replace(QUICK, steps=1))
    events = run(root)
    assert [event["event"] for event in events].count("finished") == 1 and events[-1] == {"event": "finished"}
    assert (root / LOG).read_text().count('{"event": "finished"}') >= 100


def test_an_engine_that_fails_is_a_crash_with_its_last_words(tmp_path: Path) -> None:
    root = place(tmp_path / "job")
    (root / "job.json").write_text("{}")
    with pytest.raises(EngineCrashError) as crash:
        run(root)
    assert crash.value.code == 1 and "KeyError" in crash.value.log


def test_a_time_limit_ends_the_search_early_and_the_next_run_makes_it_whole(tmp_path: Path) -> None:
    """A label that was cut short is searched again from its start: its numbers must not depend on the clock."""
    root = place(tmp_path / "job", inversion=replace(QUICK, steps=3000, labels_per_block=6), bundle={"per_label": 2})
    run(root, time_limit=2.0)
    decision = JobDirectory(root).read_decision()
    assert decision is not None and decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons == (Reason.SEARCH_TRUNCATED,)
    assert all(finding.headline.truncated and finding.headline.steps < 3000 for finding in decision.labels)
    job = JobDirectory(root).read_job()
    short = replace(job, config=replace(job.config, inversion=replace(job.config.inversion, steps=4)))
    JobDirectory(root).write_job(short)
    run(root)
    decision = JobDirectory(root).read_decision()
    assert decision is not None and not any(finding.headline.truncated for finding in decision.labels)


def test_a_refusal_is_told_as_a_problem_and_is_no_crash(tmp_path: Path) -> None:
    root = place(tmp_path / "job", TwoInputs(ToyNet()))
    (refused,) = [event for event in run(root) if event["event"] == "refused"]
    assert refused["problem"]["code"] == "several_inputs" and refused["problem"]["advice"]
    assert not (root / "result" / "preparation.json").exists()


def test_what_blocks_a_verdict_from_the_start_saves_the_search(tmp_path: Path) -> None:
    root = place(tmp_path / "job", NoGrad(ToyNet()))
    assert "step" not in {event["event"] for event in run(root)}
    decision = JobDirectory(root).read_decision()
    assert decision is not None and decision.reasons == (Reason.NO_INPUT_GRADIENT,)
    assert not (root / "result" / "start.safetensors").exists()


def test_the_planted_label_is_found_repaired_and_packaged(tmp_path: Path) -> None:
    """The whole way of one scan, with probabilities instead of logits."""
    net, bundle = AsProbabilities(ToyNet(5, planted=2)), {"labels": 5, "per_label": 2}
    root = place(tmp_path / "job", net, bundle, inversion=SHORT, repair=True)
    events = run(root)
    directory = JobDirectory(root)
    decision, repair = directory.read_decision(), directory.read_repair()
    assert decision is not None and decision.verdict is Verdict.BACKDOORED and decision.flagged_labels == (2,)
    assert repair is not None and repair.status is RepairStatus.REPAIRED and repair.labels == (2,)
    assert (repair.attack_success_rate_before or 0) > 0.9 and (repair.attack_success_rate_after or 0) < 0.1
    assert repair.clean_accuracy_after == 1.0 and repair.judged_images == 5, "every fifth image of each label"
    assert [event["done"] for event in events if event["event"] == "epoch"] == list(range(1, 11))
    packaged = torch.jit.load(str(directory.repaired)).state_dict()
    state = load_file(directory.repaired_state)
    assert packaged.keys() == state.keys() and all(torch.equal(packaged[name], state[name]) for name in state)
