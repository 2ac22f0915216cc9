"""The zip file of a TorchScript archive, walked: where each member lies, and that it holds what is stated of it.

There must be one way to read the file, so that torch, Python and we see the same members: `zip_end` finds the
directory, `zip_directory` reads it, `zip_names` says which members there may be, `zip_layout` finds their bytes. Here
the bytes are unpacked and their checksums compared, when the archive is opened and again whenever a member is read.
Nothing is held in memory but the piece at hand.

A checksum is no signature: somebody who may write to the file while it is open can still deceive a reader.
"""

import io
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.core.intake.guards import MEGABYTE, readable_size
from app.core.intake.members import unreadable
from app.core.intake.torchscript.archive.directory import read_directory
from app.core.intake.torchscript.archive.end import find_directory
from app.core.intake.torchscript.archive.layout import Member, lay_out
from app.core.intake.torchscript.archive.names import is_code, is_extra, names_below_root
from app.core.intake.torchscript.archive.source import Source, member_refusal
from app.core.intake.torchscript.rules import DO_NOT_LOAD, EXPORT_AGAIN, FETCH_AGAIN, Rule
from app.core.text import printable

TOO_LARGE = Rule(
    "zip-too-large",
    "model_too_large",
    "Save the model in half precision, without optimiser state, or raise the limit.",
)
NOT_A_FILE = Rule("zip-not-a-file", "malformed_archive", "Copy the model into an ordinary file.")
NOT_STORED = Rule("zip-not-stored", "malformed_archive", EXPORT_AGAIN)
CODE_SIZE = Rule("zip-code-size", "malformed_archive", EXPORT_AGAIN)
MEMBER_SIZE = Rule("zip-member-size", "malformed_archive", EXPORT_AGAIN)
SIZE = Rule("zip-size", "malformed_archive", DO_NOT_LOAD)
INFLATE = Rule("zip-inflate", "malformed_archive", DO_NOT_LOAD)
CRC = Rule("zip-crc", "malformed_archive", FETCH_AGAIN)
BYTE_ORDER = Rule("zip-byteorder", "malformed_archive", "Export the model again on a little-endian machine.")

_MOST_CODE_BYTES = 16 * MEGABYTE  # of all members below code/; a large network that was traced has 2 MB
_MOST_CODE_BYTES_A_MEMBER = 4 * MEGABYTE


@dataclass(frozen=True)
class Walked:
    """An open archive that was found to be what it says."""

    root: str  # the folder that holds everything, named by whoever saved the file
    members: Mapping[str, Member]  # by name below the root, in the order of the file
    source: Source

    @property
    def extra_files(self) -> tuple[str, ...]:
        """Files beside the model, which torch ignores and so do we."""
        return tuple(name for name in self.members if is_extra(name))

    def read(self, name: str, most: int) -> bytes:
        """The whole of a member that is there; refuses one of more than `most` bytes."""
        size = self.members[name].size
        if size > most:
            raise member_refusal(MEMBER_SIZE, name, f"has {size:,} bytes; at most {most:,} are read.")
        content = io.BytesIO()
        for chunk in self.chunks(name):
            content.write(chunk)
        return content.getvalue()

    def chunks(self, name: str) -> Iterator[memoryview]:
        """A member's unpacked bytes, piece by piece; each piece is overwritten by the next."""
        member = self.members[name]
        crc = 0
        for chunk in self._inflated(member) if member.deflated else self._stored(member):
            crc = zlib.crc32(chunk, crc)
            yield chunk
        if crc != member.crc:
            raise member_refusal(CRC, name, "does not have the checksum that is stated for it.")

    def _stored(self, member: Member) -> Iterator[memoryview]:
        return self.source.pieces(member.data_offset, member.size)

    def _inflated(self, member: Member) -> Iterator[memoryview]:
        """Only code is deflated, and its sizes are capped, so it is unpacked in one piece."""
        packed = self.source.read(member.data_offset, member.compressed)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = inflater.decompress(packed, member.size + 1)
        except zlib.error:
            content = b""
        if not inflater.eof or inflater.unused_data or len(content) != member.size:
            raise member_refusal(INFLATE, member.name, f"does not unpack to the {member.size:,} bytes it states.")
        yield memoryview(content)


@contextmanager
def walk(path: Path, most_bytes: int) -> Iterator[Walked]:
    """Opens a TorchScript archive; every member was read once, and fits what the archive states of it."""
    if not path.is_file():
        raise NOT_A_FILE.refusal(f"`{printable(str(path))}` is not an ordinary file.")
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise unreadable("model", error) from error
    with file:
        source = Source(file.fileno())
        if source.size > most_bytes:
            raise TOO_LARGE.refusal(f"The model is larger than {readable_size(most_bytes)}.")
        walked = _found(source)
        _refuse_oversized(walked.members)
        for name in walked.members:
            for _ in walked.chunks(name):
                pass
        _refuse_big_endian(walked)
        yield walked


def _found(source: Source) -> Walked:
    directory = find_directory(source)
    entries = read_directory(source, directory)
    root, names = names_below_root([entry.name for entry in entries])
    members = {member.name: member for member in lay_out(source, directory, entries, names)}
    return Walked(root, members, source)


def _refuse_oversized(members: Mapping[str, Member]) -> None:
    """Sizes as stated; whether they are true is found when the bytes are unpacked."""
    code_bytes = 0
    for member in members.values():
        if member.deflated and not is_code(member.name):
            raise member_refusal(NOT_STORED, member.name, "is deflated; torch stores all but code as it is.")
        if not member.deflated and member.size != member.compressed:
            raise member_refusal(SIZE, member.name, "is stored as it is, but states two sizes.")
        if is_code(member.name):
            larger = max(member.size, member.compressed)
            code_bytes += larger
            if larger > _MOST_CODE_BYTES_A_MEMBER or code_bytes > _MOST_CODE_BYTES:
                raise member_refusal(CODE_SIZE, member.name, "holds more code than is read.")


def _refuse_big_endian(walked: Walked) -> None:
    if "byteorder" in walked.members and walked.read("byteorder", most=16).strip() != b"little":
        raise BYTE_ORDER.refusal("The numbers of the archive are not little-endian.", "byteorder")
