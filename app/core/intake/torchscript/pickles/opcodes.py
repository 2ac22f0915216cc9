"""The bytes of a pickle as a stream of instructions: those torch writes for TorchScript, and nothing else.

Every other opcode is refused by its name, above all those that import, call or build what they please. This module
checks that the bytes are whole; what an instruction does, and whether it may, is the machine's matter (machine.py).
"""

import pickletools
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from app.core.intake.torchscript.rules import DO_NOT_LOAD, FETCH_AGAIN, Rule
from app.core.text import printable

DAMAGED = Rule("pickle-damaged", "malformed_archive", FETCH_AGAIN)
OPCODE = Rule("pickle-opcode", "unsafe_pickle", DO_NOT_LOAD)
BOMB = Rule("pickle-bomb", "unsafe_pickle", DO_NOT_LOAD)

MOST_BYTES = 4 << 20  # some 100 kB for a network of 1,000 layers
MOST_INSTRUCTIONS = 200_000  # some 30,000 for the same

_PROTOCOL = 2
_LONGEST_NAME = 1_000  # of a module or of a class
_INTEGER_BYTES = 8  # of an int of TorchScript that is too large for BININT

_PLAIN = {
    b".": "STOP",
    b"(": "MARK",
    b"N": "NONE",
    b"\x88": "NEWTRUE",
    b"\x89": "NEWFALSE",
    b")": "EMPTY_TUPLE",
    b"t": "TUPLE",
    b"\x85": "TUPLE1",
    b"\x86": "TUPLE2",
    b"\x87": "TUPLE3",
    b"]": "EMPTY_LIST",
    b"a": "APPEND",
    b"e": "APPENDS",
    b"}": "EMPTY_DICT",
    b"s": "SETITEM",
    b"u": "SETITEMS",
    b"Q": "BINPERSID",
    b"R": "REDUCE",
    b"\x81": "NEWOBJ",
    b"b": "BUILD",
}
_WITH_NUMBER = {
    b"K": ("BININT1", struct.Struct("<B")),
    b"M": ("BININT2", struct.Struct("<H")),
    b"J": ("BININT", struct.Struct("<i")),
    b"G": ("BINFLOAT", struct.Struct(">d")),
    b"q": ("BINPUT", struct.Struct("<B")),
    b"r": ("LONG_BINPUT", struct.Struct("<I")),
    b"h": ("BINGET", struct.Struct("<B")),
    b"j": ("LONG_BINGET", struct.Struct("<I")),
}
_LENGTH = struct.Struct("<I")


class Instruction(NamedTuple):
    """One step, with what stands behind the opcode; a global's is its module and its name."""

    name: str
    argument: Any  # None, int, float, str or tuple[str, str], as the name says
    position: int  # of the opcode's byte


def read_instructions(data: bytes) -> Iterator[Instruction]:
    """The instructions from the protocol's mark to STOP, which must be the last byte."""
    if len(data) > MOST_BYTES:
        raise BOMB.refusal(f"The pickle has {len(data):,} bytes, more than {MOST_BYTES:,}")
    if data[:2] != bytes((0x80, _PROTOCOL)):
        raise DAMAGED.refusal(f"The pickle does not begin as protocol {_PROTOCOL} does")
    source = _Source(data, 2)
    for _ in range(MOST_INSTRUCTIONS):
        position = source.position
        instruction = _read_instruction(source, position)
        yield instruction
        if instruction.name == "STOP":
            if source.position != len(data):
                raise DAMAGED.refusal(f"{len(data) - source.position:,} bytes follow the pickle's end")
            return
    raise BOMB.refusal(f"The pickle has more than {MOST_INSTRUCTIONS:,} instructions")


class _Source:
    """Bytes that are taken one after the other."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position

    def take(self, size: int) -> bytes:
        taken = self.data[self.position : self.position + size]
        if len(taken) < size:
            raise DAMAGED.refusal("The pickle ends in the middle of an instruction")
        self.position += size
        return taken

    def take_line(self) -> bytes:
        end = self.data.find(b"\n", self.position, self.position + _LONGEST_NAME)
        if end < 0:
            raise DAMAGED.refusal("The name of a class has no end")
        line = self.data[self.position : end]
        self.position = end + 1
        return line


def _read_instruction(source: _Source, position: int) -> Instruction:
    code = source.take(1)
    if code in _PLAIN:
        return Instruction(_PLAIN[code], None, position)
    if code in _WITH_NUMBER:
        name, layout = _WITH_NUMBER[code]
        return Instruction(name, layout.unpack(source.take(layout.size))[0], position)
    if code == b"X":
        (length,) = _LENGTH.unpack(source.take(_LENGTH.size))
        return Instruction("BINUNICODE", _text(source.take(length)), position)
    if code == b"\x8a":
        length = source.take(1)[0]
        if length != _INTEGER_BYTES:
            raise DAMAGED.refusal(f"A long integer has {length} bytes, not {_INTEGER_BYTES}")
        return Instruction("LONG1", int.from_bytes(source.take(length), "little", signed=True), position)
    if code == b"c":
        return Instruction("GLOBAL", (_text(source.take_line()), _text(source.take_line())), position)
    raise _foreign(code)


def _text(encoded: bytes) -> str:
    try:
        return encoded.decode("utf-8")
    except UnicodeDecodeError:
        raise DAMAGED.refusal(f"A text is not UTF-8: `{printable(repr(encoded))}`") from None


_KNOWN = {known.code.encode("latin-1"): known.name for known in pickletools.opcodes}


def _foreign(code: bytes) -> Exception:
    if code in _KNOWN:
        return OPCODE.refusal(f"The pickle uses {_KNOWN[code]}, which TorchScript does not")
    return DAMAGED.refusal(f"The pickle holds the byte 0x{code.hex()} where an instruction is expected")
