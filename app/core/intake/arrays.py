"""An .npz as a bundle: images, NHWC or NHW, and perhaps labels, under any of the names that people give them.

NumPy parses the header of each array and nothing else: dtype and shape are judged before memory is taken, and memory
is taken only for bytes that arrive, so a header that promises terabytes gets none. Nothing is ever unpickled. What
can mean one thing only is converted and said: floats in [0, 1] or [0, 255], channels first, one-hot labels.

This module does not know class indices, nor how many labels a model has.
"""

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from app.core.errors import Refusal
from app.core.intake.guards import MEGABYTE, BundleLimits, bundle_too_large
from app.core.intake.layout import PICTURE_ENDINGS
from app.core.intake.members import Archive, Member
from app.core.intake.notes import Note, NoteKind
from app.core.intake.pictures import Picture
from app.core.intake.tables import SPLITS
from app.core.text import printable

HEADER_BYTES = 1 << 16  # NumPy itself refuses headers above 10,000 bytes
LABEL_BYTES = 256 * MEGABYTE

_IMAGE_WORDS = ("images", "image", "imgs", "img", "x", "data", "pixels", "pictures", "inputs", "xs", "arr0")
_LABEL_WORDS = ("labels", "label", "y", "targets", "target", "classes", "class", "cls", "lbls", "gt", "ys", "arr1")
_LABEL_ADVICE = 'Store one class index per image: `labels.astype("int64")`; first see where the fractions are from.'
_OVERSHOOT = 0.1  # of the range
_WRITE = 'Write it with `np.savez_compressed("bundle.npz", images=images, labels=labels)`.'


@dataclass(frozen=True)
class _Header:
    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    column_major: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def holds_arrays(archive: Archive) -> bool:
    """Whether a zip file is an .npz: it has an array at its top, and no picture beside it."""
    names = [member.path.lower() for member in archive.members]
    return any(name.endswith(".npy") and "/" not in name for name in names) and not any(
        name.endswith(PICTURE_ENDINGS) for name in names
    )


def read_arrays(archive: Archive, limits: BundleLimits) -> tuple[Picture, list[str] | None, tuple[Note, ...]]:
    """Images as NHWC, the name of each one's class, None for unlabelled ones, and what was done; raises Refusal."""
    members = {member.path.removesuffix(".npy"): member for member in archive.members if member.path.endswith(".npy")}
    image_name, label_name, notes = _chosen(members)
    values = _read_array(archive, members[image_name], lambda header: _check_images(header, limits))
    images_NHWC = _as_pictures(values, image_name, notes)
    if label_name is None:
        return images_NHWC, None, tuple(notes)
    labels = _read_array(archive, members[label_name], lambda header: _check_labels(header, len(images_NHWC)))
    return images_NHWC, _class_names(labels, label_name, notes), tuple(notes)


def _chosen(members: Mapping[str, Member]) -> tuple[str, str | None, list[Note]]:
    """The names of the images and of their labels: of a split that has both, first the one a suspect has not seen."""
    images: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    for name in members:
        split, word = _parts_of(name)
        if word in _IMAGE_WORDS:
            images.setdefault(split, []).append(name)
        elif word in _LABEL_WORDS:
            labels.setdefault(split, []).append(name)
    if not images:
        found = ", ".join(printable(name, 20) for name in list(members)[:6])
        raise Refusal("images_missing", f"The npz has no array `images`; found: {found}.", _WRITE)
    split = min(images, key=lambda split: (split not in labels, SPLITS.get(split, -1)))
    image = _only(images[split], "images")
    label = _only(labels[split], "labels") if split in labels else None
    notes = []
    if left := [name for other in images if other != split for name in (*images[other], *labels.get(other, ()))]:
        told = (
            f"The arrays `{printable(image)}` were taken of several splits; `{printable(left[0])}` and others were not."
        )
        notes.append(Note(NoteKind.SKIPPED_SPLIT, told, len(left), left[0]))
    if unused := [name for name in members if name not in (image, label, *left)]:
        told = (
            f"{len(unused):,} arrays are neither images nor labels and were not used, such as `{printable(unused[0])}`."
        )
        notes.append(Note(NoteKind.SKIPPED_ARRAYS, told, len(unused), unused[0]))
    return image, label, notes


