"""Queries on tenants, API keys, idempotency keys and workers."""

import hashlib
import secrets
from collections.abc import Sequence

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.core.tables import ApiKey, IdempotencyKey, Tenant, Worker, now

KEY_PREFIX = "tl_"
IDEMPOTENCY_SECONDS = 24 * 3600
MISSED_HEARTBEATS = 3  # so many, and a worker counts as gone


def ensure_tenant(session: Session, tenant_id: str) -> None:
    if session.get(Tenant, tenant_id) is None:
        session.add(Tenant(id=tenant_id))
        session.flush()


def count_tenants(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Tenant)) or 0


def create_key(session: Session, tenant_id: str, name: str) -> tuple[ApiKey, str]:
    """A new key for a tenant (made if it is new); the secret is returned and kept nowhere."""
    ensure_tenant(session, tenant_id)
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(tenant_id=tenant_id, name=name, digest=_digest(secret))
    session.add(key)
    session.flush()
    return key, secret


def key_for(session: Session, secret: str) -> ApiKey | None:
    """The key with this secret, unless it was revoked."""
    return session.scalar(select(ApiKey).where(ApiKey.digest == _digest(secret), ApiKey.revoked_at.is_(None)))


def keys(session: Session) -> Sequence[ApiKey]:
    return session.scalars(select(ApiKey).order_by(ApiKey.id)).all()


def usable_keys(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(ApiKey).where(ApiKey.revoked_at.is_(None))) or 0


def revoke_key(session: Session, key_id: str) -> bool:
    """Make a key useless from now on; False if there is no such usable key."""
    changed = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)).values(revoked_at=now())
    return session.scalar(changed.returning(ApiKey.id)) is not None


def touch_key(session: Session, key_id: str) -> None:
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=now()))


def remembered(session: Session, tenant_id: str, key: str) -> IdempotencyKey | None:
    """What was asked under an Idempotency-Key within the last day. Whoever else asks for the tenant waits."""
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update(key_share=True))
    row = session.get(IdempotencyKey, (tenant_id, key))
    age = session.scalar(select(now() - row.created_at)) if row else None
    return row if age is not None and age < IDEMPOTENCY_SECONDS else None


def remember(session: Session, tenant_id: str, key: str, body_digest: str, scan_id: str) -> None:
    session.merge(
        IdempotencyKey(tenant_id=tenant_id, key=key, body_digest=body_digest, scan_id=scan_id, created_at=now())
    )


def forget_old_keys(session: Session) -> None:
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now() - IDEMPOTENCY_SECONDS))


def see_worker(session: Session, worker: Worker) -> None:
    """Say that a worker is alive, and which queues it serves by now; its row is made at the first time, or again after
    it was swept."""
    known = {"seen_at": now(), "queues": worker.queues}
    seen = update(Worker).where(Worker.id == worker.id).values(known).returning(Worker.id)
    if session.scalar(seen) is None:
        session.merge(worker).seen_at = now()


def forget_worker(session: Session, worker_id: str) -> None:
    session.execute(delete(Worker).where(Worker.id == worker_id))


def workers(session: Session, seen_within: float) -> Sequence[Worker]:
    """The workers that were seen within so many seconds."""
    return session.scalars(select(Worker).where(Worker.seen_at > now() - seen_within).order_by(Worker.id)).all()


def living_workers(session: Session, heartbeat_seconds: float) -> Sequence[Worker]:
    """The workers that have not missed so many heartbeats that they count as gone."""
    return workers(session, MISSED_HEARTBEATS * heartbeat_seconds)


def forget_lost_workers(session: Session, unseen_seconds: float) -> None:
    session.execute(delete(Worker).where(Worker.seen_at < now() - unseen_seconds))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
