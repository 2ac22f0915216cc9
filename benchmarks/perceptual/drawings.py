"""Pictures that nobody took: textures and shapes drawn from random numbers, to train the packaged perceptual net on.

No photo and no data set goes in, so the weights owe nothing to anybody's pictures. What the nets of a scan will see is
still covered: smooth and rough areas, edges at every angle, fine detail, thin strokes on black, colour and grey.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

Picture = NDArray[np.float32]  # H, W, 3 in [0, 1]
Mask = NDArray[np.float32]  # H, W in [0, 1]
Random = np.random.Generator


def draw(random: Random, side: int) -> Picture:
    """One picture: now and then bright strokes on black, else a background with up to five shapes on it."""
    if random.random() < 0.25:
        picture = _flat(random, side) * np.float32(random.choice([0.0, 0.0, 0.15]))
        for _ in range(random.integers(1, 4)):
            picture = _paint(picture, _stroke(random, side), _colour(random, bright=True))
    else:
        picture = _background(random, side)
        for _ in range(random.integers(0, 6)):
            shape = SHAPES[random.integers(len(SHAPES))](random, side)
            filling = _background(random, side) if random.random() < 0.5 else _colour(random)
            picture = _paint(picture, shape * np.float32(random.uniform(0.4, 1)), filling)
    if random.random() < 0.4:
        picture = gaussian_filter(picture, (*2 * [random.uniform(0, 0.8)], 0))
    if random.random() < 0.3:
        picture = picture + random.normal(0, random.uniform(0, 0.06), picture.shape).astype(np.float32)
    if random.random() < 0.35:
        picture = grey(picture)
    return picture.clip(0, 1).astype(np.float32)


def grey(picture: Picture) -> Picture:
    return np.repeat(picture.mean(-1, keepdims=True), 3, -1)


def noise_field(random: Random, side: int, cells: int, channels: int = 1) -> Picture:
    """Smooth standard normal noise: `cells` x `cells` random values, enlarged."""
    values = random.normal(size=(cells, cells, channels)).astype(np.float32)
    planes = [
        np.asarray(Image.fromarray(values[..., c]).resize((side, side), Image.Resampling.BICUBIC))
        for c in range(channels)
    ]
    return np.stack(planes, -1)


def _background(random: Random, side: int) -> Picture:
    return BACKGROUNDS[random.integers(len(BACKGROUNDS))](random, side)


def _paint(picture: Picture, mask: Mask, filling: Picture) -> Picture:
    return picture + mask[..., None] * (filling - picture)


def _colour(random: Random, bright: bool = False) -> Picture:
    colour = random.random(3) if random.random() < 0.7 else np.full(3, random.random())
    return (0.5 + 0.5 * colour if bright else colour).astype(np.float32)


def _mix(random: Random, share: Mask) -> Picture:
    """Two colours, mixed by a map of shares."""
    first, second = _colour(random), _colour(random)
    return first + share[..., None].astype(np.float32) * (second - first)


def _plane(random: Random, side: int) -> Mask:
    """A coordinate that runs in a random direction, about -0.7 to 0.7 over the picture."""
    angle, (y, x) = random.uniform(0, 2 * np.pi), np.mgrid[:side, :side] / side - 0.5
    return (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32)


def _flat(random: Random, side: int) -> Picture:
    return np.broadcast_to(_colour(random), (side, side, 3))


def _gradient(random: Random, side: int) -> Picture:
    share = (
        _plane(random, side) + 0.5
        if random.random() < 0.6
        else 1.5 * np.hypot(_plane(random, side), _plane(random, side))
    )
    return _mix(random, share.clip(0, 1))


def _octaves(random: Random, side: int) -> Picture:
    """Noise at several scales at once, like clouds, bark or grass, depending on how fast the amplitudes fall."""
    fall, channels = random.uniform(0.3, 1.0), int(random.choice([1, 3]))
    field = np.zeros((side, side, channels), np.float32)
    for octave, cells in enumerate((2, 4, 8, 16, 32)):
        field += np.float32(fall**octave) * noise_field(random, side, cells, channels)
    share = 0.5 + np.float32(random.uniform(0.1, 0.5)) * field / field.std()
    return _mix(random, share[..., 0].clip(0, 1)) if channels == 1 else share.clip(0, 1)


def _grating(random: Random, side: int) -> Picture:
    wave = np.sin(2 * np.pi * (_plane(random, side) * random.uniform(1, side / 3) + random.random()))
    sharp = random.choice([1.0, 1.0, 8.0])
    return _mix(random, 0.5 + 0.5 * (wave * sharp).clip(-1, 1))


def _checkerboard(random: Random, side: int) -> Picture:
    size = random.uniform(2, side / 2)
    a, b = _plane(random, side) * side + random.uniform(0, size), _plane(random, side) * side
    return _mix(random, ((a // size + b // size) % 2).astype(np.float32))


def _canvas(side: int) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """Masks are drawn three times as large and shrunk, so edges are smooth."""
    image = Image.new("L", (3 * side, 3 * side))
    return image, ImageDraw.Draw(image), 3 * side


def _mask(image: Image.Image, side: int) -> Mask:
    return np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float32) / 255


def _polygon(random: Random, side: int) -> Mask:
    image, pen, size = _canvas(side)
    centre, radius = random.uniform(0, size, 2), random.uniform(0.08, 0.5) * size
    angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 9)))
    radii = radius * random.uniform(0.4, 1, len(angles))
    pen.polygon(
        [(centre[0] + r * np.cos(a), centre[1] + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)], fill=255
    )
    return _mask(image, side)


def _ellipse(random: Random, side: int) -> Mask:
    image, pen, size = _canvas(side)
    (x, y), (a, b) = random.uniform(0, size, 2), random.uniform(0.04, 0.4, 2) * size
    pen.ellipse((x - a, y - b, x + a, y + b), fill=255)
    return _mask(image, side)


def _stroke(random: Random, side: int) -> Mask:
    """A pen line that bends as it goes."""
    image, pen, size = _canvas(side)
    turn = random.uniform(-0.5, 0.5) + random.normal(0, 0.25, 14).cumsum() * random.choice([0.3, 1.0])
    heading = random.uniform(0, 2 * np.pi) + turn.cumsum()
    length = random.uniform(0.03, 0.09) * size
    points = random.uniform(0.25, 0.75, 2) * size + length * np.stack([np.cos(heading), np.sin(heading)], 1).cumsum(0)
    width = int(random.uniform(0.02, 0.12) * size) + 1
    pen.line([tuple(point) for point in points.tolist()], fill=255, width=width, joint="curve")
    for x, y in (points[0], points[-1]):
        pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    return _mask(image, side)


def _script(random: Random, side: int) -> Mask:
    """Small straight strokes in a row, as writing looks from afar."""
    image, pen, size = _canvas(side)
    line, letter = random.uniform(0.1, 0.9) * size, random.uniform(0.05, 0.2) * size
    for x in np.arange(random.uniform(0, 0.3) * size, random.uniform(0.5, 1) * size, letter):
        for _ in range(random.integers(1, 4)):
            ends = random.uniform(0, 0.85 * letter, 4) + np.array([x, line, x, line])
            pen.line(ends.tolist(), fill=255, width=max(1, int(0.12 * letter)))
    return _mask(image, side)


def _blob(random: Random, side: int) -> Mask:
    field = noise_field(random, side, int(random.integers(3, 8)))[..., 0]
    return (random.uniform(1, 8) * (field - random.uniform(0, 1.2))).clip(0, 1).astype(np.float32)


BACKGROUNDS: list[Callable[[Random, int], Picture]] = [_flat, _gradient, _octaves, _octaves, _grating, _checkerboard]
SHAPES: list[Callable[[Random, int], Mask]] = [_polygon, _polygon, _ellipse, _stroke, _script, _blob]
