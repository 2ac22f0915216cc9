"""The states of a scan and of its jobs, and the moves they allow. Standard library only.

A scan moves forward only. A job may go back to ready: when its worker gave it up, when it was lost with its worker, and
when what should have followed it was missed. The last two are losses, and the third one ends the scan.
"""

from enum import StrEnum

MOST_LOSSES = 3  # a job that took three workers with it is not given to a fourth


class ScanStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"  # with a verdict, which may be inconclusive; a check has none
    FAILED = "failed"  # with a problem: a refused input, or a defect
    CANCELLED = "cancelled"


class JobState(StrEnum):
    READY = "ready"
    RUNNING = "running"  # under a lease
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


SCAN_MOVES: dict[ScanStatus, frozenset[ScanStatus]] = {
    ScanStatus.QUEUED: frozenset({ScanStatus.RUNNING, ScanStatus.FAILED, ScanStatus.CANCELLED}),
    ScanStatus.RUNNING: frozenset({ScanStatus.FINISHED, ScanStatus.FAILED, ScanStatus.CANCELLED}),
    ScanStatus.FINISHED: frozenset(),
    ScanStatus.FAILED: frozenset(),
    ScanStatus.CANCELLED: frozenset(),
}
JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.READY: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.READY}),
    JobState.DONE: frozenset({JobState.READY}),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
OPEN_SCANS = frozenset(status for status, moves in SCAN_MOVES.items() if moves)
OPEN_JOBS = frozenset({JobState.READY, JobState.RUNNING})
