"""What the service answers, as frozen records, and its refusals as ApiError. More than we know is passed over."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import httpx

from app.core.clock import Clock
from app.core.errors import Problem
from app.core.lifecycle import OPEN_SCANS, ScanStatus

AVAILABLE_LATER = (429, 502, 503, 504)


class ApiError(Exception):
    """The service refused, failed or was not there; `status` is None where no answer came."""

    def __init__(self, problem: Problem, status: int | None = None, retry_after: float = 0.0) -> None:
        super().__init__(f"{problem.detail} {problem.advice}")
        self.problem, self.status, self.retry_after = problem, status, retry_after
        self.code, self.detail, self.advice = problem.code, problem.detail, problem.advice


@dataclass(frozen=True)
class Artifact:
    """A file that the service keeps."""

    sha256: str
    kind: str
    size: int


@dataclass(frozen=True)
class Scan:
    """A scan as the service tells it; a list of scans leaves out how far each is."""

    id: str
    status: ScanStatus
    stage: str | None = None
    progress: float | None = None
    labels_done: int | None = None
    labels_total: int | None = None
    labels: tuple[dict[str, Any], ...] = ()
    queue_position: int | None = None
    waiting_for: str | None = None
    doing: str | None = None  # what it is at, in words
    eta_seconds: float | None = None
    verdict: str | None = None
    summary: dict[str, Any] | None = None
    understood: dict[str, Any] | None = None  # what it took for true, once it has finished
    problem: dict[str, Any] | None = None  # why it failed
    model: str | None = None
    bundle: str | None = None
    repair: bool = False
    created_at: str | None = None
    finished_at: str | None = None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What we know of an answer; a newer service may say more."""
        known = {entry.name: document[entry.name] for entry in fields(cls) if entry.name in document}
        return cls(**{**known, "status": ScanStatus(known["status"]), "labels": tuple(known.get("labels", ()))})

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_SCANS


@dataclass(frozen=True)
class Event:
    """Something that happened to a scan; `progress` events have no number and are not told again."""

    number: int | None
    name: str
    data: dict[str, Any]


def told_events(answer: httpx.Response, deadline: float, clock: Clock) -> Iterator[Event]:
    """The events of a stream (WHATWG, server-sent events); TimeoutError past the deadline."""
    said: dict[str, str] = {}
    for line in answer.iter_lines():
        if clock.now() >= deadline:
            raise TimeoutError
        name, _, value = line.partition(":")
        if name:  # a comment has none
            said[name] = value.removeprefix(" ")
        elif not line and "data" in said:
            number = int(said["id"]) if "id" in said else None
            yield Event(number, said.get("event", "message"), json.loads(said["data"]))
            said = {}


def refusal_of(answer: httpx.Response) -> ApiError:
    """The problem in an answer; in our words where something else than the service answered."""
    later = answer.headers.get("retry-after", "")
    try:
        problem = Problem.from_json(answer.json())
    except (ValueError, TypeError):
        problem = Problem(
            "unexpected_answer",
            f"{answer.url.copy_with(query=None)} answered {answer.status_code} {answer.reason_phrase}.",
            "Check the address: something else than TriggerLens, or a proxy before it, may be there.",
            retryable=answer.status_code in AVAILABLE_LATER,
        )
    return ApiError(problem, answer.status_code, float(later) if later.isdecimal() else 0.0)


def unreachable(server: str, why: str) -> Problem:
    return Problem(
        "service_unreachable",
        f"No answer from {server}: {why.rstrip('.')}.",
        "Check the address, and whether the service runs there (`triggerlens serve`).",
        title="The service cannot be reached",
        retryable=True,
    )
