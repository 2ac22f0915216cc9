"""What operators meant in older formats: archives state their format, and torch raised it where a meaning changed.

The jit puts the old meaning into an old archive when it loads one, by what torch calls upgraders; here it is put around
the operator of today. Of the operators that may be used, five have upgraders; that of `gelu`, which only gained an
argument since, changes nothing. Formats are numbers here, what else they changed is not known.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Implementation = Callable[..., Any]

NEWEST_FORMAT = 10


def in_format(version: int, name: str, today: Implementation) -> Implementation:
    """What an operator does in an archive of this format, made of what it does today."""
    since, before = CHANGED.get(name, (0, None))
    return before(today) if before and version < since else today


def _dividing_whole_numbers(divide: Implementation) -> Implementation:
    """Whole numbers were divided to whole ones, unless the code said how to round."""

    def before(self: Any, other: Any, **rounding: Any) -> Any:
        if not rounding and not _is_float(self) and not _is_float(other):
            rounding = {"rounding_mode": "trunc"}
        return divide(self, other, **rounding)

    return before


def _filling_with_floats(full: Implementation) -> Implementation:
    """A whole number filled a tensor of floats, unless the code named a type."""

    def before(size: list[int], value: Any, *, dtype: int | None = None, **others: Any) -> Any:
        return full(size, float(value) if dtype is None else value, dtype=dtype, **others)

    return before


def _in_a_hundred_steps(linspace: Implementation) -> Implementation:
    """The number of steps could be left out."""

    def before(start: Any, end: Any, steps: int | None = None, **others: Any) -> Any:
        return linspace(start, end, 100 if steps is None else steps, **others)

    return before


def _is_float(value: Any) -> bool:
    return value.is_floating_point() if isinstance(value, Tensor) else isinstance(value, float)


# Operator -> the first format in which it means what it means today, and what it meant before.
CHANGED: dict[str, tuple[int, Callable[[Implementation], Implementation]]] = {
    "aten::div": (4, _dividing_whole_numbers),
    "aten::div_": (4, _dividing_whole_numbers),
    "aten::full": (5, _filling_with_floats),
    "aten::linspace": (8, _in_a_hundred_steps),
}
