"""The dimensions of an operator's result: of each it is known whether it is a constant, or what it depends on.

That is enough to tell the batch apart from the height. Where an operator is not known here, or its arguments are not,
any dimension of its result may depend on whatever the dimensions of its arguments depend on.
"""

from collections.abc import Sequence

from app.core.intake.torchscript.structure import knowledge
from app.core.intake.torchscript.structure.heap import Heap
from app.core.intake.torchscript.structure.values import (
    Container,
    Known,
    Some,
    Value,
    is_positive_size,
    is_tensor,
    whole_number,
)

Dims = tuple[Value, ...]
ONE = Known(1)


def dims_of(value: Value) -> Dims | None:
    return value.dims if isinstance(value, Some) else None


class Shapes:
    def __init__(self, heap: Heap) -> None:
        self.heap = heap

    def of_result(self, name: str, values: Sequence[Value]) -> Dims | None:
        """The dimensions, None where their number is not known."""
        first = values[0] if values else None
        others = values[1:]
        operator = name.removeprefix("aten::").rstrip("_")
        dims = None if first is None else dims_of(first)
        if operator in ("zeros", "ones", "empty", "full", "rand", "randn") and first is not None:
            return self._stated(first, None)
        if operator in ("view", "reshape", "expand", "new_zeros", "new_ones", "new_empty", "new_full") and others:
            return self._stated(others[0], first, expands=operator == "expand")
        if operator in ("cat", "concat", "stack") and isinstance(first, Container):
            return self._put_together(first, whole_number(others[0]) if others else 0, operator == "stack")
        if operator in ("expand_as", "view_as", "reshape_as") and others:
            return dims_of(others[0])
        if name in knowledge.BROADCASTS:
            return self._broadcast(values)
        if dims is None:
            return None
        if name in knowledge.KEEPS_DIMS:
            return dims
        if name in knowledge.POOLS:
            return self._pooled(name, dims, values)
        if operator == "linear" and len(values) > 1:
            return (*dims[:-1], self._last(values[1]))
        if operator == "matmul" and len(values) > 1:
            return self._matrix_product(dims, dims_of(values[1]))
        numbers = [whole_number(one) for one in others]
        match operator, numbers:
            case "permute", _ if (order := _numbers_in(others)) is not None and len(order) == len(dims):
                return tuple(dims[place] for place in order) if _fit(order, dims) else None
            case (("transpose" | "swapaxes" | "swapdims"), [int(one), int(other)]) if _fit((one, other), dims):
                swapped = list(dims)
                swapped[one], swapped[other] = dims[other], dims[one]
                return tuple(swapped)
            case "t", _ if len(dims) == 2:
                return dims[::-1]
            case "flatten", _ if None not in numbers:
                return self._flattened(dims, *numbers)  # type: ignore[arg-type]
            case "unsqueeze", [int(place)] if -len(dims) - 1 <= place <= len(dims):
                place += len(dims) + 1 if place < 0 else 0
                return (*dims[:place], ONE, *dims[place:])
            case (("select" | "unbind"), [int(place), *_]) if _fit((place,), dims):
                place %= len(dims)
                return (*dims[:place], *dims[place + 1 :])
            case "slice", []:
                return dims
            case (("slice" | "narrow" | "index_select"), [int(place), *_]) if _fit((place,), dims):
                return self._changed(dims, (place,), self.heap.evidence_of(others))
            case (("chunk" | "split" | "split_with_sizes" | "tensor_split"), [_, *rest]):
                where = rest[0] if rest else 0
                return None if where is None or not _fit((where,), dims) else self._changed(dims, (where,), 0)
        if name in knowledge.REDUCES:
            return self._reduced(dims, others)
        return None

    def _stated(self, sizes: Value, first: Value | None, expands: bool = False) -> Dims | None:
        if not isinstance(sizes, Container) or sizes.body.entries is None:
            return None
        stated = list(sizes.body.entries.values())
        given = None if first is None else dims_of(first)
        for place, one in enumerate(stated):
            if whole_number(one) == -1 or not isinstance(one, Known | Some):
                behind = len(stated) - place
                if expands and given is not None and behind <= len(given):
                    stated[place] = given[-behind]
                else:
                    spread = 0 if first is None else self.heap.spread(first)
                    others = [*stated[:place], *stated[place + 1 :]]
                    stated[place] = Some(self._rest(given, others, spread))
        return tuple(stated)

    def _rest(self, given: Dims | None, stated: list[Value], spread: int) -> int:
        """What a dimension depends on that takes up what the others leave; the batch is mostly one of those."""
        if given is None:
            return spread
        left, more = list(given), 0
        for one in stated:
            place = next((place for place, dim in enumerate(left) if dim is one), None)
            if place is not None:
                del left[place]
            else:
                more |= self.heap.evidence(one)
        return self.heap.evidence_of(left) | more

    def _put_together(self, parts: Container, place: int | None, is_new: bool) -> Dims | None:
        inside = parts.values
        known = [dims_of(one) for one in inside]
        if not known or place is None or parts.body.entries is None:
            return None
        first = known[0]
        if first is None or any(dims is None or len(dims) != len(first) for dims in known):
            return None
        if is_new:
            place += len(first) + 1 if place < 0 else 0
            return (*first[:place], ONE, *first[place:]) if 0 <= place <= len(first) else None
        joined = [self._all_of(dims) for dims in zip(*known, strict=True)]
        if not _fit((place,), first):
            return None
        joined[place] = Some(self.heap.evidence_of(dims[place] for dims in known if dims))
        return tuple(joined)

    def _broadcast(self, values: Sequence[Value]) -> Dims | None:
        tensors = [one for one in values if is_tensor(one)]
        known = [dims for one in tensors if (dims := dims_of(one)) is not None]
        if not known or len(known) < len(tensors):
            return None
        longest = max(map(len, known))
        columns = [[dims[-behind] for dims in known if len(dims) >= behind] for behind in range(longest, 0, -1)]
        return tuple(map(self._all_of, columns))

    def _all_of(self, dims: Sequence[Value]) -> Value:
        """One dimension of what several are one dimension of: a 1 gives way."""
        left = [dim for dim in dims if whole_number(dim) != 1] or [ONE]
        same = all(one is left[0] or whole_number(one) == whole_number(left[0]) is not None for one in left)
        if same:
            return left[0]
        known = [dim for dim in left if whole_number(dim) is not None]
        return known[0] if len(known) == 1 else Some(self.heap.evidence_of(left))

    def _pooled(self, name: str, dims: Dims, values: Sequence[Value]) -> Dims:
        """Images keep their first dimension; of the others it is known what they depend on."""
        if len(dims) < 3:
            return dims
        sizes = self.heap.evidence_of(one for one in values[1:] if not is_tensor(one))
        is_positive = "pad" not in name and all(map(is_positive_size, dims))
        return (dims[0], *(Some(self.heap.evidence(dim) | sizes, is_positive=is_positive) for dim in dims[1:]))

    def _last(self, weight: Value) -> Value:
        dims = dims_of(weight)
        return dims[0] if dims else Some()

    @staticmethod
    def _matrix_product(dims: Dims, other: Dims | None) -> Dims | None:
        if other is None or len(dims) < 2 or len(other) < 2 or len(other) > len(dims):
            return None
        return (*dims[:-1], other[-1])

    def _flattened(self, dims: Dims, start: int = 0, end: int = -1) -> Dims | None:
        if not _fit((start, end), dims):
            return None
        start, end = start % len(dims), end % len(dims)
        return (*dims[:start], Some(self.heap.evidence_of(dims[start : end + 1])), *dims[end + 1 :])

    def _changed(self, dims: Dims, places: Sequence[int], taint: int) -> Dims:
        changed = list(dims)
        for place in places:
            changed[place] = Some(self.heap.evidence(dims[place]) | taint)
        return tuple(changed)

    def _reduced(self, dims: Dims, others: Sequence[Value]) -> Dims | None:
        if not others:
            return ()
        places = _numbers_in(others)
        keeps = others[1].value if len(others) > 1 and isinstance(others[1], Known) else False
        if places is None or not _fit(places, dims) or not isinstance(keeps, bool | None):
            return None
        gone = {place % len(dims) for place in places}
        return tuple(ONE if place in gone else dim for place, dim in enumerate(dims) if keeps or place not in gone)


def _numbers_in(values: Sequence[Value]) -> list[int] | None:
    """Of a list of numbers that comes first, or of one number."""
    found: Sequence[Value] = values[:1]
    if values and isinstance(values[0], Container):
        if values[0].body.entries is None:
            return None
        found = list(values[0].body.entries.values())
    numbers = [whole_number(one) for one in found]
    return None if None in numbers else numbers  # type: ignore[return-value]


def _fit(places: Sequence[int], dims: Dims) -> bool:
    return all(-len(dims) <= place < len(dims) for place in places)
