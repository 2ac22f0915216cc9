"""A value, pickled afresh for torch: the way back from machine.py, in the same few instructions.

What was one object stays one: it is written where it is met first, noted down, and fetched wherever it is met again.
Lists and dicts are told their types, which Python's do not know and TorchScript's do; they follow from the class that
declares the attribute. What the numbers in the records are is not known.
"""

import struct
from collections.abc import Mapping

from app.core.intake.torchscript.code.program import Class, Type
from app.core.intake.torchscript.code.spelling import spelled_type
from app.core.intake.torchscript.pickles.globals import STORAGE_TYPES
from app.core.intake.torchscript.values import DeviceValue, ObjectValue, Scalar, Storage, TensorValue, Value

Compound = DeviceValue | TensorValue | ObjectValue | tuple[Value, ...] | list[Value] | dict[Scalar, Value]
Key = str | tuple[str, str] | int

_LISTS = {
    "int": "torch.jit._pickle.build_intlist",
    "float": "torch.jit._pickle.build_doublelist",
    "bool": "torch.jit._pickle.build_boollist",
    "Tensor": "torch.jit._pickle.build_tensorlist",
}
_TAGGED = "torch.jit._pickle.restore_type_tag"  # of all other lists, and of dicts
_STORAGE_NAMES = {dtype: name for name, dtype in STORAGE_TYPES.items()}

_BEGIN, _STOP = b"\x80\2", b"."
_MARK, _TUPLE, _EMPTY_TUPLE = b"(", b"t", b")"
_EMPTY_LIST, _APPENDS, _EMPTY_DICT, _SETITEMS = b"]", b"e", b"}", b"u"
_REDUCE, _BINPERSID, _NEWOBJ, _BUILD = b"R", b"Q", b"\x81", b"b"


def write_pickle(value: Value, type_: Type, classes: Mapping[str, Class]) -> bytes:
    """The pickle of a value of the type; objects and named tuples are of the classes."""
    writer = _Writer(classes)
    writer.value(value, type_)
    return b"".join((_BEGIN, *writer.written, _STOP))


class _Writer:
    """The instructions so far, and what was noted down: texts and names as they are, values by their identity."""

    def __init__(self, classes: Mapping[str, Class]) -> None:
        self.classes = classes
        self.written: list[bytes] = []
        self.notes: dict[Key, int] = {}

    def put(self, *instructions: bytes) -> None:
        self.written.extend(instructions)

    def value(self, value: Value, type_: Type) -> None:
        while type_.name == "Optional":
            (type_,) = type_.arguments
        match value:
            case None:
                self.put(b"N")
            case bool():
                self.put(b"\x88" if value else b"\x89")
            case int():
                self.put(_number(value))
            case float():
                self.put(b"G", struct.pack(">d", value))
            case str():
                self.text(value)
            case _ if not self.fetched(id(value)):
                self.compound(value, type_)
                self.note(id(value))

    def compound(self, value: Compound, type_: Type) -> None:
        """What is noted down once it is whole."""
        match value:
            case DeviceValue(name):
                self.name("torch.device")
                self.put(_MARK)
                self.text(name)
                self.put(_TUPLE, _REDUCE)
            case TensorValue():
                self.tensor(value)
            case ObjectValue():
                self.object(value)
            case tuple():
                self.tuple(value, type_)
            case list():
                self.list(value, type_)
            case dict():
                self.dict(value, type_)

    def object(self, value: ObjectValue) -> None:
        self.name(value.type_name)
        self.put(_EMPTY_TUPLE, _NEWOBJ, _EMPTY_DICT, _MARK)
        for name, type_ in self.classes[value.type_name].attributes.items():
            self.text(name)
            self.value(value.attributes[name], type_)
        self.put(_SETITEMS, _BUILD)

    def tuple(self, items: tuple[Value, ...], type_: Type) -> None:
        """A tuple, or a named one, whose names are not pickled."""
        named = self.classes.get(type_.name)
        types = tuple(named.attributes.values()) if named else type_.arguments
        self.put(_MARK)
        for item, its_type in zip(items, types, strict=True):
            self.value(item, its_type)
        self.put(_TUPLE)

    def list(self, items: list[Value], type_: Type) -> None:
        (item_type,) = type_.arguments
        self.name(_LISTS.get(item_type.name, _TAGGED))
        self.put(_MARK, _EMPTY_LIST, _MARK)
        for item in items:
            self.value(item, item_type)
        self.put(_APPENDS)
        if item_type.name not in _LISTS:
            self.text(spelled_type(type_))
        self.put(_TUPLE, _REDUCE)

    def dict(self, items: dict[Scalar, Value], type_: Type) -> None:
        key_type, item_type = type_.arguments
        self.name(_TAGGED)
        self.put(_MARK, _EMPTY_DICT, _MARK)
        for key, item in items.items():
            self.value(key, key_type)
            self.value(item, item_type)
        self.put(_SETITEMS)
        self.text(spelled_type(type_))
        self.put(_TUPLE, _REDUCE)

    def tensor(self, tensor: TensorValue) -> None:
        self.name("torch._utils._rebuild_tensor_v2")
        self.put(_MARK)
        self.storage(tensor.storage)
        self.put(_number(tensor.offset), _sizes(tensor.shape), _sizes(tensor.strides))
        self.value(tensor.requires_grad, Type("bool"))
        self.name("collections.OrderedDict")  # of hooks, which are none
        self.put(_EMPTY_TUPLE, _REDUCE, _TUPLE, _REDUCE)

    def storage(self, storage: Storage) -> None:
        if self.fetched(id(storage)):
            return
        self.put(_MARK)
        self.text("storage")
        self.name(_STORAGE_NAMES[storage.dtype])
        self.text(storage.record.rpartition("/")[2])
        self.text(storage.device)
        self.put(_number(storage.items), _TUPLE, _BINPERSID)
        self.note(id(storage))

    def text(self, text: str) -> None:
        if not self.fetched(text):
            encoded = text.encode()
            self.put(b"X", struct.pack("<I", len(encoded)), encoded)
            self.note(text)

    def name(self, name: str) -> None:
        module, _, last = name.rpartition(".")
        if not self.fetched((module, last)):
            self.put(f"c{module}\n{last}\n".encode())
            self.note((module, last))

    def note(self, key: Key) -> None:
        number = self.notes[key] = len(self.notes)
        self.put(b"q" + struct.pack("<B", number) if number < 0x100 else b"r" + struct.pack("<I", number))

    def fetched(self, key: Key) -> bool:
        """Whether it was noted down before; then it is on the stack now."""
        number = self.notes.get(key)
        if number is not None:
            self.put(b"h" + struct.pack("<B", number) if number < 0x100 else b"j" + struct.pack("<I", number))
        return number is not None


def _number(number: int) -> bytes:
    if 0 <= number < 0x100:
        return b"K" + struct.pack("<B", number)
    if -(1 << 31) <= number < 1 << 31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)


def _sizes(sizes: tuple[int, ...]) -> bytes:
    return b"".join((_MARK, *map(_number, sizes), _TUPLE))
