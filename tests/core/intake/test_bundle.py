"""Bundles: what is read, and that whatever is wrong ends in a refusal with advice, quickly and in little memory."""

import io
import json
import stat
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.core.errors import Refusal
from app.core.intake.bundle import check_labels, read_bundle, stack_images
from app.core.intake.declaration import DeclaredInput
from app.core.intake.guards import BundleLimits
from app.core.intake.labelling import LabelSource, class_indices
from tests.core.intake.packing import COLOUR, GREY, arrays, picture, zipped


def png_header(width: int, height: int, body: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def npy_header(shape: str, descr: str = "|u1") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


TWO_CLASSES = {"0/a.png": picture(GREY), "1/b.png": picture(GREY)}


# What is read


def test_integer_folder_names_are_class_indices_and_never_sort(tmp_path: Path) -> None:
    members = {f"{label}/x.png": picture(np.full((4, 4), label, np.uint8)) for label in (0, 1, 10, 2)}
    bundle = read_bundle(zipped(tmp_path / "b.zip", members))
    assert isinstance(bundle.images, np.ndarray)
    assert bundle.images.shape == (4, 4, 4, 1)
    assert bundle.labels is not None
    assert bundle.images[:, 0, 0, 0].tolist() == bundle.labels.tolist()
    assert sorted(bundle.labels.tolist()) == [0, 1, 2, 10]
    assert bundle.label_source is LabelSource.INDICES


def test_named_folders_are_looked_up_in_bundle_json(tmp_path: Path) -> None:
    declared = {"classes": {"zebra": 0, "ant": 3, "unseen": 5}, "input": {"height": 8, "mean": [0.5], "range": [-1, 1]}}
    members = {"zebra/1.png": picture(), "ant/1.png": picture(), "bundle.json": json.dumps(declared)}
    bundle = read_bundle(zipped(tmp_path / "b.zip", members))
    assert bundle.labels is not None
    assert bundle.labels.tolist() == [3, 0]
    assert bundle.class_names == ("zebra", "", "", "ant", "", "unseen")
    assert bundle.declared == DeclaredInput(height=8, mean=(0.5,), range=(-1.0, 1.0))
    assert bundle.label_source is LabelSource.DECLARED


def test_what_bundle_json_declares_wins_over_a_number_as_a_name(tmp_path: Path) -> None:
    classes = {"classes": {"0": 0, "1": 1, "10": 2, "2": 3}}  # as ImageFolder numbered them in training
    members = {f"{name}/x.png": picture() for name in ("0", "1", "10", "2")}
    bundle = read_bundle(zipped(tmp_path / "b.zip", members | {"bundle.json": json.dumps(classes)}))
    assert bundle.class_indices == {"0": 0, "1": 1, "10": 2, "2": 3}


def test_names_without_bundle_json_are_taken_in_imagefolder_order_with_empty_folders(tmp_path: Path) -> None:
    members = {"cat/1.png": picture(), "dog/": b"", "eel/1.png": picture()}
    bundle = read_bundle(zipped(tmp_path / "b.zip", members))
    assert bundle.class_indices == {"cat": 0, "dog": 1, "eel": 2}
    assert bundle.class_names == ("cat", "dog", "eel")
    assert bundle.label_source is LabelSource.SORTED


def test_a_wrapper_folder_and_desktop_leftovers_are_looked_through(tmp_path: Path) -> None:
    junk = {"__MACOSX/data/0/._a.png": b"junk", "data/.DS_Store": b"junk", "data/0/Thumbs.db": b"junk", "data/0/": b""}
    members = {f"data/{name}": content for name, content in TWO_CLASSES.items()}
    bundle = read_bundle(zipped(tmp_path / "b.zip", {"data/": b"", **members, **junk, "data/README.txt": "hello"}))
    assert bundle.class_indices == {"0": 0, "1": 1}
    assert len(bundle) == 2


def test_labels_csv_names_every_image(tmp_path: Path) -> None:
    members = {
        "labels.csv": "\ufefffile,label,note\r\nimages/b.png,7,x\r\n./images/a.png, 10 ,y\r\n",
        "images/a.png": picture(GREY),
        "images/b.png": picture(GREY),
    }
    bundle = read_bundle(zipped(tmp_path / "b.zip", members))
    assert bundle.labels is not None
    assert bundle.labels.tolist() == [10, 7]
    wrapped = read_bundle(zipped(tmp_path / "w.zip", {f"data/{name}": content for name, content in members.items()}))
    assert wrapped.labels is not None
    assert wrapped.labels.tolist() == [10, 7]


def test_images_at_the_top_are_unlabelled(tmp_path: Path) -> None:
    decoded: list[None] = []
    told = {"on_picture": lambda: decoded.append(None)}
    bundle = read_bundle(zipped(tmp_path / "b.zip", {"a.png": picture(), "b.png": picture()}), **told)
    assert bundle.labels is None and len(decoded) == 2, "of each it is told"
    stack_images(bundle, 5, 7, **told)
    assert len(decoded) == 4, "and of each that is resized"
    assert bundle.label_source is LabelSource.NONE
    check_labels(bundle, 1)


def test_npz_holds_colour_or_grey_images_with_or_without_labels(tmp_path: Path) -> None:
    images = np.stack([COLOUR, COLOUR[::-1]])
    coloured = read_bundle(arrays(tmp_path / "c.npz", images=np.asfortranarray(images), labels=np.array([[3], [1]])))
    assert isinstance(coloured.images, np.ndarray)
    assert (coloured.images == images).all()
    assert coloured.labels is not None
    assert coloured.labels.dtype == np.int64
    assert coloured.labels.tolist() == [3, 1]
    path = arrays(tmp_path / "g.npz", images=images[..., 0])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("bundle.json", '{"input": {"channels": 1}, "classes": {"cat": 1}}')
    grey = read_bundle(path)
    assert (grey.size, grey.channels, grey.labels) == ((8, 8), 1, None)
    assert grey.declared == DeclaredInput(channels=1)
    assert grey.class_names == ("", "cat")


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "PPM", "JPEG"])
def test_every_allowed_format_is_read_whatever_the_file_is_called(tmp_path: Path, form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    members = {"0/a.bin": picture(COLOUR, form, **options), "1/b.bin": picture(COLOUR, form, **options)}
    bundle = read_bundle(zipped(tmp_path / "b.zip", members))
    difference = np.abs(bundle.images[0].astype(int) - COLOUR)
    assert difference.max() <= (40 if form == "JPEG" else 0)


def test_every_pixel_mode_becomes_grey_or_rgb(tmp_path: Path) -> None:
    sixteen = (GREY.astype(np.uint16) << 8) + 255
    transparent = np.dstack([COLOUR, np.zeros_like(GREY)])
    palette = io.BytesIO()
    Image.fromarray(COLOUR).quantize(64).save(palette, "PNG")
    grey = {"0/a.png": picture(GREY), "1/b.png": picture(sixteen), "1/c.png": picture(GREY > 30)}
    bundle = read_bundle(zipped(tmp_path / "g.zip", grey))
    assert bundle.channels == 1
    assert (bundle.images[1][..., 0] == GREY).all()
    assert set(np.unique(bundle.images[2])) == {0, 255}
    mixed = {**grey, "2/d.png": picture(transparent), "2/e.png": palette.getvalue()}
    bundle = read_bundle(zipped(tmp_path / "m.zip", mixed))
    assert bundle.channels == 3
    assert (bundle.images[0] == GREY[..., None]).all()
    assert (bundle.images[3] == COLOUR).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    members = {"0/a.png": picture(COLOUR, "PNG", exif=exif), "1/b.png": picture()}
    bundle = read_bundle(zipped(tmp_path / "b.zip", members))
    assert (bundle.images[0] == np.rot90(COLOUR, -1)).all()


def test_images_of_different_size_stay_a_list_until_a_size_is_given(tmp_path: Path) -> None:
    members = {"0/a.png": picture(COLOUR), "1/b.png": picture(np.full((5, 9, 3), 7, np.uint8))}
    bundle = read_bundle(zipped(tmp_path / "b.zip", members))
    assert bundle.size is None
    with pytest.raises(Refusal) as caught:
        stack_images(bundle)
    assert caught.value.problem.code == "image_size"
    assert "--size H,W" in caught.value.problem.advice
    stacked = stack_images(bundle, 8, 8)
    assert stacked.shape == (2, 8, 8, 3)
    assert (stacked[0] == COLOUR).all()
    assert (stacked[1] == 7).all()
    with pytest.raises(Refusal, match="more memory"):
        stack_images(bundle, 9, 9, BundleLimits(decoded_bytes=400))


def test_images_of_one_size_are_stacked_and_only_resized_when_asked(tmp_path: Path) -> None:
    bundle = read_bundle(zipped(tmp_path / "b.zip", TWO_CLASSES))
    assert stack_images(bundle) is bundle.images
    assert stack_images(bundle, 8, 8) is bundle.images
    assert stack_images(bundle, 4, 6).shape == (2, 4, 6, 1)


def test_a_label_beyond_the_models_outputs_is_refused_with_its_name(tmp_path: Path) -> None:
    members = {"cat/a.png": picture(), "dog/a.png": picture(), "bundle.json": '["cat", "dog"]'}
    bundle = read_bundle(zipped(tmp_path / "b.zip", members))
    check_labels(bundle, 2)
    with pytest.raises(
        Refusal, match=r"label 1 \(`dog`\), but the model has only the labels 0 to 0.*belongs to this model"
    ) as caught:
        check_labels(bundle, 1)
    assert caught.value.problem.code == "label_out_of_range"
    counted_from_one = read_bundle(arrays(tmp_path / "b.npz", images=np.stack([GREY] * 2), labels=np.array([1, 2])))
    with pytest.raises(Refusal, match="count from 1"):
        check_labels(counted_from_one, 2)


# Laws


@given(st.dictionaries(st.integers(0, 9999), st.integers(0, 3), min_size=1))
def test_an_integer_folder_name_means_its_value_however_it_is_padded(padding: dict[int, int]) -> None:
    names = {"0" * zeros + str(value): value for value, zeros in padding.items()}
    assert class_indices(names, {}) == (names, LabelSource.INDICES)


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 999), min_size=1))
def test_declared_classes_are_always_obeyed(declared: dict[str, int]) -> None:
    assert class_indices(declared, declared) == (declared, LabelSource.DECLARED)


