"""An .npz under the names and in the forms that people have: read where it can mean one thing only, and said."""

from pathlib import Path

import numpy as np
import pytest

from app.core.intake.bundle import Bundle, read_bundle
from app.core.intake.labelling import LabelSource
from app.core.intake.notes import NoteKind
from tests.core.intake.packing import arrays

LABELS = np.array([1, 0, 2, 1])
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)


def kinds(bundle: Bundle) -> list[NoteKind]:
    return [note.kind for note in bundle.notes]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"), ("x", "y"), ("X", "y"), ("data", "labels"), ("data", "targets"), ("image", "label"),
        ("x_test", "y_test"), ("X_test", "Y_test"), ("test_images", "test_labels"), ("testX", "testY"),
        ("xtest", "ytest"),
        ("x_train", "y_train"), ("train_images", "train_labels"), ("trainImages", "trainLabels"), ("arr_0", "arr_1"),
    ],
)  # fmt: skip
def test_the_usual_names_are_known(tmp_path: Path, images: str, labels: str) -> None:
    bundle = read_bundle(arrays(tmp_path / "b.npz", **{images: IMAGES, labels: LABELS}))
    assert (np.asarray(bundle.images) == IMAGES).all()
    assert bundle.labels is not None and bundle.labels.tolist() == LABELS.tolist()
    assert not bundle.notes


def test_of_several_splits_the_unseen_one_with_labels_is_taken_and_said(tmp_path: Path) -> None:
    other = {"x_train": IMAGES[::-1], "y_train": LABELS[::-1]}
    bundle = read_bundle(arrays(tmp_path / "a.npz", **other, x_test=IMAGES, y_test=LABELS))
    assert (np.asarray(bundle.images) == IMAGES).all()
    assert kinds(bundle) == [NoteKind.SKIPPED_SPLIT]
    assert "`x_test`" in bundle.notes[0].sentence and "`x_train`" in bundle.notes[0].sentence
    unlabelled = read_bundle(arrays(tmp_path / "b.npz", **other, x_test=IMAGES))
    assert unlabelled.labels is not None and unlabelled.labels.tolist() == LABELS[::-1].tolist()


def test_an_array_of_no_use_is_named(tmp_path: Path) -> None:
    bundle = read_bundle(arrays(tmp_path / "b.npz", images=IMAGES, labels=LABELS, ids=np.arange(4)))
    assert [(note.kind, note.example) for note in bundle.notes] == [(NoteKind.SKIPPED_ARRAYS, "ids")]


@pytest.mark.parametrize(
    "values",
    [
        (IMAGES / 255).astype(np.float32),
        (IMAGES / 255).astype(np.float64),
        IMAGES.astype(np.float32),
        IMAGES.astype(np.int64),
        IMAGES.transpose(0, 3, 1, 2),
        (IMAGES / 255).astype(np.float32).transpose(0, 3, 1, 2),
    ],
)
def test_other_numbers_and_channels_first_become_the_same_bytes_and_it_is_said(
    tmp_path: Path, values: np.ndarray
) -> None:
    bundle = read_bundle(arrays(tmp_path / "b.npz", images=values, labels=LABELS))
    assert (np.asarray(bundle.images) == IMAGES).all()
    assert set(kinds(bundle)) == {NoteKind.CONVERTED_PIXELS}


@pytest.mark.parametrize("values", [np.eye(3, dtype=int)[LABELS], np.eye(3)[LABELS], np.eye(3, dtype=bool)[LABELS]])
def test_one_hot_labels_are_read_and_said(tmp_path: Path, values: np.ndarray) -> None:
    bundle = read_bundle(arrays(tmp_path / "b.npz", images=IMAGES, labels=values))
    assert bundle.labels is not None and bundle.labels.tolist() == LABELS.tolist()
    assert kinds(bundle) == [NoteKind.CONVERTED_LABELS]


def test_whole_numbers_as_floats_and_names_as_text_are_read(tmp_path: Path) -> None:
    floats = read_bundle(arrays(tmp_path / "a.npz", images=IMAGES, labels=LABELS.astype(np.float32)))
    assert floats.labels is not None and floats.labels.tolist() == LABELS.tolist()
    names = read_bundle(arrays(tmp_path / "b.npz", images=IMAGES, labels=np.array(["bee", "ant", "cow", "bee"])))
    assert names.class_indices == {"ant": 0, "bee": 1, "cow": 2}
    assert names.label_source is LabelSource.SORTED
    for place, labels in enumerate(
        (np.array([b"bee", b"ant", b"cow", b"bee"]), np.array([["bee"], ["ant"], ["cow"], ["bee"]]))
    ):
        same = read_bundle(arrays(tmp_path / f"{place}.npz", images=IMAGES, labels=labels))
        assert same.labels is not None and same.labels.tolist() == [1, 0, 2, 1]


def test_declared_classes_hold_for_the_numbers_of_an_npz(tmp_path: Path) -> None:
    path = arrays(tmp_path / "b.npz", images=IMAGES, labels=LABELS + 1)
    bundle = read_bundle(path, classes={"1": 0, "2": 1, "3": 2})
    assert bundle.labels is not None and bundle.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(("levels", "words"), [(1, "black"), (2, "2 levels"), (16, "16 levels")])
def test_images_that_nobody_stretched_are_named(tmp_path: Path, levels: int, words: str) -> None:
    values = np.minimum(IMAGES, levels - 1)
    bundle = read_bundle(arrays(tmp_path / "b.npz", images=values, labels=LABELS))
    assert [(note.kind, note.count) for note in bundle.notes] == [(NoteKind.DARK_PIXELS, levels - 1)]
    assert words in bundle.notes[0].sentence
