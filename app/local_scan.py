"""A scan on this machine with no server: inputs in, a directory with report, pictures and repaired weights out.

    OUT/report.json  report.html  figures/  repaired.pt  repaired.safetensors
    OUT/.job/        the engine's job directory, there only until the scan is finished; an interrupted one is resumed

It knows files and the engine's launcher; it runs no torch.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from app.core.errors import Problem, Refusal, disk_full, is_disk_full
from app.core.findings import Caveat, Decision, Preparation, RepairReport, RepairStatus, Verdict
from app.core.intake.archive import check_torchscript_archive
from app.core.intake.members import unreadable
from app.core.jobs import JobDirectory, ScanJob, write_whole
from app.core.report.document import report_document
from app.core.report.figures import png_bytes, trigger_strip
from app.core.report.html import report_html
from worker.launch import Event, run_engine

EXIT_CODES = {Verdict.NO_BACKDOOR_FOUND: 0, Verdict.BACKDOORED: 1, Verdict.INCONCLUSIVE: 3}
REFUSED, OUT_OF_TIME = 4, 5
MOST_STRIPS = 12


@dataclass(frozen=True)
class LocalResult:
    """A finished, partial or refused scan; `document` is the report, None only for a repair without a scan."""

    exit_code: int
    document: dict[str, Any] | None
    repair: RepairReport | None


def job_for(model: Path, bundle: Path, **options: Any) -> ScanJob:
    """The job for two files, with their hashes; raises Refusal for what is no TorchScript archive or no file."""
    facts = check_torchscript_archive(model)
    try:
        if not bundle.is_file():
            raise Refusal("bundle_not_found", f"There is no bundle at {bundle}.", "Check the path; see docs/export.md.")
        with bundle.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable("bundle", error) from error
    return ScanJob(
        model={"name": model.name, "bytes": facts.bytes, "sha256": facts.sha256},
        bundle={"name": bundle.name, "bytes": bundle.stat().st_size, "sha256": digest},
        **options,
    )


def run_scan(
    job: ScanJob,
    model: Path,
    bundle: Path,
    out: Path,
    on_event: Callable[[Event], None],
    time_limit: float | None = None,
) -> LocalResult:
    """Run a job to its end, or go on with it if `out` holds the same job unfinished.

    Raises Refusal, with `out` as it was before, or with a directory to go on with where the refusal is retryable;
    EngineCrashError and KeyboardInterrupt also leave one to go on with.
    """
    directory = JobDirectory(out / ".job")
    try:
        existed = out.exists()
        if not _is_begun(directory, job):
            try:
                _place_inputs(directory, job, model, bundle)
            except OSError:
                _discard(directory, out, existed)
                raise
    except OSError as error:
        raise _unwritable(out, error) from error
    problems: list[Problem] = []

    def listen(event: Event) -> None:
        if event["event"] == "refused":
            problem = event["problem"]
            problems.append(Problem(**{key: value for key, value in problem.items() if key != "type"}))
        on_event(event)

    try:
        run_engine(directory.root, listen, time_limit)
        if problems:
            raise Refusal(problems[0].code, problems[0].detail, problems[0].advice, problems[0].retryable)
        result = _conclude(directory, job, out)
    except Refusal as refusal:
        if not refusal.problem.retryable:
            _discard(directory, out, existed)
        raise
    except OSError as error:
        raise _unwritable(out, error) from error
    if result.exit_code != OUT_OF_TIME:
        shutil.rmtree(directory.root)
    return result


def _is_begun(directory: JobDirectory, job: ScanJob) -> bool:
    """Whether the directory holds this very job; raises Refusal if it holds another one, which is left alone."""
    if not (directory.root / "job.json").exists():
        return False
    if directory.read_job() != job:
        raise Refusal(
            "output_in_use",
            f"{directory.root.parent} holds an unfinished scan of other inputs or with other options.",
            "Run that one again to finish it, choose another --out, or delete the directory.",
        )
    return True


def _place_inputs(directory: JobDirectory, job: ScanJob, model: Path, bundle: Path) -> None:
    """Copy the inputs and write the job; what an interrupted copy left is cleared away first."""
    if directory.root.exists():
        shutil.rmtree(directory.root)
    directory.root.mkdir(parents=True)
    suffix = bundle.suffix.lower() or ".zip"  # what it really is, intake tells from its bytes
    write_whole(directory.model, lambda path: shutil.copyfile(model, path))
    write_whole(directory.root / f"bundle{suffix}", lambda path: shutil.copyfile(bundle, path))
    directory.write_job(job)


def _discard(directory: JobDirectory, out: Path, existed: bool) -> None:
    """Leave the output directory as it was before the job."""
    shutil.rmtree(directory.root if existed else out, ignore_errors=True)


def _conclude(directory: JobDirectory, job: ScanJob, out: Path) -> LocalResult:
    """Write the report, its pictures and the repaired weights into `out`."""
    preparation, repair = directory.read_preparation(), directory.read_repair()
    for path in (out / name for name in ("report.json", "report.html", "repaired.pt", "repaired.safetensors")):
        path.unlink(missing_ok=True)
    if repair is not None and repair.status is RepairStatus.REPAIRED:
        for path in (directory.repaired, directory.repaired_state):
            os.replace(path, out / path.name)
    if job.repair_label is not None:
        if repair is None and preparation is not None and preparation.reasons:
            why = ", ".join(reason.value for reason in preparation.reasons)
            repair = RepairReport(RepairStatus.REFUSED, f"No trigger could be searched ({why}).", (job.repair_label,))
        if repair is None:
            return LocalResult(OUT_OF_TIME, None, None)
        accepted = repair.status is RepairStatus.REPAIRED
        return LocalResult(0 if accepted else EXIT_CODES[Verdict.INCONCLUSIVE], None, repair)
    if preparation is None:
        return LocalResult(OUT_OF_TIME, None, None)
    preparation = replace(preparation, caveats=(*preparation.caveats, Caveat.UNSANDBOXED))
    decision = directory.read_decision() or Decision(Verdict.INCONCLUSIVE, tuple(directory.read_findings()), None)
    if job.repair and repair is None:
        repair = RepairReport(RepairStatus.REFUSED, "The time limit ended the scan before the repair was done.")
    inputs = {"model": job.model, "bundle": job.bundle}
    document = report_document(preparation, decision, repair, inputs, job.config, directory.read_timings())
    strips = _draw_strips(directory, document, out / "figures")
    write_whole(out / "report.html", lambda path: path.write_text(report_html(document, strips), "utf-8"))
    write_whole(out / "report.json", lambda path: path.write_text(json.dumps(document, indent=1) + "\n", "utf-8"))
    return LocalResult(_exit_code(document, preparation), document, repair)


def _exit_code(document: dict[str, Any], preparation: Preparation) -> int:
    coverage = document["coverage"]
    if not preparation.reasons and coverage["labels_searched"] < coverage["labels_total"]:
        return OUT_OF_TIME
    return EXIT_CODES[Verdict(document["verdict"])]


def _draw_strips(directory: JobDirectory, document: dict[str, Any], folder: Path) -> dict[int, bytes]:
    """Pictures of the flagged labels' triggers and, for comparison, of the label with the smallest norm that is not."""
    rows = sorted((row for row in document["labels"] if row["norm"] is not None), key=lambda row: row["norm"])
    flagged = [row["label"] for row in rows if row["flagged"]][: MOST_STRIPS - 1]
    others = [row["label"] for row in rows if not row["flagged"]]
    shutil.rmtree(folder, ignore_errors=True)
    strips = {}
    for label in [*flagged, *others[:1]]:
        with np.load(directory.examples(label), allow_pickle=False) as arrays:
            png = png_bytes(trigger_strip(arrays["clean"], arrays["generated"]))
        write_whole(folder / f"label_{label}.png", partial(Path.write_bytes, data=png))
        strips[label] = png
    return strips


def _unwritable(out: Path, error: OSError) -> Refusal:
    if is_disk_full(error):
        return disk_full(out)
    return Refusal(
        "output_not_writable",
        f"The output directory {out} cannot be written: {error.strerror}.",
        "Choose another one by --out.",
        retryable=True,
    )