@given(st.binary(max_size=400))
def test_random_bytes_after_a_zip_signature_are_refused_not_raised(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.zip"
    path.write_bytes(b"PK\3\4" + tail)
    with pytest.raises(Refusal):
        read_bundle(path)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_bundle_with_one_changed_byte_is_read_or_refused_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    path = zipped(tmp_path_factory.getbasetemp() / "mutated.zip", {**TWO_CLASSES, "bundle.json": '{"classes": {}}'})
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= change
    path.write_bytes(content)
    with suppress(Refusal):
        read_bundle(path)


# What is refused


def _zip(**changes: bytes | str) -> Callable[[Path], Path]:
    """A good bundle with members added; a name's `__` stands for `/` and its `_DOT_` for `.`."""
    named = {name.replace("__", "/").replace("_DOT_", "."): content for name, content in changes.items()}
    return lambda folder: zipped(folder / "b.zip", {**TWO_CLASSES, **named})


def _only(members: dict[str, bytes | str]) -> Callable[[Path], Path]:
    return lambda folder: zipped(folder / "b.zip", members)


def _npz(**members: np.ndarray) -> Callable[[Path], Path]:
    return lambda folder: arrays(folder / "b.npz", **members)


def _raw(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "b.zip").write_bytes(content)
        return folder / "b.zip"

    return write


def _member(change: Callable[[zipfile.ZipInfo], object]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "b.zip"
        with zipfile.ZipFile(path, "w") as archive:
            info = zipfile.ZipInfo("0/a.png")
            change(info)
            archive.writestr(info, picture())
        return path

    return write


def _encrypted(folder: Path) -> Path:
    path = zipped(folder / "b.zip", TWO_CLASSES)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    return path


def _duplicated(folder: Path) -> Path:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.writestr("0/a.png", picture())
        archive.writestr("0/a.png", picture())
    return folder / "b.zip"


def _truncated(folder: Path) -> Path:
    path = zipped(folder / "b.zip", TWO_CLASSES)
    path.write_bytes(path.read_bytes()[:-30])
    return path


def _lzma(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "b.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("0/a.png", picture())
    return folder / "b.zip"


def _animated() -> bytes:
    target = io.BytesIO()
    frames = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1])]
    frames[0].save(target, "PNG", save_all=True, append_images=frames[1:])
    return target.getvalue()


