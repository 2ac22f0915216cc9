"""Zip archives from strangers: which members they hold, and their bytes as far as an allowance reaches.

Python's zipfile does the parsing. Around it stand four rules: the directory is never larger than a bound, every name
stays inside the archive, every member is an ordinary file in plain sight (no link, no password, no second member of
the same name), and bytes are counted while they are unpacked, whatever the directory claims about them.

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
from dataclasses import dataclass
from pathlib import Path

from app.core.errors import Refusal
from app.core.intake.guards import MEGABYTE, Allowance
from app.core.text import printable

DIRECTORY_BYTES = 32 * MEGABYTE  # about 135 bytes a member: twice 100,000 images, as a Mac packs them
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what everybody writes; lzma may ask for gigabytes to unpack
_UNPACKING_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, OSError, ValueError)


@dataclass(frozen=True)
class Member:
    """One entry of the directory; `path` has forward slashes, composed letters and no empty parts."""

    path: str
    info: zipfile.ZipInfo

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("/"))

    @property
    def is_folder(self) -> bool:
        return self.info.filename.endswith(("/", "\\"))


@dataclass(frozen=True)
class Archive:
    """An open zip file whose directory was found harmless."""

    noun: str  # "bundle" or "model": what people call this file
    members: tuple[Member, ...]
    handle: zipfile.ZipFile
    allowance: Allowance

    @contextmanager
    def stream(self, member: Member) -> Iterator[Callable[[int], bytes]]:
        """Gives `read(size)`, which answers fewer bytes only at the member's end."""
        with self._translated(member):
            source = self.handle.open(member.info)
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
            yield Archive(noun, tuple(_harmless_members(handle, noun)), handle, allowance)


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


def _harmless_members(handle: zipfile.ZipFile, noun: str) -> Iterator[Member]:
    seen: set[str] = set()
    for info in handle.infolist():
        name = unicodedata.normalize("NFC", info.filename.replace("\\", "/"))  # a Mac decomposes the letters of a name
        parts = [part for part in name.split("/") if part not in ("", ".")]
        path = "/".join(parts)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts or not parts:
            problem = "has a name that leads out of the archive"
        elif info.flag_bits & 0x1:
            problem = "is encrypted"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            problem = "is a link or a device, not a file"
        elif path in seen:
            problem = "occurs twice"
        elif info.compress_type not in _METHODS:
            problem = "is packed with a method other than deflate"
        else:
            seen.add(path)
            yield Member(path, info)
            continue
        raise Refusal(
            "unsafe_member",
            f"The member `{printable(info.filename)}` of the {noun} {problem}.",
            "Pack the plain files again with an ordinary zip program, without a password.",
        )
