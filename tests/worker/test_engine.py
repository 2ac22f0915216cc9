"""Engines on toys: what they leave in a job directory, and how a job goes on that was interrupted.

They are real processes where it is about those; elsewhere they share that of the tests."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from app.core.config import FirstPassConfig, InversionConfig, MatchingConfig, ScanConfig, SearchConfig
from app.core.errors import Refusal
from app.core.findings import Caveat, Reason, RepairStatus, Verdict
from app.core.jobs import JobDirectory
from app.core.plan import JobKind, Task
from app.core.presets import PRESETS
from app.core.report.figures import GAP, IMAGES, ROWS
from app.core.verification import Outcome, verify
from app.local_scan import run_tasks
from benchmarks.victims.export import save_bundle
from tests.clocks import PretendClock
from tests.evasive_nets import EVASIVE
from tests.processes import all_end, engines_of, needs_proc, run_job
from tests.shared_process import run_job_here, sharing_process
from tests.toys import (
    QUICK,
    SHORT,
    AsProbabilities,
    Autocasts,
    Detached,
    ToyNet,
    TwoInputs,
    place_job,
    toy_images,
    toy_labels,
)
from worker.detection import students
from worker.detection.inversion import HALVINGS
from worker.engine import prepare
from worker.engine.telling import Telling
from worker.launch import GRACE_SECONDS, EngineCrashError, ScanSession
from worker.sandbox.events import Event

pytestmark = pytest.mark.usefixtures("small_world")


def contents(directory: JobDirectory) -> dict[str, Any]:
    """Everything in the result directory but durations, in a form that can be compared to the last bit."""
    read: dict[str, Callable[[Path], Any]] = {
        ".json": lambda path: {**json.loads(path.read_text()), "timings": None},
        ".html": lambda path: "a page, with durations",
        ".png": lambda path: path.read_bytes(),
        ".npz": lambda path: {name: array.tobytes() for name, array in np.load(path).items()},
        ".safetensors": lambda path: path.read_bytes(),
        ".jsonl": lambda path: path.read_bytes(),
        ".pt": lambda path: [p.tolist() for p in torch.jit.load(str(path)).state_dict().values()],
    }
    files = (path for path in sorted(directory.result.rglob("*")) if path.is_file() and path.name != "timings.json")
    return {str(path.relative_to(directory.result)): read[path.suffix](path) for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobDirectory, list[Event]]:
    """An uninterrupted run over six labels in three blocks, then the repair of whatever was flagged."""
    directory = place_job(tmp_path_factory.mktemp("engine") / "job", repair=True)
    return directory, run_job(directory)


def test_a_result_directory_holds_what_was_promised(finished: tuple[JobDirectory, list[Event]]) -> None:
    directory, _ = finished
    labels = [f"{label:06d}" for label in range(6)]
    expected = {
        "structure.json",
        "preparation.json",
        "start.safetensors",
        "decision.json",
        "report.json",
        "report.html",
    }
    expected |= {f"labels/{label}.json" for label in labels}
    expected |= {f"triggers/{label}-dynamic.safetensors" for label in labels} | {
        f"strips/{label}-dynamic.png" for label in labels
    }
    there = {name for name in contents(directory) if not name.startswith("figures/")}
    assert there - {"repair.json", "repaired.pt", "repaired.safetensors", "repaired.intoto.jsonl"} == expected
    preparation, decision = directory.read_preparation(), directory.read_decision()
    assert preparation is not None and decision is not None
    assert (directory.read_repair() is not None) == bool(decision.flagged_labels)
    assert (preparation.num_labels, preparation.clean_accuracy, preparation.threads) == (6, 1.0, 1)
    assert preparation.images_per_label == (4,) * 6 and preparation.perceptual == "packaged"
    assert [finding.label for finding in decision.labels] == list(range(6))
    assert {"prepare", "pretrain", "invert", "decide"} <= {n.removesuffix("_seconds") for n in directory.read_timings()}
    with Image.open(directory.strip(3, "dynamic")) as picture:
        assert picture.size == (IMAGES * (96 + GAP) - GAP, len(ROWS) * (96 + GAP) - GAP)
    assert not list(directory.root.rglob("*.partial"))


def test_progress_tells_each_stage_step_and_label_in_order(finished: tuple[JobDirectory, list[Event]]) -> None:
    _, events = finished
    stages = list(dict.fromkeys(event["stage"] for event in events if event["event"] == "stage"))
    assert [stage for stage in stages if stage not in ("repair", "verify", "reactivate")] == [
        "inspect", "prepare", "pretrain", "invert", "decide", "report"
    ]  # fmt: skip
    kinds = [event["event"] for event in events]
    assert kinds.index("prepared") < kinds.index("step") < kinds.index("label")
    assert [event["label"] for event in events if event["event"] == "label"] == list(range(6))
    steps = [(event["labels"], event["done"], event["of"]) for event in events if event["event"] == "step"]
    assert steps == [([first, first + 1], done, 4) for first in (0, 2, 4) for done in (1, 2, 3, 4)]


def test_the_same_job_gives_the_same_numbers_again(finished: tuple[JobDirectory, list[Event]], tmp_path: Path) -> None:
    again = place_job(tmp_path / "again", repair=True)
    run_job_here(again)
    assert contents(again) == contents(finished[0])


def test_of_many_labels_some_are_searched_in_full_and_the_report_says_which(tmp_path: Path) -> None:
    first_pass = FirstPassConfig(all_up_to=8, lowest=1, controls=5, steps=3, images=4, labels_per_block=5)
    config = ScanConfig(inversion=QUICK, labels_per_block=3, false_alarm_rate=0.05, first_pass=first_pass)
    place: dict[str, Any] = {"net": ToyNet(12, planted=2), "bundle": {"labels": 12, "per_label": 3}, "config": config}
    directory = place_job(tmp_path / "job", **place)
    events = run_job_here(directory)
    selection, decision, report = directory.read_selection(), directory.read_decision(), directory.read_report()
    assert selection is not None and decision is not None and report is not None
    assert set(selection.controls) <= set(selection.labels) and 5 <= len(selection.labels) <= 6
    assert all(score is not None for score in selection.scores["dynamic"]) and len(selection.scores["dynamic"]) == 12
    assert tuple(finding.label for finding in decision.labels) == selection.labels
    assert decision.selection == selection
    assert all(finding.families[0].p_value is not None for finding in decision.labels)
    assert report["finished"] and "search_truncated" not in report["reasons"]
    in_full = [row["label"] for row in report["labels"] if row["searched"] == "in_full"]
    assert tuple(in_full) == selection.labels and {row["searched"] for row in report["labels"]} == {
        "in_full", "first_pass"
    }  # fmt: skip
    assert {path.name[:6] for path in directory.result.glob("triggers/*")} == {f"{label:06d}" for label in in_full}
    stages = list(dict.fromkeys(event["stage"] for event in events if event["event"] == "stage"))
    assert stages.index("first_pass") < stages.index("select") < stages.index("invert")
    assert {"event": "selected", "labels": len(in_full)} in events
    again = place_job(tmp_path / "again", **place)
    run_job_here(again)
    assert contents(again) == contents(directory)


def test_out_of_time_in_a_first_pass_a_scan_has_no_verdict_and_goes_on_there(tmp_path: Path) -> None:
    first_pass = FirstPassConfig(all_up_to=5, controls=5, steps=2, images=4, labels_per_block=3)
    config = ScanConfig(inversion=QUICK, labels_per_block=6, first_pass=first_pass)
    directory = place_job(tmp_path / "job", config=config)
    with sharing_process():
        with ScanSession(directory, lambda event: None) as session:
            for task in (Task(JobKind.INSPECT), Task(JobKind.PREPARE), Task(JobKind.FIRST_PASS, (0, 1, 2))):
                session.run(task)
            for task in (Task(JobKind.SELECT), Task(JobKind.DECIDE), Task(JobKind.REPORT)):
                session.run(task)
        report = directory.read_report()
        assert report is not None and report["reasons"] == ["search_truncated"]
        assert [row["searched"] for row in report["labels"]] == ["no"] * 6, "three were to be searched in full"
        kept = directory.first_pass(0).stat().st_mtime_ns
        run_job(directory)
    report = directory.read_report()
    assert report is not None and report["finished"] and directory.first_pass(0).stat().st_mtime_ns == kept


@needs_proc
def test_an_engine_killed_after_a_block_goes_on_there_and_ends_the_same(
    finished: tuple[JobDirectory, list[Event]], tmp_path: Path
) -> None:
    directory = place_job(tmp_path / "job", repair=True)

    def kill_after_the_first_block(event: Event) -> None:
        if event["event"] == "step" and event["labels"] == [2, 3]:
            (engine,) = engines_of(directory.root)
            os.kill(engine, signal.SIGKILL)

    session = ScanSession(directory, kill_after_the_first_block)
    with pytest.raises(EngineCrashError) as crash, session:
        run_tasks([session], directory.read_job())
    assert crash.value.code == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in directory.result.rglob("00000[01]*")}
    assert len(kept) == 6, "finding, trigger and examples of labels 0 and 1"
    events = run_job_here(directory)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished labels are not searched again"
    assert [event["labels"] for event in events if event["event"] == "step"] == [[2, 3]] * 4 + [[4, 5]] * 4
    assert [event["label"] for event in events if event["event"] == "label"] == list(range(6)), "but they are told"
    assert contents(directory) == contents(finished[0])


def test_a_time_limit_ends_the_search_early_and_the_next_run_makes_it_whole(tmp_path: Path) -> None:
    """A label that was cut short is searched again from its start: its numbers must not depend on the clock."""
    search = replace(QUICK, steps=3000)
    directory = place_job(tmp_path / "job", inversion=search, labels_per_block=6, bundle={"per_label": 2})
    with sharing_process():
        run_job(directory, time_limit=2.0)
    decision = directory.read_decision()
    assert decision is not None and decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons == (Reason.SEARCH_TRUNCATED,)
    assert all(finding.truncated and finding.families[0].steps < 3000 for finding in decision.labels)
    job = directory.read_job()
    directory.write_job(replace(job, config=replace(job.config, inversion=replace(search, steps=4))))
    run_job_here(directory)
    decision = directory.read_decision()
    assert decision is not None and not any(finding.truncated for finding in decision.labels)


def test_a_refusal_is_told_as_a_problem_and_is_no_crash(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job", TwoInputs(ToyNet()))
    with pytest.raises(Refusal) as refused:
        run_job_here(directory)
    assert refused.value.problem.code == "several_inputs" and refused.value.problem.advice
    assert directory.read_preparation() is None


@pytest.mark.parametrize("others", [1, 2])
def test_a_bundle_of_hardly_anything_but_one_label_is_searched_all_the_same(
    others: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Divided into roles, one label would be all there is in some of them."""
    monkeypatch.setattr(students, "STEPS", 10)
    monkeypatch.setattr(prepare, "USEFUL_AGREEMENT", 0.0)  # ten steps teach a student little, and it is asked
    frequent, rare = toy_images(120, labels=1), toy_images(others)[others:]
    images = (torch.cat([frequent, rare]).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    labels = torch.cat([toy_labels(120, labels=1), toy_labels(others)[others:]]).numpy()
    directory = place_job(
        tmp_path / "job",
        config=ScanConfig(inversion=QUICK, separate_roles=True, students=1),
    )
    save_bundle(images, labels, directory.root / "bundle.npz")
    run_job_here(directory)
    decision = directory.read_decision()
    assert decision is not None and len(decision.labels) == 6
    assert all(found.norm is not None for finding in decision.labels for found in finding.families)


def test_what_blocks_a_verdict_from_the_start_saves_the_search(tmp_path: Path) -> None:
    blind = ToyNet()
    blind.match.weight.data.zero_()
    directory = place_job(tmp_path / "job", blind)
    assert "step" not in {event["event"] for event in run_job_here(directory)}
    decision = directory.read_decision()
    assert decision is not None and Reason.NO_INPUT_GRADIENT in decision.reasons
    assert not directory.start.exists()


HIDDEN = [(kind(ToyNet(planted=2)), rule) for kind, (rule, _) in EVASIVE.items()]
BY_ITS_IMAGES = ("structure-gate", "structure-branch", "structure-detached", "structure-endless")


@pytest.mark.parametrize(
    ("net", "rule"),
    [*HIDDEN, (Detached(ToyNet()), "structure-detached")],
    ids=lambda one: None if isinstance(one, str) else type(one).__name__,
)
def test_code_that_no_gradient_sees_through_never_ends_as_no_backdoor_found(
    net: nn.Module, rule: str, tmp_path: Path
) -> None:
    reason = Reason.DATA_DEPENDENT_CONTROL_FLOW if rule in BY_ITS_IMAGES else Reason.ENVIRONMENT_SENSITIVE_MODEL
    directory = place_job(tmp_path / "job", net)
    assert {event["stage"] for event in run_job_here(directory)} == {"inspect", "decide", "report"}
    document = directory.read_report()
    assert document is not None and (document["verdict"], document["reasons"]) == ("inconclusive", [reason])
    assert [(found["rule"], found["reason"]) for found in document["structure"]["findings"]] == [(rule, reason)]
    assert "Blocks the verdict" in directory.page.read_text()


def test_a_net_in_half_precision_is_scanned_in_single_and_says_so(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job", ToyNet().half())
    run_job_here(directory)
    decision = directory.read_decision()
    assert decision is not None and Caveat.HALF_PRECISION_RAISED in decision.caveats


def test_an_operator_that_is_not_allowed_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job", Autocasts(ToyNet()))
    assert {event["stage"] for event in run_job_here(directory)} == {"inspect", "decide", "report"}
    decision, structure = directory.read_decision(), directory.read_structure()
    assert decision is not None and decision.reasons == (Reason.UNSUPPORTED_OPERATOR,)
    assert structure is not None and "autocast" in structure["problem"]["detail"]
    assert structure["problem"]["member"].startswith("code/") and structure["problem"]["line"] > 0


def test_the_planted_label_is_found_repaired_and_packaged(tmp_path: Path) -> None:
    """The whole way of one scan, with probabilities instead of logits."""
    net, bundle = AsProbabilities(ToyNet(5, planted=2)), {"labels": 5, "per_label": 2}
    directory = place_job(tmp_path / "job", net, bundle, inversion=SHORT, repair=True)
    events = run_job_here(directory)
    decision, repair = directory.read_decision(), directory.read_repair()
    assert decision is not None and decision.verdict is Verdict.BACKDOORED and decision.flagged_labels == (2,)
    assert repair is not None and repair.status is RepairStatus.REPAIRED and repair.labels == (2,)
    assert (repair.attack_success_rate_before or 0) > 0.9 and (repair.attack_success_rate_after or 0) < 0.1
    assert repair.clean_accuracy_after == 1.0 and repair.judged_images == 5, "every fifth image of each label"
    (trigger,) = repair.triggers
    accused = decision.labels[2].families[0]
    assert (trigger.label, trigger.family, trigger.norm) == (2, "dynamic", accused.norm)
    assert trigger.attack_success_rate_before == repair.attack_success_rate_before and trigger.norm_afresh is None
    assert [found.label for found in repair.classes] == list(range(5)) and repair.suspect_sha256 is not None
    assert 0 < (repair.tensors_changed or 0) <= (repair.tensors or 0) == len(net.state_dict())
    assert repair.largest_changes and repair.not_shown
    (again,) = repair.reactivations
    assert (again.label, again.family, again.poisoned, again.images) == (2, "dynamic", 4, 5)
    assert again.retuned_reference is None and again.comes_back is repair.comes_back, "there are no students"
    assert again.line[0] == repair.attack_success_rate_after and again.line[-1] == repair.attack_success_rate_before
    assert [event["done"] for event in events if event["event"] == "epoch"] == list(range(1, 11))
    packaged = torch.jit.load(str(directory.repaired)).state_dict()
    state = load_file(directory.repaired_state)
    assert packaged.keys() == state.keys() and all(torch.equal(packaged[name], state[name]) for name in state)
    report = directory.read_report()
    assert report is not None and report["repair"]["files"] == repair.files
    assert set(repair.files) == {"repaired.pt", "repaired.safetensors", "repaired.intoto.jsonl"}
    assert verify(directory.repaired, None).outcome is Outcome.SIGNER_UNKNOWN, "they are stated, and nobody signed"

    done = repair_again(directory)
    assert "epoch" not in {event["event"] for event in done}, "it is done"
    directory.repaired.unlink()
    assert "epoch" in {event["event"] for event in repair_again(directory)}, "its weights are gone"
    assert directory.repaired.exists()


def repair_again(directory: JobDirectory) -> list[Event]:
    events: list[Event] = []
    with sharing_process(), ScanSession(directory, events.append) as session:
        session.run(Task(JobKind.REPAIR, (2,)))
    return events


def test_students_that_learned_too_little_are_not_asked_and_the_report_says_so(tmp_path: Path) -> None:
    few = SearchConfig(steps=4, success_level=0.95)
    config = replace(PRESETS["standard"], inversion=QUICK, families={"static": few})
    directory = place_job(tmp_path / "job", bundle={"per_label": 1}, config=config)
    run_job_here(directory)
    document = directory.read_report()
    assert document is not None and Caveat.WEAK_STUDENTS in document["caveats"]
    assert document["coverage"]["students_agreement"] == 0.0 and not directory.students.exists()
    families = [found for row in document["labels"] for found in row["families"]]
    assert all(found["reference_norms"] == [] and found["student_success_rate"] is None for found in families)


MISSING = 5
STUDENTS_STEPS = 150  # they learn a toy soon


def without(label: int, bundle: Path) -> None:
    """Take all images of a label out of a bundle."""
    with np.load(bundle) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    save_bundle(images[labels != label], labels[labels != label], bundle)


@pytest.mark.slow
def test_a_class_that_the_bundle_lacks_is_read_alone_and_what_a_repair_does_to_it_is_said_to_be_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(students, "STEPS", STUDENTS_STEPS)
    few = {"steps": 60, "success_level": 0.95}
    config = replace(
        PRESETS["standard"],
        students=1,
        inversion=InversionConfig(**few, learning_rate=2e-3, generator_width=4),
        families={"static": SearchConfig(**few)},
        labels_per_block=8,
    )
    bundle = {"labels": 8, "per_label": 12}
    directory = place_job(tmp_path / "job", ToyNet(8, planted=2), bundle, config=config, repair=True)
    without(MISSING, directory.bundle)
    run_job_here(directory)
    decision, document = directory.read_decision(round=1), directory.read_report()
    assert decision is not None and document is not None
    dynamic, static = decision.labels[MISSING].families
    assert static.reference_norms == (None,) and static.student_success_rate is None
    assert static.read_alone and dynamic.read_alone and not all(finding.read_alone for finding in decision.labels)
    assert decision.flagged_labels == (2,) and document["coverage"]["labels_read_alone"] >= 1
    assert any("Held against the other labels alone" in words for words in document["coverage"]["not_searched"])
    repair = directory.read_repair()
    assert repair is not None and repair.status is RepairStatus.PARTLY_JUDGED and repair.files
    assert repair.unjudged_labels == (MISSING,) and "cover 7 of 8 classes" in repair.detail
    assert "Not judged, for lack of images:" in directory.page.read_text()


class Overflows(AsProbabilities):
    """Answers every clean image, and has no number for one that is brighter somewhere than all of them are."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.brightest = toy_images(4).max().item() + 0.005  # images are rounded to bytes

    def forward(self, images: Tensor) -> Tensor:
        beyond = images.flatten(1).amax(1, keepdim=True) - self.brightest
        return self.net(images) + 0.0 * (1e6 * beyond).exp()


def test_a_search_that_comes_to_no_number_leaves_none_where_it_is_made(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job", Overflows(ToyNet()), inversion=replace(QUICK, steps=12, learning_rate=0.1))
    run_job_here(directory)
    decision, report = directory.read_decision(), directory.report.read_text()
    assert decision is not None and decision.verdict is not Verdict.NO_BACKDOOR_FOUND
    assert any(found.loss is None for finding in decision.labels for found in finding.families)
    files = [path.read_text() for path in (directory.result / "labels").iterdir()]
    assert not any(word in text for text in [*files, report] for word in ("NaN", "Infinity"))


@pytest.fixture(scope="module")
def of_every_family(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobDirectory, list[Event], Counter[str]]:
    """`standard` on a toy with a veil, with fewer steps: students, p-values, and a repair of what accuses.

    The signs of life that it gave are counted, of which one a second is told.
    """
    few = {"steps": 60, "success_level": 0.95}
    config = replace(
        PRESETS["standard"],
        students=1,
        inversion=InversionConfig(**few, learning_rate=2e-3, generator_width=4),
        families={"static": SearchConfig(**few), "warp": SearchConfig(**few)},
        labels_per_block=3,
    )
    root = tmp_path_factory.mktemp("families") / "job"
    directory = place_job(root, ToyNet(8, planted=2), {"labels": 8}, config=config, repair=True)
    signs: Counter[str] = Counter()
    beat = Telling.beat

    def counted(telling: Telling) -> None:
        if telling._piece is not None:
            signs[telling._piece.doing] += 1
        beat(telling)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Telling, "beat", counted)
        patch.setattr(students, "STEPS", STUDENTS_STEPS)
        return directory, run_job_here(directory), signs


def test_every_family_of_a_preset_is_searched_and_the_one_that_accuses_is_named(
    of_every_family: tuple[JobDirectory, list[Event], Counter[str]],
) -> None:
    directory, events, _ = of_every_family
    families = ["dynamic", "static", "warp"]
    decision, document = directory.read_decision(round=1), directory.read_report()
    assert decision is not None and document is not None
    for finding in decision.labels:
        assert [found.family for found in finding.families] == families
        assert [len(found.reference_norms) for found in finding.families] == [0, 1, 1]
        assert all(found.p_value is not None for found in finding.families)
        assert all(directory.trigger(finding.label, family).exists() for family in families)
    assert decision.verdict is Verdict.BACKDOORED and decision.flagged_labels == (2,)
    accusing = [found.family for found in decision.labels[2].families if found.flagged]
    assert document["labels"][2]["family"] in accusing and Caveat.UNCONFIRMED not in decision.caveats
    again = {found.family: found.confirmation for found in decision.labels[2].families if found.confirmation}
    assert set(accusing) <= set(again) and all((again[family].p_value or 0) <= 0.05 for family in accusing)
    assert all(found.confirmation is None for found in decision.labels[0].families), "only what stands out"
    assert "confirm" in {event["stage"] for event in events if event["event"] == "stage"}
    repair = directory.read_repair()
    assert repair is not None and repair.status is RepairStatus.REPAIRED
    assert [found.family for found in repair.triggers] == accusing
    afresh = [found.p_value_afresh for found in repair.triggers]
    assert repair.reinversion_p_value == min(p_value for p_value in afresh if p_value is not None)
    assert all((found.norm_afresh or 0) > (found.norm or 0) for found in repair.triggers), "it is harder to reach now"
    assert [found.family for found in repair.reactivations] == accusing and repair.comes_back is not None
    assert all(found.retuned_reference is not None for found in repair.reactivations), "the student was tried too"
    steps = [event for event in events if event["event"] == "step" and event["labels"] == [0, 1, 2]]
    assert [event["done"] for event in steps] == list(range(1, 60 * 5 + 1)) and {event["of"] for event in steps} == {
        300
    }


def test_every_long_loop_of_a_scan_tells_that_it_lives_and_what_it_is_at(
    of_every_family: tuple[JobDirectory, list[Event], Counter[str]],
) -> None:
    """By count: each step, each reading and each batch of images that a network is shown."""
    directory, events, signs = of_every_family
    decision = directory.read_decision()
    assert decision is not None
    doubted = sum(len(finding.families_in_doubt) for finding in decision.labels)
    searches, blocks = 3, 3  # families, of labels
    readings = 1 + HALVINGS
    least = {
        "understand": 20,  # calls of the model
        "try": 2 * (searches + 2),
        "students": STUDENTS_STEPS,
        "search": 60 * searches * blocks,
        "read": readings * searches * blocks + 8 * searches,
        "search_students": 60 * 2 * blocks,
        "read_students": readings * 2 * blocks + 8 * 2,
        "try_students": 8 * searches,
        "search_again": 60 * doubted,
        "read_again": readings * doubted,
        "judge": 3,
        "unlearn": MatchingConfig().steps,
        "search_afresh": 60,
        "read_afresh": readings,
    }
    assert {doing: count for doing, count in least.items() if signs[doing] < count} == {}
    known = [event["seconds_left"] is not None for event in events if event["event"] == "work"]
    assert all(known[known.index(True) :]), "once a search was tried"
    ahead = [later["kind"] for later in next(e for e in events if e.get("doing") == "students")["ahead"]]
    assert ahead == ["invert", "confirm", "repair"]


LUCKY = (1, 3)  # labels of a clean toy whose first searches are made to look so
TWO_ROUNDS = replace(
    PRESETS["standard"],
    students=0,
    inversion=InversionConfig(steps=60, success_level=0.95, learning_rate=2e-3, generator_width=4),
    families={},
    labels_per_block=3,
)


def run_with_luck(directory: JobDirectory, also: Callable[[Event], None], **limits: Any) -> list[Event]:
    """A run whose first decision sees norms that are far too small for two of the labels."""
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if event == {"event": "stage", "stage": "decide"} and directory.read_decision() is None:
            for label in LUCKY:
                finding = directory.read_finding(label)
                assert finding is not None and finding.families[0].norm is not None
                [found] = finding.families
                directory.write_finding(
                    replace(finding, families=(replace(found, norm=finding.families[0].norm / 20),))
                )
        also(event)

    with ScanSession(directory, listen, **limits) as session:
        run_tasks([session], directory.read_job())
    return events


@pytest.fixture(scope="module")
def not_confirmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobDirectory, list[Event]]:
    directory = place_job(tmp_path_factory.mktemp("rounds") / "job", ToyNet(), {"per_label": 20}, config=TWO_ROUNDS)
    with sharing_process():
        return directory, run_with_luck(directory, lambda event: None)


def test_labels_whose_first_search_was_lucky_are_searched_again_and_not_accused(
    not_confirmed: tuple[JobDirectory, list[Event]],
) -> None:
    directory, events = not_confirmed
    first, last, report = directory.read_decision(), directory.read_decision(round=1), directory.read_report()
    assert first is not None and last is not None and report is not None
    assert first.doubted_labels == LUCKY and first.flagged_labels == last.flagged_labels == ()
    assert (report["verdict"], report["reasons"]) == ("inconclusive", ["not_confirmed"])
    shown = {row["label"] for row in report["labels"] if row["families"][0]["unconfirmed"]}
    assert shown == set(LUCKY) and "did not confirm it" in " ".join(directory.page.read_text().split())
    assert {path.name for path in directory.result.glob("confirmations/*")} == {
        f"{label:06d}-dynamic.json" for label in LUCKY
    }
    stages = [event["stage"] for event in events if event["event"] == "stage"]
    assert stages[stages.index("decide") :] == ["decide", "confirm", "decide", "report"]
    again = [event for event in events if event["event"] == "step" and event["labels"] == list(LUCKY)]
    assert [event["done"] for event in again] == list(range(1, 121)) and {event["of"] for event in again} == {120}


@pytest.mark.slow
@needs_proc
def test_an_engine_killed_in_the_second_round_leaves_a_partial_report_and_goes_on_there_to_the_same_end(
    not_confirmed: tuple[JobDirectory, list[Event]], tmp_path: Path
) -> None:
    directory = place_job(tmp_path / "job", ToyNet(), {"per_label": 20}, config=TWO_ROUNDS)
    clock = PretendClock("deadline")

    def run_out_of_time_in_the_second_search(event: Event) -> None:
        if event["event"] == "step" and event["labels"] == list(LUCKY) and event["done"] == 61:
            clock.let_pass(600 + GRACE_SECONDS)
            assert all_end(directory.root)

    run_with_luck(directory, run_out_of_time_in_the_second_search, time_limit=600, clock=clock)
    report = directory.read_report()
    assert report is not None and report["reasons"] == ["search_truncated"] and report["flagged_labels"] == []
    standing = [(found["unconfirmed"], found["in_doubt"]) for row in report["labels"] for found in row["families"]]
    assert standing[LUCKY[0]] == (True, False) and standing[LUCKY[1]] == (False, True)
    events = run_job_here(directory)
    assert {event["of"] for event in events if event["event"] == "step"} == {60}, "one search was left to do"
    assert contents(directory) == contents(not_confirmed[0])


class BesideADecoy(nn.Module):
    """A clean net's answers, and those of the one that is used, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.clean, self.used = ToyNet(), ToyNet(planted=2)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"aux": self.clean(images), "loss": images.mean(), "logits": self.used(images)}


def test_two_outputs_that_may_be_used_are_named_and_nothing_is_searched(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job", BesideADecoy())
    run_job_here(directory)
    preparation, report = directory.read_preparation(), directory.read_report()
    assert preparation is not None and report is not None
    assert preparation.reasons == (Reason.AMBIGUOUS_OUTPUT,) and report["verdict"] == Verdict.INCONCLUSIVE
    assert preparation.chosen_output == "aux"
    assert [(other.name, other.clean_accuracy) for other in preparation.other_outputs] == [
        ("loss", None),
        ("logits", 1),
    ]
    told = " ".join(report["coverage"]["not_searched"])
    assert "`logits` ([N, 6]) was not scanned: it could be scores, too, right about 100% of" in told
    assert "`loss` (one number) was not scanned: it is no scores" in told


def test_the_output_that_was_said_is_searched_and_repaired_and_the_others_stay(tmp_path: Path) -> None:
    net = BesideADecoy()
    directory = place_job(tmp_path / "job", net, output="logits", repair_label=2, inversion=SHORT)
    run_job_here(directory)
    preparation, repair = directory.read_preparation(), directory.read_repair()
    assert preparation is not None and preparation.chosen_output == "logits" and not preparation.reasons
    assert repair is not None and repair.attack_success_rate_before is not None
    if repair.status is RepairStatus.REPAIRED:
        before, after = net.eval()(toy_images(1)), torch.jit.load(str(directory.repaired))(toy_images(1))
        assert after.keys() == before.keys() and torch.equal(after["aux"], before["aux"])
        assert not torch.equal(after["logits"], before["logits"])