IMAGES = np.stack([COLOUR, COLOUR])
TABLE = {"a.png": picture(), "b.png": picture()}
SYMLINK = (stat.S_IFLNK | 0o777) << 16

BAD_BUNDLES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "missing": (lambda folder: folder / "none.zip", "bundle_not_found", "no file"),
    "folder": (lambda folder: folder, "bundle_not_a_file", "not a file.*zip"),
    "empty file": (_raw(b""), "bundle_empty", "no images"),
    "empty zip": (_only({}), "bundle_empty", "no images"),
    "no pictures": (_only({"README.md": "hi", "0/": ""}), "bundle_empty", "no images"),
    "gzip": (_raw(b"\x1f\x8b" + bytes(50)), "bundle_format", "neither a .zip nor an .npz.*no tar archive"),
    "array": (_raw(npy_header("(2, 8, 8)") + bytes(128)), "bundle_format", "single NumPy array"),
    "arrow": (_raw(b"ARROW1" + bytes(50)), "bundle_format", "but an Arrow file"),
    "idx": (_raw(b"\0\0\x08\x03" + bytes(50)), "bundle_format", "IDX file, as MNIST"),
    "tensors": (_only({"x/data.pkl": b"\x80\2", "x/data/0": bytes(50)}), "bundle_empty", "torch has written it.*savez"),
    "truncated": (_truncated, "bundle_truncated", "fetch the file again"),
    "traversal": (_member(lambda info: setattr(info, "filename", "../a.png")), "unsafe_member", "leads out"),
    "windows traversal": (_member(lambda info: setattr(info, "filename", "a\\..\\b")), "unsafe_member", "leads out"),
    "absolute": (_member(lambda info: setattr(info, "filename", "/etc/a.png")), "unsafe_member", "leads out"),
    "drive": (_member(lambda info: setattr(info, "filename", "C:/a.png")), "unsafe_member", "leads out"),
    "symlink": (_member(lambda info: setattr(info, "external_attr", SYMLINK)), "unsafe_member", "link"),
    "encrypted": (_encrypted, "unsafe_member", "encrypted.*password"),
    "duplicate": (_duplicated, "unsafe_member", "twice"),
    "lzma": (_lzma, "unsafe_member", "deflate"),
    "one class": (_only({"3/a.png": picture(), "3/b.png": picture()}), "single_class", "label 3"),
    "one class, npz": (_npz(images=IMAGES, labels=np.array([4, 4])), "single_class", "label 4"),
    "negative folder": (_zip(**{"-1/x.png": picture()}), "negative_label", "-1.*count from 0"),
    "huge label": (_zip(**{"99999999999/x.png": picture()}), "label_out_of_range", "larger than 999,999"),
    "number and name": (_zip(cat__x=picture()), "class_unmapped", "`cat` has no index.*bundle.json"),
    "name in another case": (
        _only({"Cat/a": picture(), "dog/a": picture(), "bundle.json": '{"classes": {"cat": 0, "dog": 1}}'}),
        "class_unmapped",
        "`Cat` has no index.*`cat`: write both alike",
    ),
    "undeclared name": (
        _only({"cat/a": picture(), "dog/a": picture(), "bundle.json": '{"classes": {"cat": 0}}'}),
        "class_unmapped",
        "`dog` has no index",
    ),
    "same number twice": (_zip(**{"01/x.png": picture()}), "class_unmapped", "`01` and `1` both mean index 1"),
    "image beside folders": (_zip(x_DOT_png=picture()), "mixed_layout", "x.png.*top of the bundle"),
    "folder in folder": (_only({"pets/0/a": picture(), "farm/1/b": picture()}), "nested_folders", "farm/1/b"),
    "unknown file": (
        _only({**TABLE, "labels.csv": "file,label\na.png,0\nc.png,1\n"}),
        "labels_csv_unknown_file",
        "`c.png`.*not `b.png`",
    ),
    "image without label": (
        _only({**TABLE, "labels.csv": "file,label\na.png,0\n"}),
        "labels_mismatch",
        "1 of 2.*b.png",
    ),
    "missing columns": (
        _only({**TABLE, "labels.csv": "name;quality;size\na;1;2\n"}),
        "labels_csv",
        "no column that is called `label`.*`quality`",
    ),
    "no table": (_only({**TABLE, "labels.csv": ""}), "labels_csv", "found: nothing"),
    "floating labels": (_only({**TABLE, "labels.csv": "file,label\na.png,1.0\n"}), "labels_csv", "`1.0`.*astype"),
    "nan label": (_only({**TABLE, "labels.csv": "file,label\na.png,NaN\n"}), "labels_csv", "`NaN` in line 2"),
    "empty label": (_only({**TABLE, "labels.csv": "file,label\na.png,\n"}), "labels_csv", "no label"),
    "listed twice": (_only({**TABLE, "labels.csv": "file,label\na.png,1\na.png,2\n"}), "labels_csv", "second time"),
    "latin table": (_only({**TABLE, "labels.csv": b"file,label\n\xe4.png,1\n"}), "labels_csv", "UTF-8"),
    "misnamed table": (
        _only({**TABLE, "label.csv": "file,label\n"}),
        "labels_csv",
        "`label.csv` lies beside the images and is no table",
    ),
    "negative in table": (
        _only({**TABLE, "labels.csv": "file,label\na.png,-1\nb.png,0\n"}),
        "negative_label",
        "`-1` is negative",
    ),
    "corrupt image": (_zip(**{"0/bad.png": picture()[:50]}), "image_corrupt", "0/bad.png"),
    "empty image": (_zip(**{"0/bad.png": b""}), "image_corrupt", "0/bad.png.*empty"),
    "text as image": (_zip(**{"0/bad.png": b"hello"}), "image_unsupported", "0/bad.png.*no picture we know"),
    "gif": (_zip(**{"0/x.png": picture(GREY, "GIF")}), "image_unsupported", "GIF.*Convert it to PNG"),
    "tiff": (_zip(**{"0/x.png": picture(GREY, "TIFF")}), "image_unsupported", "TIFF"),
    "animated": (_zip(**{"0/x.png": _animated()}), "image_animated", "0/x.png.*frame"),
    "control characters": (
        _zip(**{"0/\x1b[2J\u202ebad\n.png": b"x"}),
        "image_unsupported",
        r"`0/\ufffd\[2J\ufffdbad .png`",
    ),
    "not json": (_zip(bundle_DOT_json="{"), "bundle_json", "no JSON"),
    "deep json": (_zip(bundle_DOT_json="[" * 100_000), "bundle_json", "no JSON"),
    "json list": (_zip(bundle_DOT_json="[]"), "bundle_json", "must be an object"),
    "misspelt entry": (_zip(bundle_DOT_json='{"input": {"hieght": 3}}'), "bundle_json", "`hieght`.*height, width"),
    "bad height": (_zip(bundle_DOT_json='{"input": {"height": 1e9}}'), "bundle_json", "`height` as a whole number"),
    "bad channels": (_zip(bundle_DOT_json='{"input": {"channels": 2}}'), "bundle_json", "1 or 3"),
    "bad mean": (_zip(bundle_DOT_json='{"input": {"mean": [1, NaN, 1]}}'), "bundle_json", "finite numbers for `mean`"),
    "bad std": (_zip(bundle_DOT_json='{"input": {"std": [0]}}'), "bundle_json", "`std` above zero"),
    "bad range": (_zip(bundle_DOT_json='{"input": {"range": [1, 0]}}'), "bundle_json", "the smaller first"),
    "percent": (_zip(bundle_DOT_json='{"input": {"expected_accuracy": 93}}'), "bundle_json", "fraction"),
    "bad index": (_zip(bundle_DOT_json='{"classes": {"cat": -1}}'), "bundle_json", "class `cat` an index from 0"),
    "no images array": (_npz(weights=IMAGES), "images_missing", "found: weights.*savez"),
    "two images arrays": (_npz(x=IMAGES, data=IMAGES), "images_missing", "`x` and `data`.*not clear"),
    "normalised images": (_npz(images=IMAGES / 255 - 0.5), "images_dtype", r"float64.*-0\.5 to .*images \* std"),
    "unit images that overshoot": (
        _npz(images=IMAGES / 191 * 1.07 - 0.02),
        "images_dtype",
        r"beyond \[0, 1\].*clip\(0, 1",
    ),
    "images that overshoot": (_npz(images=IMAGES / 191 * 260), "images_dtype", r"beyond \[0, 255\].*clip\(0, 255"),
    "16-bit images": (_npz(images=IMAGES.astype(np.uint16) * 257), "images_dtype", "uint16.*257"),
    "text images": (_npz(images=np.array(["a", "b"])), "images_dtype", "not uint8"),
    "images last": (_npz(images=np.zeros((8, 8, 3, 5), np.uint8)), "images_shape", r"transpose\(3, 0, 1, 2\)"),
    "four channels": (_npz(images=np.zeros((2, 8, 8, 4), np.uint8)), "images_shape", "transparency"),
    "flat images": (_npz(images=np.zeros((2, 64), np.uint8)), "images_shape", r"\(2, 64\).*reshape\(-1, 8, 8\)"),
    "flat colour images": (_npz(images=np.zeros((2, 192), np.uint8)), "images_shape", r"reshape\(-1, 3, 8, 8\)"),
    "no rows": (_npz(images=IMAGES[:0]), "bundle_empty", "no images"),
    "object images": (_npz(images=np.array([GREY, None], dtype=object)), "object_array", "run code.*np.stack"),
    "object labels": (_npz(images=IMAGES, labels=np.array([1, None])), "object_array", "`labels`"),
    "float labels": (_npz(images=IMAGES, labels=np.array([1.0, np.nan])), "labels_dtype", "float64, not whole"),
    "complex labels": (_npz(images=IMAGES, labels=np.array([1j, 2j])), "labels_dtype", "not whole numbers"),
    "labels of two classes": (_npz(images=IMAGES, labels=np.ones((2, 2), int)), "labels_mismatch", "argmax"),
    "labels as scores": (_npz(images=IMAGES, labels=np.array([[0.2, 0.8]] * 2)), "labels_mismatch", "not one-hot"),
    "three labels": (_npz(images=IMAGES, labels=np.arange(3)), "labels_mismatch", r"2 images.*\(3,\)"),
    "negative npz label": (_npz(images=IMAGES, labels=np.array([-1, 0])), "negative_label", "`-1`"),
    "unsigned overflow": (
        _npz(images=IMAGES, labels=np.array([0, 2**64 - 1], np.uint64)),
        "label_out_of_range",
        "larger than 999,999",
    ),
    "no array": (_only({"images.npy": b"hello"}), "bundle_unreadable", "not a NumPy array"),
    "short array": (_only({"images.npy": npy_header("(2, 8, 8)") + bytes(9)}), "bundle_unreadable", "fewer bytes"),
    "long array": (_only({"images.npy": npy_header("(2, 8, 8)") + bytes(129)}), "bundle_unreadable", "more bytes"),
}


