"""Queries on scans, their findings and their events. Each takes the tenant, or a scan that was found through one."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.core.findings import LabelFinding
from app.core.lifecycle import OPEN_JOBS, OPEN_SCANS, SCAN_MOVES, ScanStatus
from app.core.tables import Event, Job, LabelRow, Scan, now


def find(session: Session, tenant_id: str, scan_id: str) -> Scan | None:
    return session.scalar(select(Scan).where(Scan.tenant_id == tenant_id, Scan.id == scan_id))


def lock(session: Session, scan_id: str) -> Scan | None:
    """The scan, which nobody else changes until this transaction ends."""
    query = select(Scan).where(Scan.id == scan_id).with_for_update().execution_options(populate_existing=True)
    return session.scalar(query)


def finished_like(session: Session, tenant_id: str, request_digest: str, engine_version: str) -> Scan | None:
    """The newest finished scan of an equal request by this engine."""
    wanted = Scan.tenant_id == tenant_id, Scan.request_digest == request_digest, Scan.status == ScanStatus.FINISHED
    same = Scan.engine_version == engine_version
    return session.scalar(select(Scan).where(*wanted, same).order_by(Scan.id.desc()).limit(1))


def page(
    session: Session,
    tenant_id: str,
    limit: int,
    before: str | None = None,
    **equal: str | None,
) -> Sequence[Scan]:
    """Up to `limit` scans, newest first, older than the id `before`, whose columns equal what is given."""
    query = select(Scan).where(Scan.tenant_id == tenant_id)
    if before is not None:
        query = query.where(Scan.id < before)
    for column, value in equal.items():
        if value is not None:
            query = query.where(getattr(Scan, column) == value)
    return session.scalars(query.order_by(Scan.id.desc()).limit(limit)).all()


def queued_before(session: Session, scan: Scan) -> int:
    """How many open scans of any tenant are served before a queued one."""
    earlier = (Scan.priority > scan.priority) | ((Scan.priority == scan.priority) & (Scan.id < scan.id))
    return session.scalar(select(func.count()).where(Scan.status.in_(OPEN_SCANS), earlier)) or 0


def using_artifact(session: Session, tenant_id: str, sha256: str) -> str | None:
    """The id of an open scan that needs an artifact."""
    uses = (Scan.model_sha256 == sha256) | (Scan.bundle_sha256 == sha256)
    return session.scalar(
        select(Scan.id).where(Scan.tenant_id == tenant_id, Scan.status.in_(OPEN_SCANS), uses).limit(1)
    )


def move(session: Session, scan: Scan, status: ScanStatus, **facts: Any) -> None:
    """Give a locked scan its next status and tell it as an event of that name."""
    assert status in SCAN_MOVES[ScanStatus(scan.status)], f"a scan does not go from {scan.status} to {status}"
    scan.status = status
    for name, value in facts.items():
        setattr(scan, name, value)
    clock = session.scalar(select(now()))
    if status is ScanStatus.RUNNING:
        scan.started_at = clock
    elif status not in OPEN_SCANS:
        scan.finished_at = clock
    session.flush()
    tell(session, scan.id, status, verdict=scan.verdict, problem=scan.problem)


def tell(session: Session, scan_id: str, event: str, /, **data: Any) -> None:
    """Append an event to a scan's log."""
    numbered = (
        update(Scan)
        .where(Scan.id == scan_id)
        .values(last_event=Scan.last_event + 1)
        .returning(Scan.last_event, Scan.tenant_id)
    )
    number, tenant_id = session.execute(numbered).one()
    known = {key: value for key, value in data.items() if value is not None}
    session.add(Event(scan_id=scan_id, number=number, tenant_id=tenant_id, name=event, data=known))


def events_after(session: Session, scan: Scan, number: int, limit: int = 500) -> Sequence[Event]:
    query = select(Event).where(Event.scan_id == scan.id, Event.number > number)
    return session.scalars(query.order_by(Event.number).limit(limit)).all()


def record_finding(session: Session, scan: Scan, finding: LabelFinding) -> bool:
    """Keep a label's finding in the place of an earlier one; True if it is the label's first."""
    row = session.get(LabelRow, (scan.id, finding.label))
    if row is not None:
        row.finding = asdict(finding)
        return False
    session.add(LabelRow(scan_id=scan.id, label=finding.label, tenant_id=scan.tenant_id, finding=asdict(finding)))
    session.flush()
    return True


def findings(session: Session, scan: Scan) -> Sequence[LabelRow]:
    return session.scalars(select(LabelRow).where(LabelRow.scan_id == scan.id).order_by(LabelRow.label)).all()


def counts(session: Session) -> dict[str, int]:
    """How many scans there are, by status, of all tenants."""
    query = select(Scan.status, func.count()).group_by(Scan.status)
    return dict(session.execute(query).all())


def running(session: Session) -> int:
    """How many scans run, of all tenants."""
    return session.scalar(select(func.count()).where(Scan.status == ScanStatus.RUNNING)) or 0


def delete(session: Session, scan: Scan) -> None:
    """Remove a scan with all rows that belong to it."""
    session.delete(scan)


def expired(session: Session, retention_days: float, limit: int = 100) -> Sequence[Scan]:
    """Scans that ended longer ago than the retention time."""
    ended = Scan.status.not_in(OPEN_SCANS), Scan.finished_at < now() - retention_days * 86_400
    return session.scalars(select(Scan).where(*ended).order_by(Scan.id).limit(limit)).all()


def without_open_jobs(session: Session) -> Sequence[str]:
    """Ids of open scans in which nothing is left to do: their fan-in was missed."""
    open_job = select(Job.id).where(Job.scan_id == Scan.id, Job.state.in_(OPEN_JOBS)).exists()
    return session.scalars(select(Scan.id).where(Scan.status.in_(OPEN_SCANS), ~open_job)).all()
