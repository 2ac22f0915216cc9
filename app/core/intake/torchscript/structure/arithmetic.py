"""Numbers, texts and lists that are known: what the jit makes of them, as far as Python is sure to make the same.

What is left out here (floats that are divided, texts that are not ASCII, numbers of more than 64 bits) is not known,
which is never wrong. What operators do with tensors is not known here.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

_LARGEST_FLOAT_EXACT = 1 << 53


def _both(kind: type, compute: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def computed(first: Any, second: Any) -> Any:
        return compute(first, second) if type(first) is kind and type(second) is kind else None

    return computed


def _added(first: Any, second: Any, alpha: int = 1) -> Any:
    if type(first) is type(second) is int and alpha == 1:
        return first + second
    return None


def _compared(compare: Callable[[Any, Any], bool]) -> Callable[..., Any]:
    def computed(first: Any, second: Any) -> Any:
        kinds = {type(first), type(second)}
        if len(kinds) == 1 and kinds <= {int, bool, float}:
            return compare(first, second)
        if kinds == {int, float} and all(abs(one) < _LARGEST_FLOAT_EXACT for one in (first, second)):
            return compare(first, second)
        return compare(first, second) if kinds == {str} and compare in (operator.eq, operator.ne) else None

    return computed


def _length(value: Any) -> Any:
    return len(value) if isinstance(value, str) and value.isascii() else None


def _whole(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if abs(value) < _LARGEST_FLOAT_EXACT else None
    return int(value) if isinstance(value, int) else None


def _real(value: Any) -> Any:
    return float(value) if isinstance(value, int | float) and abs(value) < _LARGEST_FLOAT_EXACT else None


def _quotient(first: Any, second: Any) -> Any:
    return first // second if type(first) is type(second) is int and second else None


def _remainder(first: Any, second: Any) -> Any:
    return first % second if type(first) is type(second) is int and 0 < second < 1 << 31 else None


def _range_length(start: Any, stop: Any, step: Any) -> Any:
    return max(0, -((start - stop) // step)) if type(start) is type(stop) is type(step) is int and step else None


def _contained(where: Any, what: Any) -> Any:
    return what in where if type(where) is type(what) is str and where.isascii() and what.isascii() else None


_TABLE: dict[str, Callable[..., Any]] = {
    "aten::eq": _compared(operator.eq),
    "aten::ne": _compared(operator.ne),
    "aten::lt": _compared(operator.lt),
    "aten::le": _compared(operator.le),
    "aten::gt": _compared(operator.gt),
    "aten::ge": _compared(operator.ge),
    "aten::add": _added,
    "aten::sub": _both(int, operator.sub),
    "aten::mul": _both(int, operator.mul),
    "aten::floordiv": _quotient,
    "aten::remainder": _remainder,
    "aten::neg": lambda value: -value if type(value) is int else None,
    "aten::__not__": lambda value: not value if isinstance(value, bool) else None,
    "aten::__and__": _both(bool, operator.and_),
    "aten::__or__": _both(bool, operator.or_),
    "aten::__xor__": _both(bool, operator.xor),
    "aten::Int": _whole,
    "aten::Float": _real,
    "aten::Bool": lambda value: bool(value) if isinstance(value, int | float) else None,
    "aten::len": _length,
    "aten::__contains__": _contained,
    "aten::__range_length": _range_length,
    "aten::__derive_index": lambda trip, start, step: (
        start + trip * step if type(trip) is type(start) is type(step) is int else None
    ),
    "prim::min": _both(int, min),
    "prim::max": _both(int, max),
}


def computed(name: str, values: Sequence[Any]) -> Any:
    """What an operator makes of constants; None where it is not known."""
    try:
        result = _TABLE[name](*values)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    if type(result) is int and not -(1 << 63) <= result < 1 << 63:
        return None
    return result
