"""Archives from strangers: which members they hold, and their bytes as far as an allowance reaches.

Python's zipfile does the parsing of zip files, tarballs.py that of tar files. Around them stand four rules: the
directory is never larger than a bound, every name stays inside the archive, every member is an ordinary file in plain
sight (no link, no password, no second member of the same name), and bytes are counted while they are unpacked,
whatever the directory claims about them.

This module does not know what the members mean.
"""

import io
import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from app.core.errors import Refusal
from app.core.intake.codepages import find_code_page, garbled
from app.core.intake.guards import MEGABYTE, Allowance
from app.core.intake.tarballs import (
    UNPACKING_ERRORS,
    MalformedTarError,
    Part,
    TarEntry,
    is_gzipped,
    read_entries,
    unpacked,
)
from app.core.text import printable

DIRECTORY_BYTES = 32 * MEGABYTE  # about 135 bytes a member: twice 100,000 images, as a Mac packs them
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what everybody writes; lzma may ask for gigabytes to unpack
_SAYS_UTF8 = 0x800
_NO_FILE = "is a link or a device, not a file"
_ROOM_TO_UNPACK, _LARGEST_RATIO = 64 * MEGABYTE, 100  # images are packed already, so a tar of them hardly shrinks
_UNPACKING_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, OSError, ValueError)


class Readable(Protocol):
    """An open member."""

    def read(self, size: int, /) -> bytes: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> Any: ...


@dataclass(frozen=True)
class Member:
    """One entry of the directory; `path` has forward slashes, composed letters and no empty parts."""

    path: str
    size: int  # as the directory claims
    is_folder: bool
    opens: Callable[[], Readable]

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("/"))


@dataclass(frozen=True)
class Archive:
    """An open zip or tar file whose directory was found harmless."""

    noun: str  # "bundle" or "model": what people call this file
    members: tuple[Member, ...]  # as they lie in the file: reading them in this order is the cheapest
    allowance: Allowance
    code_page: str | None = None  # of the names, where the archive does not say that they are UTF-8

    @contextmanager
    def stream(self, member: Member) -> Iterator[Callable[[int], bytes]]:
        """Gives `read(size)`, which answers fewer bytes only at the member's end."""
        with self._translated(member):
            source = member.opens()
        with source:

            def read(size: int) -> bytes:
                chunks = []
                while size > 0:
                    with self._translated(member):
                        chunk = source.read(min(size, MEGABYTE))
                    if not chunk:
                        break
                    self.allowance.spend(len(chunk))
                    chunks.append(chunk)
                    size -= len(chunk)
                return b"".join(chunks)

            yield read

    def read(self, member: Member, most: int) -> bytes:
        """The whole of a small member; refuses one that has more than `most` bytes."""
        with self.stream(member) as read:
            content = read(most + 1)
        if len(content) > most:
            raise Refusal(
                f"{self.noun}_too_large",
                f"The member `{printable(member.path)}` is larger than {most:,} bytes.",
                "A file of this kind is usually small: look at it before you trust this archive.",
            )
        return content

    @contextmanager
    def _translated(self, member: Member) -> Iterator[None]:
        try:
            yield
        except _UNPACKING_ERRORS as error:
            raise Refusal(
                f"{self.noun}_unreadable",
                f"The member `{printable(member.path)}` cannot be unpacked: {printable(str(error))}.",
                "The file is damaged or was changed on its way: fetch it again, or pack it again.",
            ) from error


@contextmanager
def open_archive(
    path: Path, noun: str, allowance: Allowance, directory_bytes: int = DIRECTORY_BYTES
) -> Iterator[Archive]:
    """Opens a zip file for reading; refuses a damaged or an unsafe directory."""
    try:
        source = _BoundedFile(path, directory_bytes)
    except OSError as error:
        raise unreadable(noun, error) from error
    with source:
        try:
            handle = zipfile.ZipFile(source)
        except _UNPACKING_ERRORS as error:
            raise Refusal(
                f"{noun}_truncated",
                f"The {noun} begins like a zip file but cannot be read as one: {printable(str(error))}.",
                "Most often a download or an upload stopped early: compare the size and fetch the file again.",
            ) from error
        with handle:
            yield _archive([_of_zip(handle, info) for info in handle.infolist()], noun, allowance)


