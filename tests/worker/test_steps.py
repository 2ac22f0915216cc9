"""The steps without torch, over job directories as an engine leaves them."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from securesystemslib.signer import CryptoSigner

from app.core.errors import Refusal
from app.core.findings import (
    Confirmation,
    FamilyFinding,
    InputSpec,
    LabelFinding,
    Preparation,
    Reason,
    RepairReport,
    RepairStatus,
    Unrepaired,
)
from app.core.jobs import JobDirectory
from app.core.report.figures import png_bytes, trigger_strip
from app.core.verification import verify
from app.core.versions import engine_version
from tests.toys import place_job
from worker.steps import decide, inspect, report, state

REPAIRED = RepairReport(RepairStatus.REPAIRED, "Done.", (2,), files={"repaired.pt": "d" * 64})


def searched(root: Path, norms: tuple[float, ...], repair: bool = True, **known: object) -> JobDirectory:
    """A job directory with a search that found these norms."""
    directory = place_job(root, repair=repair)
    preparation = Preparation(
        num_labels=6,
        label_names=tuple(map(str, range(6))),
        form="scripted",
        output="logits",
        input=InputSpec(16, 16, 1, (0.0,), (1.0,)),
        input_source="given",
        close_conventions=(),
        clean_accuracy=1.0,
        images=24,
        images_per_label=(4,) * 6,
        perceptual="packaged",
        perceptual_sha256="0" * 64,
        device="cpu",
        threads=1,
    )
    directory.write_preparation(replace(preparation, **known))  # type: ignore[arg-type]
    for label, norm in enumerate(norms):
        directory.write_finding(LabelFinding(label, str(label), (FamilyFinding("dynamic", norm, 0.95, 0.1, 200),)))
        directory.strip(label, "dynamic").parent.mkdir(exist_ok=True)
        images = np.full((2, 16, 16, 1), 0.5)
        directory.strip(label, "dynamic").write_bytes(png_bytes(trigger_strip(images, images + norm)))
    return directory


GUILTY, INNOCENT = (0.10, 0.11, 0.01, 0.13, 0.14, 0.15), (0.10, 0.11, 0.12, 0.13, 0.14, 0.15)


def test_only_a_torchscript_archive_passes_the_inspection(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job")
    inspect(directory)
    directory.model.write_bytes(b"no model")
    with pytest.raises(Refusal) as refused:
        inspect(directory)
    assert refused.value.problem.code == "model_not_torchscript"


def test_a_report_has_a_page_and_pictures_of_the_suspect_and_of_one_more(tmp_path: Path) -> None:
    directory = searched(tmp_path / "job", GUILTY)
    decide(directory)
    directory.write_repair(REPAIRED)
    report(directory, "none")
    document = directory.read_report()
    assert document is not None and document["flagged_labels"] == [2] and "unsandboxed" in document["caveats"]
    assert document["repair"]["files"] == REPAIRED.files
    assert {path.name for path in directory.figures.iterdir()} == {"label_2.png", "label_0.png"}
    assert directory.page.read_text().count("data:image/png;base64,") == 2


def test_a_report_names_the_engine_whatever_a_suspect_has_made_of_its_preparation(tmp_path: Path) -> None:
    directory = searched(tmp_path / "job", GUILTY, versions={"engine": "forged", "numpy": "2"})
    decide(directory)
    report(directory, "bwrap")
    document = directory.read_report()
    assert document is not None and document["versions"] == {"engine": engine_version(), "numpy": "2"}


def test_a_report_that_is_made_again_keeps_no_picture_of_the_one_before(tmp_path: Path) -> None:
    directory = searched(tmp_path / "job", GUILTY[:1])
    for more in ((), GUILTY[1:]):
        for label, norm in enumerate(more, start=1):
            directory.write_finding(LabelFinding(label, str(label), (FamilyFinding("dynamic", norm, 0.95, 0.1, 200),)))
            directory.strip(label, "dynamic").write_bytes(directory.strip(0, "dynamic").read_bytes())
        decide(directory)
        report(directory, "none")
    assert {path.name for path in directory.figures.iterdir()} == {"label_2.png", "label_0.png"}


def test_what_is_stated_of_weights_are_the_bytes_that_lie_there_whatever_their_engine_says(tmp_path: Path) -> None:
    directory = searched(tmp_path / "job", GUILTY)
    directory.write_repair(REPAIRED)
    directory.repaired.write_bytes(b"weights")
    state(directory, CryptoSigner.generate_ed25519())
    repair = directory.read_repair()
    assert repair is not None and set(repair.files) == {"repaired.pt", "repaired.intoto.jsonl"}
    assert repair.files["repaired.pt"] == sha256(b"weights").hexdigest()
    assert repair.files["repaired.intoto.jsonl"] == sha256(directory.statement.read_bytes()).hexdigest()
    found, job = verify(directory.statement, None), directory.read_job()
    assert found.is_signed and found.stated.labels == [2] and found.stated.engine == engine_version()
    assert (found.stated.suspect.digest.sha256, found.stated.data.digest.sha256) == (
        job.model["sha256"],
        job.bundle["sha256"],
    )
    assert (repair.suspect_sha256, repair.data_sha256, repair.seed) == (
        job.model["sha256"],
        job.bundle["sha256"],
        job.config.seed,
    )
    first = directory.statement.read_bytes()
    state(directory, None)
    assert not verify(directory.statement, None).is_signed and directory.statement.read_bytes() != first


@pytest.mark.parametrize("repair", [None, replace(REPAIRED, status=RepairStatus.REFUSED)])
def test_where_no_weights_are_handed_out_nothing_is_stated(tmp_path: Path, repair: RepairReport | None) -> None:
    directory = place_job(tmp_path / "job")
    directory.result.mkdir(exist_ok=True)
    directory.repaired.write_bytes(b"weights")
    if repair is not None:
        directory.write_repair(repair)
    state(directory, None)
    assert not directory.statement.exists()
    known = directory.read_repair()
    assert (known is None) == (repair is None) and (known is None or known.files == {})


def test_what_was_to_be_searched_again_is_shown_as_in_doubt_and_accused_once_it_was(tmp_path: Path) -> None:
    directory = searched(tmp_path / "job", GUILTY)
    job = directory.read_job()
    directory.write_job(replace(job, config=replace(job.config, false_alarm_rate=0.05, confirms=True)))

    def reported() -> dict[str, Any]:
        for round in (0, 1):
            decide(directory, round)
        report(directory, "none", round=1)
        document = directory.read_report()
        assert document is not None
        return document

    document = reported()
    assert (document["verdict"], document["reasons"]) == ("inconclusive", ["search_truncated"])
    assert [row["label"] for row in document["labels"] if row["families"][0]["in_doubt"]] == [2]
    assert (
        document["flagged_labels"] == [] and "time was over before it was searched again" in directory.page.read_text()
    )
    directory.write_confirmation(2, "dynamic", Confirmation(0.012, 0.95, False))
    assert reported()["flagged_labels"] == [2]
    first = directory.read_decision()
    assert first is not None and first.doubted_labels == (2,), "the first round knows nothing of a second search"


@pytest.mark.parametrize(
    ("norms", "repair", "known", "said"),
    [
        (INNOCENT, False, {}, (None, None)),
        (INNOCENT, True, {}, (RepairStatus.NOT_NEEDED, None)),
        ((), True, {"reasons": (Reason.NO_INPUT_GRADIENT,)}, (RepairStatus.REFUSED, Unrepaired.NO_VERDICT)),
        (GUILTY, True, {}, (RepairStatus.REFUSED, Unrepaired.OUT_OF_TIME)),
        (INNOCENT[:3], True, {}, (RepairStatus.REFUSED, Unrepaired.OUT_OF_TIME)),
    ],
    ids=["not asked for", "nothing flagged", "not searched", "out of time for it", "out of time before it"],
)
def test_a_repair_that_was_not_done_says_why(
    tmp_path: Path,
    norms: tuple[float, ...],
    repair: bool,
    known: dict[str, object],
    said: tuple[RepairStatus | None, Unrepaired | None],
) -> None:
    directory = searched(tmp_path / "job", norms, repair, **known)
    decide(directory)
    report(directory, "none")
    document = directory.read_report()
    assert document is not None
    card = document["repair"] or {}
    assert (card.get("status"), card.get("reason")) == said
    assert directory.read_repair() is None, "the next run may still do it"
