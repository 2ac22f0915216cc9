"""Our own errors: each has a stable code, one clear sentence, and advice."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Problem:
    """A refusal in the shape of RFC 9457 (problem details), as printed by `--json` and answered by the API."""

    code: str
    detail: str
    advice: str
    title: str = "The scan was refused"
    retryable: bool = False
    rule: str | None = None  # of the gate, with where in the archive it was broken
    member: str | None = None
    line: int | None = None

    def to_json(self) -> dict[str, object]:
        stated = {name: value for name, value in asdict(self).items() if value is not None}
        return {"type": f"urn:triggerlens:problem:{self.code}", **stated}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What we know of a problem that another process tells; TypeError for what is none."""
        return cls(**{entry.name: document[entry.name] for entry in fields(cls) if entry.name in document})


class Refusal(ValueError):
    """An input that cannot be scanned, or a place that cannot be written; the user can do something about it."""

    def __init__(self, code: str, detail: str, advice: str, retryable: bool = False) -> None:
        super().__init__(f"{detail} {advice}")
        self.problem = Problem(code, detail, advice, retryable=retryable)

    @staticmethod
    def of(problem: Problem) -> "Refusal":
        """The refusal of another process, whatever kind it was there."""
        refusal = Refusal(problem.code, problem.detail, problem.advice)
        refusal.problem = problem
        return refusal


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for lack of space, or of quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(folder: Path) -> Refusal:
    return Refusal(
        "disk_full",
        f"The disk is full: {folder} could not be written.",
        "Free some space and run the same command again; it goes on where it stopped.",
        retryable=True,
    )


@contextmanager
def refusing_full_disk(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk into a refusal; all others pass."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(folder) from error
        raise
