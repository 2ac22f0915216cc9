"""Queries on artifacts: files by hash, within a tenant."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.lifecycle import OPEN_SCANS
from app.core.tables import Artifact, Scan, Tenant, now


def find(session: Session, tenant_id: str, sha256: str) -> Artifact | None:
    return session.get(Artifact, (tenant_id, sha256))


def lock(session: Session, tenant_id: str, sha256: str) -> Artifact | None:
    """The artifact, and nobody else adds or deletes it until the transaction ends."""
    return session.get(Artifact, (tenant_id, sha256), populate_existing=True, with_for_update=True)


def keep(session: Session, tenant_id: str, sha256: str) -> Artifact | None:
    """The artifact, and nobody deletes it until the transaction ends."""
    return session.get(Artifact, (tenant_id, sha256), populate_existing=True, with_for_update={"read": True})


def take_turns(session: Session) -> None:
    """Whoever else wants to add an artifact waits until the transaction ends, and then counts this one, too."""
    session.execute(select(Tenant.id).order_by(Tenant.id).limit(1).with_for_update(key_share=True))


def add(session: Session, artifact: Artifact) -> None:
    session.add(artifact)
    session.flush()


def delete(session: Session, artifact: Artifact) -> None:
    session.delete(artifact)
    session.flush()


def lock_made_by(session: Session, scan: Scan) -> Sequence[Artifact]:
    """The repaired weights that belong to a scan, locked."""
    mine = select(Artifact).where(Artifact.tenant_id == scan.tenant_id, Artifact.scan_id == scan.id)
    return session.scalars(mine.order_by(Artifact.sha256).with_for_update()).all()


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