@contextmanager
def open_tarball(path: Path, noun: str, allowance: Allowance) -> Iterator[Archive]:
    """The same for a tar file, plain or gzipped, all of which counts as one unpacking."""
    directory = Allowance(DIRECTORY_BYTES, allowance.refusal)
    try:
        size = path.stat().st_size
        most = min(allowance.left, _ROOM_TO_UNPACK + _LARGEST_RATIO * size) if is_gzipped(path) else allowance.left
        opened = unpacked(path)
    except OSError as error:
        raise unreadable(noun, error) from error
    with opened as source:
        try:
            entries = [_of_tar(source, entry) for entry in read_entries(source, most, directory)]
        except (MalformedTarError, *UNPACKING_ERRORS) as error:
            raise Refusal(
                f"{noun}_truncated",
                f"The {noun} begins like a tar file but cannot be read as one: {printable(str(error))}.",
                "Most often a download or an upload stopped early: compare the size and fetch the file again.",
            ) from error
        yield _archive(entries, noun, allowance)


def check_is_file(path: Path) -> None:
    """Refuses a path at which no bundle can be."""
    if not path.exists():
        raise Refusal("bundle_not_found", f"There is no file `{printable(str(path))}`.", "Check the path.")
    if not path.is_file():
        advice = "Pack a folder as a .zip: `python -m zipfile -c bundle.zip FOLDER/*`."
        raise Refusal("bundle_not_a_file", f"`{printable(str(path))}` is not a file.", advice)


def unreadable(noun: str, error: OSError) -> Refusal:
    """The refusal for a file that the operating system does not let us read."""
    detail = f"The {noun} cannot be read: {printable(error.strerror or str(error))}."
    return Refusal(f"{noun}_unreadable", detail, "Check the path and its permissions.")


class _BoundedFile(io.FileIO):
    """A file that answers no single large read: zipfile reads the directory in one piece, of the size it claims."""

    def __init__(self, path: Path, largest_read: int) -> None:
        super().__init__(path)
        self.largest_read = largest_read

    def read(self, size: int | None = -1) -> bytes:
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
        if wanted > self.largest_read:
            raise zipfile.BadZipFile("its directory is too large")
        return super().read(wanted) or b""


@dataclass(frozen=True)
class _Entry:
    """What a directory says of a member, before any of it is believed."""

    name: bytes | str  # bytes where the archive leaves their encoding open
    size: int
    is_folder: bool
    problem: str
    opens: Callable[[], Readable]


def _of_zip(handle: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Entry:
    name: bytes | str = info.filename
    if not info.flag_bits & _SAYS_UTF8 and not info.filename.isascii():
        name = info.orig_filename.split("\0", 1)[0].encode("cp437")  # as zipfile has read it
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & 0x1:
        problem = "is encrypted"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        problem = _NO_FILE
    else:
        problem = "" if info.compress_type in _METHODS else "is packed with a method other than deflate"
    return _Entry(name, info.file_size, info.filename.endswith(("/", "\\")), problem, lambda: handle.open(info))


def _of_tar(source: BinaryIO, entry: TarEntry) -> _Entry:
    problem = "" if entry.is_plain else _NO_FILE
    name = entry.name.decode() if isinstance(entry.name, bytes) and entry.name.isascii() else entry.name
    return _Entry(name, entry.size, entry.is_folder, problem, lambda: Part(source, entry.offset, entry.size))


def _archive(entries: list[_Entry], noun: str, allowance: Allowance) -> Archive:
    names = [entry.name for entry in entries if isinstance(entry.name, str) and not entry.name.isascii()]
    if garbled(names):  # somebody unpacked it with the wrong code page and packed the result again
        entries = [replace(entry, name=_as_bytes(entry.name)) for entry in entries]
    undeclared = [entry.name for entry in entries if isinstance(entry.name, bytes)]
    page = find_code_page(undeclared) if undeclared else None
    return Archive(noun, tuple(_harmless_members(entries, noun, page or "utf-8")), allowance, page)


def _as_bytes(name: bytes | str) -> bytes | str:
    return name.encode("cp437") if isinstance(name, str) and not name.isascii() else name


def _harmless_members(entries: list[_Entry], noun: str, page: str) -> Iterator[Member]:
    seen: set[str] = set()
    for entry in entries:
        said = entry.name if isinstance(entry.name, str) else entry.name.decode(page, "replace")
        name = unicodedata.normalize("NFC", said.replace("\\", "/"))  # a Mac decomposes the letters of a name
        parts = [part for part in name.split("/") if part not in ("", ".")]
        path = "/".join(parts)
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts:
            problem = "has a name that leads out of the archive"
        elif entry.is_folder and (not parts or path in seen):  # tar names the folder itself, and some folders twice
            continue
        elif not parts:
            problem = "has no name"
        elif entry.problem:
            problem = entry.problem
        elif path in seen:
            problem = "occurs twice"
        else:
            seen.add(path)
            yield Member(path, entry.size, entry.is_folder, entry.opens)
            continue
        raise Refusal(
            "unsafe_member",
            f"The member `{printable(said)}` of the {noun} {problem}.",
            "Pack the plain files again with an ordinary zip program, without a password.",
        )
