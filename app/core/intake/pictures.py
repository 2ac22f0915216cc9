"""One picture file in, one uint8 array (height, width, channels) out; grey stays grey, everything else becomes RGB.

The header is read first and decides: format, frames and pixels are checked before anything is decoded, so a picture
of 60,000 x 60,000 pixels costs nothing. The format is told by content, never by the file's name. Transparency is
dropped, not composited; of 16-bit samples the high byte is kept, as Pillow does for colours.

This module does not know what a picture shows, which label it has, or which size a model wants.
"""

import io
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from app.core.errors import Refusal
from app.core.intake.guards import MEGABYTE, Allowance
from app.core.text import printable

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"})
HEADER_BYTES = 16 * MEGABYTE  # holds any header, and nearly every file as a whole
BYTES_PER_PIXEL = 8  # no format we read needs more: four channels of 16 bits

_OTHER_FORMATS = {
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"\0\0\1\0": "ICO",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"DDS ": "DDS",
}
_PACKED = {
    b"PK\3\4": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
}
_CONVERT = "Convert it to PNG, or leave it out of the bundle."
_OUR_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM")

Picture = NDArray[np.uint8]
Images = Picture | tuple[Picture, ...]  # NHWC where all have one size, else HWC each


def is_picture(head: bytes) -> bool:
    """Whether a file of any name is meant as a picture, of a format that is read or refused, by its first bytes."""
    is_netpbm = head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace()
    return head.startswith((*_OUR_MAGIC, *_OTHER_FORMATS, *_PACKED)) or is_netpbm or head[4:8] == b"ftyp"


def decode_picture(read: Callable[[int], bytes], name: str, most_pixels: int, memory: Allowance) -> Picture:
    """Decodes what `read(size)` gives; `memory` is spent before the pixels are unpacked. Raises Refusal."""
    with warnings.catch_warnings(action="ignore"):  # of odd metadata, and of sizes that our own limit judges
        return _decode(read, name, most_pixels, memory)


def _decode(read: Callable[[int], bytes], name: str, most_pixels: int, memory: Allowance) -> Picture:
    head = read(HEADER_BYTES)
    image = _opened(head, name, most_pixels)
    if len(head) == HEADER_BYTES:
        room = BYTES_PER_PIXEL * image.width * image.height
        rest = read(room + 1)
        if len(rest) > room:
            raise _corrupt(name, f"it holds far more bytes than {image.width} x {image.height} pixels can use")
        image = _opened(head + rest, name, most_pixels)
    memory.spend(image.width * image.height * (1 if image.mode in GREY_MODES else 3))
    try:
        return _to_array(ImageOps.exif_transpose(image))
    except Exception as error:  # a decoder raises whatever a malformed file makes it trip over
        raise _corrupt(name, str(error)) from error


def _opened(data: bytes, name: str, most_pixels: int) -> Image.Image:
    """The picture's header, checked; the pixels are still packed."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if data.startswith(_OUR_MAGIC) or not data:
            raise _corrupt(name, "its header cannot be read" if data else "it is empty") from error
        what = _format_name(data)
        advice = "Unpack it and put its images into the bundle." if what in _PACKED.values() else _CONVERT
        raise _unsupported(name, what, advice) from error
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(name, most_pixels) from error
    except Exception as error:  # as above
        raise _corrupt(name, str(error)) from error
    if image.width * image.height > most_pixels:
        raise _too_many_pixels(name, most_pixels, f" ({image.width:,} x {image.height:,})")
    if image.width < 1 or image.height < 1:
        raise _corrupt(name, "it has no pixels")
    if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a phone's JPEG with a second view
        raise Refusal(
            "image_animated",
            f"The image `{printable(name)}` is animated.",
            "A classifier sees one picture at a time: save the frame you mean as a PNG.",
        )
    if image.mode == "F":
        raise _unsupported(name, "a picture of floating-point numbers")
    return image


def _to_array(image: Image.Image) -> Picture:
    if image.mode.startswith("I"):
        samples: NDArray[np.int64] = np.asarray(image).astype(np.int64)
        return (samples.clip(0, 65535) >> 8).astype(np.uint8)[:, :, None]
    if image.mode in GREY_MODES:
        return np.array(image.convert("L"), dtype=np.uint8)[:, :, None]
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _format_name(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "HEIC or AVIF, or a film"
    return next(
        (name for magic, name in (_OTHER_FORMATS | _PACKED).items() if data.startswith(magic)), "no picture we know"
    )


def _unsupported(name: str, found: str, advice: str = _CONVERT) -> Refusal:
    return Refusal(
        "image_unsupported",
        f"The file `{printable(name)}` is not a PNG, JPEG, WebP, BMP or PPM image but {found}.",
        advice,
    )


def _too_many_pixels(name: str, most_pixels: int, size: str = "") -> Refusal:
    return Refusal(
        "image_too_large",
        f"The image `{printable(name)}` has more than {most_pixels / 1e6:g} million pixels{size}.",
        "Store it at the size the model sees.",
    )


def _corrupt(name: str, why: str) -> Refusal:
    return Refusal(
        "image_corrupt",
        f"The image `{printable(name)}` cannot be decoded: {printable(why)}.",
        "Replace it, or leave it out of the bundle: a few missing images do no harm.",
    )
