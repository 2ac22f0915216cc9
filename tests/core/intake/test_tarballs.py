"""Tar files, plain or gzipped: read as a zip of the same files is, under the same caps."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.core.errors import Refusal
from app.core.intake.bundle import read_bundle
from app.core.intake.guards import BundleLimits
from tests.core.intake.packing import marked, tarred

MEMBERS: dict[str, bytes | str] = {
    "./": b"",
    "./data/": b"",
    "./data/10/b.png": marked(10),
    "./data/0/a.png": marked(0),
    "./data/2/c.bin": marked(2),
    "./data/README": "hello",
    "./data/bundle.json": '{"input": {"height": 4, "width": 4}}',
}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_file_holds_what_a_zip_would(tmp_path: Path, mode: str, form: int) -> None:
    bundle = read_bundle(tarred(tmp_path / "b.tar", MEMBERS, mode, form))
    assert bundle.labels is not None
    assert bundle.labels.tolist() == [0, 10, 2]
    assert [int(image[0, 0, 0]) for image in bundle.images] == [0, 10, 2]
    assert bundle.declared is not None and bundle.declared.height == 4


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_whole_in_both_dialects(tmp_path: Path, form: int) -> None:
    names = [f"{letter * 180}/{letter * 60}.png" for letter in "ab"]
    bundle = read_bundle(tarred(tmp_path / "b.tar.gz", {name: marked(3) for name in names}, form=form))
    assert list(bundle.class_indices) == ["a" * 180, "b" * 180]


def _with(change: Callable[[tarfile.TarInfo], object]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        with tarfile.open(path, "w:gz") as archive:
            for place, name in enumerate(("0/a.png", "1/b.png")):
                info, data = tarfile.TarInfo(name), marked(place)
                info.size = len(data)
                if place:
                    change(info)
                archive.addfile(info, io.BytesIO(data))
        return path

    return write


def _link(kind: bytes) -> Callable[[Path], Path]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    return _with(change)


def _cut(path: Path) -> Path:
    tarred(path, MEMBERS, "w")
    path.write_bytes(path.read_bytes()[:2300])
    return path


def _cut_gzip(path: Path) -> Path:
    tarred(path, MEMBERS)
    path.write_bytes(path.read_bytes()[:-60])
    return path


def _flood(path: Path) -> Path:
    """128 MB of zeros in 128 kB."""
    with gzip.open(path, "wb") as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        info = tarfile.TarInfo("0/a.png")
        info.size = 1 << 27
        archive.addfile(info, _Zeros())
    return path


class _Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def _claims(path: Path) -> Path:
    """An entry of eight gigabytes, by its header alone."""
    info = tarfile.TarInfo("0/a.png")
    info.size = (1 << 33) - 1
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    return path


def _many(path: Path) -> Path:
    """Forty names of a megabyte each."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 20
    with gzip.open(path, "wb", 1) as packed:
        for _ in range(40):
            packed.write(info.tobuf(tarfile.GNU_FORMAT) + b"a" * (1 << 20))
    return path


def _headers(path: Path) -> Path:
    """A name of two megabytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 21
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"a" * (1 << 21) + bytes(1024))
    return path


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a symbolic link": (_link(tarfile.SYMTYPE), "unsafe_member"),
    "a hard link": (_link(tarfile.LNKTYPE), "unsafe_member"),
    "a pipe": (_link(tarfile.FIFOTYPE), "unsafe_member"),
    "a device": (_link(tarfile.CHRTYPE), "unsafe_member"),
    "a sparse file": (_link(tarfile.GNUTYPE_SPARSE), "unsafe_member"),
    "a way up": (_with(lambda info: setattr(info, "name", "../a.png")), "unsafe_member"),
    "an absolute name": (_with(lambda info: setattr(info, "name", "/etc/a.png")), "unsafe_member"),
    "the same name twice": (_with(lambda info: setattr(info, "name", "0/a.png")), "unsafe_member"),
    "half a file": (_cut, "bundle_truncated"),
    "half a gzip file": (_cut_gzip, "bundle_truncated"),
    "a flood of zeros": (_flood, "bundle_too_large"),
    "a file that claims 8 GB": (_claims, "bundle_too_large"),
    "a directory that never ends": (_many, "bundle_too_large"),
    "a name of two megabytes": (_headers, "bundle_truncated"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tar_file_is_refused(tmp_path: Path, name: str) -> None:
    make, code = HOSTILE[name]
    with pytest.raises(Refusal) as caught:
        read_bundle(make(tmp_path / "b.tar.gz"))
    assert caught.value.problem.code == code


@pytest.mark.parametrize("limits", [BundleLimits(unpacked_bytes=4000), BundleLimits(images=2)])
def test_the_caps_of_a_zip_hold_for_a_tar_file(tmp_path: Path, limits: BundleLimits) -> None:
    with pytest.raises(Refusal) as caught:
        read_bundle(tarred(tmp_path / "b.tar.gz", MEMBERS), limits)
    assert caught.value.problem.code == "bundle_too_large"
