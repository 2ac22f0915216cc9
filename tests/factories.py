"""Rows for tests: each function makes one that is complete, and a keyword changes what a test is about."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.core import scheduling
from app.core.config import ScanConfig
from app.core.errors import Problem
from app.core.findings import Decision, FamilyFinding, InputSpec, LabelFinding, Preparation, Reason, Verdict
from app.core.intake.declaration import DeclaredInput
from app.core.jobs import ScanJob
from app.core.lifecycle import JobState
from app.core.plan import Task
from app.core.repository import access, jobs
from app.core.tables import DEFAULT_TENANT, Artifact, Job, Scan, new_id, now

PROBLEM = Problem("worker_lost", "The worker was lost.", "Try again.")


def tenant(session: Session, name: str = "another") -> str:
    access.ensure_tenant(session, name)
    return name


def artifact(session: Session, tenant_id: str = DEFAULT_TENANT, **columns: Any) -> Artifact:
    row = Artifact(**{"tenant_id": tenant_id, "sha256": new_id() * 2, "kind": "model", "size": 1000} | columns)
    session.add(row)
    session.flush()
    return row


def scan(session: Session, tenant_id: str = DEFAULT_TENANT, **columns: Any) -> Scan:
    """A queued scan without a job."""
    standard: dict[str, Any] = {
        "id": new_id(),
        "tenant_id": tenant_id,
        "model_sha256": "a" * 64,
        "bundle_sha256": "b" * 64,
        "request": request().to_json(),
        "request_digest": "c" * 64,
        "engine_version": "1",
    }
    row = Scan(**standard | columns)
    session.add(row)
    session.flush()
    return row


def begun(session: Session, tenant_id: str = DEFAULT_TENANT, **columns: Any) -> Scan:
    """A queued scan whose first job is ready."""
    row = scan(session, tenant_id, **columns)
    scheduling.begin(session, row, "cpu")
    return row


def job(session: Session, of: Scan, task: Task, queue: str = "cpu") -> Job:
    """A ready job of a scan."""
    assert jobs.add(session, of, task, queue)
    return jobs_of(session, of)[-1]


def jobs_of(session: Session, scan: Scan) -> Sequence[Job]:
    """All jobs of a scan, in the order they were made."""
    return jobs.of_scan(session, scan.id, *JobState)


def taken(session: Session, of: Scan | None = None, lease_seconds: float = 60.0, queue: str = "cpu") -> Job:
    """The next ready job, of this scan if one is named, claimed; its scan runs."""
    row = jobs.claim(session, [queue], "worker", lease_seconds, of.id if of else None)
    assert row is not None and scheduling.claimed(session, row)
    return row


def aged(session: Session, row: Any, column: str, seconds: float) -> None:
    """Put a time of a row so many seconds into the past."""
    table, key = type(row), row.__mapper__.primary_key_from_instance(row)
    same = [column == value for column, value in zip(row.__mapper__.primary_key, key, strict=True)]
    session.execute(update(table).where(*same).values({column: now() - seconds}))


def request(**facts: Any) -> ScanJob:
    """What a scan asks for."""
    standard: dict[str, Any] = {
        "model": {"name": "model.pt", "bytes": 3, "sha256": "a" * 64},
        "bundle": {"name": "bundle.zip", "bytes": 4, "sha256": "b" * 64},
        "config": ScanConfig(),
        "input": DeclaredInput(),
    }
    return ScanJob(**standard | facts)


def preparation(num_labels: int = 10, reasons: tuple[Reason, ...] = ()) -> Preparation:
    """What is known of a suspect before the search."""
    return Preparation(
        num_labels=num_labels,
        label_names=tuple(map(str, range(num_labels))),
        form="scripted",
        output="logits",
        input=InputSpec(16, 16, 1, (0.0,), (1.0,)),
        input_source="given",
        close_conventions=(),
        clean_accuracy=0.9,
        images=10,
        images_per_label=(1,) * num_labels,
        perceptual="packaged",
        perceptual_sha256="d" * 64,
        device="cpu",
        threads=1,
        reasons=reasons,
    )


def finding(label: int = 0, norm: float = 0.1, **facts: Any) -> LabelFinding:
    return LabelFinding(label, str(label), (FamilyFinding("dynamic", norm, 1.0, 0.5, 10, **facts),))


def decision(*flagged: int, doubted: Collection[int] = ()) -> Decision:
    """A verdict over three labels, or as many as are named; there is none while some are in doubt."""
    verdict = Verdict.BACKDOORED if flagged else Verdict.NO_BACKDOOR_FOUND
    found = [
        finding(label, flagged=label in flagged, in_doubt=label in doubted)
        for label in sorted({0, 1, 2, *flagged, *doubted})
    ]
    return Decision(Verdict.INCONCLUSIVE if doubted else verdict, tuple(found), 1.0)
