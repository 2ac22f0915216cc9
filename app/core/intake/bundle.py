"""A bundle of clean images, read as if an enemy had packed it: pixels, labels and what its owner declared.

    bundle = read_bundle(Path("bundle.zip"))
    check_labels(bundle, num_labels=10)
    images_NHWC = stack_images(bundle, height=32, width=32)

Folders or a table of labels come as .zip or .tar.gz, arrays as .npz; docs/export.md shows how to make them. Every way
in which a bundle can be wrong ends in a `Refusal` that says what to do; whatever was skipped, unwrapped, decoded or
assumed is a note. What is not known here: the model, so neither its number of labels nor its input size, nor whether
the order of the classes is the one it was trained with.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.core.errors import Refusal
from app.core.intake import arrays, folders, layout
from app.core.intake.codepages import CODE_PAGES
from app.core.intake.declaration import Declaration, DeclaredInput, read_declaration
from app.core.intake.guards import DEFAULT_LIMITS, MEGABYTE, Allowance, BundleLimits, bundle_too_large, readable_size
from app.core.intake.labelling import Labels, LabelSource, labels_of
from app.core.intake.members import Archive, check_is_file, open_archive, open_tarball, unreadable
from app.core.intake.notes import Note, NoteKind
from app.core.intake.pictures import Images, Picture
from app.core.intake.tarballs import BLOCK, GZIP, holds_tar, is_tar
from app.core.text import printable

DECLARATION_BYTES = MEGABYTE
_DARKEST = 31  # images of 16 or 32 levels that nobody stretched; photographs reach further
_OTHER_FILES = {
    b"\x93NUMPY": "a single NumPy array (.npy)",
    b"\x89HDF": "an HDF5 file",
    b"MATLAB": "a MATLAB file",
    GZIP: "a gzip file that holds no tar archive",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\0\0\x08": "an IDX file, as MNIST comes in",
    b"\xfd7zXZ": "an xz archive",
    b"BZh": "a bzip2 archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x89PNG": "a single image",
    b"\xff\xd8\xff": "a single image",
    b"\x80": "a pickle, which can run code when it is read",
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with `git lfs pull`",
}


@dataclass(frozen=True, eq=False)
class Bundle:
    """Clean images with one channel count; labels are class indices, None for an unlabelled bundle."""

    images: Images
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]  # by class index; empty where the bundle knows no name
    declared: DeclaredInput | None  # the `input` of bundle.json
    label_source: LabelSource
    class_indices: Mapping[str, int]  # by the names that folders, a table or an array use; sorted where assumed
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


def read_bundle(
    path: Path,
    limits: BundleLimits = DEFAULT_LIMITS,
    classes: Mapping[str, int] | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> Bundle:
    """Reads a .zip, .npz or .tar.gz of clean images; `classes` go before those of bundle.json. Raises Refusal.

    `on_picture` hears of each that was decoded.
    """
    is_zip = _check_file(path, limits)
    most = readable_size(limits.unpacked_bytes)
    unpacked = Allowance(limits.unpacked_bytes, bundle_too_large(f"The bundle unpacks to more than {most}."))
    with (open_archive if is_zip else open_tarball)(path, "bundle", unpacked) as archive:
        if arrays.holds_arrays(archive):
            bundle = _read_npz(archive, limits, classes)
        else:
            bundle = _read_pictures(archive, limits, classes, on_picture)
        return replace(bundle, notes=(*_code_page(archive), *bundle.notes))


def _code_page(archive: Archive) -> tuple[Note, ...]:
    if archive.code_page is None:
        return ()
    name = next(member.path for member in archive.members if not member.path.isascii())
    page = CODE_PAGES[archive.code_page]
    told = f"The names in the archive do not say their encoding; they were read as {page}, such as `{printable(name)}`."
    return (Note(NoteKind.CODE_PAGE, told, example=name),)


def check_labels(bundle: Bundle, num_labels: int) -> None:
    """Refuses a bundle whose labels cannot be those of a model of `num_labels` outputs."""
    if bundle.labels is None:
        return
    if bundle.label_source is LabelSource.SORTED and len(bundle.class_indices) != num_labels:
        raise _unknown_order(bundle, num_labels)
    label, what = int(bundle.labels.max()), "The bundle has the label"
    advice = "Check that this bundle belongs to this model."
    if label == num_labels and int(bundle.labels.min()) == 1:
        advice = _counted_from_one(bundle, num_labels)
    if label < num_labels and bundle.label_source is LabelSource.DECLARED:
        label, what = len(bundle.class_names) - 1, "The declared classes have the index"
        advice = "Check that this list of classes belongs to this model: another one's other indices are wrong too."
    if label < num_labels:
        return
    name = bundle.class_names[label] if label < len(bundle.class_names) else ""
    raise Refusal(
        "label_out_of_range",
        f"{what} {label}{f' (`{name}`)' if name else ''}, but the model has only the labels 0 to {num_labels - 1}.",
        advice,
    )


def _unknown_order(bundle: Bundle, num_labels: int) -> Refusal:
    names = [printable(name, 30) for name in bundle.class_indices]
    shown = ", ".join(f"`{name}`" for name in names[:3]) + (", ..." if len(names) > 3 else "")
    outputs = "1 output" if num_labels == 1 else f"{num_labels} outputs"
    advice = (
        f"Say in bundle.json, or in a file for `--classes FILE`, which output each one is, "
        f'{{"classes": {{"{names[0]}": INDEX, ...}}}}, or list the names of all {outputs} in their order.'
    )
    if len(names) > num_labels:
        advice = f"Check that this bundle belongs to this model. If it does: {advice}"
    return Refusal(
        "class_order_unknown",
        f"The bundle has {len(names)} classes ({shown}) and the model {outputs}, so nothing says which output is which "
        f"class.",
        advice,
    )


def _counted_from_one(bundle: Bundle, num_labels: int) -> str:
    """The ways to number classes called 1 to K from 0, none of which is certain."""
    advice = "These labels seem to count from 1; class indices count from 0."
    names = {name: index - 1 for name, index in bundle.class_indices.items()}
    if bundle.label_source is not LabelSource.INDICES or len(names) < 2:
        return advice
    counted = json.dumps(sorted(names, key=names.__getitem__)[:3])[:-1]
    if sorted(names) == sorted(names, key=names.__getitem__):
        return f'{advice} If so, say it in bundle.json or `--classes FILE`: {{"classes": {counted}, ...]}}.'
    text = json.dumps(sorted(names)[:3])[:-1]
    return (
        f'{advice} Say in bundle.json or `--classes FILE` which it is: counted, {{"classes": {counted}, ...]}}, or as '
        f'ImageFolder sorts folders of these names, {{"classes": {text}, ...]}}.'
    )


def stack_images(
    bundle: Bundle,
    height: int | None = None,
    width: int | None = None,
    limits: BundleLimits = DEFAULT_LIMITS,
    on_picture: Callable[[], None] = lambda: None,
) -> Picture:
    """All images as one NHWC array, resized (bilinear, antialiased) only where a size is given and differs.

    `on_picture` hears of each that was resized.
    """
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
        on_picture()
    return stacked


def _resized(image: Picture, height: int, width: int) -> Picture:
    if image.shape[:2] == (height, width):
        return image
    source = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return np.asarray(source.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, -1)


def _check_file(path: Path, limits: BundleLimits) -> bool:
    """Whether a readable file is a zip; otherwise it is a tar archive."""
    try:
        check_is_file(path)
        size = path.stat().st_size
        with path.open("rb") as source:
            head = source.read(BLOCK)
    except OSError as error:
        raise unreadable("bundle", error) from error
    if size == 0:
        raise folders.no_images()
    if size > limits.file_bytes:
        raise bundle_too_large(f"The bundle has {readable_size(size)}; {readable_size(limits.file_bytes)} are read.")
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return True
    if is_tar(head) or (head.startswith(GZIP) and holds_tar(path)):
        return False
    what = next((what for magic, what in _OTHER_FILES.items() if head.startswith(magic)), "")
    raise Refusal(
        "bundle_format",
        f"The bundle is neither a .zip nor an .npz file{what and f' but {what}'}.",
        "Pack the images as a .zip or .tar.gz, one folder per class, or as an .npz with `images` and `labels`.",
    )


def _read_npz(archive: Archive, limits: BundleLimits, classes: Mapping[str, int] | None) -> Bundle:
    member = next((member for member in archive.members if member.path == layout.DECLARATION), None)
    declaration = Declaration() if member is None else read_declaration(archive.read(member, DECLARATION_BYTES))
    declaration = _overruled(declaration, classes)
    images, names, notes = arrays.read_arrays(archive, limits)
    labels = None if names is None else labels_of(names, declaration.classes)
    return _checked(images, labels, declaration, (*declaration.notes, *notes))


def _read_pictures(
    archive: Archive, limits: BundleLimits, classes: Mapping[str, int] | None, on_picture: Callable[[], None]
) -> Bundle:
    found = folders.find_pictures(archive, limits)
    declaration = Declaration()
    if found.declaration is not None:
        declaration = read_declaration(archive.read(found.declaration, DECLARATION_BYTES))
    declaration = _overruled(declaration, classes)
    pictures, labels, notes = folders.label_pictures(archive, found, declaration.classes)
    _check_several_classes(labels, notes)
    images = folders.decode_pictures(archive, pictures, limits, on_picture)
    return _checked(images, labels, declaration, (*declaration.notes, *notes))


def _overruled(declaration: Declaration, classes: Mapping[str, int] | None) -> Declaration:
    return declaration if classes is None else replace(declaration, classes=dict(classes))


def _check_several_classes(labels: Labels | None, notes: Iterable[Note]) -> None:
    if labels is None or int(labels.values.min()) != int(labels.values.max()):
        return
    taken = "".join(f" {note.sentence}" for note in notes if note.kind is NoteKind.SKIPPED_SPLIT)
    raise Refusal(
        "single_class",
        f"All images of the bundle have the label {int(labels.values[0])}.{taken}",
        "A trigger is searched on images of other labels: add more classes. Unlabelled images belong at the top "
        "of the zip, in no folder.",
    )


def _checked(images: Images, labels: Labels | None, declaration: Declaration, notes: tuple[Note, ...]) -> Bundle:
    _check_several_classes(labels, notes)
    indices = labels.indices if labels else {}
    telling = {name: index for name, index in indices.items() if (name.lstrip("0") or "0") != str(index)}
    named = telling | declaration.classes
    names = [""] * (max(named.values(), default=-1) + 1)
    for name in sorted(named, reverse=True):
        names[named[name]] = printable(name)
    return Bundle(
        images,
        labels.values if labels else None,
        tuple(names),
        declaration.input,
        labels.source if labels else LabelSource.NONE,
        indices,
        (*notes, *(labels.notes if labels else ()), *_dark(images)),
    )


def _dark(images: Images) -> tuple[Note, ...]:
    largest = max(int(image.max()) for image in images)
    if largest > _DARKEST:
        return ()
    told = f"The largest value of all images is {largest} of 255"
    told += ": they are black." if largest == 0 else f"; stored with {largest + 1} levels, they look black."
    return (Note(NoteKind.DARK_PIXELS, told, largest),)