@pytest.mark.parametrize("case", BAD_BUNDLES)
def test_a_bad_bundle_is_refused_with_its_code_and_advice(tmp_path: Path, case: str) -> None:
    make, code, words = BAD_BUNDLES[case]
    with pytest.raises(Refusal, match=f"(?is){words}") as caught:
        read_bundle(make(tmp_path))
    problem = caught.value.problem
    assert problem.code == code
    assert problem.detail.endswith(".")
    assert problem.advice
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (BundleLimits(file_bytes=100), "bundle_too_large"),
        (BundleLimits(images=1), "bundle_too_large"),
        (BundleLimits(unpacked_bytes=100), "bundle_too_large"),
        (BundleLimits(decoded_bytes=100), "bundle_too_large"),
        (BundleLimits(pixels_per_image=63), "image_too_large"),
    ],
)
def test_every_limit_is_kept(tmp_path: Path, limits: BundleLimits, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_bundle(zipped(tmp_path / "b.zip", TWO_CLASSES), limits)
    assert caught.value.problem.code == code


def _flood(name: str, head: bytes, beside: str = "1/b.png") -> Callable[[Path], Path]:
    """A member that goes on for 3 GB after its head, in a file of 3 MB."""

    def write(folder: Path) -> Path:
        path = folder / "b.zip"
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        start, block = (packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH) for part in (head, bytes(1 << 20)))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, start + 3072 * block)
            archive.writestr(beside, picture())
        content = bytearray(path.read_bytes())
        entry = content.index(b"PK\1\2")
        struct.pack_into("<H", content, entry + 10, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", content, entry + 24, len(head) + 3072 * (1 << 20))
        path.write_bytes(content)
        return path

    return write


def _declared_directory(folder: Path) -> Path:
    path = folder / "b.zip"
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, 1 << 29, 4, 0)
    with path.open("wb") as target:
        target.write(b"PK\3\4")
        target.truncate(1 << 29)  # sparse: a directory of half a gigabyte that costs no disk
        target.seek(0, io.SEEK_END)
        target.write(end)
    return path


