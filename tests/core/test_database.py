"""Transactions: a writer waits its turn, a reader waits for nobody, and what fails has not happened."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import StatementError

from app.core.database import Database
from app.core.tables import DEFAULT_TENANT, Artifact, Scan, new_id, now
from tests import factories
from tests.threads import at_once
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.threads


def test_a_writer_that_meets_another_waits_for_it(database: Database) -> None:
    def read_then_write() -> None:
        with database.writing() as session:
            scan = session.scalar(select(Scan).with_for_update())
            assert scan is not None
            time.sleep(0.02)
            scan.output_bytes += 1

    with database.writing() as session:
        factories.scan(session)
    at_once(*[read_then_write] * 8)
    with database.reading() as session:
        assert session.scalar(select(Scan.output_bytes)) == 8


def test_a_reader_does_not_wait_for_a_writer_and_sees_what_was_committed(database: Database) -> None:
    with database.writing() as session:
        factories.artifact(session)
        with database.reading() as reader:
            assert reader.scalar(select(func.count()).select_from(Artifact)) == 0
    with database.reading() as reader:
        assert reader.scalar(select(func.count()).select_from(Artifact)) == 1


def test_a_writer_does_not_wait_for_a_reader(database: Database) -> None:
    with database.reading() as reader:
        assert reader.scalars(select(Artifact)).all() == []
        with database.writing() as session:
            factories.artifact(session)


def test_a_block_that_fails_leaves_everything_as_it_was(database: Database) -> None:
    def write_then_fail() -> None:
        with database.writing() as session:
            factories.artifact(session)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_then_fail()
    with database.reading() as session:
        assert session.scalars(select(Artifact)).all() == []


def test_rows_stay_readable_after_their_session(database: Database) -> None:
    with database.writing() as session:
        written = factories.scan(session)
    with database.reading() as session:
        read = session.get(Scan, written.id)
    assert read is not None
    assert (read.tenant_id, read.created_at) == (written.tenant_id, written.created_at)
    assert read.tenant_id == DEFAULT_TENANT


def test_the_clock_is_the_time_and_goes_on_within_a_transaction(database: Database) -> None:
    with database.writing() as session:
        before = time.time()
        earlier = session.scalar(select(now()))
        assert earlier is not None and before - 0.01 <= earlier <= time.time() + 0.01
        time.sleep(0.05)
        assert 0.05 - 0.01 <= (session.scalar(select(now())) or 0) - earlier <= time.time() - before + 0.01


def test_a_row_keeps_to_its_foreign_keys(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key"), database.writing() as session:
        factories.scan(session, "a tenant that does not exist")


def test_ids_of_one_process_sort_by_age() -> None:
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert {len(made) for made in ids} == {32}


@pytest.mark.slow
def test_two_processes_may_start_on_a_new_database_at_the_same_time(empty_database: Database) -> None:
    url = empty_database.url.render_as_string(hide_password=False)
    start = f"from app.core import migrating, database; migrating.upgrade(database.Database({url!r}))"
    root = Path(__file__).parents[2]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", start], cwd=root, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )

    assert [done.stderr for done in at_once(run, run)] == ["", ""]


def test_many_threads_may_read_at_the_same_time(database: Database) -> None:
    inside = threading.Barrier(10, timeout=PATIENCE_SECONDS)

    def read() -> None:
        with database.reading() as session:
            session.scalars(select(Scan)).all()
            inside.wait()

    at_once(*[read] * 10)


@pytest.mark.parametrize("database", [pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_a_client_that_stands_still_within_a_transaction_holds_nobody_up_for_long(database: Database) -> None:
    with database.reading() as session:
        assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "30s"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_a_number_that_is_not_finite_is_refused_before_it_is_sent(database: Database, number: float) -> None:
    with pytest.raises((ValueError, StatementError), match="not JSON compliant"), database.writing() as session:
        factories.scan(session, summary={"model_anomaly_index": number})
    with database.reading() as session:
        assert session.scalars(select(Scan)).all() == []
