"""How far a scan is, and how long it still takes: told by its jobs, and by nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.families import FAMILIES
from app.core.lifecycle import JobState
from app.core.plan import JobKind
from app.core.progress import (
    QUICK_SECONDS,
    SHARES,
    STAGES,
    WORDS,
    Ahead,
    Doing,
    JobProgress,
    Outlook,
    Work,
    at,
    outlook,
    told,
)

SECONDS = st.floats(0, 1e6)
WORK = st.builds(
    Work,
    doing=st.sampled_from(Doing),
    family=st.sampled_from(["", *FAMILIES]),
    number=st.integers(1, 3),
    of=st.integers(1, 3),
    seconds_left=st.none() | SECONDS,
    ahead=st.lists(
        st.builds(Ahead, kind=st.sampled_from(JobKind), jobs=st.integers(1, 200), seconds=SECONDS), max_size=3
    ).map(tuple),
)
JOBS = st.builds(
    JobProgress,
    kind=st.sampled_from(JobKind),
    state=st.sampled_from(JobState),
    queue=st.just("cpu"),
    labels=st.integers(0, 9),
    seconds=SECONDS,
    work=st.none() | WORK,
)


def job(
    kind: JobKind, state: JobState = JobState.DONE, labels: int = 0, seconds: float = 0.0, left: float | None = None,
    ahead: tuple[Ahead, ...] = (),
) -> JobProgress:  # fmt: skip
    work = None if left is None else Work(Doing.SEARCH, "static", seconds_left=left, ahead=ahead)
    return JobProgress(kind, state, "cpu", labels, seconds, work)


@given(st.lists(JOBS), st.booleans(), st.integers(1, 4))
def test_progress_is_a_share_whatever_the_jobs_are(jobs: list[JobProgress], repair: bool, lanes: int) -> None:
    jobs = [job for job in jobs if repair or job.kind is not JobKind.REPAIR]
    found = outlook(jobs, repair, lanes)
    assert 0 <= found.share <= 1 and (found.seconds_left is None or found.seconds_left >= 0)


@given(st.lists(JOBS, max_size=5), st.integers(1, 4))
def test_more_lanes_leave_no_more_to_wait_for(jobs: list[JobProgress], lanes: int) -> None:
    one, many = outlook(jobs, True, 1).seconds_left, outlook(jobs, True, lanes).seconds_left
    assert (one is None) == (many is None)
    if one is not None and many is not None:
        assert many <= one * (1 + 1e-9)


@given(WORK)
def test_what_a_job_is_at_is_read_as_it_was_told(work: Work) -> None:
    again = Work.from_json(work.to_json())
    assert again.to_json() == work.to_json() and again.words == work.words


def test_a_scan_that_waits_has_not_begun_and_one_that_reported_is_done() -> None:
    assert outlook([], repair=True) == outlook([job(JobKind.INSPECT, JobState.READY)], repair=False) == Outlook(0.0)
    assert outlook([job(kind) for kind in JobKind if kind is not JobKind.REPAIR], repair=False).share == 1
    assert outlook([job(JobKind.REPORT)], repair=True).share == 1  # asked for, but not needed


def test_before_anybody_knows_how_long_it_takes_the_kinds_that_are_over_count() -> None:
    large, small = job(JobKind.INVERT, labels=9), job(JobKind.INVERT, JobState.RUNNING, 1, seconds=4)
    before = SHARES[JobKind.INSPECT] + SHARES[JobKind.PREPARE]
    assert outlook([large, small], repair=True) == Outlook(pytest.approx((before + SHARES[JobKind.INVERT] * 0.9) / 100))


def test_a_first_pass_is_a_part_of_the_search_and_no_scan_goes_back_for_it() -> None:
    prepared = [job(JobKind.INSPECT), job(JobKind.PREPARE)]
    looking = [*prepared, job(JobKind.FIRST_PASS, JobState.RUNNING, 25)]
    searching = [*prepared, job(JobKind.FIRST_PASS, labels=25), job(JobKind.SELECT), job(JobKind.INVERT, labels=5)]
    assert outlook(prepared, repair=False).share == pytest.approx(outlook(looking, repair=False).share)
    in_full = [*prepared, job(JobKind.INVERT, labels=25)]
    assert outlook(searching, repair=False).share == pytest.approx(outlook(in_full, repair=False).share)


def test_what_is_left_is_that_of_the_jobs_at_hand_of_those_that_wait_and_of_those_ahead() -> None:
    ahead = Ahead(JobKind.CONFIRM, 1, 6.0), Ahead(JobKind.REPAIR, 1, 10.0)
    jobs = [
        job(JobKind.PREPARE, seconds=10, left=0),
        job(JobKind.INVERT, labels=5, seconds=50, left=0),
        job(JobKind.INVERT, JobState.RUNNING, 5, seconds=20, left=30, ahead=ahead),
        job(JobKind.INVERT, JobState.READY, 4),
    ]
    after = 6 + 10 + 2 * QUICK_SECONDS
    assert outlook(jobs, True, lanes=1) == Outlook(pytest.approx(80 / (80 + 30 + 40 + after)), 30 + 40 + after)
    assert outlook(jobs, True, lanes=2).seconds_left == 40 + after, "ten seconds a label, beside the other block"


def test_a_block_that_has_begun_and_says_nothing_yet_is_expected_to_take_what_others_take() -> None:
    ahead = (Ahead(JobKind.INVERT, 2, 40.0),)
    prepared = job(JobKind.PREPARE, seconds=10, left=0, ahead=ahead)
    begun = job(JobKind.INVERT, JobState.RUNNING, 5, seconds=4)
    assert outlook([prepared], True, 2).seconds_left == 40 + 2 * QUICK_SECONDS
    assert outlook([prepared, begun], True, 2).seconds_left == 36 + 2 * QUICK_SECONDS


def test_what_is_done_is_told_in_words() -> None:
    assert set(WORDS) == set(Doing) and set(STAGES) == set(JobKind)
    work = Work(Doing.SEARCH_STUDENTS, "static", 2, 3, 4.25)
    assert work.words == "searching static triggers on students, 2 of 3"
    assert Work(Doing.UNDERSTAND).words == "learning how model and images fit together"
    jobs = [job(JobKind.INVERT), JobProgress(JobKind.INVERT, JobState.RUNNING, "cpu", 5, 1.0, work)]
    assert at(jobs) == work and at(jobs[:1]) is None
    assert told(Outlook(0.51239, 7.04), work) == {"progress": 0.5124, "doing": work.words, "eta_seconds": 7.0}
    assert told(Outlook(0.0), None) == {"progress": 0.0, "doing": None, "eta_seconds": None}
