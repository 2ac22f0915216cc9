"""The first look at a model file: TorchScript passes, everything else is named and answered with advice."""

import gzip
import hashlib
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from app.core.errors import Refusal
from app.core.intake.archive import check_torchscript_archive
from app.core.intake.examine import examine_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SHAPE = {"m/data.pkl": b"\x80\2}.", "m/constants.pkl": b"\x80\2).", "m/code/__torch__.py": b"", "m/version": b"3\n"}


def zipped(path: Path, members: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def toy() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.parametrize(
    "export",
    [
        torch.jit.script,
        lambda model: torch.jit.trace(model, torch.rand(2, 3, 8, 8)),
        lambda model: torch.jit.freeze(torch.jit.script(model)),
    ],
    ids=["scripted", "traced", "frozen"],
)
def test_a_torchscript_archive_passes_with_its_size_and_hash(
    tmp_path: Path, export: Callable[..., torch.jit.ScriptModule]
) -> None:
    path = tmp_path / "net.pt"
    export(toy()).save(str(path))
    facts = check_torchscript_archive(path)
    assert facts.bytes == path.stat().st_size
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts.members == len(zipfile.ZipFile(path).namelist())
    assert facts.root == "net"


# What is refused


def _raw(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "model.pt").write_bytes(content)
        return folder / "model.pt"

    return write


def _zip(members: dict[str, bytes | str]) -> Callable[[Path], Path]:
    return lambda folder: zipped(folder / "model.pt", members)


def _saved(thing: Callable[[], object], **options: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save(thing(), folder / "model.pt", **options)
        return folder / "model.pt"

    return write


def _changed(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = zipped(folder / "model.pt", SHAPE)
        path.write_bytes(change(path.read_bytes()))
        return path

    return write


def _encrypted(content: bytes) -> bytes:
    place = content.index(b"PK\1\2") + 8
    return content[:place] + b"\1" + content[place + 1 :]


def _duplicated(folder: Path) -> Path:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(folder / "model.pt", "w") as archive:
        for name in (*SHAPE, "m/data.pkl"):
            archive.writestr(name, b"")
    return folder / "model.pt"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "model.pt")
    return folder / "model.pt"


BAD_MODELS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "missing": (lambda folder: folder / "none.pt", "model_not_found", "no file"),
    "folder": (lambda folder: folder, "model_not_a_file", "folder.*docs/export.md"),
    "pipe": (_pipe, "model_not_a_file", "not an ordinary file"),
    "empty": (_raw(b""), "model_empty", "is empty"),
    "text": (_raw(b"hello"), "model_not_torchscript", "no zip archive.*torch.jit.script"),
    "pickle": (_raw(pickle.dumps({"a": 1}, 4)), "model_is_pickle", "plain pickle.*any code"),
    "old torch.save": (
        _saved(lambda: toy().state_dict(), _use_new_zipfile_serialization=False),
        "model_is_pickle",
        "torch.save.*1.6",
    ),
    "hdf5": (_raw(b"\x89HDF\r\n\x1a\n" + bytes(9)), "model_not_torchscript", "HDF5.*Keras models cannot"),
    "onnx": (_raw(b"\x08\x08\x12\x07pytorch"), "model_not_torchscript", "ONNX.*docs/export.md"),
    "safetensors": (
        _raw(struct.pack("<Q", 30) + b'{"a":{"dtype":"F32"}}'),
        "model_not_torchscript",
        "safetensors.*without the network.*Build the network",
    ),
    "gzip": (_raw(gzip.compress(b"hello")), "model_not_torchscript", "gzip.*Unpack it"),
    "tar": (_raw(bytes(257) + b"ustar" + bytes(250)), "model_not_torchscript", "tar archive"),
    "lfs": (_raw(b"version https://git-lfs.github.com/spec/v1\n"), "model_not_torchscript", "git lfs pull"),
    "web page": (_raw(b"<!DOCTYPE html><html>"), "model_not_torchscript", "web page.*download went wrong"),
    "state dict": (
        _saved(lambda: toy().state_dict()),
        "model_is_state_dict",
        "weights without the network.*jit.script",
    ),
    "checkpoint": (_saved(lambda: {"epoch": 1, "net": toy().state_dict()}), "model_is_state_dict", "state dict"),
    "pickled module": (
        _saved(toy),
        "model_is_pickle",
        r"expected TorchScript, found a pickled `torch\.nn\.modules\.container\.Sequential`.*no harm",
    ),
    "no pickle inside": (_zip({"m/data.pkl": b"hello"}), "model_is_state_dict", "torch.save"),
    "export": (_zip({"m/archive_format": b"pt2", "m/models/model.json": b"{}"}), "model_is_export", r"\.pt2"),
    "old export": (
        _zip({"serialized_exported_program.json": b"{}", "version": b""}),
        "model_is_export",
        "torch.export",
    ),
    "package": (_zip({"m/.data/extern_modules": b""}), "model_not_torchscript", "torch.package"),
    "keras": (_zip({"config.json": b"", "model.weights.h5": b""}), "model_not_torchscript", "Keras or TensorFlow"),
    "bundle": (_zip({"0/a.png": b""}), "model_not_torchscript", "swapped"),
    "other zip": (_zip({"a/b.txt": b""}), "model_not_torchscript", "no TorchScript"),
    "empty zip": (_zip({}), "model_not_torchscript", "no TorchScript"),
    "no code": (_zip({"m/data.pkl": b"", "m/constants.pkl": b""}), "model_is_state_dict", "torch.save"),
    "two roots": (_zip({**SHAPE, "n/data.pkl": b""}), "model_not_torchscript", "no TorchScript"),
    "older than 1.4": (
        _zip({"m/model.json": b"{}", "m/code/m.py": b"", "m/attributes.pkl": b"", "m/version": b"1"}),
        "model_is_old",
        r"1\.0 to 1\.3.*newer PyTorch",
    ),
    "flatbuffer for mobiles": (_raw(b"\x18\0\0\0PTMF"), "model_not_torchscript", "mobile"),
    "truncated": (_changed(lambda content: content[:-40]), "model_truncated", "stopped early"),
    "encrypted": (_changed(_encrypted), "unsafe_member", "m/data.pkl.*encrypted"),
    "traversal": (_zip({**SHAPE, "m/../../x": b""}), "unsafe_member", "leads out"),
    "duplicate": (_duplicated, "unsafe_member", "m/data.pkl.*twice"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_file_that_is_no_torchscript_is_refused_with_its_code_and_advice(tmp_path: Path, case: str) -> None:
    make, code, words = BAD_MODELS[case]
    with pytest.raises(Refusal, match=f"(?is){words}") as caught:
        check_torchscript_archive(make(tmp_path))
    problem = caught.value.problem
    assert problem.code == code
    assert problem.detail.endswith(".")
    assert problem.advice
    assert str(caught.value).isprintable()


def _quantised(folder: Path) -> Path:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    torch.jit.script(torch.ao.quantization.quantize_dynamic(net, {nn.Linear})).save(str(folder / "model.pt"))
    return folder / "model.pt"


def _quantised_statically(folder: Path) -> Path:
    net = torch.ao.quantization.QuantWrapper(toy()).eval()
    net.qconfig = torch.ao.quantization.get_default_qconfig()
    prepared = torch.ao.quantization.prepare(net)
    prepared(torch.rand(2, 3, 8, 8))
    torch.jit.script(torch.ao.quantization.convert(prepared)).save(str(folder / "model.pt"))
    return folder / "model.pt"


def _mobile(folder: Path) -> Path:
    torch.jit.script(toy())._save_for_lite_interpreter(str(folder / "model.ptl"))
    return folder / "model.ptl"


def _optimised_for_mobile(folder: Path) -> Path:
    """What tells it is the class of its packed weights; not every torch is built with the library to pack them."""
    torch.jit.script(toy()).save(str(folder / "model.pt"))
    with zipfile.ZipFile(folder / "model.pt", "a") as archive:
        archive.writestr("model/code/__torch__/torch/classes/xnnpack.py", "class LinearOpContext:\n  pass\n")
    return folder / "model.pt"


def _data_parallel(folder: Path) -> Path:
    traced = torch.jit.trace(nn.DataParallel(toy()), torch.rand(2, 3, 8, 8), check_trace=False)
    traced.save(str(folder / "model.pt"))
    return folder / "model.pt"


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (_quantised, "model_is_quantised", "whole numbers.*floating point"),
        (_quantised_statically, "model_is_quantised", "whole numbers.*floating point"),
        (_mobile, "model_is_mobile", "mobile.*made from"),
        (_optimised_for_mobile, "model_is_mobile", "mobile.*made from.*without `optimize_for_mobile`"),
        (_data_parallel, "model_is_data_parallel", r"DataParallel.*model\.module"),
    ],
)
def test_torchscript_of_a_kind_that_cannot_be_scanned_is_called_what_it_is_and_not_dangerous(
    tmp_path: Path, make: Callable[[Path], Path], code: str, words: str
) -> None:
    path = make(tmp_path)
    for look in (check_torchscript_archive, examine_model):
        with pytest.raises(Refusal, match=f"(?is){words}") as caught:
            look(path)
        assert caught.value.problem.code == code
        assert "do not load" not in str(caught.value).lower()


class AddsByFloatFunctional(nn.Module):
    """Written so that it could be quantised, and is not."""

    def __init__(self) -> None:
        super().__init__()
        self.adds = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.adds.add(images, images)


def test_a_network_that_could_be_quantised_is_not_taken_for_one(tmp_path: Path) -> None:
    torch.jit.script(AddsByFloatFunctional().eval()).save(str(tmp_path / "net.pt"))
    assert check_torchscript_archive(tmp_path / "net.pt").root == "net"


def test_the_size_limit_holds_for_the_file_and_for_what_it_declares(tmp_path: Path) -> None:
    path = zipped(tmp_path / "model.pt", SHAPE)
    with pytest.raises(Refusal) as caught:
        check_torchscript_archive(path, most_bytes=10)
    assert caught.value.problem.code == "model_too_large"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data/0", bytes(1 << 20))
    with pytest.raises(Refusal) as caught:
        check_torchscript_archive(path, most_bytes=1 << 20)
    assert caught.value.problem.code == "model_too_large"


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_an_archive_with_one_changed_byte_passes_or_is_refused_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    path = zipped(tmp_path_factory.getbasetemp() / "mutated.pt", SHAPE)
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= change
    path.write_bytes(content)
    with suppress(Refusal):
        check_torchscript_archive(path)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.pt"
    path.write_bytes(content)
    with pytest.raises(Refusal):
        check_torchscript_archive(path)
