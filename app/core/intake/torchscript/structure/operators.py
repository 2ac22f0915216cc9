"""One operator of torch: what its result depends on, and the mark it leaves where it makes something suspicious.

Numbers that are known are computed. Whatever else an operator does, its result depends on all that it was given; that
it may write into what it was given, or show it, is kept. Branches and calls are not known here.
"""

from collections.abc import Mapping, Sequence
from math import prod

from app.core.intake.torchscript.code.program import Literal, Operator
from app.core.intake.torchscript.structure import knowledge, number_types, questions
from app.core.intake.torchscript.structure.arithmetic import computed
from app.core.intake.torchscript.structure.heap import Heap
from app.core.intake.torchscript.structure.lists import Lists
from app.core.intake.torchscript.structure.rules import (
    ALLOCATION,
    BATCH_SIZE,
    DETACHED,
    GATE,
    GRAD_MODE,
    MEMORY,
    NO_GRAD,
    PRINT,
    RANDOM,
    SURROUNDINGS,
    StructureRule,
)
from app.core.intake.torchscript.structure.shapes import Shapes
from app.core.intake.torchscript.structure.taints import BATCH, GRADIENTS, PIXELS, PLACE, SHAPE, SOURCES, Marks
from app.core.intake.torchscript.structure.values import (
    NONE,
    Container,
    Known,
    Memory,
    Some,
    Tuple,
    Value,
    is_tensor,
    whole_number,
)

LARGE_BYTES = 1 << 30
_ITEM_BYTES = 4
_MOST_DIMS = 64

_TOLD: dict[StructureRule, str] = {
    BATCH_SIZE: "the number of images in a batch",
    GRAD_MODE: "whether gradients are taken",
    SURROUNDINGS: "the device, the type of numbers or their layout",
}
_SWITCHES = ((BATCH, BATCH_SIZE), (GRADIENTS, GRAD_MODE), (PLACE, SURROUNDINGS))


class StoppedError(Exception):
    """The code raises an exception here."""


