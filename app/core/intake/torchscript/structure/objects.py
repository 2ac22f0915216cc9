"""The objects of an archive while its code is followed: their attributes, and what the code sets them to.

An attribute that the code sets is another one at the next call. The network is in evaluation mode, whatever mode it was
saved in.
"""

from dataclasses import replace

from app.core.intake.torchscript.code import program as ir
from app.core.intake.torchscript.structure.heap import Heap
from app.core.intake.torchscript.structure.rules import MEMORY
from app.core.intake.torchscript.structure.taints import Marks
from app.core.intake.torchscript.structure.values import (
    NONE,
    NOTHING,
    Body,
    Container,
    Known,
    Memory,
    Part,
    Some,
    Tuple,
    Value,
)
from app.core.intake.torchscript.values import DeviceValue, ObjectValue, TensorValue
from app.core.intake.torchscript.values import Value as Stored

_WHOLE = ("int64", "int32", "int16", "int8", "uint8", "bool")
Key = tuple[int, str]  # an object and the name of its attribute


class Objects:
    def __init__(self, heap: Heap, marks: Marks, program: ir.Program, constants: tuple[Stored, ...]) -> None:
        self.heap, self.marks = heap, marks
        self.program = program
        self.constants = constants
        self.read: set[Key] = set()
        self._memories: dict[str, Memory] = {}
        self._values: dict[Key, Value] = {}  # at the beginning of a call
        self._written: dict[Key, Value] = {}  # since then
        self._marks: dict[Key, int] = {}

    def attribute(self, part: Part, name: str) -> Value:
        found: Value = NOTHING
        for one in part.objects:
            found = self.heap.join(found, self._of_object(one, name), part.taint)
        return found

    def write(self, part: Part, name: str, new: Value, member: str, line: int) -> None:
        told = f"The code sets the attribute `{name}`, and the scores of later images depend on it."
        for one in part.objects:
            key = (id(one), name)
            old = self._of_object(one, name)
            is_certain = self.heap.side == 0 and len(part.objects) == 1
            self._written[key] = new if is_certain else self.heap.join(old, new, self.heap.control | part.taint)
            self._marks[key] = self.marks.bit(MEMORY, member, line, told) | self.heap.control
            if self._written[key] is not old:
                self.heap.changes += not is_certain

    def end_call(self) -> bool:
        """What was set is there at the next call; whether that made a difference."""
        differs = False
        for key, new in self._written.items():
            old = self._values[key]
            joined = self.heap.join(old, self._outlived(key, new), self._marks[key])
            if joined is not old:
                self._values[key] = joined
                differs = True
        self._written.clear()
        return differs

    def _outlived(self, key: Key, value: Value) -> Value:
        """A value that was set, with one memory for whatever tensors it is made of."""
        if not isinstance(value, Some) or not value.memories:
            return value
        memory = self._memories.setdefault(f"{key[0]}.{key[1]}", Memory(is_kept=True))
        self.heap.write((memory,), self.heap.evidence(value))
        return replace(value, taint=0, memories=frozenset((memory,)))

    def _of_object(self, owner: ObjectValue, name: str) -> Value:
        key = (id(owner), name)
        self.read.add(key)
        if key in self._written:
            return self._written[key]
        if key not in self._values:
            self._values[key] = self._first_value(owner, name)
        return self._values[key]

    def _first_value(self, owner: ObjectValue, name: str) -> Value:
        if name == "training":
            return Known(False, 2 if owner.attributes.get(name) is True else 1)
        if name in owner.attributes:
            return self.stored(owner.attributes[name])
        return self.constant(self.program.classes[owner.type_name].constants[name])

    def stored(self, value: Stored) -> Value:
        """A value of the pickles."""
        self.heap.spend()
        match value:
            case TensorValue(storage, _, shape):
                memory = self._memories.setdefault(storage.record, Memory(is_kept=True))
                dims = tuple(map(Known, shape))
                return Some(0, frozenset((memory,)), dims, 0, True, storage.dtype in _WHOLE)
            case ObjectValue():
                return Part((value,))
            case tuple():
                return Tuple(tuple(map(self.stored, value)))
            case list():
                return Container("list", Body(dict(enumerate(map(self.stored, value))), is_kept=True))
            case dict():
                return Container("dict", Body({key: self.stored(one) for key, one in value.items()}, is_kept=True))
        return Known(value)

    def constant(self, value: ir.Constant) -> Value:
        """A constant of the code, or the default of a parameter."""
        match value:
            case ir.ConstantTensor(index):
                return self.stored(self.constants[index])
            case ir.DeviceLiteral(name):
                return Known(DeviceValue(name))
            case tuple():
                return Container("list", Body(dict(enumerate(map(self.constant, value)))))
        return NONE if value is None else Known(value)
