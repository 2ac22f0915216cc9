"""Types of numbers: which results are whole, and which operators have no gradient because of it."""

from collections.abc import Mapping, Sequence

from app.core.intake.torchscript.structure import knowledge
from app.core.intake.torchscript.structure.heap import Heap, none_or
from app.core.intake.torchscript.structure.taints import PLACE
from app.core.intake.torchscript.structure.values import NONE, Known, Some, Value, is_tensor, whole_number

_WHOLE_TYPES = (0, 1, 2, 3, 4, 11)  # the numbers of torch's types that are whole: uint8 to int64, bool


def is_whole(base: str, values: Sequence[Value], keywords: Mapping[str, Value]) -> bool:
    """Whether an operator's result is of a type for whole numbers."""
    stated = keywords.get("dtype", NONE)
    if base == "aten::to":
        stated = next((one for one in [*values[1:3], stated] if _is_type(one)), NONE)
    elif base == "aten::type_as" and len(values) > 1:
        stated = values[1]
    if isinstance(stated, Known) and stated.value is not None:
        return stated.value in _WHOLE_TYPES
    if isinstance(stated, Some):
        return stated.is_whole
    if base in knowledge.WHOLE:
        return True
    if base == "aten::arange":
        return not any(isinstance(one, Known) and isinstance(one.value, float) for one in values)
    tensors = [one for one in values if is_tensor(one)]
    if base in knowledge.MAKES_TENSORS and not tensors:
        return base in ("aten::tensor", "aten::scalar_tensor", "prim::NumToTensor", "aten::full")
    return bool(tensors) and all(isinstance(one, Some) and one.is_whole for one in tensors)


def only_moves(values: Sequence[Value], keywords: Mapping[str, Value]) -> bool:
    """Whether `to` names no type of numbers."""
    return not any(_is_type(one) for one in values[1:3]) and none_or(keywords.get("dtype", NONE)) is None


def rounds(heap: Heap, base: str, values: Sequence[Value], keywords: Mapping[str, Value]) -> bool:
    """Whether an operator that mostly has a gradient has none with these arguments."""
    first = values[0] if values else NONE
    is_smooth = isinstance(first, Some) and not first.is_whole
    match base:
        case "aten::div" | "aten::div_":
            return none_or(keywords.get("rounding_mode", NONE)) is not None
        case "aten::to" | "aten::type_as":
            return is_smooth and is_whole(base, values, keywords)
        case "aten::copy" | "aten::fill":
            return isinstance(first, Some) and first.is_whole and any(map(heap.holds_tensors, values[1:]))
        case "aten::threshold":
            levels = [one.value if isinstance(one, Known) else None for one in values[1:3]]
            return len(levels) < 2 or levels[0] is None or levels[0] != levels[1]
        case "aten::norm" | "aten::linalg_vector_norm":
            order = values[1] if len(values) > 1 else NONE
            return isinstance(order, Known) and order.value is not None and float(order.value or 0) == 0  # type: ignore[arg-type]
    return False


def _is_type(value: Value) -> bool:
    return (type(whole_number(value)) is int) or (isinstance(value, Some) and not (value.taint & ~PLACE))
