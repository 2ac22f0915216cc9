"""Pickles written by hand, opcode by opcode, so that a test can say exactly what a hostile file says.

Each function answers bytes; bytes are put together with `+`, and `pickled` puts the protocol before them and STOP
behind. Nothing here checks what it writes.
"""

import pickletools
import struct

_CODES = {opcode.name: opcode.code.encode("latin-1") for opcode in pickletools.opcodes}


def op(name: str, argument: bytes = b"") -> bytes:
    """One opcode by its name in `pickletools`, with its argument's bytes."""
    return _CODES[name] + argument


def pickled(*body: bytes) -> bytes:
    return op("PROTO", b"\2") + b"".join(body) + op("STOP")


def text(characters: str) -> bytes:
    encoded = characters.encode()
    return op("BINUNICODE", struct.pack("<I", len(encoded)) + encoded)


def number(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return op("BININT", struct.pack("<i", value))
    return op("LONG1", b"\x08" + struct.pack("<q", value))


def name(module: str, attribute: str) -> bytes:
    return op("GLOBAL", f"{module}\n{attribute}\n".encode())


def tuple_of(*items: bytes) -> bytes:
    return op("MARK") + b"".join(items) + op("TUPLE")


def list_of(*items: bytes) -> bytes:
    return op("EMPTY_LIST") + op("MARK") + b"".join(items) + op("APPENDS")


def dict_of(items: dict[str, bytes]) -> bytes:
    pairs = b"".join(text(key) + value for key, value in items.items())
    return op("EMPTY_DICT") + op("MARK") + pairs + op("SETITEMS")


def put(number_: int) -> bytes:
    return op("LONG_BINPUT", struct.pack("<I", number_))


def get(number_: int) -> bytes:
    return op("LONG_BINGET", struct.pack("<I", number_))


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + tuple_of(*arguments) + op("REDUCE")


def storage(key: str = "0", kind: str = "FloatStorage", items: int = 6, device: str = "cpu") -> bytes:
    described = tuple_of(text("storage"), name("torch", kind), text(key), text(device), number(items))
    return described + op("BINPERSID")


def sizes(*values: int) -> bytes:
    return tuple_of(*map(number, values))


def tensor(
    of: bytes | None = None, offset: int = 0, shape: tuple[int, ...] = (2, 3), strides: tuple[int, ...] = (3, 1)
) -> bytes:
    hooks = call("collections", "OrderedDict")
    view = (number(offset), sizes(*shape), sizes(*strides), op("NEWFALSE"))
    return call("torch._utils", "_rebuild_tensor_v2", of or storage(), *view, hooks)


def an_object(class_name: str, state: bytes) -> bytes:
    module, _, attribute = class_name.rpartition(".")
    return name(module, attribute) + op("EMPTY_TUPLE") + op("NEWOBJ") + state + op("BUILD")


def net(**attributes: bytes) -> bytes:
    """The pickle of a module of the class `__torch__.Net`."""
    return pickled(an_object("__torch__.Net", dict_of(attributes)))