def _parts_of(name: str) -> tuple[str, str]:
    """The split that a name speaks of, "" for none, and what is left of it: `test` and `images` of `testImages`."""
    words = re.findall("[a-z]+|[0-9]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower())
    if len(words) == 1 and words[0] not in SPLITS:
        words = next(
            (
                [word for word in (words[0][: -len(split)], split) if word]
                for split in SPLITS
                if words[0].endswith(split)
            ),
            next(([split, words[0][len(split) :]] for split in SPLITS if words[0].startswith(split)), words),
        )
    splits = [word for word in words if word in SPLITS]
    return (splits[0] if splits else ""), "".join(word for word in words if word not in SPLITS)


def _only(names: list[str], usual: str) -> str:
    exact = [name for name in names if name == usual]
    if len(names) > 1 and not exact:
        shown = " and ".join(f"`{printable(name, 20)}`" for name in names[:3])
        raise Refusal("images_missing", f"The npz has {shown}, and which of them are the {usual} is not clear.", _WRITE)
    return (exact or names)[0]


def _check_images(header: _Header, limits: BundleLimits) -> None:
    shape, name = header.shape, header.name
    if header.dtype.kind not in "uifb":
        advice = "Store numbers from 0 to 255 as uint8."
        raise Refusal("images_dtype", f"The images are {printable(str(header.dtype))}, not uint8.", advice)
    if 0 in shape:
        raise Refusal("bundle_empty", f"The array `{name}` holds no images.", "Put in at least 10 images a class.")
    if len(shape) == 4 and shape[3] == 4:
        raise _wrong_shape(header, "Drop the transparency: `images[..., :3]`.")
    if len(shape) == 2:
        raise _wrong_shape(header, _unflattened(shape[1]))
    if len(shape) == 4 and shape[2] in (1, 3) and not {shape[1], shape[3]} & {1, 3}:
        raise _wrong_shape(header, "Put the images first: `images.transpose(3, 0, 1, 2)`.")
    if len(shape) not in (3, 4) or (len(shape) == 4 and not {shape[1], shape[3]} & {1, 3}):
        raise _wrong_shape(header, "Give (images, height, width, channels), or (images, height, width) for grey ones.")
    if shape[0] > limits.images:
        raise bundle_too_large(f"The shape {_shown(shape)} is more than {limits.images:,} images.")
    if math.prod(shape[1:]) > 3 * limits.pixels_per_image or header.size > limits.decoded_bytes:
        raise bundle_too_large(f"The array `{name}` claims the shape {_shown(shape)}, which is too large.")


def _unflattened(length: int) -> str:
    for channels in (1, 3):
        side = math.isqrt(length // channels)
        if channels * side * side == length:
            shape = f"-1, {channels}, {side}, {side}" if channels == 3 else f"-1, {side}, {side}"
            return f"If its rows are images, channel by channel: `images.reshape({shape})`."
    return "Give (images, height, width, channels), or (images, height, width) for grey ones."


def _as_pictures(values: NDArray[np.generic], name: str, notes: list[Note]) -> Picture:
    """The same as uint8 NHWC, with a note of what was changed."""
    if values.ndim == 4 and values.shape[1] in (1, 3) and values.shape[3] not in (1, 3):
        notes.append(Note(NoteKind.CONVERTED_PIXELS, f"The array `{name}` has its channels first; they were put last.",
                          len(values), name))  # fmt: skip
        values = values.transpose(0, 2, 3, 1)
    images_NHWC = values.reshape(*values.shape[:3], -1)
    if images_NHWC.dtype == np.uint8:
        return np.ascontiguousarray(images_NHWC).astype(np.uint8, copy=False)
    lowest = min(float(part.min()) for part in _in_parts(images_NHWC))
    highest = max(float(part.max()) for part in _in_parts(images_NHWC))
    kind = printable(str(values.dtype))
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise Refusal("images_dtype", f"The images are {kind} and hold values that are no numbers.",
                      "Store numbers from 0 to 255 as uint8; first see where these values are from.")  # fmt: skip
    is_unit = values.dtype.kind in "fb" and highest <= 1
    if values.dtype.kind == "f" and (white := _overshot(lowest, highest)):
        raise Refusal(
            "images_dtype",
            f"The images are {kind} with values from {lowest:.4g} to {highest:.4g}, a little beyond [0, {white}].",
            f"Resizing overshoots: `images.clip(0, {white})`.",
        )
    if lowest < 0 or highest > 255:
        raise Refusal(
            "images_dtype",
            f"The images are {kind} with values from {lowest:.4g} to {highest:.4g}, not uint8 from 0 to 255.",
            'Undo the normalisation first, `images * std + mean`, then `(images * 255).round().astype("uint8")`.'
            if lowest < 0
            else "Divide by the largest possible value, for 16 bits `images // 257`, and store them as uint8.",
        )
    converted = np.empty(images_NHWC.shape, dtype=np.uint8)
    for target, part in zip(_in_parts(converted), _in_parts(images_NHWC), strict=True):
        target[...] = np.rint(part.astype(np.float64) * (255 if is_unit else 1))
    span = "[0, 1] and were stretched to" if is_unit else "[0, 255] and were taken as"
    notes.append(Note(NoteKind.CONVERTED_PIXELS, f"The images are {kind} in {span} 0 to 255.", len(values), name))
    return converted


def _overshot(lowest: float, highest: float) -> int:
    """Which range the values leave by a little, as a resizing with sharp edges makes them; 0 for none."""
    for white in (1, 255):
        margin = _OVERSHOOT * white
        is_near = lowest >= -margin and white - margin <= highest <= white + margin
        if is_near and (lowest < 0 or highest > white):
            return white
    return 0


def _in_parts(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Some images at a time, so that no second copy of all is ever made."""
    for start in range(0, len(images), 256):
        yield images[start : start + 256]


def _check_labels(header: _Header, images: int) -> None:
    if header.dtype.kind not in "iufbUS" or header.size > LABEL_BYTES:
        raise Refusal(
            "labels_dtype", f"The labels are {printable(str(header.dtype))}, not whole numbers.", _LABEL_ADVICE
        )
    if (
        not header.shape
        or header.shape[0] != images
        or (math.prod(header.shape) != images and header.dtype.kind in "US")
    ):
        raise Refusal(
            "labels_mismatch",
            f"The bundle holds {images:,} images, but `{header.name}` has the shape {_shown(header.shape)}.",
            "Store one label per image, in the same order.",
        )


def _class_names(values: NDArray[np.generic], name: str, notes: list[Note]) -> list[str]:
    """One class a row, as text: a whole number, or the place of the only 1 in a row."""
    rows = values.reshape(len(values), -1)
    if rows.dtype.kind in "US":
        names = (name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in rows[:, 0].tolist())
        return [normalize("NFC", name) for name in names]
    if rows.shape[1] > 1:
        numbers = rows.astype(np.float64)
        if not (np.isin(numbers, (0, 1)).all() and (numbers.sum(axis=1) == 1).all()):
            raise Refusal(
                "labels_mismatch",
                f"The array `{name}` has the shape {_shown(values.shape)}, and its rows are not one-hot.",
                "Store one class index per image; of scores `labels.argmax(axis=1)`. Images of several classes have "
                "no place in a scan.",
            )
        notes.append(Note(NoteKind.CONVERTED_LABELS, f"The array `{name}` is one-hot, of {rows.shape[1]:,} classes.",
                          rows.shape[1], name))  # fmt: skip
        return [str(label) for label in numbers.argmax(axis=1)]
    if rows.dtype.kind == "f":
        numbers = rows.astype(np.float64)
        if not np.isfinite(numbers).all() or (numbers != np.rint(numbers)).any():
            raise Refusal(
                "labels_dtype", f"The labels are {printable(str(rows.dtype))}, not whole numbers.", _LABEL_ADVICE
            )
        notes.append(Note(NoteKind.CONVERTED_LABELS, f"The array `{name}` holds whole numbers as {rows.dtype}.",
                          len(rows), name))  # fmt: skip
        return [str(int(label)) for label in numbers[:, 0]]
    return [str(int(label)) for label in rows[:, 0]]


def _read_array(archive: Archive, member: Member, check: Callable[[_Header], None]) -> NDArray[np.generic]:
    with archive.stream(member) as read:
        head = read(HEADER_BYTES)
        header, body = _parse_header(head, member)
        if header.dtype.hasobject:
            raise Refusal(
                "object_array",
                f"The array `{header.name}` holds Python objects, which can run code when they are read.",
                f'Store plain numbers: `np.stack(list({header.name})).astype("uint8")`, or for labels int64 or str.',
            )
        check(header)
        content = bytearray(head[body:])
        while len(content) <= header.size and (chunk := read(MEGABYTE)):
            content += chunk
    if len(content) != header.size:
        raise Refusal(
            "bundle_unreadable",
            f"The array `{header.name}` claims the shape {_shown(header.shape)} but holds "
            f"{'fewer' if len(content) < header.size else 'more'} bytes.",
            "The file is damaged, or was made to exhaust a reader: write it again with `np.savez_compressed`.",
        )
    values: NDArray[np.generic] = np.frombuffer(content, dtype=header.dtype)
    if header.column_major:
        return np.ascontiguousarray(values.reshape(header.shape[::-1]).transpose())
    return values.reshape(header.shape)


def _parse_header(head: bytes, member: Member) -> tuple[_Header, int]:
    """The header and where the body begins; only the member's first bytes are ever shown to NumPy."""
    source = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(source)
        parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, column_major, dtype = parse(source)
    except Exception as error:  # NumPy's header parser raises a wide family of errors
        raise _not_an_array(member) from error
    if any(side < 0 for side in shape):
        raise _not_an_array(member)
    return _Header(printable(member.path.removesuffix(".npy")), dtype, shape, column_major), source.tell()


def _not_an_array(member: Member) -> Refusal:
    return Refusal(
        "bundle_unreadable",
        f"The member `{printable(member.path)}` is not a NumPy array.",
        'Write the bundle with `np.savez_compressed("bundle.npz", images=images, labels=labels)`.',
    )


def _wrong_shape(header: _Header, advice: str) -> Refusal:
    return Refusal("images_shape", f"The array `{header.name}` has the shape {_shown(header.shape)}.", advice)


def _shown(shape: tuple[int, ...]) -> str:
    return printable(str(shape))
