"""Queries on artifacts: files by hash, within a tenant."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.lifecycle import OPEN_SCANS
from app.core.tables import Artifact, Scan, now


def find(session: Session, tenant_id: str, sha256: str) -> Artifact | None:
    return session.get(Artifact, (tenant_id, sha256))


def lock(session: Session, tenant_id: str, sha256: str) -> Artifact | None:
    """The artifact, and nobody else adds or deletes it until the transaction ends."""
    return session.get(Artifact, (tenant_id, sha256), populate_existing=True, with_for_update=True)


def add(session: Session, artifact: Artifact) -> None:
    session.add(artifact)
    session.flush()


def delete(session: Session, artifact: Artifact) -> None:
    session.delete(artifact)


def made_by(session: Session, scan: Scan) -> Sequence[Artifact]:
    """The repaired weights that belong to a scan."""
    return session.scalars(
        select(Artifact).where(Artifact.tenant_id == scan.tenant_id, Artifact.scan_id == scan.id)
    ).all()


def stored_bytes(session: Session) -> int:
    """The size of everything that is kept, of all tenants."""
    artifacts = session.scalar(select(func.coalesce(func.sum(Artifact.size), 0))) or 0
    outputs = session.scalar(select(func.coalesce(func.sum(Scan.output_bytes), 0))) or 0
    return int(artifacts) + int(outputs)


def expired(session: Session, retention_days: float, limit: int = 100) -> Sequence[Artifact]:
    """Artifacts older than the retention time that no open scan needs."""
    used = select(Scan.id).where(
        Scan.tenant_id == Artifact.tenant_id,
        Scan.status.in_(OPEN_SCANS),
        (Scan.model_sha256 == Artifact.sha256) | (Scan.bundle_sha256 == Artifact.sha256),
    )
    old = Artifact.created_at < now() - retention_days * 86_400, Artifact.scan_id.is_(None), ~used.exists()
    return session.scalars(select(Artifact).where(*old).limit(limit)).all()
