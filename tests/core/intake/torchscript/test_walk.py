"""The strict walk: torch's own archives pass as they are, and nothing passes that could be read in two ways."""

import io
import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from app.core.intake.torchscript.archive.walk import Walked, walk
from app.core.intake.torchscript.rules import GateRefusal
from tests.core.intake.torchscript.hostile_zips import HOSTILE, zip64
from tests.core.intake.torchscript.zips import Entry, changed, entry_named, read_entries, unmangled, write_zip
from tests.processes import needs_proc
from tests.waiting import PATIENCE_SECONDS

GIGABYTE = 1 << 30
SECONDS, MEGABYTES = 2.0, 256


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten()).eval()


def network_with_an_empty_tensor() -> nn.Module:
    net = network()
    net.register_buffer("nothing", torch.zeros(0))
    return net


def saved(module: torch.jit.ScriptModule, **options: object) -> bytes:
    file = io.BytesIO()
    torch.jit.save(module, file, **options)
    return file.getvalue()


FORMS: dict[str, Callable[[], bytes]] = {
    "scripted": lambda: saved(torch.jit.script(network())),
    "traced": lambda: saved(torch.jit.trace(network(), torch.rand(2, 1, 8, 8))),
    "frozen": lambda: saved(torch.jit.freeze(torch.jit.script(network()))),
    "half": lambda: saved(torch.jit.script(network().half())),
    "with an empty tensor": lambda: saved(torch.jit.script(network_with_an_empty_tensor())),
    "with files": lambda: saved(torch.jit.script(network()), _extra_files={"a/b.txt": b"hello" * 99, "none": b""}),
}


@cache
def scripted() -> bytes:
    """A scripted network as torch saves it, below a folder called `net`."""
    entries = [
        Entry(str(entry.name).replace("archive/", "net/", 1), entry.content, entry.method, entry.packed)
        for entry in read_entries(FORMS["scripted"]())
    ]
    return write_zip(entries)


def walked(path: Path, archive: bytes) -> dict[str, bytes]:
    """What a walk reads of an archive."""
    path.write_bytes(archive)
    with walk(path, GIGABYTE) as found:
        return contents(found)


def contents(found: Walked) -> dict[str, bytes]:
    return {name: found.read(name, GIGABYTE) for name in found.members}


def directory_of(archive: bytes) -> tuple[int, int]:
    """Where the directory begins, and where it ends."""
    size, offset = struct.unpack_from("<2L", archive, len(archive) - 10)
    return offset, offset + size


# What torch writes


@pytest.mark.parametrize("form", FORMS)
def test_what_torch_saves_is_read_as_python_reads_it(tmp_path: Path, form: str) -> None:
    archive = FORMS[form]()
    with zipfile.ZipFile(io.BytesIO(archive)) as reference:
        expected = {name.removeprefix("archive/"): reference.read(name) for name in reference.namelist()}
    assert walked(tmp_path / "net.pt", archive) == expected


@pytest.mark.parametrize("form", FORMS)
def test_the_writer_of_these_tests_writes_as_torch_does(form: str) -> None:
    archive = FORMS[form]()
    assert write_zip(read_entries(archive)) == archive


def test_files_beside_the_model_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(FORMS["with files"]())
    with walk(path, GIGABYTE) as found:
        assert sorted(found.extra_files) == ["extra/a/b.txt", "extra/none"]
        assert found.root == "archive"


