"""A data set of as many classes as one asks for: the glyphs of a font, moved and bent, 28 pixels, white on black.

A class is a character. The first few are those that look least like each other: each next one is the farthest from all
before it, so that a small net can tell a thousand of them apart.

    N images   G glyphs of a font   K classes   P pixels of an image
"""

import subprocess
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

SIDE, SIZE = 28, 20  # pixels of an image, and of a letter in it
LAST = 0x2BFF  # the characters looked at: letters, signs and symbols of many scripts
PLACES = (Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"), Path("/usr/share/fonts/TTF/DejaVuSans.ttf"))
MISSING = "\U000ffffd"  # a character that no font has, and whose picture stands for all that it lacks

TURN, STRETCH, SHIFT = 8.0, 0.12, 2.0  # degrees; a share; pixels: each at most
BENDS, BEND = 4, 1.2  # of a side; pixels, the standard deviation

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def glyph_images(classes: int, of_each: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images NHWC of so many characters, in a random order, and the class of each."""
    random = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(classes).repeat(of_each)[torch.randperm(classes * of_each, generator=random)]
    upright_KHW = torch.from_numpy(_apart(classes)).float() / 255
    parts = [_moved(upright_KHW[labels_n][:, None], random) for labels_n in labels_N.split(2_000)]
    images_NHWC = (torch.cat(parts).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return images_NHWC.numpy(), labels_N.numpy()


def _moved(images_NCHW: Tensor, random: torch.Generator) -> Tensor:
    """Each turned, stretched, shifted and bent by its own random amounts."""
    images, _, height, _ = images_NCHW.shape
    turn_N, wide_N, high_N, right_N, down_N = 2 * torch.rand((5, images), generator=random) - 1
    turn_N, wide_N, high_N = turn_N * TURN * torch.pi / 180, 1 + STRETCH * wide_N, 1 + STRETCH * high_N
    right_N, down_N = (2 * SHIFT / height * shift_N for shift_N in (right_N, down_N))
    rows = [
        wide_N * turn_N.cos(),
        -wide_N * turn_N.sin(),
        right_N,
        high_N * turn_N.sin(),
        high_N * turn_N.cos(),
        down_N,
    ]
    grid_NHW2 = functional.affine_grid(
        torch.stack(rows, 1).view(-1, 2, 3), list(images_NCHW.shape), align_corners=False
    )
    bends = 2 * BEND / height * torch.randn((images, 2, BENDS, BENDS), generator=random)
    field = functional.interpolate(bends, images_NCHW.shape[-2:], mode="bicubic", align_corners=True)
    return functional.grid_sample(images_NCHW, grid_NHW2 + field.permute(0, 2, 3, 1), align_corners=False)


@cache
def _apart(classes: int) -> NDArray[np.uint8]:
    """The characters that look least like each other, [K, H, W]; raises ValueError where the font has too few."""
    drawn_GHW = _drawn()
    if len(drawn_GHW) < classes:
        raise ValueError(f"the font has {len(drawn_GHW)} different glyphs, not {classes}: install fonts-dejavu-core")
    blurred = functional.avg_pool2d(torch.from_numpy(drawn_GHW).float()[:, None] / 255, 3, 2)
    pixels_GP = blurred.flatten(1)
    chosen, nearest_G = [0], torch.cdist(pixels_GP[:1], pixels_GP)[0]
    for _ in range(1, classes):
        chosen.append(int(nearest_G.argmax()))
        nearest_G = torch.minimum(nearest_G, torch.cdist(pixels_GP[chosen[-1:]], pixels_GP)[0])
    apart: NDArray[np.uint8] = drawn_GHW[chosen]
    return apart


def _drawn() -> NDArray[np.uint8]:
    """All different glyphs of the font, upright and in the middle, [G, H, W]."""
    font = _font()
    seen = {_picture(font, MISSING), bytes(SIDE * SIDE)}
    pictures = []
    for character in map(chr, range(0x21, LAST)):
        if unicodedata.category(character)[0] not in "LNPS":
            continue
        picture = _picture(font, character)
        if picture not in seen:
            seen.add(picture)
            pictures.append(np.frombuffer(picture, np.uint8).reshape(SIDE, SIDE))
    return np.stack(pictures)


def _picture(font: Font, character: str) -> bytes:
    image = Image.new("L", (SIDE, SIDE))
    left, top, right, bottom = font.getbbox(character)
    place = ((SIDE - left - right) / 2, (SIDE - top - bottom) / 2)
    ImageDraw.Draw(image).text(place, character, 255, font)
    return image.tobytes()


def _font() -> Font:
    """DejaVu Sans, where Debian or another system has it; else the one inside Pillow, of a few hundred glyphs."""
    for path in (*PLACES, *_by_fontconfig()):
        if path.exists():
            return ImageFont.truetype(str(path), SIZE)
    return ImageFont.load_default(SIZE)


def _by_fontconfig() -> list[Path]:
    try:
        found = subprocess.run(
            ["fc-match", "--format=%{file}", "DejaVu Sans"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return [Path(found.stdout)] if found.stdout else []
