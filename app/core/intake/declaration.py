"""bundle.json: what the owner of a bundle declares about the model's input and the order of its classes.

    {"input": {"height": 32, "width": 32, "mean": [0.5], "std": [0.5], "range": [0, 1], "expected_accuracy": 0.93},
     "classes": {"cat": 0, "dog": 1}}

Every entry is optional, and an unknown one inside `input` is refused, because a misspelt `expected_acuracy` that is
silently ignored helps nobody. Whether the declaration fits the model is not known here.
"""

import json
import math
import unicodedata
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

from app.core.errors import Refusal
from app.core.intake.guards import LARGEST_LABEL
from app.core.text import printable

LARGEST_SIDE = 8192  # a classifier that looks at larger images is not what a bundle should be able to ask for


@dataclass(frozen=True)
class DeclaredInput:
    """The `input` object: what is None was not declared.

    Mean and std are in units of `range`, one per channel in the order that the model takes them in.
    """

    height: int | None = None
    width: int | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    range: tuple[float, float] | None = None
    channel_order: str | None = None  # "rgb" or "bgr"
    expected_accuracy: float | None = None

    def filled_from(self, other: "DeclaredInput | None") -> "DeclaredInput":
        """This declaration, with what it leaves open taken from another."""
        if other is None:
            return self
        said = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return DeclaredInput(**{name: getattr(other, name) if value is None else value for name, value in said.items()})


@dataclass(frozen=True)
class Declaration:
    """A whole bundle.json."""

    input: DeclaredInput | None = None
    classes: dict[str, int] = field(default_factory=dict)


def read_declaration(content: bytes) -> Declaration:
    """Reads and checks bundle.json; raises Refusal `bundle_json`."""
    try:
        return _declaration(content)
    except _MisdeclaredError as error:
        raise Refusal(
            "bundle_json",
            f"The bundle's `bundle.json` {error}.",
            'One looks like {"input": {"height": 32, "width": 32}, "classes": {"cat": 0}}; see docs/export.md.',
        ) from error


def _declaration(content: bytes) -> Declaration:
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        _refuse(f"is no JSON: {printable(str(error))}")
    if not isinstance(document, dict):
        _refuse("must be an object")
    entry = document.get("input")
    return Declaration(None if entry is None else declared_input(entry), _classes(document.get("classes", {})))


def declared_input(entry: Any) -> DeclaredInput:
    """Checks an `input` object, wherever it was declared; raises ValueError, worded as what the declaration does."""
    known = [item.name for item in fields(DeclaredInput)]
    if not isinstance(entry, dict):
        _refuse("has an `input` that is not an object")
    if strange := sorted(set(entry) - set(known)):
        _refuse(f"has an unknown entry `{printable(strange[0])}` in `input`; known are {', '.join(known)}")
    entry = {name: value for name, value in entry.items() if value is not None}
    for side in {"height", "width"} & set(entry):
        if type(entry[side]) is not int or not 1 <= entry[side] <= LARGEST_SIDE:
            _refuse(f"must give `{side}` as a whole number from 1 to {LARGEST_SIDE}")
    channels = entry.get("channels")
    if channels is not None and (type(channels) is not int or channels not in (1, 3)):
        _refuse("must give `channels` as 1 or 3")
    for name in {"mean", "std"} & set(entry):
        entry[name] = _numbers(entry[name], name, (1, 3) if channels is None else tuple({1, channels}))
    if min(entry.get("std", (1.0,))) <= 0:
        _refuse("must give a `std` above zero")
    if "range" in entry:
        low, high = entry["range"] = _numbers(entry["range"], "range", (2,))
        if low >= high:
            _refuse("must give `range` as two numbers, the smaller first, such as [0, 1]")
    if entry.get("channel_order", "rgb") not in ("rgb", "bgr"):
        _refuse('must give `channel_order` as "rgb" or "bgr"')
    if "expected_accuracy" in entry:
        (accuracy,) = _numbers(entry["expected_accuracy"], "expected_accuracy", (1,))
        if not 0 < accuracy <= 1:
            _refuse("must give `expected_accuracy` as a fraction, such as 0.93")
        entry["expected_accuracy"] = accuracy
    return DeclaredInput(**entry)


def _numbers(value: Any, name: str, lengths: tuple[int, ...]) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    if len(values) not in lengths or not all(type(number) in (int, float) for number in values):
        _refuse(f"must give `{name}` as {' or '.join(map(str, sorted(lengths)))} number(s)")
    try:
        numbers = tuple(float(number) for number in values)
    except OverflowError:  # an integer of hundreds of digits
        numbers = (math.inf,)
    if not all(math.isfinite(number) for number in numbers):
        _refuse(f"must give finite numbers for `{name}`")
    return numbers


def _classes(entry: Any) -> dict[str, int]:
    if not isinstance(entry, dict):
        _refuse("must give `classes` as an object from folder names to class indices")
    for name, index in entry.items():
        if type(index) is not int or not 0 <= index <= LARGEST_LABEL:
            _refuse(f"must give class `{printable(name)}` an index from 0 to {LARGEST_LABEL:,}")
    return {unicodedata.normalize("NFC", name): index for name, index in entry.items()}


class _MisdeclaredError(ValueError):
    pass


def _refuse(what: str) -> NoReturn:
    raise _MisdeclaredError(what)
