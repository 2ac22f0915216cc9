"""The end of a zip file: the records that say where its directory lies.

Readers look for the end in different ways, so there may be only one to find: the very last bytes, without a comment,
right after the directory, with a 64-bit record before it that says the same. What the directory lists is not known.
"""

import struct
from typing import NamedTuple

from app.core.intake.guards import MEGABYTE
from app.core.intake.torchscript.archive.source import TRUNCATED, Source
from app.core.intake.torchscript.rules import DO_NOT_LOAD, EXPORT_AGAIN, FETCH_AGAIN, GateRefusal, Rule

TRAILING = Rule("zip-trailing", "malformed_archive", FETCH_AGAIN)
COMMENT = Rule("zip-comment", "malformed_archive", DO_NOT_LOAD)
END = Rule("zip-end", "malformed_archive", FETCH_AGAIN)
MULTI_DISK = Rule("zip-multi-disk", "malformed_archive", EXPORT_AGAIN)
ZIP64 = Rule("zip-zip64", "malformed_archive", DO_NOT_LOAD)
TOO_MANY = Rule("zip-too-many", "malformed_archive", EXPORT_AGAIN)

MOST_MEMBERS = 1 << 15  # a network of some 10,000 layers; walked in a second or two
_MOST_DIRECTORY_BYTES = 8 * MEGABYTE
IN_ZIP64 = 0xFFFF_FFFF  # stands for "see the 64-bit value"
_MEMBERS_IN_ZIP64 = 0xFFFF

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")


class Directory(NamedTuple):
    """Where the central directory lies, and how many members it lists."""

    offset: int
    size: int
    members: int


class _End(NamedTuple):
    """The last record of the file."""

    signature: bytes
    disk: int
    directory_disk: int
    members_here: int  # on this disk
    members: int
    size: int  # of the directory
    offset: int
    comment_length: int


class _End64(NamedTuple):
    """The same for large archives."""

    signature: bytes
    length: int
    made_by: int
    needs: int
    disk: int
    directory_disk: int
    members_here: int
    members: int
    size: int
    offset: int


def find_directory(source: Source) -> Directory:
    """The directory that the end of the file points to."""
    begin = source.size - _END.size
    if begin < 0:
        raise TRUNCATED.refusal("The file is too short to be a zip archive.")
    end = _End._make(_END.unpack(source.read(begin, _END.size)))
    if end.signature != b"PK\5\6" or end.comment_length:
        raise _without_end(source)
    _refuse_several_disks(end.disk, end.directory_disk, end.members_here - end.members)
    directory = Directory(end.offset, end.size, end.members)
    begin64 = _begin_of_end64(source, begin)
    if begin64 is not None:
        directory, begin = _read_end64(source, begin64, directory), begin64
    elif directory.members == _MEMBERS_IN_ZIP64 or IN_ZIP64 in directory:
        raise ZIP64.refusal("The end record refers to a 64-bit record that is not there.")
    if directory.members > MOST_MEMBERS:
        raise TOO_MANY.refusal(f"The archive has {directory.members:,} members; at most {MOST_MEMBERS:,} are read.")
    if directory.offset + directory.size != begin:
        raise END.refusal("The directory does not end where the end record begins.")
    if directory.size > _MOST_DIRECTORY_BYTES:
        raise TOO_MANY.refusal(f"The archive's directory has {directory.size:,} bytes.")
    return directory


def _begin_of_end64(source: Source, end: int) -> int | None:
    """Where the 64-bit end record begins, which torch always writes, and other programs if need be."""
    begin = end - _LOCATOR.size - _END64.size
    if begin < 0:
        return None
    signature, disk, offset, disks = _LOCATOR.unpack(source.read(end - _LOCATOR.size, _LOCATOR.size))
    if signature != b"PK\6\7":
        return None
    _refuse_several_disks(disk, disks - 1)
    if offset != begin:
        raise END.refusal("The end records do not lie where they say: bytes were put before them, or are missing.")
    return begin


def _read_end64(source: Source, begin: int, plain: Directory) -> Directory:
    end = _End64._make(_END64.unpack(source.read(begin, _END64.size)))
    if (end.signature, end.length) != (b"PK\6\6", _END64.size - 12):
        raise ZIP64.refusal("The 64-bit end record is damaged.")
    _refuse_several_disks(end.disk, end.directory_disk, end.members_here - end.members)
    if plain != (min(end.offset, IN_ZIP64), min(end.size, IN_ZIP64), min(end.members, _MEMBERS_IN_ZIP64)):
        raise ZIP64.refusal("The 64-bit end record and the plain one disagree.")
    return Directory(end.offset, end.size, end.members)


def _refuse_several_disks(*elsewhere: int) -> None:
    if any(elsewhere):
        raise MULTI_DISK.refusal("The archive claims to be spread over several disks.")


def _without_end(source: Source) -> GateRefusal:
    """The refusal for a file that does not end with a plain end record: it goes on, or it stops early."""
    tail_size = min(source.size, _END.size + 0xFFFF)
    tail = source.read(source.size - tail_size, tail_size)
    found = tail.rfind(b"PK\5\6")
    beyond = len(tail) - found - _END.size
    if found < 0 or beyond < 0:
        return TRUNCATED.refusal("The file has no end record: most often a download or an upload stopped early.")
    if beyond == int.from_bytes(tail[found + _END.size - 2 : found + _END.size], "little"):
        return COMMENT.refusal("The archive has a comment, which torch never writes.")
    return TRAILING.refusal(f"There are {beyond:,} bytes after the end of the archive.")
