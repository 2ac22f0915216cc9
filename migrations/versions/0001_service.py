"""The service: tenants and their keys, artifacts, scans with jobs, findings and events, and the workers."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    tenants = op.create_table(
        "tenants",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
    )
    op.bulk_insert(tenants, [{"id": "default", "created_at": time.time()}])

    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), nullable=False),
        _tenant_id("api_keys"),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("last_used_at", sa.Double()),
        sa.Column("revoked_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    )

    op.create_table(
        "artifacts",
        _tenant_id("artifacts"),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("parent_sha256", sa.String(64)),
        sa.Column("scan_id", sa.String(32)),
        sa.PrimaryKeyConstraint("tenant_id", "sha256", name="pk_artifacts"),
    )

    op.create_table(
        "scans",
        sa.Column("id", sa.String(32), nullable=False),
        _tenant_id("scans"),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("stage", sa.String(16)),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("bundle_sha256", sa.String(64), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("engine_version", sa.String(32), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("labels_total", sa.Integer()),
        sa.Column("verdict", sa.String(32)),
        sa.Column("summary", sa.JSON()),
        sa.Column("problem", sa.JSON()),
        sa.Column("output_bytes", sa.BigInteger(), nullable=False),
        sa.Column("last_event", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("finished_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_scans"),
    )
    op.create_index("ix_scans_tenant_id_id", "scans", ["tenant_id", "id"])
    op.create_index("ix_scans_tenant_id_request_digest", "scans", ["tenant_id", "request_digest"])
    op.create_index("ix_scans_status_id", "scans", ["status", "id"])

    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), nullable=False),
        _tenant_id("jobs"),
        _scan_id("jobs"),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("queue", sa.String(16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(32)),
        sa.Column("lease_expires_at", sa.Double()),
        sa.Column("steps_done", sa.Integer(), nullable=False),
        sa.Column("steps_total", sa.Integer(), nullable=False),
        sa.Column("outputs", sa.JSON()),
        sa.Column("problem", sa.JSON()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("finished_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("scan_id", "kind", "key", name="uq_jobs_scan_id_kind_key"),
    )
    op.create_index("ix_jobs_state_queue_priority_scan_id", "jobs", ["state", "queue", "priority", "scan_id"])

    op.create_table(
        "label_findings",
        _scan_id("label_findings"),
        sa.Column("label", sa.Integer(), nullable=False),
        _tenant_id("label_findings"),
        sa.Column("finding", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("scan_id", "label", name="pk_label_findings"),
    )

    op.create_table(
        "events",
        _scan_id("events"),
        sa.Column("number", sa.BigInteger(), nullable=False),
        _tenant_id("events"),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("scan_id", "number", name="pk_events"),
    )

    op.create_table(
        "idempotency_keys",
        _tenant_id("idempotency_keys"),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("body_digest", sa.String(64), nullable=False),
        _scan_id("idempotency_keys"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "key", name="pk_idempotency_keys"),
    )

    op.create_table(
        "workers",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("queues", sa.String(64), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("process", sa.BigInteger(), nullable=False),
        sa.Column("device", sa.String(16), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )


def downgrade() -> None:
    for table in ("workers", "idempotency_keys", "events", "label_findings", "jobs", "scans", "artifacts", "api_keys"):
        op.drop_table(table)
    op.drop_table("tenants")


def _tenant_id(table: str) -> sa.Column[str]:
    tenant = sa.ForeignKey("tenants.id", name=f"fk_{table}_tenant_id")
    return sa.Column("tenant_id", sa.String(64), tenant, nullable=False)


def _scan_id(table: str) -> sa.Column[str]:
    scan = sa.ForeignKey("scans.id", name=f"fk_{table}_scan_id", ondelete="CASCADE")
    return sa.Column("scan_id", sa.String(32), scan, nullable=False)
