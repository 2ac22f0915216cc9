"""The tasks of a scan that need no torch: look at the archive, decide, state what a repair made, report.

Files in, files out, in any process.
"""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.core.findings import (
    Caveat,
    Decision,
    Preparation,
    Reason,
    RepairReport,
    RepairStatus,
    Unrepaired,
    Verdict,
)
from app.core.intake.archive import MODEL_BYTES
from app.core.intake.examine import examine_model
from app.core.intake.torchscript.rules import GateRefusal
from app.core.jobs import STATEMENT, JobDirectory, ScanJob, sha256_of, write_whole
from app.core.report.card import not_shown
from app.core.report.document import pictured_labels, report_document
from app.core.report.html import report_html
from app.core.report.inspection import structure_document
from app.core.versions import engine_version
from worker.detection.selection import select_labels
from worker.detection.verdict import decide_verdict
from worker.sandbox.fence import Sandbox

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner


def inspect(directory: JobDirectory) -> None:
    """The static gate: raises Refusal for what is no TorchScript archive, or one that is not understood and allowed.

    An operator that is not on the allowlist blocks the verdict instead, and so does code that a search could not see
    through: then there is nothing to prepare.
    """
    accepted = directory.model.stat().st_size  # whoever took the file in had a limit of his own
    try:
        structure = structure_document(examine_model(directory.model, max(accepted, MODEL_BYTES)))
    except GateRefusal as refusal:
        if refusal.problem.code != Reason.UNSUPPORTED_OPERATOR:
            raise
        structure = {"problem": refusal.problem.to_json()}
        directory.write_preparation(Preparation.not_loaded(Reason.UNSUPPORTED_OPERATOR))
    directory.write_structure(structure)
    if blocking := {found["reason"] for found in structure.get("findings", []) if found["blocks"]}:
        directory.write_preparation(Preparation.not_loaded(*(reason for reason in Reason if reason in blocking)))


def select(directory: JobDirectory) -> int:
    """Which labels are searched in full, by what the first pass found of all; how many they are."""
    preparation = directory.read_preparation()
    assert preparation is not None, "there is nothing to select from before prepare"
    job = directory.read_job()
    found, model_sha256 = directory.read_first_passes(), job.model["sha256"]
    selection = select_labels(preparation.num_labels, found, job.config, model_sha256)
    directory.write_selection(selection)
    return len(selection.labels)


def decide(directory: JobDirectory, round: int = 0) -> None:
    """The verdict over everything that was searched up to this round."""
    preparation = directory.read_preparation()
    assert preparation is not None, "there is nothing to decide before prepare"
    config, selection = directory.read_job().config, directory.read_selection()
    decision = decide_verdict(preparation, directory.read_findings(round), config, selection)
    directory.write_decision(decision, round)


def report(directory: JobDirectory, sandbox: Sandbox, round: int = 0) -> None:
    """Write the report of what a round decided, whole or of the part that was done: as JSON, as a page, and with
    pictures of the triggers."""
    job, preparation, decision = directory.read_job(), directory.read_preparation(), directory.read_decision(round)
    assert preparation is not None and decision is not None, "there is nothing to report before decide"
    repair = directory.read_repair() or _why_no_repair(job, decision)
    preparation = replace(preparation, versions={**preparation.versions, "engine": engine_version()})
    if sandbox == "none":
        preparation = replace(preparation, caveats=(*preparation.caveats, Caveat.UNSANDBOXED))
    inputs = {"model": job.model, "bundle": job.bundle}
    structure = directory.read_structure()
    document = report_document(structure, preparation, decision, repair, inputs, job.config, directory.read_timings())
    strips = _hang_strips(directory, document)
    write_whole(directory.page, lambda path: path.write_text(report_html(document, strips), "utf-8"))
    directory.write_report(document)


def state(directory: JobDirectory, signer: "CryptoSigner | None") -> None:
    """Complete the card of a repair, and put the statement beside the weights that it hands out, if any.

    Their digests are taken of what was copied out of the engine's folder: what the engine says of them is dropped.
    """
    if (repair := directory.read_repair()) is None:
        return
    job, known = directory.read_job(), directory.read_preparation()
    repair = replace(
        repair,
        suspect_sha256=job.model["sha256"],
        data_sha256=job.bundle["sha256"],
        seed=job.config.seed,
        not_shown=not_shown(repair, known.other_outputs, known.shift) if known else not_shown(repair),
    )
    weights = (path for path in (directory.repaired, directory.repaired_state) if path.exists())
    files = {path.name: sha256_of(path) for path in weights} if repair.status.hands_out_weights else {}
    directory.statement.unlink(missing_ok=True)
    if files:
        from app.core.statement import stated  # the libraries that sign take half a second to import

        inputs, config = {"model": job.model, "bundle": job.bundle}, job.config
        line = stated(repair, files, inputs, config.preset, config.seed, engine_version(), signer)
        write_whole(directory.statement, lambda path: path.write_bytes(line))
        files[STATEMENT] = sha256_of(directory.statement)
    directory.write_repair(replace(repair, files=files))


def _why_no_repair(job: ScanJob, decision: Decision) -> RepairReport | None:
    """What to say of a repair that was asked for and not done."""
    if not job.repair:
        return None
    if decision.flagged_labels or Reason.SEARCH_TRUNCATED in decision.reasons:
        detail = "The time limit ended the scan before the repair was done."
        return RepairReport(RepairStatus.REFUSED, detail, reason=Unrepaired.OUT_OF_TIME)
    if decision.verdict is Verdict.INCONCLUSIVE:
        detail = "There is no verdict, so nothing says what to unlearn. Remove what stood in the way, and scan again."
        return RepairReport(RepairStatus.REFUSED, detail, reason=Unrepaired.NO_VERDICT)
    return RepairReport(RepairStatus.NOT_NEEDED, "No label was flagged, so the weights were left as they are.")


def _hang_strips(directory: JobDirectory, document: dict[str, Any]) -> dict[int, bytes]:
    """The pictures of the triggers that the report shows."""
    shutil.rmtree(directory.figures, ignore_errors=True)
    strips = {}
    for label, family in pictured_labels(document).items():
        png = directory.strip(label, family).read_bytes()
        write_whole(directory.figures / f"label_{label}.png", partial(Path.write_bytes, data=png))
        strips[label] = png
    return strips
