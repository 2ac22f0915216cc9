"""A writer of zip files that lies when it is told to.

Left alone it writes as torch does, byte for byte: data descriptors, `Z` padding to 64 bytes, both end records. Every
number can be overridden by the name it has in `LOCAL`, `CENTRAL`, `END64`, `LOCATOR` or `END`.
"""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

ROOT = "net"
STORED, DEFLATED = 0, 8
LOCAL = ("signature", "needs", "flags", "method", "time", "date", "crc", "compressed", "size", "names", "extras")
CENTRAL = ("signature", "made", *LOCAL[1:], "comments", "disk", "internal", "external", "offset")
END = ("signature", "disk", "directory_disk", "here", "members", "size", "offset", "comments")
END64 = ("signature", "length", "made", "needs", *END[1:-1])
LOCATOR = ("signature", "disk", "offset", "disks")
Lies = dict[str, int]


@dataclass(frozen=True)
class Entry:
    """A member, and how it is written."""

    name: str | bytes
    content: bytes
    method: int = STORED
    packed: bytes | None = None  # instead of the content, deflated or not
    flags: int = 0x800
    described: bool = True  # by a descriptor after the data, as torch does for all members but empty ones
    descriptor: bytes | None = None
    extra: bytes | None = None  # of the local header, instead of padding
    central_extra: bytes = b""
    comment: bytes = b""
    after: bytes = b""  # bytes that belong to nobody
    central: Lies = field(default_factory=dict)
    local: Lies = field(default_factory=dict)
    local_name: bytes | None = None
    only_listed: bool = False  # in the directory, and nowhere else

    @property
    def written_name(self) -> bytes:
        return self.name if isinstance(self.name, bytes) else self.name.encode()

    @property
    def written(self) -> bytes:
        if self.packed is not None:
            return self.packed
        return deflated(self.content) if self.method == DEFLATED else self.content

    @property
    def has_descriptor(self) -> bool:
        return self.described and bool(self.content)


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def local_header(entry: Entry, position: int) -> bytes:
    name = entry.written_name if entry.local_name is None else entry.local_name
    extra = entry.extra
    if extra is None:
        padding = -(position + 30 + len(name) + 4) % 64
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    stated = _stated(entry)
    if entry.has_descriptor:
        stated |= {"crc": 0, "compressed": 0, "size": 0}
    stated |= {"signature": 0x04034B50, "names": len(name), "extras": len(extra)} | entry.local
    return struct.pack("<L5H3L2H", *(stated[key] for key in LOCAL)) + name + extra


def write_zip(
    entries: Sequence[Entry],
    *,
    prefix: bytes = b"",
    before_end: bytes = b"",
    tail: bytes = b"",
    zip64: bool = True,
    end64: Lies | None = None,
    locator: Lies | None = None,
    end: Lies | None = None,
) -> bytes:
    """The archive of these entries; `before_end` stands between the directory and the end, `tail` after it."""
    body, directory = io.BytesIO(prefix), io.BytesIO()
    body.seek(0, io.SEEK_END)
    for entry in entries:
        directory.write(_central_header(entry, body.tell()))
        if not entry.only_listed:
            body.write(local_header(entry, body.tell()) + entry.written + _descriptor(entry) + entry.after)
    offset, size = body.tell(), directory.tell()
    body.write(directory.getvalue() + before_end)
    truth = {"here": len(entries), "members": len(entries), "size": size, "offset": offset}
    truth |= {"disk": 0, "directory_disk": 0}
    if zip64:
        begin = body.tell()
        record = truth | {"signature": 0x06064B50, "length": 44, "made": 0x31E, "needs": 45} | (end64 or {})
        body.write(struct.pack("<LQ2H2L4Q", *(record[key] for key in END64)))
        found = {"signature": 0x07064B50, "disk": 0, "offset": begin, "disks": 1} | (locator or {})
        body.write(struct.pack("<LLQL", *(found[key] for key in LOCATOR)))
    limits = {"here": 0xFFFF, "members": 0xFFFF, "size": 0xFFFFFFFF, "offset": 0xFFFFFFFF}
    plain = truth | {key: min(truth[key], limit) for key, limit in limits.items()}
    plain |= {"signature": 0x06054B50, "comments": 0} | (end or {})
    body.write(struct.pack("<L4H2LH", *(plain[key] for key in END)) + tail)
    return body.getvalue()


def _stated(entry: Entry) -> Lies:
    return {
        "needs": 20 if entry.method == DEFLATED else 0,
        "flags": entry.flags | (0x8 if entry.has_descriptor else 0),
        "method": entry.method,
        "time": 0,
        "date": 0,
        "crc": zlib.crc32(entry.content),
        "compressed": len(entry.written),
        "size": len(entry.content),
    }


def _central_header(entry: Entry, position: int) -> bytes:
    name = entry.written_name
    stated = _stated(entry) | {"signature": 0x02014B50, "made": 0, "disk": 0, "internal": 0, "external": 0}
    stated |= {"names": len(name), "extras": len(entry.central_extra), "comments": len(entry.comment)}
    stated |= {"offset": position} | entry.central
    fixed = struct.pack("<L6H3L5H2L", *(stated[key] for key in CENTRAL))
    return fixed + name + entry.central_extra + entry.comment


def _descriptor(entry: Entry) -> bytes:
    if entry.descriptor is not None:
        return entry.descriptor
    truth = struct.pack("<4L", 0x08074B50, zlib.crc32(entry.content), len(entry.written), len(entry.content))
    return truth if entry.has_descriptor else b""


def read_entries(archive: bytes) -> list[Entry]:
    """The entries of a benign archive; written again they are the same bytes."""
    entries = []
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        for info in opened.infolist():
            begin = info.header_offset
            data_at = begin + 30 + sum(struct.unpack_from("<2H", archive, begin + 26))
            packed = archive[data_at : data_at + info.compress_size]
            entries.append(Entry(info.filename, opened.read(info), info.compress_type, packed))
    return entries


def unmangled(entries: Sequence[Entry]) -> list[Entry]:
    """The entries without the numbers that torch puts into names of code when a process scripts a class twice."""
    return [replace(entry, name=re.sub(r"/___torch_mangle_\d+", "", entry.name)) for entry in entries]


def changed(entries: Sequence[Entry], name: str, **changes: Any) -> list[Entry]:
    """The entries with one of them written otherwise; `name` lies below the root."""
    assert f"{ROOT}/{name}" in [entry.name for entry in entries]
    return [replace(entry, **changes) if entry.name == f"{ROOT}/{name}" else entry for entry in entries]


def without(entries: Sequence[Entry], *names: str) -> list[Entry]:
    return [entry for entry in entries if entry.name not in [f"{ROOT}/{name}" for name in names]]


def entry_named(entries: Sequence[Entry], name: str) -> Entry:
    return next(entry for entry in entries if entry.name == f"{ROOT}/{name}")
