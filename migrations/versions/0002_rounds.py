"""A job knows the round of searches that it belongs to.

A search for confirmation that is open becomes the decision which comes before it now; who works on it has lost it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("round", sa.Integer()))
    op.execute("UPDATE jobs SET round = 0")
    op.execute(
        "UPDATE jobs SET kind = 'decide', queue = 'cpu', state = 'ready', lease_token = lease_token + 1, "
        "lease_owner = NULL, lease_expires_at = NULL WHERE kind = 'confirm' AND state IN ('ready', 'running')"
    )
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("round", existing_type=sa.Integer(), nullable=False)
        jobs.drop_constraint("uq_jobs_scan_id_kind_key", type_="unique")
        jobs.create_unique_constraint("uq_jobs_scan_id_kind_round_key", ["scan_id", "kind", "round", "key"])


def downgrade() -> None:
    op.execute("DELETE FROM jobs WHERE round > 0")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint("uq_jobs_scan_id_kind_round_key", type_="unique")
        jobs.create_unique_constraint("uq_jobs_scan_id_kind_key", ["scan_id", "kind", "key"])
        jobs.drop_column("round")
