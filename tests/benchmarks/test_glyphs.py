"""The characters of a font as a data set: as many classes as asked for, each told from the others."""

import numpy as np
import pytest

from benchmarks import glyphs
from benchmarks.datasets import load_dataset
from benchmarks.glyphs import SIDE, glyph_images


def test_each_class_has_its_images_and_no_two_are_alike() -> None:
    images, labels = glyph_images(30, 4, seed=0)
    assert images.shape == (120, SIDE, SIDE, 1) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [4] * 30
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == 120, "each is moved by itself"
    again, other = glyph_images(30, 4, seed=0)[0], glyph_images(30, 4, seed=1)[0]
    assert (again == images).all() and (other != images).any()


def test_the_classes_of_fewer_are_the_first_of_more() -> None:
    few, more = (glyphs._apart(classes) for classes in (20, 30))
    assert (more[:20] == few).all()


def test_images_of_a_class_are_more_alike_than_those_of_others() -> None:
    images, labels = glyph_images(20, 8, seed=0)
    flat = images.reshape(len(images), -1).astype(float)
    means = np.stack([flat[labels == label].mean(0) for label in range(20)])
    nearest = ((flat[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == labels).mean() > 0.8


def test_a_font_of_too_few_glyphs_says_what_to_install() -> None:
    with pytest.raises(ValueError, match="fonts-dejavu-core"):
        glyphs._apart(100_000)


def test_where_no_font_is_installed_the_one_inside_pillow_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "PLACES", ())
    monkeypatch.setattr(glyphs, "_by_fontconfig", list)
    assert len(glyphs._drawn()) >= 50


def test_a_data_set_of_glyphs_has_as_many_classes_as_its_name_says() -> None:
    data = load_dataset("glyphs-12")
    assert data.num_classes == 12 and data.x_train.shape[1:] == (SIDE, SIDE, 1)
