"""An .npz as a bundle: `images`, uint8 NHWC or NHW, and perhaps `labels`, whole numbers.

NumPy parses the header of each array and nothing else: dtype and shape are judged before memory is taken, and memory
is taken only for bytes that arrive, so a header that promises terabytes gets none. Nothing is ever unpickled.

This module does not know class names, nor how many labels a model has.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.errors import Refusal
from app.core.intake.guards import MEGABYTE, BundleLimits, bundle_too_large
from app.core.intake.members import Archive, Member
from app.core.intake.pictures import Picture
from app.core.text import printable

HEADER_BYTES = 1 << 16  # NumPy itself refuses headers above 10,000 bytes

_FLOAT_ADVICE = 'Convert [0, 1] floats with `(images * 255).round().astype("uint8")`, undoing a normalisation first.'
_ADVICE_BY_KIND = {
    "f": _FLOAT_ADVICE,
    "b": 'Convert with `images.astype("uint8") * 255`.',
    "i": 'If all values lie in 0..255, convert with `images.astype("uint8")`.',
    "u": 'If all values lie in 0..255, convert with `images.astype("uint8")`.',
}
_LABEL_ADVICE = 'Store one class index per image: `labels.astype("int64")`; first see where the fractions are from.'


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
    """Whether a zip file is an .npz: it has an array at its top and no picture folder around it."""
    return any(member.path.endswith(".npy") and len(member.parts) == 1 for member in archive.members)


def read_arrays(archive: Archive, limits: BundleLimits) -> tuple[Picture, NDArray[np.int64] | None]:
    """Images as NHWC and labels, or None for labels; raises Refusal."""
    members = {member.path.removesuffix(".npy"): member for member in archive.members if member.path.endswith(".npy")}
    if "images" not in members:
        found = ", ".join(printable(name, 20) for name in list(members)[:6])
        raise Refusal(
            "images_missing",
            f"The npz has no array `images`; found: {found}.",
            'Write it with `np.savez_compressed("bundle.npz", images=images, labels=labels)`.',
        )
    images = _read_array(archive, members["images"], lambda header: _check_images(header, limits))
    images_NHWC = images.reshape(*images.shape[:3], -1).astype(np.uint8, copy=False)
    if "labels" not in members:
        return images_NHWC, None
    labels = _read_array(archive, members["labels"], lambda header: _check_labels(header, len(images_NHWC)))
    if labels.dtype.kind == "u":
        labels = np.minimum(labels, np.uint64(2**62))  # stays far too large, and becomes no negative number
    return images_NHWC, labels.reshape(-1).astype(np.int64)


def _check_images(header: _Header, limits: BundleLimits) -> None:
    shape = header.shape
    if header.dtype != np.uint8:
        advice = _ADVICE_BY_KIND.get(header.dtype.kind, "Store numbers from 0 to 255 as uint8.")
        raise Refusal("images_dtype", f"The images are {printable(str(header.dtype))}, not uint8.", advice)
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise _wrong_shape(shape, "Put the channels last: `images.transpose(0, 2, 3, 1)`.")
    if len(shape) == 4 and shape[3] == 4:
        raise _wrong_shape(shape, "Drop the transparency: `images[..., :3]`.")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise _wrong_shape(shape, "Give (images, height, width, channels), or (images, height, width) for grey ones.")
    if 0 in shape:
        raise Refusal("bundle_empty", "The array `images` holds no images.", "Put in at least 10 images a class.")
    if shape[0] > limits.images:
        raise bundle_too_large(f"The shape {_shown(shape)} is more than {limits.images:,} images.")
    if shape[1] * shape[2] > limits.pixels_per_image or header.size > limits.decoded_bytes:
        raise bundle_too_large(f"The array `images` claims the shape {_shown(shape)}, which is too large.")


def _check_labels(header: _Header, images: int) -> None:
    if header.dtype.kind not in "iu":
        raise Refusal(
            "labels_dtype", f"The labels are {printable(str(header.dtype))}, not whole numbers.", _LABEL_ADVICE
        )
    if len(header.shape) == 2 and header.shape[1] > 1:
        raise Refusal(
            "labels_mismatch",
            f"The array `labels` has the shape {_shown(header.shape)}: it looks one-hot.",
            "Store one class index per image: `labels.argmax(axis=1)`.",
        )
    if math.prod(header.shape) != images:
        raise Refusal(
            "labels_mismatch",
            f"The bundle holds {images:,} images, but `labels` has the shape {_shown(header.shape)}.",
            "Store one label per image, in the same order.",
        )


def _read_array(archive: Archive, member: Member, check: Callable[[_Header], None]) -> NDArray[np.generic]:
    with archive.stream(member) as read:
        head = read(HEADER_BYTES)
        header, body = _parse_header(head, member)
        if header.dtype.hasobject:
            raise Refusal(
                "object_array",
                f"The array `{header.name}` holds Python objects, which can run code when they are read.",
                f'Store plain numbers: `np.stack(list({header.name})).astype("uint8")`, or int64 for labels.',
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


def _wrong_shape(shape: tuple[int, ...], advice: str) -> Refusal:
    return Refusal("images_shape", f"The array `images` has the shape {_shown(shape)}.", advice)


def _shown(shape: tuple[int, ...]) -> str:
    return printable(str(shape))
