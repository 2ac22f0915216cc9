"""How far a scan is, told from its jobs: a share of the way, and how long the rest takes at the pace so far."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.core.lifecycle import JobState
from app.core.plan import JobKind

# What part of a scan's time each kind of job takes, about: a bar that moves evenly needs no more.
SHARES = {
    JobKind.INSPECT: 1,
    JobKind.PREPARE: 14,
    JobKind.INVERT: 61,
    JobKind.DECIDE: 1,  # the first time; once labels in doubt were searched again, it takes no time to speak of
    JobKind.CONFIRM: 4,
    JobKind.REPAIR: 15,
    JobKind.REPORT: 4,
}
OF_MANY_LABELS = {JobKind.FIRST_PASS: 30, JobKind.SELECT: 1, JobKind.INVERT: 30}  # a part of a search of all in full
KNOWN_PACE = 0.05  # below this share of the way an estimate is a guess


@dataclass(frozen=True)
class Steps:
    """How far one job is."""

    kind: JobKind
    state: JobState
    queue: str
    labels: int
    done: int
    total: int

    @property
    def share(self) -> float:
        if self.state == JobState.DONE:
            return 1.0
        return min(self.done / self.total, 1.0) if self.total else 0.0


def progress(jobs: Sequence[Steps], repair: bool) -> float:
    """The share of a scan that is done, in [0, 1]; a kind of job is over when a later kind has begun."""
    shares = SHARES | (OF_MANY_LABELS if any(job.kind in (JobKind.FIRST_PASS, JobKind.SELECT) for job in jobs) else {})
    order = [kind for kind in JobKind if kind in shares and (repair or kind is not JobKind.REPAIR)]
    newest = max((order.index(job.kind) for job in jobs), default=0)
    done = 1.0 * sum(shares[kind] for kind in order[:newest])
    current = [job for job in jobs if job.kind is order[newest]]
    weight = sum(max(job.labels, 1) for job in current)
    if weight:
        done += shares[order[newest]] * sum(max(job.labels, 1) * job.share for job in current) / weight
    return done / sum(shares[kind] for kind in order)


def eta_seconds(progress: float, elapsed_seconds: float) -> float | None:
    """How long the rest takes if it goes on as it did; None before a pace is known."""
    if progress < KNOWN_PACE:
        return None
    return max(elapsed_seconds, 0.0) * (1 - progress) / progress
