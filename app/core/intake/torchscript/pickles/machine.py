"""A machine that reads a pickle of TorchScript without obeying it: nothing is imported, nothing is called.

A pickle is a small program that builds values on a stack. Python's own reader lets that program call whatever it can
import; this one knows the thirty instructions and the few names that torch writes, gives each its one meaning, and
refuses the rest. Classes of the archive's code are mere names here; whether they exist there is the gate's matter.
"""

from app.core.intake.guards import Allowance
from app.core.intake.torchscript.pickles.globals import CALL, ClassName, Function, StorageType, call, find_global
from app.core.intake.torchscript.pickles.nesting import check_nesting
from app.core.intake.torchscript.pickles.opcodes import BOMB, MOST_INSTRUCTIONS, Instruction, read_instructions
from app.core.intake.torchscript.pickles.storages import STORAGE, StorageTable
from app.core.intake.torchscript.rules import DO_NOT_LOAD, EXPORT_AGAIN, FETCH_AGAIN, GateRefusal, Rule
from app.core.intake.torchscript.values import ObjectValue, Storage, Value
from app.core.text import printable

STACK = Rule("pickle-stack", "malformed_archive", FETCH_AGAIN)
CONTAINER = Rule("pickle-container", "unsafe_pickle", DO_NOT_LOAD)
BUILD = Rule("pickle-build", "unsafe_pickle", DO_NOT_LOAD)
ENUM = Rule("pickle-enum", "unsupported_operator", EXPORT_AGAIN)


def read_pickle(data: bytes, member: str, storages: StorageTable) -> Value:
    """The value that a pickle describes; raises GateRefusal for whatever torch would not have written."""
    machine = _Machine(storages)
    position = 0
    try:
        for instruction in read_instructions(data):
            position = instruction.position
            machine.follow(instruction)
        return check_nesting(machine.result())
    except GateRefusal as refusal:
        raise refusal.rule.refusal(f"{refusal.problem.detail} (at byte {position:,}).", member) from None


class _Blank:
    """An object whose attributes are still to come."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name


class _Machine:
    """A stack, the heights at which marks were set on it, and what was noted down to be fetched again.

    On the stack stand values, and what values are made of: names of the archive or of torch, storages, blank objects.
    """

    def __init__(self, storages: StorageTable) -> None:
        self.storages = storages
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.notes: list[object] = []  # what Python calls the memo
        self.attributes = Allowance(MOST_INSTRUCTIONS, BOMB.refusal("Objects share attributes in vast numbers"))

    def follow(self, instruction: Instruction) -> None:
        push = self.stack.append
        match instruction.name:
            case "BININT1" | "BININT2" | "BININT" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                push(instruction.argument)
            case "NONE":
                push(None)
            case "NEWTRUE":
                push(True)
            case "NEWFALSE":
                push(False)
            case "EMPTY_LIST":
                push([])
            case "EMPTY_DICT":
                push({})
            case "EMPTY_TUPLE":
                push(())
            case "MARK":
                self.marks.append(len(self.stack))
            case "TUPLE":
                push(tuple(self.pop_marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                push(tuple(self.pop(int(name[-1]))))
            case "APPEND":
                self.extend_top(self.pop(1))
            case "APPENDS":
                self.extend_top(self.pop_marked())
            case "SETITEM":
                self.update_top(self.pop(2))
            case "SETITEMS":
                self.update_top(self.pop_marked())
            case "BINPUT" | "LONG_BINPUT":
                self.note_top(instruction.argument)
            case "BINGET" | "LONG_BINGET":
                push(self.noted(instruction.argument))
            case "GLOBAL":
                push(find_global(*instruction.argument))
            case "BINPERSID":
                push(self.storage(*self.pop(1)))
            case "REDUCE":
                push(self.called(*self.pop(2)))
            case "NEWOBJ":
                push(_blank_object(*self.pop(2)))
            case "BUILD":
                push(self.finished_object(*self.pop(2)))

    def result(self) -> object:
        """The one value that is left at the end."""
        (value,) = self.pop(1)
        if self.stack or self.marks:
            raise STACK.refusal("The pickle leaves more than one value behind")
        return value

    def pop(self, count: int) -> list[object]:
        """The uppermost items, the last pushed comes last; those below a mark cannot be reached."""
        bottom = len(self.stack) - count
        if bottom < (self.marks[-1] if self.marks else 0):
            raise STACK.refusal("An instruction needs more values than there are")
        taken = self.stack[bottom:]
        del self.stack[bottom:]
        return taken

    def pop_marked(self) -> list[object]:
        """Everything above the last mark, which goes, too."""
        if not self.marks:
            raise STACK.refusal("An instruction needs a mark where none was set")
        items = self.pop(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return items

    def note_top(self, number: int) -> None:
        if number != len(self.notes):
            raise STACK.refusal("Values are not noted down in order")
        (value,) = self.pop(1)
        self.stack.append(value)
        self.notes.append(value)

    def noted(self, number: int) -> object:
        if number >= len(self.notes):
            raise STACK.refusal(f"The value number {number:,} is fetched, but was not noted down")
        return self.notes[number]

    def extend_top(self, items: list[object]) -> None:
        (target,) = self.pop(1)
        if not isinstance(target, list):
            raise CONTAINER.refusal(f"Items are appended to {_a(target)}, not to a list")
        target.extend(items)
        self.stack.append(target)

    def update_top(self, items: list[object]) -> None:
        (target,) = self.pop(1)
        if not isinstance(target, dict):
            raise CONTAINER.refusal(f"Items are set in {_a(target)}, not in a dict")
        if len(items) % 2:
            raise CONTAINER.refusal("A dict is given a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, bool | int | float | str):
                raise CONTAINER.refusal(f"A dict is given {_a(key)} as a key")
            if key in target:
                raise CONTAINER.refusal("A dict is given one key twice")
            target[key] = value
        self.stack.append(target)

    def storage(self, identifier: object) -> Storage:
        match identifier:
            case ("storage", StorageType(dtype), key, device, items):
                return self.storages.storage(dtype, key, device, items)
        raise STORAGE.refusal("A persistent id does not describe a storage")

    def called(self, function: object, arguments: object) -> Value:
        if isinstance(function, ClassName):
            raise ENUM.refusal(f"The pickle holds an enum, `{printable(function.name)}`")
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise CALL.refusal(f"The pickle calls {_a(function)}")
        return call(function, arguments, self.storages)

    def finished_object(self, blank: object, state: object) -> ObjectValue:
        """An object with its attributes, which are its own from now on: no later instruction reaches them."""
        if not isinstance(blank, _Blank):
            raise BUILD.refusal(f"A state is given to {_a(blank)}, not to a fresh object of the archive")
        if not isinstance(state, dict):
            raise BUILD.refusal(f"An object of `{printable(blank.type_name)}` is given {_a(state)} as its attributes")
        self.attributes.spend(len(state))
        if not all(isinstance(name, str) for name in state):
            raise BUILD.refusal(f"An object of `{printable(blank.type_name)}` is given attributes without names")
        return ObjectValue(blank.type_name, dict(state))


def _blank_object(type_name: object, arguments: object) -> _Blank:
    if not isinstance(type_name, ClassName) or arguments != ():
        raise CALL.refusal("An object is made of what is no class of the archive, or with arguments")
    return _Blank(type_name.name)


def _a(item: object) -> str:
    return f"a `{type(item).__name__.lstrip('_')}`"
