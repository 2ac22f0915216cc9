"""What an engine reports of a task, one JSON object a line; read as a stranger's words."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from app.core.families import FAMILIES
from app.core.plan import JobKind, Task
from app.core.progress import Doing

Event = dict[str, Any]
MOST = 10**6
MOST_JOBS = 10**4  # of a kind: whoever estimates what is left looks at each
Count = Annotated[int, Field(ge=1, le=MOST)]
Seconds = Annotated[FiniteFloat, Field(ge=0, le=10**9)]


class Stage(TypedDict):
    event: Literal["stage"]
    stage: Literal[
        "prepare", "students", "pretrain", "first_pass", "invert", "confirm", "repair", "verify", "reactivate"
    ]


class Prepared(TypedDict):
    event: Literal["prepared"]
    labels: int
    names: list[str]
    images: int


class Step(TypedDict):
    """So many steps are done for these labels; for none of a block that a first pass looks at."""

    event: Literal["step"]
    labels: list[int]
    done: Count
    of: Count


class Label(TypedDict):
    """A label's finding is there."""

    event: Literal["label"]
    label: int
    norm: FiniteFloat | None
    attack_success_rate: FiniteFloat | None


class Epoch(TypedDict):
    """So much of a repair is done."""

    event: Literal["epoch"]
    done: Count
    of: Count


class Ahead(TypedDict):
    kind: JobKind
    jobs: Annotated[int, Field(ge=1, le=MOST_JOBS)]
    seconds: Seconds


class Work(TypedDict):
    """What the task is at, how long it still takes, and what comes after it."""

    event: Literal["work"]
    doing: Doing
    family: str
    number: Count
    of: Count
    seconds_left: Seconds | None
    ahead: Annotated[list[Ahead], Field(max_length=len(JobKind))]


class Done(TypedDict):
    event: Literal["done"]


class Problem(TypedDict):
    code: str
    detail: str
    advice: str
    title: NotRequired[str]
    retryable: NotRequired[bool]
    rule: NotRequired[str | None]
    member: NotRequired[str | None]
    line: NotRequired[int | None]


class Refused(TypedDict):
    event: Literal["refused"]
    problem: Problem


EVENT: TypeAdapter[Any] = TypeAdapter(
    Annotated[Stage | Prepared | Step | Label | Epoch | Work | Done | Refused, Field(discriminator="event")]
)


def read_event(line: bytes, task: Task) -> Event:
    """An event of a task; raises ValidationError for what is none, or speaks of a label that is not the task's or of a
    family that is none."""
    event: Event = EVENT.validate_json(line)
    if event["event"] == "work" and event["family"] not in ("", *FAMILIES):
        raise ValidationError.from_exception_data("Event", [])
    if event["event"] == "prepared" and len(event["names"]) != event["labels"]:
        raise ValidationError.from_exception_data("Event", [])
    labels = event["labels"] if event["event"] == "step" else [event["label"]] if event["event"] == "label" else []
    if not set(labels) <= set(task.labels):
        raise ValidationError.from_exception_data("Event", [])
    return event
