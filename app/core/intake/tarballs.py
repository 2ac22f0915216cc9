"""Tar archives from strangers, plain or gzipped: what they hold and where, read block by block.

Python's tarfile was weighed, and is no reader for a stranger's file: it takes a damaged header for the end of the
archive and says nothing of the entries behind it; it reads long names, POSIX headers and maps of sparse files whole
before anybody can refuse them, and calls itself for each; and in versions of Python that people have, one header full
of digits keeps its expressions busy for hours (CVE-2024-6232) and a negative size turns it in a circle (CVE-2025-8194).
What would have to stand around it is longer than this. Here are the two dialects that every tar program writes, with
the long names of GNU and of POSIX; what else an entry may be is told as a problem, never followed. Names and headers
are spent from a budget, and nothing is looked at beyond the bytes that the file may unpack to.

This module does not know which names are safe, nor what the entries mean.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from app.core.intake.guards import MEGABYTE, Allowance

BLOCK = 512
GZIP = b"\x1f\x8b"
UNPACKING_ERRORS = (OSError, EOFError, zlib.error)
_LONGEST_HEADER = MEGABYTE  # of one entry, with its long names
_ENTRY_BYTES = 135  # what an entry is counted as beside its name, as in a zip's directory
_PLAIN, _FOLDER, _LONG_NAME, _LONG_LINK, _POSIX, _POSIX_ALL = b"0\0007", b"5", b"L", b"K", b"xX", b"g"


class MalformedTarError(ValueError):
    """Worded as what is wrong with the archive."""


@dataclass(frozen=True)
class TarEntry:
    """A file or a folder; `name` is text only where the archive says that it is UTF-8."""

    name: bytes | str
    size: int
    is_folder: bool
    is_plain: bool  # a file or a folder, no link, device or sparse file
    offset: int


def is_tar(head: bytes) -> bool:
    """Whether a file's first block is an entry's header."""
    return len(head) >= BLOCK and any(head[:100]) and _has_checksum(head[:BLOCK])


def holds_tar(path: Path) -> bool:
    """Whether a gzip file unpacks to a tar archive, by its first block."""
    try:
        with unpacked(path) as source:
            return is_tar(_full(source, BLOCK))
    except UNPACKING_ERRORS:
        return False


def is_gzipped(path: Path) -> bool:
    with path.open("rb") as packed:
        return packed.read(2) == GZIP


def unpacked(path: Path) -> BinaryIO:
    """The tar archive inside a file; of a gzipped one, going back means unpacking it again from its start."""
    return cast("BinaryIO", gzip.open(path)) if is_gzipped(path) else path.open("rb")


def read_entries(source: BinaryIO, most_bytes: int, directory: Allowance) -> Iterator[TarEntry]:
    """Every entry up to the end mark; raises MalformedTarError, or the directory's refusal where it is too much."""
    offset, long_name, posix = 0, b"", dict[bytes, bytes]()
    while (header := _block_at(source, offset)) is not None:
        kind, size = header[156:157], _number(header[124:136])
        if b"size" in posix and kind not in _POSIX:
            size = _number(posix[b"size"], 10)
        start = offset + BLOCK
        offset = start + (size + BLOCK - 1) // BLOCK * BLOCK
        if offset > most_bytes:
            raise directory.refusal
        if kind in (_LONG_NAME, _LONG_LINK, _POSIX_ALL) or kind in _POSIX:
            directory.spend(size)
            content = _content(source, start, size)
            if kind == _LONG_NAME:
                long_name = content.rstrip(b"\0")
            elif kind in _POSIX:
                posix = _records(content)
            continue
        name: bytes | str = posix[b"path"].decode("utf-8", "replace") if b"path" in posix else long_name
        name = name or _short_name(header)
        directory.spend(_ENTRY_BYTES + len(name))
        is_folder = kind == _FOLDER or name[-1:] in (b"/", "/")
        is_plain = (kind in _PLAIN or is_folder) and not any(key.startswith(b"GNU.sparse") for key in posix)
        yield TarEntry(name, 0 if is_folder else size, is_folder, is_plain, start)
        long_name, posix = b"", {}


class Part:
    """One entry's bytes, as a file that is only read."""

    def __init__(self, source: BinaryIO, entry_offset: int, size: int) -> None:
        self.source, self.left = source, size
        source.seek(entry_offset)

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *error: object) -> None:
        """The archive stays open."""

    def read(self, size: int) -> bytes:
        chunk = self.source.read(min(size, self.left))
        if not chunk and self.left and size:
            raise EOFError("the archive ends within it")
        self.left -= len(chunk)
        return chunk


def _block_at(source: BinaryIO, offset: int) -> bytes | None:
    """The header at a place; None at the end mark, an empty block."""
    source.seek(max(0, offset - 1))
    before = source.read(1) if offset else b""
    block = _full(source, BLOCK)
    if offset and before and not block:  # many programs leave the end mark out
        return None
    if len(block) < BLOCK:
        raise MalformedTarError("it ends too early")
    if not any(block):
        return None
    if not _has_checksum(block):
        raise MalformedTarError("the checksum of a header is wrong")
    return block


def _content(source: BinaryIO, start: int, size: int) -> bytes:
    if size > _LONGEST_HEADER:
        raise MalformedTarError("a header is too large")
    source.seek(start)
    content = _full(source, size)
    if len(content) < size:
        raise MalformedTarError("it ends in the middle of a header")
    return content


def _full(source: BinaryIO, size: int) -> bytes:
    target = io.BytesIO()
    while (missing := size - target.tell()) and (chunk := source.read(missing)):
        target.write(chunk)
    return target.getvalue()


def _has_checksum(block: bytes) -> bool:
    try:
        return _number(block[148:156]) == sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    except MalformedTarError:
        return False


def _number(field: bytes, base: int = 8) -> int:
    """The number in a field of a header, none of which has more than a dozen digits; records write decimal ones."""
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if not digits.isdigit() or len(digits) > 20 or (base == 8 and set(digits) & set(b"89")):
        raise MalformedTarError("a header holds no number where one belongs")
    return int(digits, base)


def _records(content: bytes) -> dict[bytes, bytes]:
    """The `length key=value` lines of a POSIX header."""
    found = {}
    while content.strip(b"\0"):
        length, _, rest = content.partition(b" ")
        if not length.isdigit() or len(length) > 7 or not len(length) + 2 < int(length) <= len(content):
            raise MalformedTarError("a header cannot be read")
        record, content = rest[: int(length) - len(length) - 1], content[int(length) :]
        key, _, value = record.rstrip(b"\n").partition(b"=")
        found[key] = value
    return found


def _short_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name
