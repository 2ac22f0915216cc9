"""What becomes of a scan when something happens to one of its jobs. Each function works within the caller's transaction
and locks the scan first, so of two workers that end the last two blocks one sees that nothing is open any more.
"""

from typing import Any

from sqlalchemy.orm import Session

from app.core.errors import Problem
from app.core.findings import Decision, Preparation, Selection
from app.core.jobs import ScanJob
from app.core.lifecycle import JOB_MOVES, MOST_LOSSES, OPEN_JOBS, OPEN_SCANS, JobState, ScanStatus
from app.core.plan import FIRST, next_tasks
from app.core.report.card import coming_back
from app.core.repository import jobs, scans
from app.core.tables import Job, Scan, now

NOTHING_LEFT = Problem(
    "internal_error",
    "The scan has no job left and no result.",
    "This is a defect: please report it, then request the scan again.",
    title="The scan failed",
)


def begin(session: Session, scan: Scan, compute_queue: str) -> None:
    """Make the first job of a new scan ready."""
    scans.tell(session, scan.id, ScanStatus.QUEUED)
    jobs.add(session, scan, FIRST, compute_queue)


def claimed(session: Session, job: Job) -> bool:
    """A worker has taken a job: the scan runs, in this stage. False if the scan ended in the same moment."""
    scan = scans.lock(session, job.scan_id)
    assert scan is not None
    if scan.status not in OPEN_SCANS:
        _end(job, JobState.CANCELLED)
        return False
    if scan.status == ScanStatus.QUEUED:
        scans.move(session, scan, ScanStatus.RUNNING)
    if scan.stage != job.kind:
        scan.stage = job.kind
        session.flush()
        scans.tell(session, scan.id, "stage", stage=job.kind)
    return True


def done(
    session: Session,
    job: Job,
    compute_queue: str,
    request: ScanJob,
    preparation: Preparation | None,
    decision: Decision | None,
    selection: Selection | None = None,
) -> list[str]:
    """A job held under a lease has ended well: make what follows ready. Returns the queues to ring.

    `decision` is that of the job's round. A job that is there, whatever became of it, is not made again.
    """
    scan = scans.lock(session, job.scan_id)
    assert scan is not None
    _end(job, JobState.DONE)
    session.flush()
    if scan.status not in OPEN_SCANS:
        return []
    if scan.cancel_requested:
        _end_if_idle(session, scan)
        return []
    if jobs.of_scan(session, scan.id, *OPEN_JOBS):
        return []
    following = next_tasks(jobs.task_of(job), request, preparation, decision, selection)
    added = [task for task in following if jobs.add(session, scan, task, compute_queue)]
    return [job.queue for job in jobs.of_scan(session, scan.id, JobState.READY)] if added else []


def fail(session: Session, job: Job, problem: Problem) -> None:
    """A job held under a lease cannot end well, and its scan with it."""
    scan = scans.lock(session, job.scan_id)
    assert scan is not None
    _end(job, JobState.FAILED)
    job.problem = problem.to_json()
    _cancel_ready(session, scan)
    if scan.status in OPEN_SCANS:
        scans.move(session, scan, ScanStatus.FAILED, problem=problem.to_json())


def release(session: Session, job: Job, problem: Problem | None = None) -> list[str]:
    """A running job was given up by its worker: ready again, or cancelled with its scan. With a problem it counts as a
    loss, and the third one quarantines the job. Returns the queues to ring."""
    scan = scans.lock(session, job.scan_id)
    assert scan is not None
    if scan.cancel_requested or scan.status not in OPEN_SCANS:
        _end(job, JobState.CANCELLED)
        _end_if_idle(session, scan)
        return []
    if problem is not None:
        job.losses += 1
        job.problem = problem.to_json()
        if job.losses >= MOST_LOSSES:
            fail(session, job, problem)
            return []
    _make_ready(job)
    session.flush()
    return [job.queue]


def cancel(session: Session, scan: Scan) -> None:
    """Ask for the end of a locked, open scan; it ends at once if nobody is working on it."""
    scan.cancel_requested = True
    _end_if_idle(session, scan)


def go_on(session: Session, scan: Scan) -> None:
    """Nothing of a locked, open scan is left to do, and it has not ended: what follows its last job was missed.

    That job is made ready again; it finds its results, or costs one block. It counts as a loss, so what cannot go on
    comes to an end, as does a scan of which no job is done.
    """
    if jobs.of_scan(session, scan.id, *OPEN_JOBS):
        return  # somebody was quicker
    if scan.cancel_requested:
        _end_if_idle(session, scan)
        return
    last = next(reversed(jobs.of_scan(session, scan.id, JobState.DONE)), None)
    if last is None or last.losses + 1 >= MOST_LOSSES:
        scans.move(session, scan, ScanStatus.FAILED, problem=NOTHING_LEFT.to_json())
        return
    last.losses += 1
    _make_ready(last)
    session.flush()


def _end_if_idle(session: Session, scan: Scan) -> None:
    """Cancel a scan whose end was asked for, once none of its jobs runs."""
    _cancel_ready(session, scan)
    if scan.status in OPEN_SCANS and not jobs.of_scan(session, scan.id, JobState.RUNNING):
        scans.move(session, scan, ScanStatus.CANCELLED)


def _cancel_ready(session: Session, scan: Scan) -> None:
    for job in jobs.ready_for_nobody(session, scan.id):
        _end(job, JobState.CANCELLED)
    session.flush()


def _make_ready(job: Job) -> None:
    _move(job, JobState.READY)
    job.lease_owner = job.finished_at = job.outputs = None


def _end(job: Job, state: JobState) -> None:
    _move(job, state)
    job.finished_at = now()


def _move(job: Job, state: JobState) -> None:
    assert state in JOB_MOVES[JobState(job.state)], f"a job does not go from {job.state} to {state}"
    job.state, job.lease_expires_at = state, None


def summary_of(document: dict[str, Any]) -> dict[str, Any]:
    """What a list of scans shows of a report."""
    repair = document["repair"]
    return {
        "flagged_labels": document["flagged_labels"],
        "model_anomaly_index": document["model_anomaly_index"],
        "reasons": document["reasons"],
        "caveats": document["caveats"],
        "repair_status": repair["status"] if repair else None,
        "repair_reason": repair["reason"] if repair else None,
        "repair_detail": repair["detail"] if repair else None,
        "comes_back": repair["comes_back"] if repair else None,
        "coming_back": coming_back(repair) if repair and repair["comes_back"] else None,
    }
