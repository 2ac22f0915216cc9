"""A bundle of clean images, read as if an enemy had packed it: pixels, labels and what its owner declared.

    bundle = read_bundle(Path("bundle.zip"))
    check_labels(bundle, num_labels=10)
    images_NHWC = stack_images(bundle, height=32, width=32)

Folders or a table of labels come as .zip, arrays as .npz; docs/export.md shows how to make them. Every way in which a
bundle can be wrong ends in a `Refusal` that says what to do. What is not known here: the model, so neither its number
of labels nor its input size, nor whether the order of the classes is the one it was trained with.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.core.errors import Refusal
from app.core.intake import arrays, layout
from app.core.intake.declaration import Declaration, DeclaredInput, read_declaration
from app.core.intake.guards import DEFAULT_LIMITS, MEGABYTE, Allowance, BundleLimits, bundle_too_large, readable_size
from app.core.intake.labelling import LabelSource, check_index, class_indices, read_label_table
from app.core.intake.members import Archive, open_archive, unreadable
from app.core.intake.notes import Note
from app.core.intake.pictures import Picture, decode_picture
from app.core.text import printable

_DECLARATION_BYTES = MEGABYTE
_TABLE_BYTES = 16 * MEGABYTE


@dataclass(frozen=True, eq=False)
class Bundle:
    """Clean images with one channel count; labels are class indices, None for an unlabelled bundle."""

    images: Picture | tuple[Picture, ...]  # NHWC where all have one size, else HWC each
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]  # by class index; empty where the bundle knows no name
    declared: DeclaredInput | None  # the `input` of bundle.json
    label_source: LabelSource
    class_indices: Mapping[str, int]  # from folder names, or from the labels of labels.csv
    notes: tuple[Note, ...] = ()  # what was skipped, unwrapped, decoded or assumed

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        return int(self.images[0].shape[-1])

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, None where sizes differ."""
        return (self.images.shape[1], self.images.shape[2]) if isinstance(self.images, np.ndarray) else None


def read_bundle(path: Path, limits: BundleLimits = DEFAULT_LIMITS) -> Bundle:
    """Reads a .zip or .npz of clean images; raises Refusal."""
    _check_file(path, limits)
    most = readable_size(limits.unpacked_bytes)
    unpacked = Allowance(limits.unpacked_bytes, bundle_too_large(f"The bundle unpacks to more than {most}."))
    with open_archive(path, "bundle", unpacked) as archive:
        return _read_npz(archive, limits) if arrays.holds_arrays(archive) else _read_pictures(archive, limits)


def check_labels(bundle: Bundle, num_labels: int) -> None:
    """Refuses a bundle with a label that a model of `num_labels` outputs cannot answer."""
    if bundle.labels is None or int(bundle.labels.max()) < num_labels:
        return
    label = int(bundle.labels.max())
    name = bundle.class_names[label] if label < len(bundle.class_names) else ""
    advice = "Check that this bundle belongs to this model."
    if bundle.label_source is LabelSource.SORTED:
        advice = 'Classes were numbered in sorted order; give their indices in bundle.json: {"classes": {"cat": 0}}.'
    elif label == num_labels and int(bundle.labels.min()) == 1:
        advice = "These labels seem to count from 1; class indices count from 0."
    raise Refusal(
        "label_out_of_range",
        f"The bundle has the label {label}{f' (`{name}`)' if name else ''}, "
        f"but the model has only the labels 0 to {num_labels - 1}.",
        advice,
    )


def stack_images(
    bundle: Bundle, height: int | None = None, width: int | None = None, limits: BundleLimits = DEFAULT_LIMITS
) -> Picture:
    """All images as one NHWC array, resized (bilinear, antialiased) only where a size is given and differs."""
    if height is None or width is None:
        if isinstance(bundle.images, np.ndarray):
            return bundle.images
        sizes = Counter(image.shape[:2] for image in bundle.images).most_common(2)
        shown = " and ".join(f"{rows} x {columns}" for (rows, columns), _ in sizes)
        raise Refusal(
            "image_size",
            f"The images of the bundle differ in size, such as {shown}.",
            "Say which size the model was trained on: `--size H,W`, or `input` in bundle.json.",
        )
    if bundle.size == (height, width):
        return stack_images(bundle)
    if len(bundle) * height * width * bundle.channels > limits.decoded_bytes:
        raise bundle_too_large(f"{len(bundle):,} images at {height} x {width} need more memory than is allowed.")
    stacked = np.empty((len(bundle), height, width, bundle.channels), dtype=np.uint8)
    for place, image in zip(stacked, bundle.images, strict=True):
        place[:] = _resized(image, height, width)
    return stacked


def _resized(image: Picture, height: int, width: int) -> Picture:
    if image.shape[:2] == (height, width):
        return image
    source = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return np.asarray(source.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, -1)