def test_a_record_can_be_replaced_where_the_walk_says_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(scripted())
    with walk(path, GIGABYTE) as found:
        record = found.members["data/0"]
    changed_bytes = np.arange(record.size // 4, dtype="<f4").tobytes()
    archive = bytearray(scripted())
    archive[record.data_offset : record.data_offset + record.size] = changed_bytes
    for offset in record.crc_offsets:
        assert archive[offset : offset + 4] == record.crc.to_bytes(4, "little")
        archive[offset : offset + 4] = zlib.crc32(changed_bytes).to_bytes(4, "little")
    assert archive.count(record.crc.to_bytes(4, "little")) == 0
    assert walked(path, archive)["data/0"] == changed_bytes
    weight = torch.jit.load(str(path)).state_dict()["0.weight"]
    assert weight.flatten().tolist() == list(range(record.size // 4))


# What others write


def test_an_archive_packed_again_by_python_passes(tmp_path: Path) -> None:
    expected = {entry.written_name.decode(): entry.content for entry in read_entries(scripted())}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in expected.items():
            archive.writestr(name, content)
    found = walked(tmp_path / "net.pt", file.getvalue())
    assert found == {name.removeprefix("net/"): content for name, content in expected.items()}


@pytest.mark.parametrize(
    "form", [struct.Struct("<3L"), struct.Struct("<L2Q")], ids=["32-bit descriptor", "64-bit descriptor"]
)
@pytest.mark.parametrize("mark", [b"", b"PK\7\x08"], ids=["unmarked", "marked"])
def test_every_form_of_a_descriptor_passes(tmp_path: Path, form: struct.Struct, mark: bytes) -> None:
    entries = read_entries(scripted())
    tensor = entry_named(entries, "data/0").content
    numbers = form.pack(zlib.crc32(tensor), len(tensor), len(tensor))
    archive = write_zip(changed(entries, "data/0", descriptor=mark + numbers))
    path = tmp_path / "net.pt"
    assert walked(path, archive)["data/0"] == tensor
    with walk(path, GIGABYTE) as found:
        assert all(archive[at : at + 4] == numbers[:4] for at in found.members["data/0"].crc_offsets)


def test_a_checksum_of_all_ones_passes(tmp_path: Path) -> None:
    all_ones = b"\xff\xff\xff\xff"
    assert zlib.crc32(all_ones) == 0xFFFFFFFF
    archive = write_zip(changed(read_entries(scripted()), "data/0", content=all_ones, packed=None))
    assert walked(tmp_path / "net.pt", archive)["data/0"] == all_ones


def test_the_order_of_the_directory_does_not_matter(tmp_path: Path) -> None:
    archive = scripted()
    begin, end = directory_of(archive)
    first = 46 + struct.unpack_from("<H", archive, begin + 28)[0]
    turned = archive[:begin] + archive[begin + first : end] + archive[begin : begin + first] + archive[end:]
    assert turned != archive
    assert walked(tmp_path / "net.pt", turned) == walked(tmp_path / "net.pt", archive)


@pytest.mark.parametrize("local", [(216, 0, 0), (216, 216), (0, 0, 0)], ids=["torch", "python", "unstated"])
def test_values_of_64_bits_pass_where_32_bits_refer_to_them(tmp_path: Path, local: tuple[int, ...]) -> None:
    entries = read_entries(scripted())
    tensor = entry_named(entries, "data/0").content
    wide = {
        "central": dict.fromkeys(("size", "compressed", "offset"), 0xFFFFFFFF),
        "central_extra": zip64(len(tensor), len(tensor), 0),
        "extra": zip64(*local),
        "descriptor": struct.pack("<2L2Q", 0x08074B50, zlib.crc32(tensor), len(tensor), len(tensor)),
    }
    assert len(tensor) == 216
    archive = write_zip(changed(entries, "data/0", **wide))
    assert walked(tmp_path / "net.pt", archive)["data/0"] == tensor


# What is refused


@cache
def hostile(name: str) -> bytes:
    return HOSTILE[name][1](unmangled(read_entries(scripted())))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_by_its_rule(tmp_path: Path, name: str) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(hostile(name))
    started = time.process_time()
    with pytest.raises(GateRefusal) as refused, walk(path, GIGABYTE):
        pass
    assert time.process_time() - started < SECONDS
    assert refused.value.rule.id == HOSTILE[name][0]
    assert refused.value.problem.code == "malformed_archive"
    assert refused.value.problem.advice


@needs_proc
def test_refusing_hostile_archives_takes_little_memory(tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE):
        (tmp_path / f"{number}.pt").write_bytes(hostile(name))
    program = """
import sys
from pathlib import Path
from app.core.intake.torchscript.rules import GateRefusal
from app.core.intake.torchscript.archive.walk import walk
refused = 0
for path in Path(sys.argv[1]).iterdir():
    try:
        with walk(path, 1 << 30):
            pass
    except GateRefusal:
        refused += 1
status = Path("/proc/self/status").read_text()
print(refused, int(status.partition("VmHWM:")[2].split()[0]) >> 10)
"""
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    refused, megabytes = map(int, answer.stdout.split())
    assert refused == len(HOSTILE)
    assert megabytes < MEGABYTES


def test_a_refusal_names_the_member(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(hostile("checksum"))
    with pytest.raises(GateRefusal) as refused, walk(tmp_path / "net.pt", GIGABYTE):
        pass
    assert refused.value.problem.member == "data/0"


def test_a_model_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(scripted())
    with pytest.raises(GateRefusal) as refused, walk(path, len(scripted()) - 1):
        pass
    assert refused.value.problem.code == "model_too_large"
    with walk(path, len(scripted())) as found:
        assert found.members


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing", tmp_path / "nul\0"):
        with pytest.raises(GateRefusal) as refused, walk(path, GIGABYTE):
            pass
        assert refused.value.rule.id == "zip-not-a-file"


def test_an_archive_that_changes_after_the_walk_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(scripted())
    with walk(path, GIGABYTE) as found, path.open("r+b") as file:
        file.seek(found.members["data/0"].data_offset)
        file.write(b"evil")
        file.flush()
        with pytest.raises(GateRefusal) as refused:
            found.read("data/0", GIGABYTE)
        assert refused.value.rule.id == "zip-crc"
        file.truncate(100)
        with pytest.raises(GateRefusal) as refused:
            found.read("data.pkl", GIGABYTE)
        assert refused.value.rule.id == "zip-truncated"


def test_a_member_larger_than_asked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(scripted())
    with walk(path, GIGABYTE) as found:
        assert len(found.read("version", 2)) == 2
        with pytest.raises(GateRefusal) as refused:
            found.read("version", 1)
    assert refused.value.rule.id == "zip-member-size"


# Laws


def test_a_changed_byte_is_refused_or_changes_nothing_that_is_read(tmp_path: Path) -> None:
    """Nothing: the spare bits after a deflated member ends, and fields of the directory that no reader looks at."""
    original = walked(tmp_path / "net.pt", scripted())
    begin, _ = directory_of(scripted())
    for position in (*range(0, begin, 11), *range(begin, len(scripted()), 3)):
        with suppress(GateRefusal):
            assert walked(tmp_path / "net.pt", with_a_flipped_bit(position)) == original


def with_a_flipped_bit(position: int) -> bytes:
    archive = bytearray(scripted())
    archive[position] ^= 1 << position % 7
    return bytes(archive)


@settings(max_examples=150, deadline=None)
@given(length=st.integers(0, 1 << 20))
def test_an_archive_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.pt"
    path.write_bytes(scripted()[: length % len(scripted())])
    with pytest.raises(GateRefusal), walk(path, GIGABYTE):
        pass


@settings(max_examples=200, deadline=None)
@given(edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=12), st.integers(0, 12))))
def test_random_edits_never_raise_anything_but_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[float, bytes, int]]
) -> None:
    archive = bytearray(scripted())
    for place, inserted, removed in edits:
        position = int(place * len(archive))
        archive[position : position + removed] = inserted
    path = tmp_path_factory.getbasetemp() / "edited.pt"
    with suppress(GateRefusal):
        assert walked(path, archive)
