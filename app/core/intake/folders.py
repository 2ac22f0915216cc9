"""A bundle of picture files: which of them are used, what their folders or a table say of their classes, their pixels.

What explicit words say goes first: `labels.csv`, then the class folders; another table that names the pictures is
taken where the folders are no classes, or say the same. Where table and folders disagree, nobody is believed.

This module does not know how many labels a model has.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from app.core.errors import Refusal
from app.core.intake import layout, tables
from app.core.intake.declaration import classes_in
from app.core.intake.guards import MEGABYTE, Allowance, BundleLimits, bundle_too_large
from app.core.intake.labelling import Labels, labels_of
from app.core.intake.members import Archive, Member
from app.core.intake.notes import Note, NoteKind
from app.core.intake.pictures import Images, Picture, decode_picture, is_picture
from app.core.intake.tables import LABEL_TABLE, SPLITS, Places, Table, UnclearTableError
from app.core.text import printable

_TABLE_BYTES = 16 * MEGABYTE
_MOST_TABLES = 8
_HEAD_BYTES = 32
_NUMBER = re.compile(r"[\W_]*\d+\W*$")

Pictures = Mapping[str, Member]


def find_pictures(archive: Archive, limits: BundleLimits) -> layout.Layout:
    """Where the pictures are; raises Refusal where there are none, or too many."""

    def holds_picture(member: Member) -> bool:
        with archive.stream(member) as read:
            return is_picture(read(_HEAD_BYTES))

    found = layout.arrange(archive.members, holds_picture)
    if not found.pictures:
        raise no_images([*found.tables, *found.others])
    if len(found.pictures) > limits.images:
        raise bundle_too_large(f"The bundle has {len(found.pictures):,} images; at most {limits.images:,} are read.")
    return found


def label_pictures(
    archive: Archive, found: layout.Layout, declared: Mapping[str, int]
) -> tuple[Pictures, Labels | None, tuple[Note, ...]]:
    """The pictures to decode with their labels, None for unlabelled ones, and what is to be said of both."""
    contents = _read_tables(archive, found)
    naming, unclear = _naming(contents, archive, found)
    table = naming[0] if naming else None
    is_explicit = table is not None and _is_label_table(table.name)
    folders = None if is_explicit else _folders(found, declared, table)
    used = {known.name for known in naming}
    if table is not None and not is_explicit and folders is not None:
        _check_agreement(table, found)
    if table is None and (folders is None or len(folders) == 1):
        _refuse_unread(found)
    if table is not None:
        pictures, notes = _listed(table, naming[1:], found.pictures)
        labels: Labels | None = labels_of([table.labels[path] for path in pictures], declared)
    elif folders is not None:
        pictures, notes = found.pictures, []
        if not declared:
            declared, used, notes = _class_file(contents, folders)
        labels = labels_of([path.split("/")[0] for path in pictures], declared, found.empty_folders)
    else:
        if unclear is not None:
            raise unclear
        if (name := next((name for name in contents if _is_data(name, contents[name], found)), None)) is not None:
            raise _names_nothing(name)
        pictures, labels, notes = found.pictures, None, _called_by_class(found.pictures)
    others = layout.skipped([*found.others, *(name for name in found.tables if name not in used)])
    return pictures, labels, (*found.notes, *notes, *others)


def decode_pictures(
    archive: Archive, pictures: Pictures, limits: BundleLimits, on_picture: Callable[[], None] = lambda: None
) -> Images:
    """The pixels, in the order of `pictures`; read in the order of the archive, the only quick one in a tar.gz."""
    memory = Allowance(limits.decoded_bytes, bundle_too_large("The decoded images need more memory than is allowed."))
    places = {id(member): place for place, member in enumerate(archive.members)}
    decoded: dict[str, Picture] = {}
    for path in sorted(pictures, key=lambda path: places[id(pictures[path])]):
        with archive.stream(pictures[path]) as read:
            decoded[path] = decode_picture(read, path, limits.pixels_per_image, memory)
        on_picture()
    return _uniform([decoded.pop(path) for path in pictures], memory)


def no_images(others: Sequence[str] = ()) -> Refusal:
    """The refusal of a bundle without pictures, with what is there instead."""
    seen = f"; it has `{printable(others[0])}`" if others else ""
    advice = "Put in at least 10 clean images a class."
    if any(path.endswith("data.pkl") for path in others):
        seen = "; torch has written it"
        advice = "Was it meant as the model? Tensors of images can be saved by `np.savez_compressed`: docs/export.md."
    if others and others[0].lower().endswith((".npz", ".zip", ".tar", ".gz")):
        advice = "Give the archive inside itself, or pack its images."
    return Refusal("bundle_empty", f"The bundle holds no images{seen}.", advice)


def _read_tables(archive: Archive, found: layout.Layout) -> dict[str, bytes]:
    """The contents of the files that may be tables: labels.csv first, and not very many."""
    ordered = sorted(found.tables, key=lambda path: (not _is_label_table(path), path.count("/"), path))[:_MOST_TABLES]
    read = {}
    for path, member in found.tables.items():  # in the order of the archive
        if path in ordered and (_is_label_table(path) or member.size <= _TABLE_BYTES):
            read[path] = archive.read(member, _TABLE_BYTES)
    return {path: read[path] for path in ordered if path in read}


def _is_label_table(path: str) -> bool:
    return path.lower().rpartition("/")[2] == LABEL_TABLE


def _naming(
    contents: Mapping[str, bytes], archive: Archive, found: layout.Layout
) -> tuple[list[Table], Refusal | None]:
    """The tables that name pictures, first the one to be taken; and why another cannot be, if nothing else can."""
    places = Places(found.pictures)
    naming: list[Table] = []
    unclear = None
    for name, content in contents.items():
        if "submission" in name.lower():  # labels that a competition wants to be replaced
            continue
        try:
            table = tables.read_table(content, name, places, archive.code_page)
        except UnclearTableError as error:
            if _is_label_table(name):
                raise error.refusal(name) from error
            unclear = unclear or error.refusal(name)
            continue
        if _is_label_table(name):
            if table is None:
                raise _unknown_files(name, content, found)
            return [table], None
        if table is not None:
            naming.append(table)
    if len(naming) > 1:
        naming.sort(key=lambda table: SPLITS.get(table.name.lower().rpartition("/")[2].partition(".")[0], len(SPLITS)))
        for other in naming[1:]:
            _check_same(naming[0], other)
    return naming, unclear


def _check_same(table: Table, other: Table) -> None:
    for path in table.labels.keys() & other.labels.keys():
        if table.labels[path] != other.labels[path]:
            raise Refusal(
                "labels_csv",
                f"The tables `{printable(table.name)}` and `{printable(other.name)}` give `{printable(path)}` the "
                f"labels `{printable(table.labels[path])}` and `{printable(other.labels[path])}`.",
                f"Call the right one `{LABEL_TABLE}`, or leave the other out.",
            )


def _folders(found: layout.Layout, declared: Mapping[str, int], table: Table | None) -> tuple[str, ...] | None:
    """The class folders; where a table can stand in, folders that are no classes are just folders."""
    try:
        return layout.class_folders(found, declared)
    except Refusal:
        if table is None:
            _refuse_unread(found)
            raise
        return None


def _check_agreement(table: Table, found: layout.Layout) -> None:
    """Refuses a table that sorts the pictures in another way than the folders do; several labels a folder are odd."""
    folder_of: dict[str, str] = {}
    label_of: dict[str, str] = {}
    if len({path.split("/")[0] for path in found.pictures}) == 1:  # a folder that is no class
        return
    for path, label in table.labels.items():
        folder = path.split("/")[0]
        is_alike = label_of.setdefault(folder, label) == label and folder_of.setdefault(label, folder) == folder
        if not is_alike or (folder.isdecimal() and label.isdecimal() and folder.lstrip("0") != label.lstrip("0")):
            raise Refusal(
                "labels_csv",
                f"The image `{printable(path)}` lies in the folder `{printable(folder)}`, and the table "
                f"`{printable(table.name)}` gives it the label `{printable(label)}`: they do not say the same classes.",
                f"Call the table `{LABEL_TABLE}` if it is right, or leave it out if the folders are.",
            )


def _listed(table: Table, others: Sequence[Table], pictures: Pictures) -> tuple[Pictures, list[Note]]:
    """The pictures of a table, without those of another split; raises Refusal where it leaves others out."""
    notes = []
    unlisted = [path for path in pictures if path not in table.labels]
    elsewhere = {path for other in others for path in other.labels}
    if unlisted and not elsewhere.issuperset(unlisted) and not _is_other_split(table, unlisted):
        raise _unlisted(table, unlisted, len(pictures))
    if unlisted:
        told = f"{len(unlisted):,} images that `{printable(table.name)}` does not list were left out, such as "
        told += f"`{printable(unlisted[0])}`: they belong to another split."
        notes.append(Note(NoteKind.SKIPPED_SPLIT, told, len(unlisted), unlisted[0]))
    if table.rows_without_file:
        told = f"{table.rows_without_file:,} rows of `{printable(table.name)}` name files that are not in the bundle"
        told += f", such as `{printable(table.without_file)}`."
        notes.append(Note(NoteKind.ROWS_WITHOUT_FILE, told, table.rows_without_file, table.without_file))
    if not _is_label_table(table.name):
        told = f"The labels are from the table `{printable(table.name)}`, {table.place}."
        notes.append(Note(NoteKind.TABLE, told, len(table.labels), table.name))
    return {path: member for path, member in pictures.items() if path in table.labels}, notes


def _is_other_split(table: Table, unlisted: list[str]) -> bool:
    """Whether all pictures that a table leaves out lie in folders such as `test`, and its own in others."""
    left, listed = ({path.split("/")[0] for path in paths if "/" in path} for paths in (unlisted, table.labels))
    return (
        bool(left)
        and all("/" in path for path in unlisted)
        and left.isdisjoint(listed)
        and all(part.lower() in SPLITS for part in left | listed)
    )


def _unlisted(table: Table, unlisted: list[str], images: int) -> Refusal:
    name = printable(table.name)
    if table.rows_without_file:
        return Refusal(
            "labels_csv_unknown_file",
            f"{name} lists `{printable(table.without_file)}`, which is not in the bundle, and not "
            f"`{printable(unlisted[0])}`, which is.",
            f"Write paths as they are inside the archive, relative to {name}, and mind upper and lower case.",
        )
    return Refusal(
        "labels_mismatch",
        f"{name} lists {len(table.labels):,} of {images:,} images; `{printable(unlisted[0])}` has no label.",
        "Add the missing lines, or leave these images out.",
    )


def _unknown_files(name: str, content: bytes, found: layout.Layout) -> Refusal:
    if len(content.split()) < 2:
        return UnclearTableError("needs the columns `file` and `label`, separated by a comma; found: nothing").refusal(
            name
        )
    return Refusal(
        "labels_csv_unknown_file",
        f"{printable(name)} lists none of the images in the bundle, such as `{printable(next(iter(found.pictures)))}`.",
        "Its first line reads `file,label`, a further one `images/1.png,7`: paths as they are inside the archive.",
    )


def _is_data(name: str, content: bytes, found: layout.Layout) -> bool:
    """Whether a file beside unlabelled images is more than words for people: a table, or JSON that speaks of them."""
    if name.lower().endswith(".txt"):
        return False
    first = next(iter(found.pictures)).rpartition("/")[2]
    return not name.lower().endswith(".json") or first.encode() in content


def _names_nothing(name: str) -> Refusal:
    return UnclearTableError(
        "lies beside the images and is no table of them that is understood",
        f"Call it `{LABEL_TABLE}`, with the columns `file` and `label`; for an unlabelled bundle leave it out.",
    ).refusal(name)


def _called_by_class(pictures: Pictures) -> list[Note]:
    """Whether the names of unlabelled files, less the number at their end, are a few words that all of them share."""
    words = Counter(_NUMBER.sub("", path.rpartition("/")[2].rpartition(".")[0]) for path in pictures)
    if len(words) < 2 or min(words.values()) < 2:
        return []
    first = next(iter(pictures))
    told = f"The files seem to be called by their classes, such as `{printable(first)}`: pack one folder per class."
    return [Note(NoteKind.CALLED_BY_CLASS, told, len(words), first)]


def _refuse_unread(found: layout.Layout) -> None:
    """Refuses what may well be a table of the images, in a form that is not read, where nothing else says labels."""
    for path in found.others:
        if kind := tables.UNREAD.get(path.lower().rpartition(".")[2]):
            raise UnclearTableError(
                f"lies beside the images and is not read: {kind}",
                f"Save it as CSV, with the columns `file` and `label`, as `{LABEL_TABLE}`; for an unlabelled bundle "
                "leave it out.",
            ).refusal(path)


def _class_file(contents: Mapping[str, bytes], folders: Sequence[str]) -> tuple[dict[str, int], set[str], list[Note]]:
    """The classes from a file beside the folders that lists exactly them, such as class_to_idx.json."""
    for name, content in contents.items():
        try:
            classes = classes_in(content)
        except ValueError:
            continue
        if classes and set(folders) <= classes.keys():
            told = f"The indices of the classes are from `{printable(name)}`."
            return classes, {name}, [Note(NoteKind.DECLARED_ELSEWHERE, told, len(classes), name)]
    return {}, set(), []


def _uniform(pictures: list[Picture], memory: Allowance) -> Images:
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
