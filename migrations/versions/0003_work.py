"""A job tells what it is at and how long it still takes, where it told how many steps of how many were done."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("steps_done")
        jobs.drop_column("steps_total")
        jobs.add_column(sa.Column("work", sa.JSON()))


def downgrade() -> None:
    for name in ("steps_done", "steps_total"):
        op.add_column("jobs", sa.Column(name, sa.Integer()))
        op.execute(f"UPDATE jobs SET {name} = 0")
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("steps_done", existing_type=sa.Integer(), nullable=False)
        jobs.alter_column("steps_total", existing_type=sa.Integer(), nullable=False)
        jobs.drop_column("work")