def _check_file(path: Path, limits: BundleLimits) -> None:
    try:
        if not path.exists():
            raise Refusal("bundle_not_found", f"There is no file `{printable(str(path))}`.", "Check the path.")
        if not path.is_file():
            advice = "Pack a folder as a .zip: `python -m zipfile -c bundle.zip FOLDER/*`."
            raise Refusal("bundle_not_a_file", f"`{printable(str(path))}` is not a file.", advice)
        size = path.stat().st_size
        with path.open("rb") as source:
            magic = source.read(4)
    except OSError as error:
        raise unreadable("bundle", error) from error
    if size == 0:
        raise _no_images()
    if size > limits.file_bytes:
        raise bundle_too_large(f"The bundle has {readable_size(size)}; {readable_size(limits.file_bytes)} are read.")
    if not magic.startswith((b"PK\3\4", b"PK\5\6")):
        raise Refusal(
            "bundle_format",
            "The bundle is neither a .zip nor an .npz file.",
            "Pack the images as a .zip, one folder per class, or as an .npz with `images` and `labels`.",
        )


def _read_npz(archive: Archive, limits: BundleLimits) -> Bundle:
    member = next((member for member in archive.members if member.path == layout.DECLARATION), None)
    declaration = Declaration() if member is None else read_declaration(archive.read(member, _DECLARATION_BYTES))
    images, labels = arrays.read_arrays(archive, limits)
    if labels is not None:
        for extreme in (int(labels.min()), int(labels.max())):
            check_index(extreme, str(extreme))
    source = LabelSource.NONE if labels is None else LabelSource.INDICES
    return _checked(images, labels, declaration, source, {})


def _read_pictures(archive: Archive, limits: BundleLimits) -> Bundle:
    found = layout.arrange(archive.members)
    if not found.pictures:
        raise _no_images()
    if len(found.pictures) > limits.images:
        raise bundle_too_large(f"The bundle has {len(found.pictures):,} images; at most {limits.images:,} are read.")
    declaration = Declaration()
    if found.declaration is not None:
        declaration = read_declaration(archive.read(found.declaration, _DECLARATION_BYTES))
    labels, indices, source = None, dict[str, int](), LabelSource.NONE
    if found.label_table is not None:
        table = read_label_table(archive.read(found.label_table, _TABLE_BYTES))
        _check_table(table, found)
        indices, source = class_indices(table.values(), declaration.classes)
        labels = np.array([indices[table[path]] for path in found.pictures], dtype=np.int64)
    elif found.folders is not None:
        indices, source = class_indices(found.folders, declaration.classes)
        labels = np.array([indices[found.class_of(path)] for path in found.pictures], dtype=np.int64)
    _check_several_classes(labels)
    memory = Allowance(limits.decoded_bytes, bundle_too_large("The decoded images need more memory than is allowed."))
    pictures = []
    for path, member in found.pictures.items():
        with archive.stream(member) as read:
            pictures.append(decode_picture(read, path, limits.pixels_per_image, memory))
    return _checked(_uniform(pictures, memory), labels, declaration, source, indices)


def _check_table(table: dict[str, str], found: layout.Layout) -> None:
    if unknown := next((path for path in table if path not in found.pictures), None):
        raise Refusal(
            "labels_csv_unknown_file",
            f"labels.csv lists `{printable(unknown)}`, which is not in the bundle.",
            "Write paths as they are inside the zip, relative to labels.csv, and mind upper and lower case.",
        )
    if unlisted := next((path for path in found.pictures if path not in table), None):
        raise Refusal(
            "labels_mismatch",
            f"labels.csv lists {len(table):,} of {len(found.pictures):,} images; `{printable(unlisted)}` has no label.",
            "Add the missing lines, or leave these images out.",
        )


def _uniform(pictures: list[Picture], memory: Allowance) -> Picture | tuple[Picture, ...]:
    """One channel count for all, and one array where all have one size; empties the list to save memory."""
    if len({picture.shape[2] for picture in pictures}) > 1:
        for place, picture in enumerate(pictures):
            if picture.shape[2] == 1:
                memory.spend(2 * picture.size)
                pictures[place] = np.repeat(picture, 3, axis=2)
    if len({picture.shape for picture in pictures}) > 1:
        return tuple(pictures)
    stacked = np.empty((len(pictures), *pictures[0].shape), dtype=np.uint8)
    for place in reversed(range(len(pictures))):
        stacked[place] = pictures.pop()
    return stacked


def _check_several_classes(labels: NDArray[np.int64] | None) -> None:
    if labels is not None and int(labels.min()) == int(labels.max()):
        raise Refusal(
            "single_class",
            f"All images of the bundle have the label {int(labels[0])}.",
            "A trigger is searched on images of other labels: add more classes. Unlabelled images belong at the top "
            "of the zip, in no folder.",
        )


def _checked(
    images: Picture | tuple[Picture, ...],
    labels: NDArray[np.int64] | None,
    declaration: Declaration,
    source: LabelSource,
    indices: Mapping[str, int],
) -> Bundle:
    _check_several_classes(labels)
    telling = {name: index for name, index in indices.items() if (name.lstrip("0") or "0") != str(index)}
    named = telling | declaration.classes
    names = [""] * (max(named.values(), default=-1) + 1)
    for name in sorted(named, reverse=True):
        names[named[name]] = printable(name)
    return Bundle(images, labels, tuple(names), declaration.input, source, indices)


def _no_images() -> Refusal:
    return Refusal("bundle_empty", "The bundle holds no images.", "Put in at least 10 clean images a class.")
