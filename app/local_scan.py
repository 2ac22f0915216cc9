"""A scan on this machine with no server: inputs in, a directory with report, pictures and repaired weights out.

    OUT/report.json  report.html  figures/  repaired.pt  repaired.safetensors  repaired.intoto.jsonl
    OUT/.job/        the job directory, there only until the scan is finished; an interrupted one is resumed

It follows the plan (app/core/plan.py), blocks of labels side by side; it runs no torch.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.core.clock import MACHINE, Clock
from app.core.errors import Refusal, disk_full, is_disk_full
from app.core.findings import Reason, RepairReport, RepairStatus, Unrepaired, Verdict
from app.core.intake.archive import check_torchscript_archive
from app.core.intake.members import check_is_file, unreadable
from app.core.jobs import STATEMENT, WEIGHTS, JobDirectory, ScanJob, sha256_of, write_whole
from app.core.plan import FIRST, JobKind, next_tasks
from app.core.report.document import check_document
from app.course import Course
from worker.lanes import lanes_for, run_side_by_side
from worker.launch import ScanSession
from worker.sandbox.events import Event
from worker.sandbox.fence import Sandbox

if TYPE_CHECKING:  # cryptography is only needed where something is signed
    from securesystemslib.signer import CryptoSigner

READY, DOUBTFUL = 0, 3
EXIT_CODES = {Verdict.NO_BACKDOOR_FOUND: 0, Verdict.BACKDOORED: 1, Verdict.INCONCLUSIVE: 3}
REFUSED, OUT_OF_TIME = 4, 5
REPORT = ("report.json", "report.html", "figures/label_*.png")


@dataclass(frozen=True)
class LocalResult:
    """A finished, partial or refused scan; `document` is the report, None of a repair alone or for lack of time."""

    exit_code: int
    document: dict[str, Any] | None
    repair: RepairReport | None


def job_for(model: Path, bundle: Path, **options: Any) -> ScanJob:
    """The job for two files, with their hashes; raises Refusal for what is no TorchScript archive or no file."""
    facts = check_torchscript_archive(model)
    try:
        check_is_file(bundle)
        digest = sha256_of(bundle)
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
    sandbox: Sandbox = "none",
    clock: Clock = MACHINE,
    lanes: int = 1,
    signer: "CryptoSigner | None" = None,
) -> LocalResult:
    """Run a job to its end, or go on with it if `out` holds the same job unfinished.

    So many engines work side by side, at most.

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
        raise unwritable(out, error) from error
    try:
        with ExitStack() as open_sessions:
            options: dict[str, Any] = {"time_limit": time_limit, "sandbox": sandbox, "clock": clock, "signer": signer}
            course = Course(on_event, clock, job)
            sessions = [
                open_sessions.enter_context(ScanSession(directory, course.listener(lane), **options, lane=lane))
                for lane in range(lanes)
            ]
            run_tasks(sessions, job, course)
        result = _conclude(directory, job, out)
    except Refusal as refusal:
        if not refusal.problem.retryable:
            _discard(directory, out, existed)
        raise
    except OSError as error:
        raise unwritable(out, error) from error
    if result.exit_code != OUT_OF_TIME:
        shutil.rmtree(directory.root)
    on_event({"event": "finished"})
    return result


def run_check(
    job: ScanJob, model: Path, bundle: Path, on_event: Callable[[Event], None], sandbox: Sandbox = "none"
) -> dict[str, Any]:
    """What a scan of these would take for true: the document of a check; raises Refusal, EngineCrashError.

    Nothing of it is kept.
    """
    with tempfile.TemporaryDirectory(prefix="triggerlens-") as place:
        directory = JobDirectory(Path(place) / "job")
        _place_inputs(directory, job, model, bundle)
        course = Course(on_event, MACHINE, job)
        with ScanSession(directory, course.listener(0), sandbox=sandbox) as session:
            run_tasks([session], job, course)
        preparation = directory.read_preparation()
        assert preparation is not None, "a check has no time limit"
        inputs = {"model": job.model, "bundle": job.bundle}
        return check_document(directory.read_structure(), preparation, inputs, directory.read_timings())


def run_tasks(sessions: Sequence[ScanSession], job: ScanJob, course: Course | None = None) -> None:
    """Every task of the plan; those that do not wait for each other in all sessions that there is memory for, on a GPU
    in the first.

    What the time limit leaves undone is passed over.
    """
    directory, tasks = sessions[0].directory, [FIRST]
    with ThreadPoolExecutor(len(sessions)) as pool:
        while tasks:
            preparation = directory.read_preparation()
            lanes = sessions if preparation is None else sessions[: lanes_for(preparation, job.model["bytes"])]
            if course is not None:
                course.begin(tasks, lanes)
            run_side_by_side(pool, lanes[: len(tasks)], tasks)
            done, preparation = tasks[-1], directory.read_preparation()
            if preparation is None and done.kind is JobKind.PREPARE:
                return  # out of time before anything is known
            decision, selection = directory.read_decision(done.round), directory.read_selection()
            tasks = next_tasks(done, job, preparation, decision, selection)


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
    """Hand over what was made, and say how it ended."""
    result = _scan_result(directory) if job.repair_label is None else _repair_result(directory, job.repair_label)
    report = REPORT if result.document is not None else ()
    weights = result.repair.files if result.repair is not None else ()
    hand_over(directory, out, {*report, *weights})
    return result


def _scan_result(directory: JobDirectory) -> LocalResult:
    document, repair = directory.read_report(), directory.read_repair()
    if document is None:
        return LocalResult(OUT_OF_TIME, None, None)
    repair_left_out = directory.read_job().repair and document["flagged_labels"] and repair is None
    if repair_left_out or Reason.SEARCH_TRUNCATED in document["reasons"]:
        return LocalResult(OUT_OF_TIME, document, repair)
    return LocalResult(EXIT_CODES[Verdict(document["verdict"])], document, repair)


def _repair_result(directory: JobDirectory, label: int) -> LocalResult:
    preparation, repair = directory.read_preparation(), directory.read_repair()
    if repair is None and preparation is not None and preparation.reasons:
        why = ", ".join(reason.value for reason in preparation.reasons)
        detail = f"No trigger could be searched ({why})."
        repair = RepairReport(RepairStatus.REFUSED, detail, (label,), Unrepaired.NO_TRIGGER)
    if repair is None:
        return LocalResult(OUT_OF_TIME, None, None)
    return LocalResult(0 if repair.status.hands_out_weights else EXIT_CODES[Verdict.INCONCLUSIVE], None, repair)


def hand_over(directory: JobDirectory, out: Path, made: set[str]) -> None:
    """Move results into `out`, where nothing of an earlier scan stays, and all that is not a scan's does."""
    for pattern in (*REPORT, *WEIGHTS, STATEMENT):
        for old in out.glob(pattern):
            old.unlink()
        for new in directory.result.glob(pattern) if pattern in made else ():
            place = out / new.relative_to(directory.result)
            place.parent.mkdir(exist_ok=True)
            os.replace(new, place)
    figures = out / "figures"  # a scan that searched nothing has none
    if figures.is_dir() and not any(figures.iterdir()):
        figures.rmdir()


def unwritable(out: Path, error: OSError) -> Refusal:
    if is_disk_full(error):
        return disk_full(out)
    return Refusal(
        "output_not_writable",
        f"The output directory {out} cannot be written: {error.strerror}.",
        "Choose another one by --out.",
        retryable=True,
    )
