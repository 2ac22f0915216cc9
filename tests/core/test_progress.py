"""How far a scan is: a share that only its jobs decide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.lifecycle import JobState
from app.core.plan import JobKind
from app.core.progress import KNOWN_PACE, SHARES, Steps, eta_seconds, progress

JOBS = st.builds(
    Steps,
    kind=st.sampled_from(JobKind),
    state=st.sampled_from(JobState),
    queue=st.just("cpu"),
    labels=st.integers(0, 9),
    done=st.integers(0, 300),
    total=st.integers(0, 200),
)


def steps(kind: JobKind, state: JobState = JobState.DONE, labels: int = 0, done: int = 0, total: int = 0) -> Steps:
    return Steps(kind, state, "cpu", labels, done, total)


@given(st.lists(JOBS), st.booleans())
def test_progress_is_a_share_whatever_the_jobs_are(jobs: list[Steps], repair: bool) -> None:
    jobs = [job for job in jobs if repair or job.kind is not JobKind.REPAIR]
    assert 0 <= progress(jobs, repair) <= 1
    assert progress(jobs[::-1], repair) == pytest.approx(progress(jobs, repair))


def test_a_scan_that_waits_has_not_begun_and_one_that_reported_is_done() -> None:
    assert progress([], repair=True) == progress([steps(JobKind.INSPECT, JobState.READY)], repair=False) == 0
    assert progress([steps(kind) for kind in JobKind if kind is not JobKind.REPAIR], repair=False) == 1
    assert progress([steps(JobKind.REPORT)], repair=True) == 1  # asked for, but not needed


def test_blocks_count_by_their_labels() -> None:
    large, small = steps(JobKind.INVERT, labels=9), steps(JobKind.INVERT, JobState.RUNNING, 1, done=1, total=2)
    before = SHARES[JobKind.INSPECT] + SHARES[JobKind.PREPARE]
    assert progress([large, small], repair=True) == pytest.approx((before + SHARES[JobKind.INVERT] * 0.95) / 100)


def test_a_first_pass_is_a_part_of_the_search_and_no_scan_goes_back_for_it() -> None:
    prepared = [steps(JobKind.INSPECT), steps(JobKind.PREPARE)]
    looking = [*prepared, steps(JobKind.FIRST_PASS, JobState.RUNNING, 25, done=0, total=3)]
    searching = [
        *prepared,
        steps(JobKind.FIRST_PASS, labels=25),
        steps(JobKind.SELECT),
        steps(JobKind.INVERT, labels=5),
    ]
    assert progress(prepared, repair=False) == pytest.approx(progress(looking, repair=False))
    in_full = [*prepared, steps(JobKind.INVERT, labels=25)]
    assert progress(searching, repair=False) == pytest.approx(progress(in_full, repair=False))


def test_the_rest_takes_as_long_as_the_pace_says() -> None:
    assert eta_seconds(0.25, 10) == 30
    assert eta_seconds(KNOWN_PACE / 2, 10) is None
