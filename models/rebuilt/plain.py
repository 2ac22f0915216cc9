"""Numbers, texts and lists as the jit reckons with them, where Python would answer otherwise.

The jit's whole numbers have 64 bits, its comparisons and quotients are C's, its texts are bytes. A network could ask
for the difference, and be another one in the jit than here. So the jit's answer is written out, or a RebuiltError is
raised; nowhere does Python's own answer stand in for another of the jit.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.rebuilt.errors import RebuiltError

_NO_START = (1 << 63) - 1  # stands for a piece's missing beginning, and should not be the beginning itself
_PLACES = ("%s", "%d", "%i")

# Numbers


def whole(value: Any) -> Any:
    """The same value, unless it is a whole number that the jit has no room for."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise RebuiltError("The model's code computes a whole number of more than 64 bits.")
    return value


def within_64_bits(compute: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: whole(compute(*values))


def divided(first: float, second: float) -> float:
    return float(first) / float(second)


def floor_divided(first: float, second: float) -> Any:
    if isinstance(first, int) and isinstance(second, int):
        return whole(first // second)
    quotient = first / second
    return math.copysign(math.floor(quotient), quotient)


def remainder(first: float, second: float) -> float:
    if isinstance(first, int) and isinstance(second, int):
        whole(2 * second)  # on the way, the jit adds the second number once more
        return first % second
    return math.fmod(second + math.fmod(first, second), second)


def integer(value: Any) -> Any:
    return whole(int(value)) if isinstance(value, float) else int(value)


def number(value: Any) -> Any:
    """What stands where a whole number is declared, or any: the number in a tensor, and 1 for True."""
    value = value.item() if isinstance(value, Tensor) else value
    return int(value) if isinstance(value, bool) else value


def real(value: Any) -> Any:
    """What stands where a float is declared."""
    return value if value is None else float(value)


def smallest(first: Any, second: Any = None) -> Any:
    if second is None:
        return min(_in_order(first))
    first, second = _ordered(first, second)
    return first if first < second else second


def largest(first: Any, second: Any = None) -> Any:
    if second is None:
        return max(_in_order(first))
    first, second = _ordered(first, second)
    return first if first > second else second


def range_length(start: int, stop: int, step: int) -> int:
    whole(stop - start)
    return len(range(start, stop, step))


# Comparisons


def compared(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A comparison of two values of one kind; a whole number is turned into a float to be held against one."""

    def holds(first: Any, second: Any) -> Any:
        return compare(*_alike(first, second))

    return holds


def are_equal(first: Any, second: Any) -> bool:
    """Lists by their items: a NaN is not even equal to itself."""
    first, second = _alike(first, second)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(are_equal, first, second))
    return bool(first == second)


def are_one(first: Any, second: Any) -> bool:
    """Whether two names stand for one object; of numbers, texts and devices Python and the jit think differently."""
    is_plain = isinstance(first, int | float | str | torch.device)
    if is_plain and second is not None:
        raise RebuiltError("The model's code asks whether two numbers or texts are one object.")
    return first is second


def contains(values: Any, value: Any) -> bool:
    return any(are_equal(item, value) for item in values) if isinstance(values, list) else value in values


def _alike(first: Any, second: Any) -> tuple[Any, Any]:
    """Two values that can be compared."""
    if _kind(first) != _kind(second):
        raise RebuiltError("The model's code compares values of two kinds.")
    if isinstance(first, float) or isinstance(second, float):
        return float(first), float(second)
    return first, second


def _ordered(first: Any, second: Any) -> tuple[Any, Any]:
    if isinstance(first, list):
        _in_order([*first, *second])
    return _alike(number(first), number(second))


def _kind(value: Any) -> type:
    if isinstance(value, int | float):
        return float
    return Tensor if isinstance(value, Tensor) else type(value)


# Lists and dicts


def added_up(values: list[Any]) -> Any:
    """The sum of a list that has items; of an empty one, the jit alone knows what it would hold."""
    if not values:
        raise RebuiltError("The model's code adds up a list that is empty.")
    total = sum(values[1:], +values[0])
    if isinstance(total, int) and not -(1 << 31) <= total < 1 << 31:  # the jit counts so far
        raise RebuiltError("The model's code adds up whole numbers to more than 32 bits.")
    return total


def item(values: Any, index: Any) -> Any:
    return _of_bytes(values)[index]


def piece(values: Any, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    if start == _NO_START:
        raise RebuiltError("The model's code takes a piece of a list that begins nowhere.")
    return _of_bytes(values)[start:end:step]


def listed(values: Any) -> list[Any]:
    return [*_of_bytes(values)]


def length(values: Any) -> int:
    return len(values.encode() if isinstance(values, str) else values)


def in_order(values: list[Any]) -> list[Any]:
    return sorted(_in_order(values))


def sort(values: list[Any], reverse: bool = False) -> None:
    _in_order(values).sort(reverse=reverse)


def set_item(values: Any, key: Any, value: Any) -> Any:
    if isinstance(key, float) and math.isnan(key):
        raise RebuiltError("The model's code has a NaN as the key of a dict.")
    values[key] = value
    return values


def mapping(*pairs: tuple[Any, Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in pairs:
        set_item(made, key, value)
    return made


def _in_order(values: list[Any]) -> list[Any]:
    """The same list, unless its numbers have no order."""
    if any(isinstance(value, float) and math.isnan(value) for value in values):
        raise RebuiltError("The model's code sorts numbers among which is a NaN.")
    return values


# Texts


def shown(value: Any) -> str:
    """A value as the jit writes it; tensors are not written out."""
    match value:
        case str():
            return value
        case None | bool() | int():
            return str(value)
        case float():
            return _shown_float(value)
        case torch.device():
            return str(value)
        case list():
            return f"[{', '.join(map(shown, value))}]"
        case (one,) if type(value) is tuple:
            return f"({shown(one)},)"
        case tuple() if type(value) is tuple:
            return f"({', '.join(map(shown, value))})"
    raise RebuiltError(f"The model's code writes a {type(value).__name__} into a text.")


def filled(template: str, *values: Any) -> str:
    """Each {} is replaced by the next value; a template of Python's could look into the values, this one cannot."""
    first, *rest = template.split("{}")
    if len(rest) > len(values):
        raise RebuiltError("A message has more places than values.")
    return first + "".join(shown(value) + piece for value, piece in zip(values, rest, strict=False))


def filled_by_percent(template: str, *values: Any) -> str:
    """Python's own `%s` and `%d`, of texts and whole numbers alone."""
    places = [template[at : at + 2] for at in range(len(template)) if template[at] == "%"]
    if "%%" in template or not all(place in _PLACES for place in places):
        raise RebuiltError("A message has places of an unknown form.")
    parts = values[0] if isinstance(values[0], tuple) else values
    if not all(type(part) in (int, str) for part in parts):
        raise RebuiltError("A message is given more than texts and whole numbers.")
    return template % parts


def _of_bytes(values: Any) -> Any:
    """The same values, unless they are a text of which the jit would count the bytes."""
    if isinstance(values, str) and not values.isascii():
        raise RebuiltError("The model's code takes apart a text that is not ASCII.")
    return values


def _shown_float(value: float) -> str:
    if abs(value) < 1e10 and value == int(value):
        return f"{value:.0f}."
    return f"{value:.17g}"
