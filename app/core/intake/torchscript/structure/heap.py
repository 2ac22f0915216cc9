"""What several names share, written and joined so that nothing is forgotten: what values depend on only grows.

In a branch of which it is not known whether it runs, a write may or may not happen; it then adds to what was there, and
what the branch depends on. The work is counted, so that every program comes to an end here.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from app.core.intake.torchscript.structure.values import (
    NONE,
    NOTHING,
    Body,
    Callee,
    Container,
    Known,
    Memory,
    Nothing,
    Part,
    Plain,
    Some,
    Tuple,
    Value,
    is_tensor,
)

NOWHERE = -1  # no side of a branch: what was made here is written perhaps, wherever it is written
MOST_WORK = 300_000  # nodes of the code, and values in values; see the law in tests for what honest nets take


class TooMuchWorkError(Exception):
    """The code cannot be followed to its end."""


class Heap:
    """Everything that is shared, and under which circumstances it is written just now."""

    def __init__(self) -> None:
        self.work = 0
        self.changes = 0  # grows when something that is shared does
        self.kept_changes = 0  # the same, of what is there at the next call
        self.side = 0  # of a branch that may or may not run, as a number of its own; 0 is what always runs
        self.control = 0  # what it depends on, whether it runs
        self._sides = 0
        self.reads: list[Memory] = []  # of the network, in the order in which operators read them

    def spend(self, work: int = 1) -> None:
        self.work += work
        if self.work > MOST_WORK:
            raise TooMuchWorkError

    @contextmanager
    def perhaps(self, implied: int) -> Iterator[None]:
        """What is followed inside may or may not run; which of them depends on what is implied."""
        before = self.side, self.control
        self._sides += 1
        self.side, self.control = self._sides, self.control | implied
        try:
            yield
        finally:
            self.side, self.control = before

    # What a value depends on

    def evidence(self, value: Value) -> int:
        """All that the numbers in a value depend on."""
        match value:
            case Some(taint, memories):
                self.spend(len(memories))
                for memory in memories:
                    taint |= memory.taint
                return taint
            case Tuple(items):
                self.spend(len(items))
                return self.evidence_of(items)
            case Container(_, body):
                inside = value.values
                self.spend(len(inside))
                return body.taint | self.evidence_of(inside)
            case Part(_, taint) | Callee(_, taint):
                return taint
        return 0

    def evidence_of(self, values: Iterable[Value]) -> int:
        taint = 0
        for value in values:
            taint |= self.evidence(value)
        return taint

    def memories(self, value: Value) -> frozenset[Memory]:
        match value:
            case Some(_, memories):
                return memories
            case Tuple(items):
                self.spend(len(items))
                return frozenset().union(*map(self.memories, items))
            case Container():
                inside = value.values
                self.spend(len(inside))
                return frozenset().union(*map(self.memories, inside))
        return frozenset()

    def holds_tensors(self, value: Value) -> bool:
        return is_tensor(value) or (isinstance(value, Container | Tuple) and bool(self.memories(value)))

    def spread(self, value: Value) -> int:
        """What the dimensions of a tensor depend on, or of the tensors in a list."""
        match value:
            case Some(_, _, dims, spread):
                return spread if dims is None else spread | self.evidence_of(dims)
            case Tuple(items):
                inside = list(items)
            case Container():
                inside = value.values
            case _:
                return 0
        self.spend(len(inside))
        taint = 0
        for one in inside:
            taint |= self.spread(one)
        return taint

    def blurred(self, value: Value, taint: int = 0) -> Some:
        """A value of which only this is kept: what it depends on."""
        if isinstance(value, Some):
            if taint | value.taint == value.taint:
                return value
            return Some(value.taint | taint, value.memories, value.dims, value.spread, value.is_tensor, value.is_whole)
        own = value.body.taint if isinstance(value, Container) else 0
        plain = self.evidence(value) if not self.memories(value) else own
        return Some(plain | taint, self.memories(value), spread=self.spread(value))

    # Writing

    def write(self, memories: Iterable[Memory], taint: int) -> None:
        for memory in memories:
            more = memory.taint | taint | (0 if memory.born == self.side else self.control)
            if more != memory.taint:
                memory.taint = more
                self._count(memory.is_kept)

    def collapse(self, container: Container, value: Value = NOTHING, taint: int = 0) -> None:
        """From now on it is only known what may be in it."""
        body = container.body
        rest = body.rest or NOTHING
        if body.entries is not None:
            self.spend(len(body.entries))
            for one in body.entries.values():
                rest = self.join(rest, one)
            body.entries = None
            self._count(body.is_kept)
        rest = self.join(rest, value)
        more = body.taint | taint | (0 if body.born == self.side else self.control)
        if rest is not body.rest or more != body.taint:
            body.rest, body.taint = rest, more
            self._count(body.is_kept)

    def put(self, container: Container, key: Plain, value: Value) -> None:
        """Sets an entry that is known by its key."""
        body = container.body
        is_certain = body.born == self.side
        if body.entries is None or (not is_certain and key not in body.entries):
            self.collapse(container, value)
            return
        new = value if is_certain else self.join(body.entries[key], value, self.control)
        if body.entries.get(key) is not new:
            body.entries[key] = new
            self._count(body.is_kept)

    def _count(self, is_kept: bool) -> None:
        self.changes += 1
        self.kept_changes += is_kept

    # Joining

    def join(self, first: Value, second: Value, implied: int = 0) -> Value:
        """What a name means that means the one or the other; which of them depends on what is `implied`.

        Where the second adds nothing, it is the very first.
        """
        self.spend()
        match first, second:
            case _ if first is second:
                return first
            case _, Nothing():
                return first
            case Nothing(), _:
                return second
            case Known(one), Known(other) if type(one) is type(other) and repr(one) == repr(other):
                return first if first.of_training >= second.of_training else second
            case Tuple(one), Tuple(other) if len(one) == len(other):
                items = tuple(self.join(*pair, implied) for pair in zip(one, other, strict=True))
                return first if all(new is old for new, old in zip(items, one, strict=True)) else Tuple(items)
            case Container(), Container() if first.kind == second.kind:
                self._unify(first, second, implied)
                return first
            case Part(ones, taint), Part(others, more):
                objects = (*ones, *(new for new in others if not any(new is old for old in ones)))
                taint |= more | (implied if objects != others else 0)
                return first if (len(objects), taint) == (len(ones), first.taint) else Part(objects, taint)
            case Callee(ones, taint), Callee(others, more):
                meanings = tuple(dict.fromkeys((*map(id, ones), *map(id, others))))
                by_id = {id(one): one for one in (*ones, *others)}
                taint |= more | implied
                same = (len(meanings), taint) == (len(ones), first.taint)
                return first if same else Callee(tuple(by_id[one] for one in meanings), taint)
        return self._joined(first, second, implied)

    def _joined(self, first: Value, second: Value, implied: int) -> Some:
        one, other = self.blurred(first), self.blurred(second)
        taint = one.taint | other.taint | implied
        memories = one.memories | other.memories
        self.spend(len(memories))
        dims = self._joined_dims(one, other)
        spread = one.spread | other.spread
        if dims is None:
            spread |= self.spread(one) | self.spread(other)
        flags = (one.is_tensor and other.is_tensor, one.is_whole or other.is_whole)
        if (
            one is first
            and taint == one.taint
            and memories == one.memories
            and dims is one.dims
            and spread == one.spread
            and flags == (one.is_tensor, one.is_whole)
        ):
            return one
        return Some(taint, memories, dims, spread, *flags)

    def _joined_dims(self, one: Some, other: Some) -> tuple[Value, ...] | None:
        if one.dims is None or other.dims is None or len(one.dims) != len(other.dims):
            return None
        dims = tuple(self.join(*pair) for pair in zip(one.dims, other.dims, strict=True))
        return one.dims if all(new is old for new, old in zip(dims, one.dims, strict=True)) else dims

    def _unify(self, first: Container, second: Container, implied: int) -> None:
        """Whatever is written into the one may be found in the other from now on."""
        body, other = first.body, second.body
        if body is other:
            return
        self.changes += 1
        if body.entries is None or other.entries is None or body.entries.keys() != other.entries.keys():
            self.collapse(first, taint=implied | other.taint)
            self.collapse(second)
            self.collapse(first, self.join(other.rest or NOTHING, NOTHING))
        else:
            for key, value in other.entries.items():
                body.entries[key] = self.join(body.entries[key], value, implied)
            body.taint |= other.taint
        body.taint |= implied  # which of the two is written from now on, depends on it
        body.born = NOWHERE
        body.is_kept |= other.is_kept
        second.body = body

    def listed(self, items: Sequence[Value], kind: str = "list") -> Container:
        """A new list of these items."""
        return Container(kind, Body(dict(enumerate(items)), born=self.side))

    def tensor(
        self,
        taint: int,
        dims: tuple[Value, ...] | None = None,
        spread: int = 0,
        memory: Memory | None = None,
        *,
        is_whole: bool = False,
    ) -> Some:
        """A tensor with numbers of its own."""
        if memory is None:
            memory = Memory(taint, self.side)
        self.write((memory,), taint)
        return Some(0, frozenset((memory,)), dims, spread, True, is_whole)


def none_or(value: Value) -> Value | None:
    """The value of an argument, None where it is not given."""
    return None if value is NONE or (isinstance(value, Known) and value.value is None) else value
