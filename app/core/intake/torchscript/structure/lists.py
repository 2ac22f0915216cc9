"""Lists and dicts of the code: what operators do to them, and what is found in them.

A list that is known entry by entry stays so as long as it is known what is done to it. Tensors are not known here.
"""

from collections.abc import Sequence

from app.core.intake.torchscript.structure.heap import Heap, none_or
from app.core.intake.torchscript.structure.values import (
    NONE,
    NOTHING,
    Body,
    Container,
    Known,
    Plain,
    Some,
    Tuple,
    Value,
    whole_number,
)


class Lists:
    def __init__(self, heap: Heap) -> None:
        self.heap = heap

    def of_unknown_length(self, item: Value, taint: int = 0) -> Container:
        return Container("list", Body(None, item, taint, self.heap.side))

    def apply(self, name: str, values: Sequence[Value]) -> Value | None:
        """The result of an operator on a list or a dict; None for what is no such operator."""
        first = values[0] if values else NONE
        if not isinstance(first, Container | Tuple):
            return None
        match name, values:
            case (("aten::__getitem__" | "aten::select" | "aten::get"), [_, key, *_]):
                return self.item(first, key)
            case "aten::len", [_]:
                return self._length(first)
        if isinstance(first, Tuple):
            return None
        entries = first.body.entries
        match name, values:
            case "aten::append", [_, value]:
                self._append(first, value)
                return first
            case (("aten::extend" | "aten::add_"), [_, Container() as more]):
                self._extend(first, more)
                return first
            case "aten::add", [_, Container() as more]:
                joined = (
                    self.heap.listed(first.values)
                    if entries is not None
                    else self.of_unknown_length(*self._inside(first))
                )
                self._extend(joined, more)
                return joined
            case "aten::_set_item", [_, key, value]:
                self._set(first, key, value)
                return NONE
            case (("aten::list" | "aten::copy" | "aten::values"), [_]):
                if entries is None:
                    return self.of_unknown_length(*self._inside(first))
                return Container(
                    first.kind if name == "aten::copy" else "list", Body(_copied(name, first), born=self.heap.side)
                )
            case "aten::slice", _ if first.kind == "list":
                return self._slice(first, values[1:])
            case (("aten::pop" | "aten::insert" | "aten::clear" | "aten::reverse" | "aten::Delete" | "aten::sort"), _):
                return self._rearrange(first, values[1:])
            case "aten::keys" | "aten::items", _:
                return self.of_unknown_length(Some(self.heap.evidence(first), self.heap.memories(first)))
            case "aten::__contains__", [_, what]:
                return self._contains(first, what)
        return None

    def item(self, value: Value, key: Value) -> Value:
        """`value[key]`."""
        if isinstance(key, Known) and isinstance(value, Tuple | Container):
            found = self._known_item(value, key)
            if found is not None:
                return found
        reached = (
            list(value.items) if isinstance(value, Tuple) else value.values if isinstance(value, Container) else []
        )
        implied = self.heap.evidence(key)
        if isinstance(value, Tuple | Container):
            own = value.body.taint if isinstance(value, Container) else 0
            joined: Value = NOTHING
            for one in reached:
                joined = self.heap.join(joined, one, implied | own)
            return self.heap.blurred(joined, implied | own) if implied | own else joined
        return self.heap.blurred(value, implied)

    def unpacked(self, value: Value, count: int) -> list[Value]:
        """`a, b, = value`"""
        match value:
            case Tuple(items) if len(items) == count:
                return list(items)
            case Container(_, body) if body.entries is not None and len(body.entries) == count:
                return list(body.entries.values())
        return [self.item(value, Some())] * count

    def _known_item(self, value: Tuple | Container, key: Known) -> Value | None:
        if isinstance(value, Container) and value.kind == "dict":
            return None if value.body.entries is None else value.body.entries.get(key.value)
        items = value.items if isinstance(value, Tuple) else value.values
        place = whole_number(key)
        is_known = isinstance(value, Tuple) or value.body.entries is not None
        if place is None or not is_known or not -len(items) <= place < len(items):
            return None
        return items[place]

    def _length(self, value: Tuple | Container) -> Value:
        if isinstance(value, Tuple):
            return Known(len(value.items))
        if value.body.entries is None:
            return Some(value.body.taint)
        return Known(len(value.body.entries))

    def _inside(self, container: Container) -> tuple[Value, int]:
        return container.body.rest or NOTHING, container.body.taint

    def _append(self, container: Container, value: Value) -> None:
        entries = container.body.entries
        if entries is None or container.body.born != self.heap.side:
            self.heap.collapse(container, value)
        else:
            self.heap.put(container, len(entries), value)

    def _extend(self, container: Container, more: Container) -> None:
        if more.body.entries is None:
            self.heap.collapse(container, *self._inside(more))
        for value in more.values if more.body.entries is not None else []:
            self._append(container, value)

    def _set(self, container: Container, key: Value, value: Value) -> None:
        entries = container.body.entries
        place = key.value if isinstance(key, Known) else None
        if container.kind == "list" and type(place) is int and entries is not None and place < 0:
            place += len(entries)
        if isinstance(key, Known) and entries is not None and (container.kind == "dict" or place in entries):
            self.heap.put(container, place, value)
        else:
            self.heap.collapse(container, value, self.heap.evidence(key))

    def _slice(self, container: Container, bounds: Sequence[Value]) -> Value:
        numbers = [whole_number(one) for one in bounds]
        is_known = all(number is not None or none_or(one) is None for number, one in zip(numbers, bounds, strict=True))
        if container.body.entries is None or not is_known:
            evidence = self.heap.evidence_of(bounds)
            sliced = self.of_unknown_length(NOTHING, container.body.taint | evidence)
            for one in container.values:
                self.heap.collapse(sliced, one)
            return sliced
        start, stop, step = [*numbers, None, None, None][:3]
        step = step if step is None or step > 0 else 1
        return self.heap.listed(container.values[slice(start, stop, step)])

    def _rearrange(self, container: Container, arguments: Sequence[Value]) -> Value:
        """What changes the places of entries: afterwards it is only known what is in the list."""
        inside: Value = NOTHING
        for one in container.values:
            inside = self.heap.join(inside, one)
        inserted = arguments[1] if len(arguments) > 1 else NOTHING
        self.heap.collapse(container, inserted, self.heap.evidence_of(arguments))
        return self.heap.blurred(inside, self.heap.evidence_of(arguments) | container.body.taint)

    def _contains(self, container: Container, what: Value) -> Value:
        if isinstance(what, Known) and not isinstance(what.value, float) and container.body.entries is not None:
            if container.kind == "dict":
                return Known(what.value in container.body.entries)
            known = [one.value for one in container.values if isinstance(one, Known)]
            if len(known) == len(container.body.entries) and all(type(one) is type(what.value) for one in known):
                return Known(what.value in known)
        return Some(self.heap.evidence(container) | self.heap.evidence(what))


def _copied(name: str, container: Container) -> dict[Plain, Value]:
    entries = container.body.entries or {}
    return dict(entries) if name == "aten::copy" else dict(enumerate(entries.values()))
