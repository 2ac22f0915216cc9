"""Queries on jobs: who may work on what, and until when. A lease is held by (job, token), never by a process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.core.lifecycle import OPEN_JOBS, JobState
from app.core.plan import WITHOUT_TORCH, JobKind, Task
from app.core.progress import JobProgress, Work
from app.core.tables import Job, Scan, new_id, now


@dataclass(frozen=True)
class Lease:
    """The right to work on a job: worth nothing once somebody else holds a higher token."""

    job_id: str
    token: int


def add(session: Session, scan: Scan, task: Task, compute_queue: str) -> bool:
    """Make a job ready; False if it is there already (two workers may both see that it is next)."""
    key = str(task.labels[0]) if task.labels else ""
    same = Job.kind == task.kind, Job.round == task.round, Job.key == key
    if session.scalar(select(Job.id).where(Job.scan_id == scan.id, *same)) is not None:
        return False
    queue = "cpu" if task.kind in WITHOUT_TORCH else compute_queue
    session.add(
        Job(
            id=new_id(),
            tenant_id=scan.tenant_id,
            scan_id=scan.id,
            kind=task.kind,
            round=task.round,
            key=key,
            labels=list(task.labels),
            queue=queue,
            priority=scan.priority,
        )
    )
    session.flush()
    return True


def task_of(job: Job) -> Task:
    return Task(JobKind(job.kind), tuple(job.labels), job.round)


def claim(
    session: Session,
    queues: Sequence[str],
    worker_id: str,
    lease_seconds: float,
    prefer: str | None = None,
    only: str | None = None,
) -> Job | None:
    """Take the best ready job: of the scan `prefer`, whose engine is warm, else of the first scan in line; or of no
    scan but `only`."""
    open_to_it = (Job.scan_id == only,) if only is not None else ()
    best = (
        select(Job.id)
        .where(Job.state == JobState.READY, Job.queue.in_(queues), *open_to_it)
        .order_by((Job.scan_id == (prefer or "")).desc(), Job.priority.desc(), Job.scan_id, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    taken = (
        update(Job)
        .where(Job.id == best.scalar_subquery(), Job.state == JobState.READY)
        .values(
            state=JobState.RUNNING,
            lease_owner=worker_id,
            lease_token=Job.lease_token + 1,
            lease_expires_at=now() + lease_seconds,
            started_at=now(),
            work=None,
        )
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    return session.scalar(taken)


def renew(session: Session, lease: Lease, lease_seconds: float) -> bool:
    """Keep a lease for longer; False when it is lost."""
    return _under(session, lease, lease_expires_at=now() + lease_seconds)


def report_work(session: Session, lease: Lease, work: Work) -> bool:
    """Write down what a job is at."""
    return _under(session, lease, work=work.to_json())


def held(session: Session, lease: Lease) -> Job | None:
    """The job, locked, if the lease on it still holds."""
    query = (
        select(Job)
        .where(Job.id == lease.job_id, Job.lease_token == lease.token, Job.state == JobState.RUNNING)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return session.scalar(query)


def _under(session: Session, lease: Lease, **values: Any) -> bool:
    changed = (
        update(Job)
        .where(Job.id == lease.job_id, Job.lease_token == lease.token, Job.state == JobState.RUNNING)
        .values(**values)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(changed) is not None


def of_scan(session: Session, scan_id: str, *states: JobState) -> Sequence[Job]:
    """A scan's jobs in these states, in the order they were made."""
    return session.scalars(select(Job).where(Job.scan_id == scan_id, Job.state.in_(states)).order_by(Job.id)).all()


def ready_for_nobody(session: Session, scan_id: str) -> Sequence[Job]:
    """A scan's ready jobs, locked, without those that somebody is claiming right now (who will find the scan ended)."""
    ready = select(Job).where(Job.scan_id == scan_id, Job.state == JobState.READY)
    return session.scalars(ready.order_by(Job.id).with_for_update(skip_locked=True)).all()


def expired(session: Session) -> Sequence[Job]:
    """Running jobs whose lease has run out, locked, without those whose worker is recording something right now."""
    lost = select(Job).where(Job.state == JobState.RUNNING, Job.lease_expires_at < now())
    return session.scalars(lost.order_by(Job.scan_id, Job.id).with_for_update(skip_locked=True)).all()


def ready_queues(session: Session) -> Sequence[str]:
    """The queues on which work is waiting."""
    return session.scalars(select(Job.queue).where(Job.state == JobState.READY).distinct()).all()


def counts(session: Session) -> list[tuple[str, str, int]]:
    """How many open jobs there are, by queue and state."""
    query = select(Job.queue, Job.state, func.count()).where(Job.state.in_(OPEN_JOBS))
    return [(queue, state, count) for queue, state, count in session.execute(query.group_by(Job.queue, Job.state))]


def oldest_ready_seconds(session: Session) -> float:
    """How long the job that has been ready for longest has waited; 0 where none is."""
    waited = session.scalar(select(now() - func.min(Job.created_at)).where(Job.state == JobState.READY))
    return waited or 0.0


def progress(session: Session, scan_id: str) -> list[JobProgress]:
    """How far each job of a scan is, without what it has produced."""
    columns = Job.kind, Job.state, Job.queue, Job.labels, Job.finished_at - Job.started_at, Job.work
    rows = session.execute(select(*columns).where(Job.scan_id == scan_id).order_by(Job.id))
    return [
        JobProgress(
            JobKind(kind),
            JobState(state),
            queue,
            len(labels),
            _seconds(JobState(state), seconds, work),
            None if work is None else Work.from_json(work),
        )
        for kind, state, queue, labels, seconds, work in rows
    ]


def _seconds(state: JobState, seconds: float | None, work: dict[str, Any] | None) -> float:
    """How long a job took, or has taken when it told last: what is told of a scan changes when it tells again."""
    if state is JobState.RUNNING and work is not None:
        return Work.from_json(work).seconds_worked
    return max(seconds or 0.0, 0.0) if state is JobState.DONE else 0.0


def came_to_nothing(session: Session, lease: Lease, prefix: str) -> bool:
    """Whether an attempt at a job is over, and none of the job's results is among those that it left below a prefix.

    Nothing is said of a job that these rows do not know, or not yet so: they may be those of a backup.
    """
    job = session.get(Job, lease.job_id)
    if job is None or job.lease_token < lease.token:
        return False
    if job.lease_token == lease.token and job.state == JobState.RUNNING:
        return False
    return not any(facts["key"].startswith(prefix) for facts in (job.outputs or {}).values())


def outputs(session: Session, scan_id: str, kind: JobKind) -> dict[str, Any]:
    """The files that a finished job of this kind left: path -> {key, sha256, size}."""
    query = select(Job.outputs).where(Job.scan_id == scan_id, Job.kind == kind, Job.state == JobState.DONE)
    return session.scalar(query.limit(1)) or {}
