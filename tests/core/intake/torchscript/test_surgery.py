"""Records are replaced in place: of a repaired archive nothing differs but their bytes and their checksums."""

import io
import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from app.core.intake.torchscript.archive.walk import walk
from app.core.intake.torchscript.rules import GateRefusal
from app.core.intake.torchscript.surgery import replace_records
from tests.core.intake.torchscript.differences import differs_elsewhere, replaceable
from tests.core.intake.torchscript.hostile_zips import zip64
from tests.core.intake.torchscript.zips import Entry, changed, write_zip

MOST_BYTES = 1 << 30
WEIGHT, BIAS = bytes(range(64)), b"bias"
WITHOUT_CHECKSUM = b"\x9d\x0a\xd9\x6d"  # it has one, which is zero
REPLACED = {"data/0": WEIGHT[::-1], "data/1": WITHOUT_CHECKSUM, "constants/3": b"BIAS"}


def entries() -> list[Entry]:
    contents = {
        "data/0": WEIGHT,
        "data/1": BIAS,
        "data/2": b"",
        "data.pkl": b"a pickle",
        "code/__torch__.py": b"class Net(Module):\n",
        "constants/3": BIAS,
        "constants.pkl": b"another",
        "traced_inputs/0": BIAS,
        "extra/data/0": BIAS,
        "version": b"3\n",
    }
    return [Entry(f"net/{name}", content) for name, content in contents.items()]


def described(form: str, mark: bytes = b"", **changes: Any) -> bytes:
    """An archive whose weight has a descriptor of this form."""
    descriptor = mark + struct.pack(form, zlib.crc32(WEIGHT), len(WEIGHT), len(WEIGHT))
    return write_zip(changed(entries(), "data/0", descriptor=descriptor, **changes))


def packed_by_python() -> bytes:
    """An archive without descriptors: each local header states what follows."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for entry in entries():
            archive.writestr(str(entry.name), entry.content)
    return file.getvalue()


MARK = b"PK\7\x08"
IN_64_BITS = {
    "central": dict.fromkeys(("size", "compressed", "offset"), 0xFFFFFFFF),
    "central_extra": zip64(len(WEIGHT), len(WEIGHT), 0),
    "extra": zip64(len(WEIGHT), 0, 0),
}
ARCHIVES = {
    "as torch writes": write_zip(entries()),
    "without 64-bit end records": write_zip(entries(), zip64=False),
    "with 64-bit sizes": described("<L2Q", MARK, **IN_64_BITS),
    "with a long descriptor": described("<L2Q", MARK),
    "with a long descriptor, unmarked": described("<L2Q"),
    "with a short descriptor, unmarked": described("<3L"),
    "that states the checksum three times": described("<3L", MARK, local={"crc": zlib.crc32(WEIGHT)}),
    "as Python packs": packed_by_python(),
}


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:  # which compares checksums as it reads
        return {name.removeprefix("net/"): archive.read(name) for name in archive.namelist()}


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "original.pt"
    path.write_bytes(ARCHIVES["as torch writes"])
    return path


@pytest.mark.parametrize("form", ARCHIVES)
def test_an_archive_differs_in_its_replaced_records_and_their_checksums_only(tmp_path: Path, form: str) -> None:
    original, repaired = tmp_path / "original.pt", tmp_path / "repaired.pt"
    original.write_bytes(ARCHIVES[form])
    replace_records(original, REPLACED, repaired, MOST_BYTES)
    assert original.read_bytes() == ARCHIVES[form]
    assert not differs_elsewhere(ARCHIVES[form], repaired.read_bytes(), REPLACED)
    assert members(repaired) == members(original) | REPLACED
    with walk(repaired, MOST_BYTES) as walked:
        assert {name: walked.read(name, MOST_BYTES) for name in REPLACED} == REPLACED


def test_the_archives_of_these_tests_state_a_checksum_in_all_places_there_are() -> None:
    assert {len([*replaceable(archive, ["data/0"])]) for archive in ARCHIVES.values()} == {1 + 2, 1 + 3}


@pytest.mark.parametrize("form", ARCHIVES)
def test_an_archive_of_which_nothing_changed_is_the_same_file(tmp_path: Path, form: str) -> None:
    original, repaired = tmp_path / "original.pt", tmp_path / "repaired.pt"
    original.write_bytes(ARCHIVES[form])
    replace_records(original, {}, repaired, MOST_BYTES)
    assert repaired.read_bytes() == ARCHIVES[form]
    replace_records(original, {"data/0": WEIGHT, "data/2": b""}, repaired, MOST_BYTES)
    assert repaired.read_bytes() == ARCHIVES[form]


def test_an_archive_can_be_repaired_in_place(original: Path) -> None:
    replace_records(original, REPLACED, original, MOST_BYTES)
    assert members(original)["data/0"] == REPLACED["data/0"]
    assert os.listdir(original.parent) == [original.name]


def test_an_archive_is_copied_in_pieces(tmp_path: Path) -> None:
    original, repaired = tmp_path / "original.pt", tmp_path / "repaired.pt"
    original.write_bytes(write_zip([*entries(), Entry("net/data/3", bytes(40 << 20))]))
    tracemalloc.start()
    try:
        replace_records(original, REPLACED, repaired, MOST_BYTES)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 << 20
    assert repaired.stat().st_size == original.stat().st_size


# What is refused


@pytest.mark.parametrize(
    "name", ["data.pkl", "version", "code/__torch__.py", "traced_inputs/0", "extra/data/0", "../x"]
)
def test_only_tensor_records_can_be_replaced(original: Path, name: str) -> None:
    same_size = members(original).get(name, b"")
    with pytest.raises(ValueError, match="is no tensor record"):
        replace_records(original, {"data/0": WEIGHT, name: same_size}, original.with_name("repaired.pt"), MOST_BYTES)
    assert os.listdir(original.parent) == [original.name]


@pytest.mark.parametrize("name", ["data/7", "constants/0", "data/0/../1", "data/"])
def test_a_record_that_is_not_there_cannot_be_replaced(original: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not in the archive"):
        replace_records(original, {name: WEIGHT}, original.with_name("repaired.pt"), MOST_BYTES)


@pytest.mark.parametrize("content", [WEIGHT[:-1], WEIGHT + b"!", b""])
def test_a_record_keeps_its_size(original: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match="has 64 bytes and must keep its size"):
        replace_records(original, {"data/0": content}, original.with_name("repaired.pt"), MOST_BYTES)


def test_an_archive_that_the_walk_refuses_is_not_repaired(original: Path) -> None:
    earlier = original.with_name("repaired.pt")
    earlier.write_bytes(b"an earlier one")
    original.write_bytes(ARCHIVES["as torch writes"].replace(WEIGHT, WEIGHT[::-1]))
    with pytest.raises(GateRefusal, match="checksum"):
        replace_records(original, REPLACED, earlier, MOST_BYTES)
    with pytest.raises(GateRefusal, match="larger than"):
        replace_records(original, REPLACED, earlier, most_bytes=100)
    assert earlier.read_bytes() == b"an earlier one"
