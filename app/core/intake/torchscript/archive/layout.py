"""Where each member's bytes lie: local headers, data and descriptors tile the file from its first byte on.

Every byte before the directory belongs to exactly one member. A local header repeats the directory's entry; where it
states nothing (torch writes a zero checksum and zero sizes, and a descriptor after the data) the descriptor must. The
bytes themselves are not looked at here.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.core.intake.torchscript.archive.directory import (
    DEFLATED,
    EXTRA,
    ZIP64_FIELD,
    Entry,
    extra_fields,
    wide_numbers,
)
from app.core.intake.torchscript.archive.end import IN_ZIP64, Directory
from app.core.intake.torchscript.archive.source import Source, member_refusal
from app.core.intake.torchscript.rules import DO_NOT_LOAD, Rule

PREFIX = Rule("zip-prefix", "malformed_archive", DO_NOT_LOAD)
OVERLAP = Rule("zip-overlap", "malformed_archive", DO_NOT_LOAD)
GAP = Rule("zip-gap", "malformed_archive", DO_NOT_LOAD)
HEADER = Rule("zip-header", "malformed_archive", DO_NOT_LOAD)
PADDING = Rule("zip-padding", "malformed_archive", DO_NOT_LOAD)
DESCRIPTOR = Rule("zip-descriptor", "malformed_archive", DO_NOT_LOAD)

_LOCAL = struct.Struct("<4s5H3L2H")
_PADDING_FIELD = b"FB"
_DESCRIPTOR = struct.Struct("<3L")
_DESCRIPTOR64 = struct.Struct("<L2Q")
_DESCRIPTOR_MARK = b"PK\7\x08"
_LONGEST_DESCRIPTOR = 24
_CENTRAL_CRC_AT, _LOCAL_CRC_AT = 16, 14  # from the beginning of the header


@dataclass(frozen=True)
class Member:
    """One file of the archive: where its bytes lie, and what the archive states of them."""

    name: str  # below the root
    header_offset: int
    data_offset: int
    compressed: int  # bytes in the file
    size: int  # bytes when unpacked
    deflated: bool
    crc: int
    crc_offsets: tuple[int, ...]  # wherever the file states the checksum, as four bytes little-endian


class _LocalHeader(NamedTuple):
    signature: bytes
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


def lay_out(source: Source, directory: Directory, entries: Sequence[Entry], names: Sequence[str]) -> Iterator[Member]:
    """The members in the order of the file; `names` are those of the entries, below the root."""
    ordered = sorted(zip(entries, names, strict=True), key=lambda pair: pair[0].offset)
    offsets = [entry.offset for entry, _ in ordered]
    if source.read(0, 4) != b"PK\3\4" or offsets[0] != 0:
        raise PREFIX.refusal("The file does not begin with its first member: something was put before it.")
    if offsets[-1] >= directory.offset:
        raise member_refusal(OVERLAP, ordered[-1][1], "begins where the directory lies.")
    ends = [*offsets[1:], directory.offset]
    for (entry, name), end in zip(ordered, ends, strict=True):
        yield _place(source, entry, name, end)


def _place(source: Source, entry: Entry, name: str, end: int) -> Member:
    local = _LocalHeader._make(_LOCAL.unpack(source.read(entry.offset, _LOCAL.size)))
    name_at = entry.offset + _LOCAL.size
    data_at = name_at + local.name_length + local.extra_length
    data_end = data_at + entry.compressed
    if data_end > end:
        raise member_refusal(OVERLAP, name, "reaches into the bytes of the next one.")
    written = source.read(name_at, local.name_length + local.extra_length)
    _check_header(entry, local, written[: local.name_length], name)
    _check_extra(entry, local, extra_fields(name, written[local.name_length :]), name)
    crc_offsets = [entry.position + _CENTRAL_CRC_AT]
    if local.crc or not entry.has_descriptor:
        crc_offsets.append(entry.offset + _LOCAL_CRC_AT)
    if entry.has_descriptor:
        crc_offsets.append(data_end + _crc_in_descriptor(source, entry, data_end, end, name))
    elif data_end != end:
        raise member_refusal(GAP, name, f"is followed by {end - data_end:,} bytes that belong to no member.")
    deflated = entry.header.method == DEFLATED
    crc = entry.header.crc
    return Member(name, entry.offset, data_at, entry.compressed, entry.size, deflated, crc, tuple(crc_offsets))


def _check_header(entry: Entry, local: _LocalHeader, written_name: bytes, name: str) -> None:
    header = entry.header
    described = (local.needs, local.flags, local.method, local.time, local.date, written_name)
    expected = (header.needs, header.flags, header.method, header.time, header.date, entry.name.encode())
    if local.signature != b"PK\3\4" or described != expected:
        raise member_refusal(HEADER, name, "is described otherwise by its local header than by the directory.")
    numbers = (local.crc, local.compressed, local.size)
    if not _agree(entry, numbers, (header.crc, header.compressed, header.size)):
        raise member_refusal(HEADER, name, "has another size or checksum in its local header than in the directory.")


def _check_extra(entry: Entry, local: _LocalHeader, fields: dict[bytes, bytes], name: str) -> None:
    wide = wide_numbers(name, fields.pop(ZIP64_FIELD, b""))
    needed = (local.size, local.compressed).count(IN_ZIP64)
    if not needed <= len(wide) <= len(entry.zip64) or not _agree(entry, wide, entry.zip64[: len(wide)]):
        raise member_refusal(HEADER, name, "has other 64-bit values in its local header than in the directory.")
    if fields.pop(_PADDING_FIELD, b"").strip(b"Z"):
        raise member_refusal(PADDING, name, "hides bytes in its padding, which torch fills with `Z`.")
    if fields:
        raise member_refusal(EXTRA, name, "has extra fields other than padding.")


def _agree(entry: Entry, local: Sequence[int], central: Sequence[int]) -> bool:
    """Whether the local numbers are the directory's; those left to the descriptor may be zero."""
    unstated = (0,) if entry.has_descriptor else ()
    return all(mine in (theirs, *unstated) for mine, theirs in zip(local, central, strict=True))


def _crc_in_descriptor(source: Source, entry: Entry, begin: int, end: int, name: str) -> int:
    """Where the checksum lies in the descriptor, which fills the file from the data to the next member."""
    written = source.read(begin, min(end - begin, _LONGEST_DESCRIPTOR + 1))
    numbers = (entry.header.crc, entry.compressed, entry.size)
    plain = [_DESCRIPTOR64.pack(*numbers)]
    if max(entry.compressed, entry.size) < IN_ZIP64:
        plain.append(_DESCRIPTOR.pack(*numbers))
    if written in plain:
        return 0
    if written in [_DESCRIPTOR_MARK + form for form in plain]:
        return len(_DESCRIPTOR_MARK)
    if len(written) > _LONGEST_DESCRIPTOR:
        raise member_refusal(GAP, name, f"is followed by {end - begin:,} bytes that belong to no member.")
    raise member_refusal(DESCRIPTOR, name, "has a descriptor that disagrees with the directory.")
