"""Migrations: they make what app.core.tables says, go both ways, lose no rows, and know where a database stands."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import MetaData, func, inspect, select, text

from app.core import migrating
from app.core.database import Database
from app.core.lifecycle import JobState
from app.core.migrating import MigrationState
from app.core.plan import JobKind, Task
from app.core.repository import jobs
from app.core.repository.jobs import Lease
from app.core.tables import DEFAULT_TENANT, Base, Job, Tenant
from tests import factories

NEXT = f'revision, down_revision = "9000", {ScriptDirectory(migrating.SCRIPTS).get_current_head()!r}'
ALTERS_SCANS = f"""
import sqlalchemy as sa
from alembic import op

{NEXT}

def upgrade():
    with op.batch_alter_table("scans", recreate="auto") as scans:
        scans.alter_column("verdict", type_=sa.String(64), existing_type=sa.String(32))

def downgrade():
    pass
"""
FAILS_HALF_WAY = f"""
from alembic import op

{NEXT}

def upgrade():
    op.drop_table("workers")
    op.execute("SELECT nonsense")

def downgrade():
    pass
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations, in use, to which a test may add."""
    copy = tmp_path / "migrations"
    shutil.copytree(migrating.SCRIPTS, copy)
    monkeypatch.setattr(migrating, "SCRIPTS", str(copy))
    return copy / "versions"


def shape(database: Database) -> dict[str, Any]:
    """Every table with its columns, keys, constraints and indexes, and all their names."""
    inspector = inspect(database.engine)
    return {
        table: {
            "columns": [
                (c["name"], repr(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(table)
            ],
            "primary key": inspector.get_pk_constraint(table),
            "foreign keys": sorted(inspector.get_foreign_keys(table), key=lambda key: str(key["name"])),
            "unique": inspector.get_unique_constraints(table),
            "indexes": sorted(inspector.get_indexes(table), key=lambda index: str(index["name"])),
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def test_a_migrated_database_is_what_the_tables_say(empty_database: Database) -> None:
    Base.metadata.create_all(empty_database.engine)
    wanted = shape(empty_database)
    Base.metadata.drop_all(empty_database.engine)
    migrating.upgrade(empty_database)
    assert shape(empty_database) == wanted


def test_alembic_finds_nothing_left_to_migrate(database: Database) -> None:
    with database.reading() as session:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(session.connection(), opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_go_up_and_down_and_up_again(empty_database: Database) -> None:
    migrating.upgrade(empty_database)
    first = shape(empty_database)
    migrating.downgrade(empty_database, "base")
    assert shape(empty_database) == {}
    migrating.upgrade(empty_database)
    assert shape(empty_database) == first


def test_what_was_open_before_there_were_rounds_goes_on_with_the_decision_that_comes_first_now(
    database: Database,
) -> None:
    with database.writing() as session:
        scans = [factories.scan(session) for _ in range(3)]
        searches = [factories.job(session, scan, Task(JobKind.CONFIRM), "gpu") for scan in scans]
        searches[1].state, searches[1].lease_token, searches[2].state = JobState.RUNNING, 3, JobState.DONE
        lost = Lease(searches[1].id, 3)
    migrating.downgrade(database, "0001")
    migrating.upgrade(database)
    with database.writing() as session:
        found = [
            (job.kind, job.round, job.queue, job.state) for (job,) in (factories.jobs_of(session, s) for s in scans)
        ]
        first = ("decide", 0, "cpu", "ready")
        assert found == [first, first, ("confirm", 0, "gpu", "done")]
        assert jobs.held(session, lost) is None


def test_a_migrated_database_has_the_default_tenant(database: Database) -> None:
    with database.reading() as session:
        assert session.scalars(select(Tenant.id)).all() == [DEFAULT_TENANT]


def test_migrating_again_changes_nothing(database: Database) -> None:
    with database.writing() as session:
        factories.begun(session)
    migrating.upgrade(database)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_a_migration_waits_until_another_has_ended(empty_database: Database) -> None:
    with ThreadPoolExecutor(1) as pool:
        with empty_database.writing() as another:
            lock = func.pg_advisory_xact_lock(migrating.ADVISORY_LOCK)
            another.execute(select(1 if empty_database.is_sqlite else lock))
            waiting = pool.submit(migrating.upgrade, empty_database)
            time.sleep(0.3)
            assert not waiting.done()
        waiting.result()
    assert migrating.state(empty_database) is MigrationState.CURRENT


def test_a_database_is_empty_before_its_first_migration_and_after_its_last_was_undone(empty_database: Database) -> None:
    assert migrating.state(empty_database) is MigrationState.EMPTY
    migrating.upgrade(empty_database)
    migrating.downgrade(empty_database, "base")
    assert migrating.state(empty_database) is MigrationState.EMPTY


def test_a_migrated_database_is_current(database: Database) -> None:
    assert migrating.state(database) is MigrationState.CURRENT


def test_a_database_is_behind_when_the_code_knows_more_migrations(database: Database, scripts: Path) -> None:
    (scripts / "9000_wider.py").write_text(ALTERS_SCANS)
    assert migrating.state(database) is MigrationState.BEHIND
    migrating.upgrade(database)
    assert migrating.state(database) is MigrationState.CURRENT


def test_a_database_that_a_newer_release_migrated_is_ahead_and_left_alone(database: Database) -> None:
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert migrating.state(database) is MigrationState.AHEAD
    with pytest.raises(CommandError, match="9999"):
        migrating.upgrade(database)


def test_altering_a_table_keeps_the_rows_that_point_to_it(database: Database, scripts: Path) -> None:
    with database.writing() as session:
        factories.begun(session)
    (scripts / "9000_wider.py").write_text(ALTERS_SCANS)
    migrating.upgrade(database)
    with database.writing() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1
    with pytest.raises(Exception, match=r"(?i)foreign key"), database.writing() as session:
        factories.scan(session, "a tenant that does not exist")


def test_a_migration_that_fails_has_not_happened(database: Database, scripts: Path) -> None:
    before = shape(database)
    (scripts / "9000_fails.py").write_text(FAILS_HALF_WAY)
    with pytest.raises(Exception, match="nonsense"):
        migrating.upgrade(database)
    assert shape(database) == before
    assert migrating.state(database) is MigrationState.BEHIND


def test_every_constraint_and_index_has_a_name_of_its_own_that_postgresql_does_not_cut_off() -> None:
    metadata: MetaData = Base.metadata
    named = [thing for table in metadata.tables.values() for thing in (*table.constraints, *table.indexes)]
    names = [str(thing.name) for thing in named]
    assert None not in [thing.name for thing in named]
    assert len({*names, *metadata.tables}) == len(names) + len(metadata.tables)
    assert max(map(len, names)) <= 63
