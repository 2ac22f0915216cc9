"""A strip shows clean, triggered, residual and amplified residual, and says how much it amplified."""

import io

import numpy as np
import pytest
from PIL import Image

from app.core.report.figures import (
    AMPLIFICATION_KEY,
    GAP,
    LARGEST,
    LEGIBLE,
    amplification_of,
    png_bytes,
    trigger_strip,
)


@pytest.mark.parametrize("size", [8, 28, 32, 96, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_has_four_rows_of_at_most_eight_legible_tiles(size: int, channels: int) -> None:
    images = np.full((11, size, size, channels), 0.5, dtype=np.float32)
    strip = trigger_strip(images, images)
    tile = (strip.image.height - 3 * GAP) // 4
    assert LEGIBLE <= tile <= LARGEST
    assert strip.image.size == (8 * (tile + GAP) - GAP, 4 * (tile + GAP) - GAP)


def test_the_largest_change_fills_the_range_of_the_amplified_row() -> None:
    clean = np.full((2, 96, 96, 1), 0.5)
    generated = clean.copy()
    generated[0, 0, 0] += 0.02
    generated[0, 0, 1] -= 0.01
    strip = trigger_strip(clean, generated)
    assert strip.amplification == pytest.approx(50)
    residual_row, amplified_row = 2 * (96 + GAP), 3 * (96 + GAP)
    assert strip.image.getpixel((0, amplified_row)) == (255, 255, 255, 255)
    assert strip.image.getpixel((1, amplified_row)) == (64, 64, 64, 255)
    assert strip.image.getpixel((5, amplified_row)) == (128, 128, 128, 255)
    assert strip.image.getpixel((0, residual_row)) == (130, 130, 130, 255)


def test_gaps_are_transparent_so_that_the_page_shows_through() -> None:
    images = np.zeros((2, 96, 96, 3))
    strip = trigger_strip(images, images)
    assert strip.image.getpixel((96, 0))[3] == 0
    assert strip.amplification == 1.0


def test_values_that_are_not_finite_or_out_of_range_are_drawn_all_the_same() -> None:
    clean = np.zeros((1, 32, 32, 3))
    generated = np.full((1, 32, 32, 3), np.nan)
    generated[0, 0] = 7.0
    assert trigger_strip(clean, generated).amplification == 1.0


def test_the_png_says_its_amplification() -> None:
    clean = np.full((3, 32, 32, 3), 0.25)
    strip = trigger_strip(clean, clean + 0.125)
    assert amplification_of(png_bytes(strip)) == strip.amplification == 8.0


def test_a_picture_that_says_nothing_has_no_amplification() -> None:
    plain, lying = io.BytesIO(), io.BytesIO()
    Image.new("L", (2, 2)).save(plain, "PNG")
    Image.new("L", (2, 2)).save(lying, "GIF", comment=f"{AMPLIFICATION_KEY}=3")
    truncated = png_bytes(trigger_strip(np.zeros((1, 8, 8, 1)), np.zeros((1, 8, 8, 1))))[:20]
    for data in (b"", b"not a picture", plain.getvalue(), lying.getvalue(), truncated):
        assert amplification_of(data) is None
