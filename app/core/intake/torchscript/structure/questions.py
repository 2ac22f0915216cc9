"""What code asks of a value or of its surroundings, instead of computing with it: sizes, types, devices, identity."""

from collections.abc import Sequence

from app.core.intake.torchscript.structure import knowledge
from app.core.intake.torchscript.structure.heap import Heap
from app.core.intake.torchscript.structure.taints import BATCH, GRADIENTS, PLACE, SHAPE
from app.core.intake.torchscript.structure.values import (
    NONE,
    Known,
    Some,
    Value,
    is_positive_size,
    is_tensor,
    whole_number,
)


def answer(heap: Heap, name: str, values: Sequence[Value]) -> Value | None:
    """What the code asks of a tensor or of its surroundings, instead of computing with it."""
    first = values[0] if values else NONE
    if name in ("aten::__is__", "aten::__isnot__"):
        return _identity(heap, values, name == "aten::__is__")
    if name in knowledge.OF_GRADIENTS:
        return Some(GRADIENTS)
    if name in knowledge.OF_PLACE:
        return Some(PLACE | (heap.spread(first) & ~BATCH if name == "aten::stride" else 0))
    if name == "prim::dtype":
        return Some(PLACE, is_whole=isinstance(first, Some) and first.is_whole)
    if not is_tensor(first):
        return None
    assert isinstance(first, Some)
    dims = first.dims
    match name:
        case "aten::size" if len(values) == 1:
            return Some(heap.spread(first)) if dims is None else heap.listed(dims)
        case "aten::size":
            place = whole_number(values[1])
            if dims is not None and place is not None and -len(dims) <= place < len(dims):
                return dims[place]
            return Some(heap.spread(first) | heap.evidence_of(values[1:]))
        case "aten::len":
            return dims[0] if dims else Some(heap.spread(first))
        case "aten::dim":
            return Known(len(dims)) if dims is not None else Some(heap.spread(first) & ~BATCH | SHAPE)
        case "aten::numel":
            sizes = dims or ()
            is_positive = dims is not None and all(map(is_positive_size, sizes))
            return Some(heap.spread(first), is_positive=is_positive)
    return None


def _identity(heap: Heap, values: Sequence[Value], wanted: bool) -> Value:
    first, second = values
    if isinstance(first, Known) and isinstance(second, Known):
        if first.value is None or second.value is None:
            return Known((first.value is second.value) is wanted)
    elif isinstance(first, Known) or isinstance(second, Known):
        constant, other = (first, second) if isinstance(first, Known) else (second, first)
        assert isinstance(constant, Known)
        if constant.value is None and not isinstance(other, Some):
            return Known(not wanted)
        if isinstance(other, Some):
            return Known(not wanted) if other.is_tensor else Some(other.taint)
    elif first is second:
        return Known(wanted)
    return Some(heap.evidence_of(values))
