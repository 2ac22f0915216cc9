"""Leases, in services whose workers keep them for longer than any machine stands still: those of the dead run out."""

from pathlib import Path

from sqlalchemy import select, update

from app.core.database import Database
from app.core.tables import Job, Worker

LEASE_SECONDS = 3600


def run_out(database: Database) -> None:
    """Whatever a worker holds whose process has ended was held for long enough; the sweeper takes it back."""
    with database.writing() as session:
        dead = [worker.id for worker in session.scalars(select(Worker)) if not Path(f"/proc/{worker.process}").exists()]
        session.execute(update(Job).where(Job.lease_owner.in_(dead)).values(lease_expires_at=1.0))
