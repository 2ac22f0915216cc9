"""The database: who asked for what, how far it is, and what was found. Bytes live in the artifact store.

Every row belongs to a tenant. Times are seconds since the epoch by the database's clock (`now()`), so machines with
clocks of their own agree on leases. Ids begin with the time, so sorting by id is sorting by age.
"""

import secrets
import time
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Double, ForeignKey, Index, Integer, MetaData, String, UniqueConstraint
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.functions import GenericFunction

from app.core.lifecycle import JobState, ScanStatus

DEFAULT_TENANT = "default"


class now(GenericFunction[float]):  # noqa: N801  read as SQL: where(Job.lease_expires_at < now())
    """Seconds since the epoch on the database's clock; not frozen at the start of a transaction."""

    type = Double()
    inherit_cache = True
    name = "triggerlens_now"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


def new_id() -> str:
    """32 hexadecimal digits, the first sixteen of them nanoseconds since the epoch: those of a process ascend."""
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        float: Double(),
        int: BigInteger(),
        str: String(),
    }


def _tenant() -> Mapped[str]:
    return mapped_column(String(64), ForeignKey("tenants.id"))


class Tenant(Base):
    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[float] = mapped_column(default=now())


class ApiKey(Base):
    """A key is shown once; only its SHA-256 is kept (it is 256 random bits, so no slow hash is needed)."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    tenant_id: Mapped[str] = _tenant()
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[float] = mapped_column(default=now())
    last_used_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class Artifact(Base):
    """An immutable file, known by its hash within its tenant."""

    __tablename__ = "artifacts"

    tenant_id: Mapped[str] = mapped_column(String(64), ForeignKey("tenants.id"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # model, bundle or weights
    size: Mapped[int]
    created_at: Mapped[float] = mapped_column(default=now())
    parent_sha256: Mapped[str | None] = mapped_column(String(64))  # the model that was repaired
    scan_id: Mapped[str | None] = mapped_column(String(32))  # the scan that made it and takes it along when deleted


class Scan(Base):
    __tablename__ = "scans"
    __table_args__ = (
        Index(None, "tenant_id", "id"),
        Index(None, "tenant_id", "request_digest"),
        Index(None, "status", "id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    tenant_id: Mapped[str] = _tenant()
    status: Mapped[ScanStatus] = mapped_column(String(16), default=ScanStatus.QUEUED)
    stage: Mapped[str | None] = mapped_column(String(16))  # the kind of the newest job that was begun
    model_sha256: Mapped[str] = mapped_column(String(64))
    bundle_sha256: Mapped[str] = mapped_column(String(64))
    request: Mapped[dict[str, Any]]  # what was asked for: config, input, repair (app.core.jobs.ScanJob)
    request_digest: Mapped[str] = mapped_column(String(64))  # equal for requests that must get equal answers
    engine_version: Mapped[str] = mapped_column(String(32))  # who computed it; until somebody has, who would (versions)
    priority: Mapped[int] = mapped_column(Integer, default=0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    labels_total: Mapped[int | None] = mapped_column(Integer)  # to be searched in full
    verdict: Mapped[str | None] = mapped_column(String(32))
    summary: Mapped[dict[str, Any] | None]  # of a finished scan: flagged labels, repair status, what it took for true
    problem: Mapped[dict[str, Any] | None]  # of a failed one
    output_bytes: Mapped[int] = mapped_column(default=0)
    last_event: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[float] = mapped_column(default=now())
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]


class Job(Base):
    """One task of a scan (app.core.plan), and who holds it. `lease_token` counts the claims: a result that comes with
    an older token is from a worker that was given up on, and is not written."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("scan_id", "kind", "round", "key"),
        Index(None, "state", "queue", "priority", "scan_id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    tenant_id: Mapped[str] = _tenant()
    scan_id: Mapped[str] = mapped_column(ForeignKey("scans.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(16))
    key: Mapped[str] = mapped_column(String(32), default="")  # tells those of a kind and round apart: the first label
    labels: Mapped[list[Any]]
    queue: Mapped[str] = mapped_column(String(16))
    priority: Mapped[int] = mapped_column(Integer, default=0)
    state: Mapped[JobState] = mapped_column(String(16), default=JobState.READY)
    losses: Mapped[int] = mapped_column(Integer, default=0)
    lease_token: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(32))
    lease_expires_at: Mapped[float | None]
    outputs: Mapped[dict[str, Any] | None]  # path in the result directory -> {key, sha256, size} in the store
    problem: Mapped[dict[str, Any] | None]
    created_at: Mapped[float] = mapped_column(default=now())
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    round: Mapped[int] = mapped_column(Integer, default=0)  # of searches, from 0
    work: Mapped[dict[str, Any] | None]  # what it is at, as it told last (app.core.progress.Work)


class LabelRow(Base):
    """A finding (app.core.findings.LabelFinding), there as soon as its label was searched."""

    __tablename__ = "label_findings"

    scan_id: Mapped[str] = mapped_column(ForeignKey("scans.id", ondelete="CASCADE"), primary_key=True)
    label: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    tenant_id: Mapped[str] = _tenant()
    finding: Mapped[dict[str, Any]]
    created_at: Mapped[float] = mapped_column(default=now())


class Event(Base):
    """What happened to a scan, numbered from 1 within it."""

    __tablename__ = "events"

    scan_id: Mapped[str] = mapped_column(ForeignKey("scans.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant_id: Mapped[str] = _tenant()
    name: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]]
    created_at: Mapped[float] = mapped_column(default=now())


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"

    tenant_id: Mapped[str] = mapped_column(String(64), ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_digest: Mapped[str] = mapped_column(String(64))
    scan_id: Mapped[str] = mapped_column(ForeignKey("scans.id", ondelete="CASCADE"))
    created_at: Mapped[float] = mapped_column(default=now())


class Worker(Base):
    """A process that takes jobs, alive as long as it is seen."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    queues: Mapped[str] = mapped_column(String(64))  # comma-separated
    host: Mapped[str]
    process: Mapped[int]
    device: Mapped[str] = mapped_column(String(16))
    version: Mapped[str] = mapped_column(String(32))  # of its engine (app.core.versions)
    started_at: Mapped[float] = mapped_column(default=now())
    seen_at: Mapped[float] = mapped_column(default=now())