def _many_files(folder: Path) -> Path:
    """One picture more than are taken, each of no bytes."""
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        for number in range(100_001):
            archive.writestr(f"{number % 2}/{number}.png", b"")
    return folder / "b.zip"


def _zip_in_zip(folder: Path) -> Path:
    """A bundle of a bundle of a bundle: only the outermost is opened."""
    content = picture(GREY)
    for name in ("0/a.png", "0/inner.zip", "0/outer.zip"):
        content = zipped(folder / "b.zip", {name: content, "1/b.png": picture(GREY)}).read_bytes()
    return folder / "b.zip"


def _with_chunk(kind: bytes, content: bytes) -> bytes:
    """A small PNG with one more chunk behind its header."""
    small = picture(GREY)
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return small[:33] + chunk + small[33:]


def _moving(form: str) -> bytes:
    target = io.BytesIO()
    Image.fromarray(COLOUR).save(target, form, save_all=True, append_images=[Image.fromarray(COLOUR[::-1])])
    return target.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
LONG_TEXT = b"Comment\0\0" + zlib.compress(bytes(1 << 26))
PROFILE = b"icc\0\0" + zlib.compress(bytes(1 << 26))

HOSTILE_BUNDLES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a png that claims 60,000 x 60,000": (_zip(**{"0/x.png": png_header(60_000, 60_000)}), "image_too_large"),
    "a png that claims 2 GB in a row": (_zip(**{"0/x.png": png_header(2**31 - 1, 1)}), "image_too_large"),
    "a png that claims nothing": (_zip(**{"0/x.png": png_header(0, 0)}), "image_corrupt"),
    "a png of 90 million pixels and no data": (_zip(**{"0/x.png": png_header(9_000, 10_000)}), "image_corrupt"),
    "a png that is a bomb": (
        lambda folder: _zip(**{"0/x.png": png_header(20_000, 20_000, zlib.compress(bytes(1 << 27)))})(folder),
        "image_too_large",
    ),
    "a png with a comment that is a bomb": (_zip(**{"0/x.png": _with_chunk(b"zTXt", LONG_TEXT)}), "image_corrupt"),
    "a flood of zeros": (_flood("0/a.png", b""), "image_unsupported"),
    "a flood after a header": (_flood("0/a.png", png_header(9, 9)[:-12]), "image_corrupt"),
    "a flood of json": (_flood("bundle.json", b""), "bundle_too_large"),
    "a flood of table": (_flood("labels.csv", b""), "bundle_too_large"),
    "a directory of half a gigabyte": (_declared_directory, "bundle_truncated"),
    "one file too many": (_many_files, "bundle_too_large"),
    "a zip in a zip": (_zip_in_zip, "image_unsupported"),
    "a way up": (_member(lambda info: setattr(info, "filename", "../../a.png")), "unsafe_member"),
    "an absolute name": (_member(lambda info: setattr(info, "filename", "/etc/cron.d/a")), "unsafe_member"),
    "a way up for Windows": (_member(lambda info: setattr(info, "filename", "a\\..\\b")), "unsafe_member"),
    "a link": (_member(lambda info: setattr(info, "external_attr", SYMLINK)), "unsafe_member"),
    "a pipe": (_member(lambda info: setattr(info, "external_attr", (stat.S_IFIFO | 0o644) << 16)), "unsafe_member"),
    "the same name twice": (_duplicated, "unsafe_member"),
    "a password": (_encrypted, "unsafe_member"),
    "half a file": (_truncated, "bundle_truncated"),
    "EPS": (_zip(**{"0/x.png": EPS}), "image_unsupported"),
    "PDF": (_zip(**{"0/x.png": b"%PDF-1.7\n" + bytes(99)}), "image_unsupported"),
    "SVG": (_zip(**{"0/x.png": b'<svg><image href="file:///etc/passwd"/></svg>'}), "image_unsupported"),
    "TIFF": (_zip(**{"0/x.png": picture(GREY, "TIFF")}), "image_unsupported"),
    "Photoshop": (_zip(**{"0/x.png": b"8BPS\0\1" + bytes(6) + b"\0\3" + b"\xff" * 99}), "image_unsupported"),
    "FITS": (_zip(**{"0/x.png": b"SIMPLE  =                    T" + b" " * 2850}), "image_unsupported"),
    "DDS": (_zip(**{"0/x.png": b"DDS " + b"\xff" * 124}), "image_unsupported"),
    "ICO": (_zip(**{"0/x.png": b"\0\0\1\0\xff\xff" + b"\xff" * 99}), "image_unsupported"),
    "a moving GIF": (_zip(**{"0/x.png": _moving("GIF")}), "image_unsupported"),
    "a moving WebP": (_zip(**{"0/x.png": _moving("WEBP")}), "image_animated"),
    "a moving PNG": (_zip(**{"0/x.png": _moving("PNG")}), "image_animated"),
    "half a picture": (_zip(**{"0/x.png": picture()[:55]}), "image_corrupt"),
    "Python objects": (_npz(images=np.array([GREY, None], dtype=object), labels=np.arange(2)), "object_array"),
    "an array that claims 3 GB": (
        _only({"images.npy": npy_header("(90000, 200, 200)") + bytes(99)}), "bundle_unreadable"
    ),
    "an array that claims more than there is": (
        _only({"images.npy": npy_header("(9, 99999999999999999999, 3)") + bytes(99)}), "bundle_too_large"
    ),
    "an array of negative size": (_only({"images.npy": npy_header("(2, -8, 8)") + bytes(99)}), "bundle_unreadable"),
    "an array of a type that is code": (
        _only({"images.npy": npy_header("(2, 8, 8)", "__import__('os').system('id')")}), "bundle_unreadable"
    ),
    "an array of a type within a type": (
        _only({"images.npy": npy_header("(2, 8, 8)", "|V" + "9" * 12)}), "bundle_unreadable"
    ),
    "an array whose head goes on": (
        _flood("images.npy", b"\x93NUMPY\2\0\xff\xff\xff\xff", "labels.npy"), "bundle_unreadable"
    ),
    "an array whose head is deep": (_only({"images.npy": npy_header("(" * 3000 + ")" * 3000)}), "bundle_unreadable"),
    "pictures that are no numbers": (_npz(images=np.full((2, 8, 8), np.nan), labels=np.arange(2)), "images_dtype"),
    "labels below zero": (_npz(images=IMAGES, labels=np.array([-1, 0])), "negative_label"),
    "labels beyond all": (_npz(images=IMAGES, labels=np.array([0, 2**62])), "label_out_of_range"),
    "labels that are no numbers": (_npz(images=IMAGES, labels=np.array([0, np.nan])), "labels_dtype"),
    "a table with a formula": (
        _only({**TABLE, "labels.csv": "file,label\na.png,=1+1\nb.png,1\n"}), "class_unmapped"
    ),
    "a table with a zero": (
        _only({**TABLE, "labels.csv": "file,label\na.png\0,0\nb.png,1\n"}), "labels_csv_unknown_file"
    ),
    "a table with an endless field": (
        _only({**TABLE, "labels.csv": 'file,label\n"' + "a" * 1_000_000 + '",0\n'}), "labels_csv"
    ),
    "a table with an endless number": (
        _only({**TABLE, "labels.csv": "file,label\na.png," + "9" * 5_000 + "\nb.png,1\n"}), "class_unmapped"
    ),
    "a table that leads out": (
        _only({**TABLE, "labels.csv": "file,label\n../../etc/passwd,0\n"}), "labels_csv_unknown_file"
    ),
    "a table that leaves pictures out": (_only({**TABLE, "labels.csv": "file,label\na.png,0\n"}), "labels_mismatch"),
    "deep json": (_zip(bundle_DOT_json="[" * 100_000), "bundle_json"),
    "json with an endless number": (_zip(bundle_DOT_json='{"input": {"height": ' + "9" * 9_999 + "}}"), "bundle_json"),
}  # fmt: skip

