"""A repaired archive: the original byte for byte, except the tensor records that changed and their checksums.

A record keeps its place and its size, so nothing else in the file has to know: code, pickles and every header stay what
the gate understood. So does `.data/serialization_id`, which torch makes of all records when it saves, and never checks.
What the numbers mean is not known here.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from app.core.intake.torchscript.archive.layout import Member
from app.core.intake.torchscript.archive.source import Source
from app.core.intake.torchscript.archive.walk import walk
from app.core.jobs import write_whole
from app.core.text import printable

_RECORDS = ("data/", "constants/")
Patch = tuple[int, bytes]  # what is written over the copy, and where


def replace_records(source: Path, records: Mapping[str, bytes], destination: Path, most_bytes: int) -> None:
    """Writes the archive `source` with other numbers in these records, by their names below its root.

    Raises GateRefusal for a source that the walk refuses, and ValueError for a record that cannot be replaced. The
    destination appears whole or not at all, and may be the source.
    """
    with walk(source, most_bytes) as walked:
        patches = [patch for name, content in records.items() for patch in _patches(walked.members, name, content)]
        write_whole(destination, lambda temporary: _write(walked.source, patches, temporary))


def _patches(members: Mapping[str, Member], name: str, content: bytes) -> Iterator[Patch]:
    """The record itself, and its checksum wherever the file states one."""
    shown = f"The member `{printable(name)}`"
    if not name.startswith(_RECORDS):
        raise ValueError(f"{shown} is no tensor record; only `data/N` and `constants/N` can be replaced.")
    if name not in members:
        raise ValueError(f"{shown} is not in the archive: these records were made from another one.")
    member = members[name]
    if len(content) != member.size:
        raise ValueError(f"{shown} has {member.size:,} bytes and must keep its size; {len(content):,} were given.")
    yield member.data_offset, content
    checksum = zlib.crc32(content).to_bytes(4, "little")
    for offset in member.crc_offsets:
        yield offset, checksum


def _write(source: Source, patches: Iterable[Patch], path: Path) -> None:
    with path.open("wb") as file:
        for piece in source.pieces(0, source.size):
            file.write(piece)
        for offset, content in patches:
            file.seek(offset)
            file.write(content)
