"""How far a scan is and how long it still takes, told from its jobs.

A job tells what it is at, how long it still takes and what it expects of those that come after it (Work). Before one
does, there is no estimate, and the bar goes by what part of a scan each kind of job usually takes.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from app.core.lifecycle import OPEN_JOBS, JobState
from app.core.plan import WITHOUT_TORCH, JobKind

# What part of a scan's time each kind of job takes, about.
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
QUICK_SECONDS = 1.0  # of a job without torch

STAGES: Mapping[str, str] = {
    JobKind.INSPECT: "Looking at the files",
    JobKind.PREPARE: "Loading the model, fitting the images to it",
    JobKind.FIRST_PASS: "Looking through the labels",
    JobKind.SELECT: "Choosing the labels to search in full",
    JobKind.INVERT: "Searching a trigger for each label",
    JobKind.DECIDE: "Comparing the labels",
    JobKind.CONFIRM: "Searching again where a label stands out",
    JobKind.REPAIR: "Unlearning the trigger",
    JobKind.REPORT: "Writing the report",
}


class Doing(StrEnum):
    """What a job is at."""

    LOAD = "load"
    UNDERSTAND = "understand"
    TRY = "try"
    STUDENTS = "students"
    LOOK_THROUGH = "look_through"
    PRETRAIN = "pretrain"
    SEARCH = "search"
    READ = "read"
    SEARCH_STUDENTS = "search_students"
    READ_STUDENTS = "read_students"
    TRY_STUDENTS = "try_students"
    SEARCH_AGAIN = "search_again"
    READ_AGAIN = "read_again"
    JUDGE = "judge"
    UNLEARN = "unlearn"
    SEARCH_AFRESH = "search_afresh"
    READ_AFRESH = "read_afresh"
    PACKAGE = "package"
    REACTIVATE = "reactivate"


WORDS = {
    Doing.LOAD: "loading model and images",
    Doing.UNDERSTAND: "learning how model and images fit together",
    Doing.TRY: "trying what a search takes",
    Doing.STUDENTS: "training students",
    Doing.PRETRAIN: "training what every generator begins as",
    Doing.LOOK_THROUGH: "looking through the labels for {} triggers",
    Doing.SEARCH: "searching {} triggers",
    Doing.READ: "reading {} triggers at equal success",
    Doing.SEARCH_STUDENTS: "searching {} triggers on students",
    Doing.READ_STUDENTS: "reading {} triggers on students at equal success",
    Doing.TRY_STUDENTS: "trying {} triggers on students",
    Doing.SEARCH_AGAIN: "searching {} triggers again",
    Doing.READ_AGAIN: "reading {} triggers again",
    Doing.JUDGE: "judging the repair",
    Doing.UNLEARN: "unlearning triggers",
    Doing.SEARCH_AFRESH: "searching {} triggers in the repaired model",
    Doing.READ_AFRESH: "reading {} triggers in the repaired model",
    Doing.PACKAGE: "packaging the weights",
    Doing.REACTIVATE: "trying to bring triggers back",
}


@dataclass(frozen=True)
class Ahead:
    """So many jobs of a kind that are still to come, and the seconds that each is expected to take."""

    kind: JobKind
    jobs: int
    seconds: float


@dataclass(frozen=True)
class Work:
    """What a job is at, how long it still takes, and what comes after it; None before that is known."""

    doing: Doing
    family: str = ""  # of triggers
    number: int = 1
    of: int = 1
    seconds_left: float | None = None
    ahead: tuple[Ahead, ...] = ()
    seconds_worked: float = 0.0  # when it told so, by the clock of who heard it

    @property
    def words(self) -> str:
        words = WORDS[self.doing].format(self.family)
        return words if self.of == 1 else f"{words}, {self.number} of {self.of}"

    def to_json(self) -> dict[str, Any]:
        return {
            "doing": self.doing.value,
            "family": self.family,
            "number": self.number,
            "of": self.of,
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 2),
            "ahead": [{"kind": a.kind.value, "jobs": a.jobs, "seconds": round(a.seconds, 2)} for a in self.ahead],
            "seconds_worked": round(self.seconds_worked, 2),
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Self:
        ahead = tuple(Ahead(JobKind(later["kind"]), later["jobs"], later["seconds"]) for later in told["ahead"])
        named = {name: told[name] for name in ("family", "number", "of", "seconds_left")}
        return cls(Doing(told["doing"]), **named, ahead=ahead, seconds_worked=told.get("seconds_worked", 0.0))


@dataclass(frozen=True)
class JobProgress:
    """How far one job is."""

    kind: JobKind
    state: JobState
    queue: str
    labels: int
    seconds: float = 0.0  # since it was begun, until it ended or told last
    work: Work | None = None  # what it told last

    @property
    def seconds_left(self) -> float | None:
        """As it says itself."""
        if self.state is JobState.DONE:
            return 0.0
        return self.work.seconds_left if self.state is JobState.RUNNING and self.work is not None else None


@dataclass(frozen=True)
class Outlook:
    """The share of a scan that is done, in [0, 1], and how long the rest takes, once that is known."""

    share: float
    seconds_left: float | None = None


def outlook(jobs: Sequence[JobProgress], repair: bool, lanes: int = 1) -> Outlook:
    """How a scan stands, whose jobs are done so many at a time where they do not wait for each other."""
    left = _left(jobs)
    if left is None:
        return Outlook(_usual_share(jobs, repair))
    worked, rest = sum(job.seconds for job in jobs), sum(map(sum, left))
    share = 1.0 if rest == 0 else worked / (worked + rest)
    return Outlook(share, sum(_side_by_side(seconds, lanes) for seconds in left))


def at(jobs: Sequence[JobProgress]) -> Work | None:
    """What a scan is at: of jobs side by side the first that tells."""
    return next((job.work for job in jobs if job.state is JobState.RUNNING and job.work is not None), None)


def told(outlook: Outlook, work: Work | None) -> dict[str, Any]:
    """How a scan stands, as events and answers tell it."""
    left = outlook.seconds_left
    return {
        "progress": round(outlook.share, 4),
        "doing": None if work is None else work.words,
        "eta_seconds": None if left is None else round(left, 1),
    }


def _usual_share(jobs: Sequence[JobProgress], repair: bool) -> float:
    """By what kinds of jobs are over: each is when a later one has begun."""
    shares = SHARES | (OF_MANY_LABELS if any(job.kind in (JobKind.FIRST_PASS, JobKind.SELECT) for job in jobs) else {})
    order = [kind for kind in JobKind if kind in shares and (repair or kind is not JobKind.REPAIR)]
    newest = max((order.index(job.kind) for job in jobs), default=0)
    done = 1.0 * sum(shares[kind] for kind in order[:newest])
    current = [job for job in jobs if job.kind is order[newest]]
    weight = sum(max(job.labels, 1) for job in current)
    if weight:
        over = sum(max(job.labels, 1) for job in current if job.state is JobState.DONE)
        done += shares[order[newest]] * over / weight
    return done / sum(shares[kind] for kind in order)


def _left(jobs: Sequence[JobProgress]) -> list[list[float]] | None:
    """The seconds of every job that is still to be done, by kind, in the order of kinds; None before they are known."""
    order = list(JobKind)
    telling = [job for job in jobs if job.work is not None and job.work.seconds_left is not None]
    if not telling:
        return None
    newest = max(order.index(job.kind) for job in jobs)
    latest = max(telling, key=lambda job: (order.index(job.kind), job.state is JobState.RUNNING, job.seconds))
    assert latest.work is not None
    ahead = {later.kind: later for later in latest.work.ahead}
    left: dict[JobKind, list[float]] = {kind: [] for kind in order}
    for job in sorted(jobs, key=lambda job: job.state is not JobState.RUNNING):  # those at work keep their lanes
        if job.state in OPEN_JOBS:
            seconds = _left_of(job, jobs, ahead)
            if seconds is None:
                return None
            left[job.kind].append(seconds)
    for kind in order[newest + 1 :]:
        if kind in ahead:
            left[kind] = [ahead[kind].seconds] * ahead[kind].jobs
        elif kind in (JobKind.DECIDE, JobKind.REPORT):
            left[kind] = [QUICK_SECONDS]
    return list(left.values())


def _left_of(job: JobProgress, jobs: Sequence[JobProgress], ahead: Mapping[JobKind, Ahead]) -> float | None:
    """What an open job still takes: as it says, as its like took for so many labels, or as was expected before."""
    if job.seconds_left is not None:
        return job.seconds_left
    like = [
        (other.seconds + other.seconds_left, other.labels)
        for other in jobs
        if other.kind is job.kind and other.labels and other.work is not None and other.seconds_left is not None
    ]
    worked = job.seconds if job.state is JobState.RUNNING else 0.0
    if like and job.labels:
        per_label = sum(seconds for seconds, _ in like) / sum(labels for _, labels in like)
        return max(per_label * job.labels - worked, 0.0)
    if job.kind in ahead:
        return max(ahead[job.kind].seconds - worked, 0.0)
    return QUICK_SECONDS if job.kind in WITHOUT_TORCH else None


def _side_by_side(seconds: Sequence[float], lanes: int) -> float:
    """How long jobs take together, each begun as soon as one of the lanes is free."""
    free = [0.0] * max(1, lanes)
    for taken in seconds:
        heapq.heappush(free, heapq.heappop(free) + taken)
    return max(free)
