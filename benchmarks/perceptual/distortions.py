"""Ways to change a picture, each with a strength from 0 (hardly visible) to 1 (gross).

They are the changes that triggers and inverted triggers make, and those of the data LPIPS itself was fitted to. Each
takes a picture, another picture (for blends), a strength and a random generator, and may leave [0, 1]: `distort` clips.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter, map_coordinates

from benchmarks.perceptual.drawings import Picture, Random, grey, noise_field

Distortion = Callable[[Picture, Picture, float, Random], Picture]


def distort(family: str, picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    """The picture under one family, or under two or three at once (`mixture`); a grey picture stays grey."""
    is_grey = bool((picture == picture[..., :1]).all())
    if family == "mixture":
        names = random.choice(list(FAMILIES), random.integers(2, 4), replace=False)
        changed = picture
        for name in names:
            changed = FAMILIES[name](changed, other, strength * random.random(), random).clip(0, 1)
    else:
        changed = FAMILIES[family](picture, other, strength, random)
    return (grey(changed) if is_grey else changed).clip(0, 1).astype(np.float32)


def _noise(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    return picture + random.normal(0, 0.3 * strength, picture.shape)


def _sparse(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    """A few pixels get another colour."""
    hit = random.random(picture.shape[:2]) < max(0.2 * strength, 1 / picture[..., 0].size)
    return np.where(
        hit[..., None], picture + random.uniform(0.05, 1) * (random.random(picture.shape) - picture), picture
    )


def _blur(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    sigma = 0.3 + 2 * strength
    return picture + min(1.0, 4 * strength) * (gaussian_filter(picture, (sigma, sigma, 0)) - picture)


def _sharpen(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    return picture + 3 * strength * (picture - gaussian_filter(picture, (1, 1, 0)))


def _warp(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    """A smooth displacement field, as in WaNet; with many cells, jitter."""
    side = len(picture)
    field = noise_field(random, side, int(random.choice([2, 3, 4, 6, 8, side])), channels=2)
    return _moved(picture, 2.5 * strength * field / (np.abs(field).mean() + 1e-6))


def _shift(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    direction = random.normal(size=2)
    return _moved(
        picture, np.broadcast_to(4 * strength * direction / np.linalg.norm(direction), (*picture.shape[:2], 2))
    )


def _moved(picture: Picture, offsets: np.ndarray) -> Picture:
    where = np.mgrid[: picture.shape[0], : picture.shape[1]] + np.moveaxis(offsets, -1, 0)
    return np.stack([map_coordinates(picture[..., c], where, order=1, mode="nearest") for c in range(3)], -1)


def _brightness(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    return picture + 0.5 * strength * random.choice([-1, 1])


def _colour(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    """All pixels move in one colour direction, or their colours are mixed anew."""
    if random.random() < 0.5:
        return picture + 0.4 * strength * random.uniform(-1, 1, 3)
    return picture @ (np.eye(3) + 0.6 * strength * random.normal(0, 0.6, (3, 3)))


def _contrast(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    if random.random() < 0.5:
        return picture.clip(0, 1) ** np.exp(1.2 * strength * random.choice([-1, 1]))  # gamma
    return picture.mean() + (picture - picture.mean()) * (1 + 0.8 * strength * random.choice([-1, 1]))


def _patch(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    """A small square of one colour, of noise or of checks, more or less opaque."""
    rows, columns = _rectangle(picture, 0.1 + 0.3 * strength, random)
    block = picture[rows, columns]
    checks = np.indices(block.shape[:2]).sum(0)[..., None] % 2
    filling = [random.random(3), random.random(block.shape), checks, 1 - checks][random.integers(4)]
    changed = picture.copy()
    changed[rows, columns] = block + min(1.0, 2 * strength) * (filling - block)
    return changed


def _erase(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    """A region loses its detail, or is gone."""
    rows, columns = _rectangle(picture, 0.1 + 0.5 * strength, random)
    block, changed = picture[rows, columns], picture.copy()
    filling = [np.zeros(3), block.mean((0, 1)), gaussian_filter(block, (2, 2, 0))][random.integers(3)]
    changed[rows, columns] = block + min(1.0, 2 * strength) * (filling - block)
    return changed


def _rectangle(picture: Picture, share: float, random: Random) -> tuple[slice, slice]:
    side = len(picture)
    height, width = np.maximum(1, (side * share * random.uniform(0.6, 1.2, 2)).astype(int))
    top, left = random.integers(0, side - height + 1), random.integers(0, side - width + 1)
    return slice(top, top + height), slice(left, left + width)


def _blend(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    return picture + 0.5 * strength * (other - picture)


def _jpeg(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    buffer = io.BytesIO()
    pixels = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(96 - 90 * strength))
    return np.asarray(Image.open(buffer), np.float32) / 255


def _waves(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    """An additive pattern: smooth noise or a plane wave, in one colour or in all."""
    side = len(picture)
    if random.random() < 0.5:
        pattern = noise_field(random, side, int(random.choice([2, 3, 4, 6, 8, 16])), int(random.choice([1, 3])))
    else:
        y, x = np.mgrid[:side, :side] / side
        fy, fx = random.normal(0, random.uniform(0.5, side / 5), 2)
        pattern = np.sin(2 * np.pi * (fy * y + fx * x + random.random()))[..., None] * random.choice(
            [np.ones(3), random.normal(size=3)]
        )
    return picture + 0.25 * strength * pattern


def _filtered(picture: Picture, other: Picture, strength: float, random: Random) -> Picture:
    """A residual made from the picture itself by a random filter, as a half-trained generator makes it."""
    kernel = random.normal(size=(5, 5)) * np.outer(*2 * [np.exp(-(np.linspace(-1.5, 1.5, 5) ** 2))])
    residual = np.stack([convolve(picture[..., c], kernel, mode="nearest") for c in range(3)], -1)
    residual = np.tanh(residual - random.random() * residual.mean())
    return picture + 0.5 * strength * residual * random.normal(size=3 if random.random() < 0.5 else 1)


FAMILIES: dict[str, Distortion] = {
    "noise": _noise,
    "sparse": _sparse,
    "blur": _blur,
    "sharpen": _sharpen,
    "warp": _warp,
    "shift": _shift,
    "brightness": _brightness,
    "colour": _colour,
    "contrast": _contrast,
    "patch": _patch,
    "erase": _erase,
    "blend": _blend,
    "jpeg": _jpeg,
    "waves": _waves,
    "filtered": _filtered,
}
ALL = (*FAMILIES, "mixture")
