"""The lifecycle: whatever happens, and in whatever order, scans and jobs move only as allowed."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.core import scheduling
from app.core.database import Database
from app.core.lifecycle import (
    JOB_MOVES,
    MOST_LOSSES,
    OPEN_JOBS,
    OPEN_SCANS,
    SCAN_MOVES,
    JobState,
    ScanStatus,
)
from app.core.plan import JobKind
from app.core.repository import jobs, scans
from app.core.tables import DEFAULT_TENANT, Job, Scan
from tests import factories
from tests.factories import PROBLEM

# What may happen to a scan, each to its oldest running job where it is about one.


def claim(session: Session, scan: Scan, running: Job | None) -> None:
    job = jobs.claim(session, ["cpu"], "worker", 60)
    if job is not None:
        assert scheduling.claimed(session, job)


def finish(session: Session, scan: Scan, running: Job | None) -> None:
    if running is not None:
        scheduling.done(session, running, "cpu", factories.request(), factories.preparation(10), factories.decision(1))
        if running.kind == JobKind.REPORT and scan.status == ScanStatus.RUNNING:
            scans.move(session, scan, ScanStatus.FINISHED, verdict="backdoored")


def stop(session: Session, scan: Scan, running: Job | None) -> None:
    if running is not None:
        scheduling.release(session, running)


def lose(session: Session, scan: Scan, running: Job | None) -> None:
    if running is not None:
        scheduling.release(session, running, PROBLEM)


def refuse(session: Session, scan: Scan, running: Job | None) -> None:
    if running is not None:
        scheduling.fail(session, running, PROBLEM)


def cancel(session: Session, scan: Scan, running: Job | None) -> None:
    if scan.status in OPEN_SCANS:
        scheduling.cancel(session, scan)


Happening = Callable[[Session, Scan, Job | None], None]
USUAL: list[Happening] = [claim, finish]
HAPPENINGS = st.lists(st.sampled_from([*USUAL * 4, stop, lose, refuse, cancel]), max_size=40)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happenings=HAPPENINGS)
def test_whatever_happens_scans_and_jobs_move_only_as_allowed(database: Database, happenings: list[Happening]) -> None:
    with database.writing() as session:
        session.execute(delete(Scan))
        scan_id = factories.begun(session).id
    status, states = ScanStatus.QUEUED, {}
    for happens in happenings:
        with database.writing() as session:
            scan = scans.lock(session, scan_id)
            assert scan is not None
            happens(session, scan, next(iter(jobs.of_scan(session, scan_id, JobState.RUNNING)), None))
        with database.reading() as session:
            scan = scans.find(session, DEFAULT_TENANT, scan_id)
            assert scan is not None
            assert scan.status == status or scan.status in SCAN_MOVES[status]
            status = ScanStatus(scan.status)
            for job in factories.jobs_of(session, scan):
                state = JobState(job.state)
                before = states.get(job.id, JobState.READY)
                assert state == before or state in JOB_MOVES[before]
                assert job.losses <= MOST_LOSSES
                states[job.id] = state
            assert (scan.finished_at is None) == (status in OPEN_SCANS)
            if status in OPEN_SCANS:
                assert OPEN_JOBS & set(states.values()), "an open scan has something left to do"
            else:
                assert JobState.READY not in states.values(), "an ended scan asks for no work"
            events = scans.events_after(session, scan, 0)
            assert [event.number for event in events] == list(range(1, scan.last_event + 1))
            told = [event.name for event in events if event.name != "stage"]
            assert told[0] == "queued" and told[-1] == status and len(told) == len(set(told))


@pytest.mark.parametrize("status", ScanStatus)
def test_a_scan_makes_exactly_the_moves_that_are_allowed(database: Database, status: ScanStatus) -> None:
    for target in ScanStatus:
        with database.writing() as session:
            scan = factories.scan(session, status=status)
            if target in SCAN_MOVES[status]:
                scans.move(session, scan, target)
            else:
                with pytest.raises(AssertionError, match="a scan does not go from"):
                    scans.move(session, scan, target)


def test_no_scan_comes_back_to_where_it_was() -> None:
    def reachable(status: ScanStatus) -> set[ScanStatus]:
        return {later for move in SCAN_MOVES[status] for later in {move, *reachable(move)}}

    assert [status for status in ScanStatus if status in reachable(status)] == []


def test_what_is_open_can_move_and_what_has_ended_cannot() -> None:
    assert {"queued", "running"} == OPEN_SCANS
    assert {"ready", "running"} == OPEN_JOBS
    assert SCAN_MOVES.keys() == set(ScanStatus) and JOB_MOVES.keys() == set(JobState)
