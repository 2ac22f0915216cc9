"""What a trigger looks like: a strip of clean images, the same with the inverted trigger, and the difference.

The rows are those of the paper's figures 3 and 4, and one more: a good trigger is hardly visible, so the last row
amplifies its residual until the largest change fills the range. The gaps are transparent, for light and dark pages.
The module knows pixels only, not where they come from; a strip says its own amplification, in the PNG too. An engine
draws them, so whoever takes one from it reads its outline and decodes nothing.

    N images, H x W pixels, C channels (1 or 3), values in [0, 1]
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

ROWS = ("clean", "with trigger", "residual", "residual, amplified")
IMAGES = 8  # columns at most
GAP = 4  # pixels between tiles
LEGIBLE = 96  # smaller tiles are enlarged, nearest neighbour, by a whole factor
LARGEST = 192  # larger tiles are reduced by a whole factor
AMPLIFICATION_KEY = "triggerlens:amplification"
SIGNATURE, HEADER_BYTES = b"\x89PNG\r\n\x1a\n", 13


@dataclass(frozen=True)
class TriggerStrip:
    """A picture whose rows are ROWS; `amplification` is the factor of its last row."""

    image: Image.Image
    amplification: float


def trigger_strip(clean_NHWC: NDArray[np.floating], generated_NHWC: NDArray[np.floating]) -> TriggerStrip:
    """The strip of the first few image pairs; residuals are mapped from [-1, 1] to [0, 1], so grey means unchanged."""
    assert clean_NHWC.shape == generated_NHWC.shape, (clean_NHWC.shape, generated_NHWC.shape)
    assert clean_NHWC.ndim == 4 and len(clean_NHWC) > 0 and clean_NHWC.shape[3] in (1, 3), clean_NHWC.shape
    clean = _unit_range(clean_NHWC[:IMAGES])
    generated = _unit_range(generated_NHWC[:IMAGES])
    residual = generated - clean
    largest = float(np.abs(residual).max())
    amplification = 1.0 / largest if largest > 0 else 1.0
    rows = (clean, generated, 0.5 + 0.5 * residual, 0.5 + 0.5 * amplification * residual)
    return TriggerStrip(_grid([[_tile(image) for image in row] for row in rows]), amplification)


def png_bytes(strip: TriggerStrip) -> bytes:
    """The strip as a PNG file that carries its amplification as a text entry."""
    entries = PngImagePlugin.PngInfo()
    entries.add_text(AMPLIFICATION_KEY, repr(strip.amplification))
    buffer = io.BytesIO()
    strip.image.save(buffer, format="PNG", pnginfo=entries)
    return buffer.getvalue()


def amplification_of(png: bytes) -> float | None:
    """The amplification that `png_bytes` wrote; None for a file that does not say one, whatever it is."""
    try:
        texts = [content.partition(b"\0") for kind, content in _chunks(png) if kind == b"tEXt"]
        amplification = next(float(text) for key, _, text in texts if key == AMPLIFICATION_KEY.encode())
    except (ValueError, StopIteration):
        return None  # a caption without its factor is better than no page
    return amplification if math.isfinite(amplification) else None


def check_png(png: bytes) -> None:
    """Raises ValueError for what `png_bytes` would not have written. No pixel is decoded."""
    chunks = list(_chunks(png))
    kinds = [kind for kind, _ in chunks]
    if kinds != [b"IHDR", b"tEXt", *[b"IDAT"] * (len(kinds) - 3), b"IEND"] or len(chunks[0][1]) != HEADER_BYTES:
        raise ValueError("other parts than a strip has")
    width, height = struct.unpack_from(">II", chunks[0][1])
    if not (0 < width <= IMAGES * (LARGEST + GAP) and 0 < height <= len(ROWS) * (LARGEST + GAP)):
        raise ValueError(f"{width} x {height} pixels")
    if amplification_of(png) is None:
        raise ValueError("it says no amplification")


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The parts of a PNG file, by kind; raises ValueError for what is none (PNG specification, 3rd ed., sec. 5)."""
    if not png.startswith(SIGNATURE):
        raise ValueError("no PNG")
    place, kind = len(SIGNATURE), b""
    while place < len(png):
        length, kind = struct.unpack_from(">I4s", png.ljust(place + 8, b"\0"), place)
        content, end = png[place + 8 : place + 8 + length], place + 12 + length
        if png[end - 4 : end] != struct.pack(">I", zlib.crc32(kind + content)):
            raise ValueError("a part is damaged")
        yield kind, content
        place = end
    if kind != b"IEND":
        raise ValueError("it ends too early")


def _unit_range(images_NHWC: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.clip(np.nan_to_num(images_NHWC.astype(np.float64)), 0.0, 1.0)


def _tile(image_HWC: NDArray[np.float64]) -> Image.Image:
    pixels = np.clip(np.rint(image_HWC * 255), 0, 255).astype(np.uint8)
    tile = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy())
    side = max(tile.size)
    if side > LARGEST:
        return tile.reduce(math.ceil(side / LARGEST))
    scale = math.ceil(LEGIBLE / side)
    return tile.resize((tile.width * scale, tile.height * scale), Image.Resampling.NEAREST)


def _grid(rows: list[list[Image.Image]]) -> Image.Image:
    width, height = rows[0][0].size
    size = (len(rows[0]) * (width + GAP) - GAP, len(rows) * (height + GAP) - GAP)
    grid = Image.new("RGBA", size, (0, 0, 0, 0))
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            grid.paste(tile, (column * (width + GAP), row * (height + GAP)))
    return grid
