"""The directory of a zip file: what it states of each member.

Whatever makes a member something other than a plain file, stored or deflated, is refused; 64-bit values stand where,
and only where, the 32-bit ones refer to them. Fields that change nothing (who made the file, its text flag) are left
alone. What lies at the offsets that the directory states, and what the names mean, is not known here.
"""

import stat
import struct
from dataclasses import dataclass
from typing import NamedTuple

from app.core.intake.torchscript.archive.end import COMMENT, IN_ZIP64, MULTI_DISK, ZIP64, Directory
from app.core.intake.torchscript.archive.source import Source, member_refusal
from app.core.intake.torchscript.rules import DO_NOT_LOAD, EXPORT_AGAIN, Rule

DIRECTORY = Rule("zip-directory", "malformed_archive", DO_NOT_LOAD)
EXTRA = Rule("zip-extra", "malformed_archive", EXPORT_AGAIN)
ENCODING = Rule("zip-name-encoding", "malformed_archive", EXPORT_AGAIN)
ENCRYPTED = Rule("zip-encrypted", "malformed_archive", EXPORT_AGAIN)
FLAGS = Rule("zip-flags", "malformed_archive", EXPORT_AGAIN)
METHOD = Rule("zip-method", "malformed_archive", EXPORT_AGAIN)
FILE_MODE = Rule("zip-file-mode", "malformed_archive", DO_NOT_LOAD)

STORED, DEFLATED = 0, 8
ZIP64_FIELD = b"\1\0"
_HAS_DESCRIPTOR, _IS_UTF8, _IS_ENCRYPTED = 0x8, 0x800, 0x2041
_DOS_VOLUME, _DOS_FOLDER = 0x8, 0x10

_CENTRAL = struct.Struct("<4s6H3L5H2L")


class CentralHeader(NamedTuple):
    """The fixed part of a directory entry, as it is written."""

    signature: bytes
    made_by: int
    needs: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    compressed: int
    size: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal: int
    external: int
    offset: int


@dataclass(frozen=True)
class Entry:
    """A directory entry with its 64-bit values resolved."""

    name: str
    header: CentralHeader
    position: int  # of the header, in the file
    zip64: tuple[int, ...]  # its 64-bit values in their order, none where 32 bits are enough
    size: int
    compressed: int
    offset: int  # of the local header

    @property
    def has_descriptor(self) -> bool:
        return bool(self.header.flags & _HAS_DESCRIPTOR)


def read_directory(source: Source, directory: Directory) -> list[Entry]:
    """All entries, in the directory's order."""
    content = source.read(directory.offset, directory.size)
    entries = []
    position = 0
    for _ in range(directory.members):
        if position + _CENTRAL.size > len(content):
            raise DIRECTORY.refusal("The directory lists fewer members than the end record says.")
        header = CentralHeader._make(_CENTRAL.unpack_from(content, position))
        name_at = position + _CENTRAL.size
        extra_at = name_at + header.name_length
        following = extra_at + header.extra_length
        if header.signature != b"PK\1\2" or following > len(content):
            raise DIRECTORY.refusal("An entry of the directory is damaged.")
        name = _decoded(content[name_at:extra_at], header)
        _refuse_unusual(name, header)
        entries.append(_entry(name, header, directory.offset + position, content[extra_at:following]))
        position = following
    if position != len(content):
        raise DIRECTORY.refusal("The directory goes on after its last member.")
    return entries


def _decoded(name: bytes, header: CentralHeader) -> str:
    try:
        return name.decode("utf-8" if header.flags & _IS_UTF8 else "ascii")
    except UnicodeDecodeError:
        what = "has a name that is not UTF-8, or not marked as such."
        raise member_refusal(ENCODING, name.decode("utf-8", "replace"), what) from None


def _refuse_unusual(name: str, header: CentralHeader) -> None:
    if header.comment_length:
        raise member_refusal(COMMENT, name, "has a comment, which torch never writes.")
    if header.disk:
        raise member_refusal(MULTI_DISK, name, "claims to begin on another disk.")
    if header.flags & _IS_ENCRYPTED:
        raise member_refusal(ENCRYPTED, name, "is encrypted.")
    if header.flags & ~(_HAS_DESCRIPTOR | _IS_UTF8):
        raise member_refusal(FLAGS, name, f"has the unknown flags {header.flags:#06x}.")
    if header.method not in (STORED, DEFLATED):
        raise member_refusal(METHOD, name, f"is packed with method {header.method}; torch stores or deflates.")
    mode = header.external >> 16
    special = stat.S_IFMT(mode) not in (0, stat.S_IFREG) or mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
    if special or header.external & (_DOS_VOLUME | _DOS_FOLDER):
        raise member_refusal(FILE_MODE, name, "is a link, a folder or a device, not a plain file.")


def _entry(name: str, header: CentralHeader, position: int, extra: bytes) -> Entry:
    fields = extra_fields(name, extra)
    zip64 = fields.pop(ZIP64_FIELD, b"")
    if fields:
        raise member_refusal(EXTRA, name, "has extra fields in the directory.")
    stated = (header.size, header.compressed, header.offset)
    wide = wide_numbers(name, zip64)
    if len(wide) != stated.count(IN_ZIP64):
        raise member_refusal(ZIP64, name, "lacks 64-bit values, or has too many.")
    unread = iter(wide)
    size, compressed, offset = (next(unread) if number == IN_ZIP64 else number for number in stated)
    return Entry(name, header, position, wide, size, compressed, offset)


def extra_fields(name: str, extra: bytes) -> dict[bytes, bytes]:
    """The extra fields of a header by their two-byte ids."""
    fields: dict[bytes, bytes] = {}
    position = 0
    while position < len(extra):
        field, length = extra[position : position + 2], int.from_bytes(extra[position + 2 : position + 4], "little")
        position += 4 + length
        if position > len(extra) or field in fields:
            raise member_refusal(EXTRA, name, "has damaged or repeated extra fields.")
        fields[field] = extra[position - length : position]
    return fields


def wide_numbers(name: str, zip64: bytes) -> tuple[int, ...]:
    """The 64-bit values of an extra field, in the order of the 32-bit ones that refer to them."""
    if len(zip64) % 8:
        raise member_refusal(ZIP64, name, "has 64-bit values that are cut short.")
    return struct.unpack(f"<{len(zip64) // 8}Q", zip64)