IN_A_CHILD = """
import os, resource, sys
from pathlib import Path
from app.core.errors import Refusal
from app.core.intake.bundle import read_bundle
assert "torch" not in sys.modules
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for case in sys.argv[1:]:
    if (child := os.fork()) == 0:
        try:
            read_bundle(Path(case))
            print("accepted", end=" ", flush=True)
        except Refusal as refusal:
            print(refusal.problem.code, end=" ", flush=True)
        except BaseException as error:
            print(repr(error).replace(" ", "_"), end=" ", flush=True)
        os._exit(0)
    _, _, used = os.wait4(child, 0)
    print(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, flush=True)
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float, float]]:
    """What became of each hostile bundle in a process of its own: the code, seconds of computing, the most memory."""
    paths = []
    for make, _ in HOSTILE_BUNDLES.values():
        paths.append(make(tmp_path_factory.mktemp("hostile")))
    environment = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CHILD, *map(str, paths)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(paths)
    told = [(code, float(seconds), float(peak)) for code, seconds, peak in lines]
    return dict(zip(HOSTILE_BUNDLES, told, strict=True))


@pytest.mark.parametrize("name", HOSTILE_BUNDLES)
def test_a_hostile_bundle_is_refused_in_five_seconds_and_512_megabytes(
    refusals: dict[str, tuple[str, float, float]], name: str
) -> None:
    code, seconds, peak = refusals[name]
    assert code == HOSTILE_BUNDLES[name][1]
    assert seconds < 5 and peak < 512 << 20, (seconds, peak)
