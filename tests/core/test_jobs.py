"""The job directory: what is written is what is read, or nothing; going on with a job depends on it."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from app.core.config import FirstPassConfig, InversionConfig, ScanConfig
from app.core.findings import (
    Caveat,
    ClassAccuracy,
    ComesBack,
    Confirmation,
    Decision,
    FamilyFinding,
    FirstPass,
    InputSpec,
    LabelFinding,
    Likeness,
    OtherOutput,
    Preparation,
    Probe,
    ProbeFinding,
    Reactivation,
    Reason,
    RepairReport,
    RepairStatus,
    Selection,
    Shift,
    Takes,
    TensorChange,
    UnlearnedTrigger,
    Unrepaired,
    Verdict,
)
from app.core.intake.declaration import DeclaredInput
from app.core.jobs import JobDirectory, ScanJob, finding_from_json, write_whole

JOB = ScanJob(
    model={"name": "net.pt", "bytes": 3, "sha256": "a" * 64},
    bundle={"name": "bundle.zip", "bytes": 4, "sha256": "b" * 64},
    config=ScanConfig(
        seed=7, inversion=InversionConfig(steps=3, identity_start="residual"), first_pass=FirstPassConfig(lowest=3)
    ),
    input=DeclaredInput(32, 48, 3, (0.5, 0.4, 0.3), (0.2,), (0.0, 255.0), 0.9),
    repair=True,
    repair_label=2,
    output="logits",
    perceptual="alexnet.pth",
    classes={"cat": 0, "dog": 1},
)
PREPARATION = Preparation(
    num_labels=2,
    label_names=("cat", "dog"),
    form="traced",
    output="logits",
    input=InputSpec(32, 48, 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), (0.0, 255.0)),
    input_source="given",
    close_conventions=("bytes [0, 255]",),
    clean_accuracy=None,
    images=12,
    images_per_label=(5, 7),
    perceptual="packaged",
    perceptual_sha256="c" * 64,
    device="cpu",
    threads=2,
    versions={"torch": "2"},
    shift=Shift(Likeness.SOMEWHAT_DIFFERENT, 0.24, 17, 12),
    reasons=(Reason.TOO_FEW_LABELS,),
    caveats=(Caveat.MISSING_CLASSES,),
    takes=Takes.LIST,
    chosen_output="logits",
    other_outputs=(OtherOutput("aux", "[N, 2]", True, 0.5), OtherOutput("loss", "one number", False)),
    probes=(ProbeFinding(Probe.DEVICE, None, 0, False), ProbeFinding(Probe.BATCH_SIZE, 0.5, 3, True)),
)
FINDINGS = tuple(LabelFinding(n, str(n), (FamilyFinding("dynamic", 0.1 * n, 0.9, 0.2, 30),)) for n in range(12))
SELECTION = Selection((0, 2, 4), (0, 4), (), {"dynamic": (0.1, None, 0.3)})
DECISION = Decision(Verdict.INCONCLUSIVE, FINDINGS, None, (Reason.ZERO_MAD,), (Caveat.UNCONFIRMED,), SELECTION)
REPAIR = RepairReport(
    RepairStatus.REPAIRED,
    "Done.",
    (2,),
    clean_accuracy_before=0.9,
    classes=(ClassAccuracy(2, 5, 1.0, 0.8, 0.4),),
    triggers=(UnlearnedTrigger(2, "static", 0.99, 0.0, 0.1, None),),
    comes_back=ComesBack.HARDLY,
    reactivations=(Reactivation(2, "static", ComesBack.HARDLY, 5, 9, 0.1, None, 0.9, 0.05, 0.2, None, (0.0, 0.9)),),
    largest_changes=(TensorChange("fc.weight", None),),
    not_shown=("Something.",),
    files={"repaired.pt": "d" * 64},
)


def test_a_job_and_its_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path)
    directory.write_job(JOB)
    directory.write_preparation(PREPARATION)
    directory.write_decision(DECISION)
    directory.write_repair(REPAIR)
    for finding in reversed(FINDINGS):
        directory.write_finding(finding)
    assert directory.read_job() == JOB
    assert directory.read_preparation() == PREPARATION
    assert directory.read_decision() == DECISION
    assert directory.read_repair() == REPAIR
    refused = RepairReport(RepairStatus.REFUSED, "It cost too much.", (2,), Unrepaired.TOO_COSTLY)
    directory.write_repair(refused)
    assert directory.read_repair() == refused
    assert directory.read_findings() == list(FINDINGS), "in label order"
    assert directory.read_finding(3) == FINDINGS[3]


def test_what_a_first_pass_found_is_read_as_it_was_written(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path)
    found = [FirstPass((first, first + 1), {"dynamic": (0.5, None), "static": (1.5, 2.5)}) for first in (0, 2)]
    for block in reversed(found):
        directory.write_first_pass(block)
    directory.write_selection(SELECTION)
    assert directory.read_first_passes() == found, "in label order"
    assert directory.read_selection() == SELECTION


def test_jobs_and_decisions_of_a_version_that_searched_all_labels_are_read(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path)
    job, decision = replace(JOB, config=replace(JOB.config, first_pass=None)), replace(DECISION, selection=None)
    directory.write_job(job)
    directory.write_decision(decision)
    for path, part in ((tmp_path / "job.json", ("config", "first_pass")), (directory.decision(0), ("selection",))):
        document = json.loads(path.read_text())
        inner = document[part[0]] if len(part) > 1 else document
        del inner[part[-1]]
        path.write_text(json.dumps(document))
    assert directory.read_job() == job and directory.read_decision() == decision


def test_each_round_has_a_decision_of_its_own_and_the_first_one_knows_nothing_of_second_searches(
    tmp_path: Path,
) -> None:
    directory, again = JobDirectory(tmp_path), Confirmation(0.3, 0.9, False)
    for finding in FINDINGS:
        directory.write_finding(finding)
    directory.write_confirmation(3, "dynamic", again)
    assert directory.read_findings() == list(FINDINGS)
    (found,) = directory.read_findings(round=1)[3].families
    assert found == replace(FINDINGS[3].families[0], confirmation=again)
    later = replace(DECISION, verdict=Verdict.BACKDOORED)
    directory.write_decision(DECISION)
    directory.write_decision(later, round=1)
    assert [directory.read_decision(round) for round in range(3)] == [DECISION, later, None]


def test_a_number_that_is_none_in_what_an_earlier_version_wrote_is_read_as_none() -> None:
    family = {**asdict(FINDINGS[0].families[0]), "norm": math.nan, "loss": math.inf}
    family["confirmation"] = {"norm": math.nan, "attack_success_rate": 0.9, "out_of_reach": False, "p_value": None}
    (read,) = finding_from_json({"label": 0, "name": "0", "families": [family]}).families
    assert read.norm is None and read.loss is None
    assert read.confirmation is not None and read.confirmation.norm is None


def test_any_other_option_makes_another_job(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path)
    directory.write_job(JOB)
    for other in (
        replace(JOB, config=replace(JOB.config, seed=8)),
        replace(JOB, input=DeclaredInput()),
        replace(JOB, threads=3),
        replace(JOB, output=None),
        replace(JOB, model=JOB.model | {"sha256": "0" * 64}),
    ):
        assert directory.read_job() != other


def test_what_is_not_there_yet_is_none(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path)
    assert directory.read_preparation() is directory.read_decision() is directory.read_repair() is None
    assert directory.read_finding(0) is directory.read_report() is directory.read_selection() is None
    assert directory.read_first_passes() == []
    assert directory.read_findings() == [] and directory.read_timings() == {}


def test_a_stage_that_is_timed_again_adds_up(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path)
    for stage, seconds in (("decide", 1.0), ("repair", 2.0), ("decide", 0.5)):
        directory.add_timing(stage, seconds)
    assert directory.read_timings() == {"decide_seconds": 1.5, "repair_seconds": 2.0}


def test_a_file_that_could_not_be_written_whole_is_not_there_and_the_old_one_stays(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("no space")

    write_whole(tmp_path / "deep" / "old", lambda path: path.write_text("old"))
    for name in ("old", "new"):
        with pytest.raises(OSError, match="no space"):
            write_whole(tmp_path / "deep" / name, fail)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["old"]
    assert (tmp_path / "deep" / "old").read_text() == "old"
