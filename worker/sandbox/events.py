"""What an engine reports of a task, one JSON object a line; read as a stranger's words."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from app.core.plan import Task

Event = dict[str, Any]


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
    done: int
    of: int


class Label(TypedDict):
    """A label's finding is there."""

    event: Literal["label"]
    label: int
    norm: FiniteFloat | None
    attack_success_rate: FiniteFloat | None


class Epoch(TypedDict):
    """So much of a repair is done."""

    event: Literal["epoch"]
    done: int
    of: int


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
    Annotated[Stage | Prepared | Step | Label | Epoch | Done | Refused, Field(discriminator="event")]
)


def read_event(line: bytes, task: Task) -> Event:
    """An event of a task; raises ValidationError for what is none, or is about a label that is not the task's."""
    event: Event = EVENT.validate_json(line)
    labels = event["labels"] if event["event"] == "step" else [event["label"]] if event["event"] == "label" else []
    if not set(labels) <= set(task.labels):
        raise ValidationError.from_exception_data("Event", [])
    return event