class Operators:
    """Applies operators; `at` is the member that the code stands in."""

    def __init__(self, heap: Heap, marks: Marks) -> None:
        self.heap = heap
        self.marks = marks
        self.shapes = Shapes(heap)
        self.lists = Lists(heap)
        self.no_grad: list[tuple[str, int]] = []  # the blocks without gradients that the code is in
        self.asks_for_gradients = False
        self.in_loop = False  # whether this turn of a loop stands for all of them
        self.sites: dict[tuple[int, int], Memory] = {}  # there, the same operator makes the same memory at each turn
        self.lists_at: dict[int, Container] = {}

    def apply(self, node: Operator, values: list[Value], keywords: dict[str, Value], member: str) -> Value:
        self.heap.spend(1 + len(values))
        name, line = node.name, node.line
        if name == "prim::RaiseException":
            raise StoppedError
        if name == "prim::Print":
            self.marks.bit(PRINT, member, line, "The code prints.")
        if name in ("prim::Print", "aten::warn"):
            return NONE
        if (answer := questions.answer(self.heap, name, values)) is not None:
            return answer
        if (answer := self.lists.apply(name, values)) is not None:
            first = values[0]
            if isinstance(first, Container) and first.body.is_kept and name in knowledge.CHANGES_LISTS:
                told = "The code changes a list of the network, which is there at the next call."
                self.heap.collapse(first, taint=self.marks.bit(MEMORY, member, line, told))
            return self.at_site(node, answer) if answer is not first else answer
        if name == "prim::NumToTensor":
            return values[0]  # a number goes on being one, until it is computed into a tensor
        everything = [*values, *keywords.values()]
        constants = [one for one in everything if isinstance(one, Known)]
        if len(constants) == len(everything) and name not in knowledge.MAKES_TENSORS:
            result = computed(name, [one.value for one in constants])
            if result is not None:
                return Known(result, max(one.of_training for one in constants))
        tensors = [one for one in everything if self.heap.holds_tensors(one)]
        if name in knowledge.MAKES_TENSORS or (tensors and not self._are_numbers(name, tensors, everything)):
            return self.at_site(node, self._of_tensors(node, values, keywords, member))
        if name in knowledge.COMPARISONS and len(values) == 2:
            first, second = values
            if isinstance(first, Some) and first.is_positive and whole_number(second) == 0:
                return Known(name in ("aten::ne", "aten::gt", "aten::ge"))
        taint = self.heap.evidence_of(everything)
        if name in knowledge.STEPS:
            taint |= self._step(taint, name, member, line)
        return Some(taint)

    def at_site(self, node: object, value: Value) -> Value:
        """In a loop, the one list that stands for those of all turns."""
        if not self.in_loop or not isinstance(value, Container):
            return value
        site = self.lists_at.setdefault(id(node), value)
        if site is not value:
            for one in value.values:
                self.heap.collapse(site, one, value.body.taint)
        self.heap.collapse(site)
        return site

    def _memory_at(self, node: object, place: int = 0) -> Memory | None:
        return self.sites.setdefault((id(node), place), Memory(born=self.heap.side)) if self.in_loop else None

    # Tensors

    def _are_numbers(self, name: str, tensors: Sequence[Value], everything: Sequence[Value]) -> bool:
        """Whether an operator computes with a size, as tracing writes it down: one number more is a constant tensor."""
        if name not in knowledge.BROADCASTS | knowledge.STEPS or len(tensors) == len(everything):
            return False
        return all(
            isinstance(one, Some) and one.is_whole and one.dims == () and not self.heap.evidence(one) for one in tensors
        )

    def _of_tensors(self, node: Operator, values: list[Value], keywords: Mapping[str, Value], member: str) -> Value:
        base = _in_new_memory(node.name)
        first = values[0] if values else NONE
        everything = [*values, *(value for key, value in keywords.items() if key not in knowledge.PLACING)]
        self._note_size(base, values, member, node.line)
        self._note_reads(values)
        used = everything[1:] if base in knowledge.LIKE else everything
        taint = self._taint(base, used, member, node.line) | self._marks_of(node, base, values, keywords, member)
        is_written = base != node.name
        whole = number_types.is_whole(base, values, keywords)
        if is_written:
            return self._written(node, base, first, taint, values, member)
        if base in knowledge.SAME or (base == "aten::to" and number_types.only_moves(values, keywords)):
            return first
        spread = 0
        for value in values:
            spread |= self.heap.spread(value) if self.heap.holds_tensors(value) else self.heap.evidence(value)
        if base in knowledge.SIZED_BY_NUMBERS:
            spread |= self.heap.evidence_of(values)
        if self.no_grad and taint & PIXELS:
            where = self.no_grad[-1]
            told = "Gradients are switched off on the way from the pixels to the scores."
            taint |= self.marks.bit(NO_GRAD, *where, told, self.asks_for_gradients)
        if base in knowledge.NUMBERS:
            return Some(taint)
        if base in ("aten::equal", "aten::is_nonzero", "aten::Int", "aten::IntImplicit", "aten::Bool"):
            return Some(taint)
        dims = self.shapes.of_result(base, values)
        memories = self.heap.memories(first) if base in knowledge.VIEWS else frozenset()
        if memories:
            result = Some(taint, memories, dims, spread, True, whole)
        else:
            result = self.heap.tensor(taint, dims, spread, self._memory_at(node), is_whole=whole)
        return self._as_returned(base, node, result, values, keywords, member)

    def _as_returned(
        self,
        base: str,
        node: Operator,
        result: Some,
        values: Sequence[Value],
        keywords: Mapping[str, Value],
        member: str,
    ) -> Value:
        """Operators that return several tensors."""
        if base in knowledge.FUSED:
            weights = frozenset(memory for memory in self.heap.memories(Tuple(tuple(values))) if memory.is_kept)
            first = values[0]
            dims = first.dims if isinstance(first, Some) else None
            fused = Some(result.taint, result.memories, dims, result.spread, True, fused=weights)
            return Tuple((fused, fused)) if base.endswith("attention") else fused
        if base in knowledge.WITH_PLACES and _has_places(base, values, keywords):
            taint = self.heap.evidence(result)
            taint |= self._step(taint, node.name, member, node.line)
            memory = self._memory_at(node, 1)
            return Tuple((result, self.heap.tensor(taint, result.dims, result.spread, memory, is_whole=True)))
        if base in ("aten::chunk", "aten::split", "aten::split_with_sizes", "aten::tensor_split", "aten::unbind"):
            return self.lists.of_unknown_length(result)
        if base in ("aten::broadcast_tensors", "aten::meshgrid"):
            return self.lists.of_unknown_length(Some(result.taint, result.memories, None, result.spread, True))
        return result

    def _taint(self, base: str, everything: Sequence[Value], member: str, line: int) -> int:
        """What the numbers of the result depend on; the size of a batch that turns up in them is marked."""
        taint = 0
        for value in everything:
            found = self.heap.evidence(value)
            if not self.heap.holds_tensors(value):
                if base in knowledge.TAKES_SIZES:
                    found &= ~(BATCH | SHAPE | PLACE)
                found = self.implied(found, member, line, "The scores are computed from") | found & (PIXELS | SHAPE)
            taint |= found
        return taint

    def implied(self, taint: int, member: str, line: int, words: str) -> int:
        """The marks in a taint, with new ones for what it knows of the surroundings."""
        marks = taint & ~SOURCES
        for source, rule in _SWITCHES:
            if taint & source:
                marks |= self.marks.bit(rule, member, line, f"{words} {_TOLD[rule]}.")
        return marks

    def _step(self, taint: int, name: str, member: str, line: int) -> int:
        if taint & PIXELS and not taint & self.marks.of(GATE):
            told = (
                f"`{_shown(name)}` makes steps of numbers that depend on the pixels, and its result reaches the scores."
            )
            return self.marks.bit(GATE, member, line, told)
        return 0

    def _marks_of(
        self, node: Operator, base: str, values: Sequence[Value], keywords: Mapping[str, Value], member: str
    ) -> int:
        line, evidence = node.line, self.heap.evidence_of(values)
        if base in knowledge.RANDOM or self._trains(node, base, values, keywords):
            return self.marks.bit(RANDOM, member, line, f"`{_shown(node.name)}` makes random numbers of the scores.")
        copies = base == "aten::tensor" and self.heap.holds_tensors(values[0])
        if evidence & PIXELS and (base in knowledge.DETACHES or base in knowledge.NUMBERS or copies):
            told = f"`{_shown(node.name)}` cuts the gradient on the way from the pixels to the scores."
            return self.marks.bit(DETACHED, member, line, told)
        if base in knowledge.STEPS or number_types.rounds(self.heap, base, values, keywords):
            return self._step(evidence, node.name, member, line)
        return 0

    def _trains(self, node: Operator, base: str, values: Sequence[Value], keywords: Mapping[str, Value]) -> bool:
        """Whether an operator is random for want of evaluation mode; a literal was baked in by tracing, and undone."""
        if base not in knowledge.TRAINING_ARGUMENT:
            return False
        place, keyword = knowledge.TRAINING_ARGUMENT[base]
        if place < len(values):
            written, mode = node.arguments[place], values[place]
        else:
            written = dict(node.keywords).get(keyword, Literal(False, node.line))
            mode = keywords.get(keyword, NONE)
        return not isinstance(written, Literal) and not (isinstance(mode, Known) and not mode.value)

    def _written(
        self, node: Operator, base: str, first: Value, taint: int, values: Sequence[Value], member: str
    ) -> Value:
        """An operator that writes its result into its first argument."""
        memories = self.heap.memories(first)
        if any(memory.is_kept for memory in memories):
            told = "The code writes into a tensor of the network, which is there at the next call."
            taint |= self.marks.bit(MEMORY, member, node.line, told)
        self.heap.write(memories, taint)
        if isinstance(first, Some) and base == "aten::detach":
            return Some(first.taint | taint, first.memories, first.dims, first.spread, True, first.is_whole)
        dims = self.shapes.of_result(base, values)
        if isinstance(first, Some) and dims is not first.dims and base not in knowledge.BROADCASTS:
            return Some(first.taint, first.memories, dims, self.heap.spread(first), True, first.is_whole)
        return first

    def _note_size(self, base: str, values: Sequence[Value], member: str, line: int) -> None:
        place = knowledge.SIZES_ARGUMENT.get(base)
        if place is None or place >= len(values):
            return
        sizes = values[place]
        numbers = [sizes]
        if isinstance(sizes, Container) and sizes.body.entries is not None:
            numbers = list(sizes.body.entries.values())[:_MOST_DIMS]
        known = [size for one in numbers if (size := whole_number(one)) is not None and size > 0]
        if base != "aten::expand" and prod(known) * _ITEM_BYTES > LARGE_BYTES:
            told = f"`{_shown(base)}` takes more than a gigabyte of memory, whatever the image is."
            self.marks.bit(ALLOCATION, member, line, told)

    def _note_reads(self, values: Sequence[Value]) -> None:
        for value in values:
            if isinstance(value, Some):
                self.heap.reads += [memory for memory in value.memories if memory.is_kept]


def _in_new_memory(name: str) -> str:
    """The operator that does the same as `aten::relu_`, and writes into nothing."""
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _has_places(base: str, values: Sequence[Value], keywords: Mapping[str, Value]) -> bool:
    """Whether `max` and its like are asked along a dimension, and say where."""
    if base in ("aten::max", "aten::min", "aten::median"):
        return "dim" in keywords or (len(values) > 1 and not is_tensor(values[1]))
    return not (base.startswith("aten::max_pool") and "indices" not in base)


def _shown(name: str) -> str:
    return name.partition("::")[2]
