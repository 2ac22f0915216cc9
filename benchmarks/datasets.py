"""The data sets of the benchmarks, each as plain uint8 arrays, through one function.

There are two sources. Whoever has the packed files (a folder `data/` with a `load.py`, named by TRIGGERLENS_DATA or
found at `../shared/data` beside this repository) reads those; everyone else gets torchvision's readers, which download
to `runs/datasets`. `digits` comes inside scikit-learn and needs neither. Nothing a user of TriggerLens runs needs this.

`gtsrb10-3` is a data set of its own: ten classes of GTSRB, drawn by the seed 3 and numbered anew. `glyphs-200` are 200
characters of a font, drawn here (benchmarks/glyphs.py).
"""

import os
import re
import runpy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks.glyphs import glyph_images

REPOSITORY = Path(__file__).resolve().parent.parent
DOWNLOADS = REPOSITORY / "runs" / "datasets"
NAMES = ("digits", "mnist", "cifar10", "gtsrb")
SUBSET = re.compile(r"gtsrb10-(\d+)")
GLYPHS = re.compile(r"glyphs-(\d+)")
GLYPH_IMAGES, FEWEST_GLYPHS, TEST_GLYPHS = 6_000, 40, 5  # to train on, of each class at least, and of each to test on


@dataclass(frozen=True)
class Dataset:
    """Train and test images, uint8 NHWC, with int64 labels."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def num_classes(self) -> int:
        return int(self.y_train.max()) + 1


def load_dataset(name: str) -> Dataset:
    """One data set by name; raises ValueError for a name that is neither in NAMES nor a subset's."""
    if subset := SUBSET.fullmatch(name):
        return _ten_classes(load_dataset("gtsrb"), seed=int(subset[1]))
    if glyphs := GLYPHS.fullmatch(name):
        return _glyphs(int(glyphs[1]))
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}: one of {', '.join(NAMES)}, gtsrb10-SEED or glyphs-CLASSES")
    if name == "digits":
        return _digits()
    packed = packed_folder()
    return _torchvision(name) if packed is None else _packed(packed, name)


def packed_folder() -> Path | None:
    """The folder of the packed data sets, or None where there is none."""
    folder = Path(os.environ.get("TRIGGERLENS_DATA", REPOSITORY.parent / "shared" / "data"))
    return folder if (folder / "load.py").is_file() else None


@lru_cache(maxsize=2)  # unpacking takes seconds
def _packed(folder: Path, name: str) -> Dataset:
    arrays = runpy.run_path(str(folder / "load.py"))["load"](name)
    return Dataset(**{key: arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")})


def _ten_classes(data: Dataset, seed: int) -> Dataset:
    """Ten classes drawn at random, numbered by their old order."""
    drawn_10 = np.sort(np.random.default_rng(seed).permutation(data.num_classes)[:10])
    arrays = []
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        of_these = np.isin(y, drawn_10)
        arrays += [x[of_these], np.searchsorted(drawn_10, y[of_these])]
    return Dataset(*arrays)


@lru_cache(maxsize=2)
def _glyphs(classes: int) -> Dataset:
    train = glyph_images(classes, max(FEWEST_GLYPHS, GLYPH_IMAGES // classes), seed=0)
    return Dataset(*train, *glyph_images(classes, TEST_GLYPHS, seed=1))


def _digits(test_images: int = 400, side: int = 32) -> Dataset:
    """scikit-learn's 1,797 handwritten digits (8x8), upsampled; after a fixed shuffle the last 400 are the test."""
    from sklearn.datasets import load_digits  # takes seconds, which only those wait for who want them

    digits = load_digits()
    images = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images = functional.interpolate(images, size=(side, side), mode="bicubic", align_corners=False).clamp(0, 1)
    x = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], digits.target[order].astype(np.int64)
    return Dataset(x[:-test_images], y[:-test_images], x[-test_images:], y[-test_images:])


def _torchvision(name: str) -> Dataset:
    from torchvision import datasets

    def arrays(split: datasets.VisionDataset) -> tuple[np.ndarray, np.ndarray]:
        pairs = [
            (np.asarray(image.resize((32, 32))) if name == "gtsrb" else np.asarray(image), label)
            for image, label in split
        ]
        x = np.stack([image for image, _ in pairs])
        return x[..., None] if x.ndim == 3 else x, np.array([label for _, label in pairs], np.int64)

    if name == "gtsrb":
        train, test = (datasets.GTSRB(DOWNLOADS, split=split, download=True) for split in ("train", "test"))
    else:
        reader = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
        train, test = (reader(DOWNLOADS, train=train, download=True) for train in (True, False))
    return Dataset(*arrays(train), *arrays(test))


def as_tensors(images: np.ndarray) -> torch.Tensor:
    """uint8 NHWC images as float32 NCHW in [0, 1]."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float().div(255).contiguous()
