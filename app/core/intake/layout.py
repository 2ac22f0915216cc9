"""Where the pictures of a bundle lie, and which name their place gives them.

Three arrangements are understood: one folder per class, pictures with a table that names them, or pictures at the top
without labels. Folders wrapped around everything are looked through, of several splits one is taken, and what desktops
and authors leave beside the pictures is left out: all of it counted. What looks like classes and is none (images
and their masks, the parts of an archive) is refused, because it would turn `masks` into a class.

Names only: this module opens no member, and knows neither class indices nor what a table says.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from app.core.errors import Refusal
from app.core.intake.members import Member
from app.core.intake.notes import Note, NoteKind
from app.core.intake.tables import LABEL_TABLE, SPLITS, TABLE_ENDINGS
from app.core.text import printable

DECLARATION = "bundle.json"
_LEFT_BEHIND = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "@eadir", "#recycle", "@recycle", "@tmp"),
    *("$recycle.bin", "system volume information", "lost+found", "__pycache__", "icon\r", "zbthumbnail.info"),
}
PICTURE_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".svg", ".ico"),  # refused by name when they are read
)
_DOCUMENTS = (
    *(".txt", ".md", ".rst", ".json", ".jsonl", ".csv", ".tsv", ".html", ".htm", ".xml", ".yaml", ".yml", ".toml"),
    *(
        ".ini",
        ".cfg",
        ".log",
        ".py",
        ".ipynb",
        ".sh",
        ".bat",
        ".m",
        ".mat",
        ".pkl",
        ".pt",
        ".pth",
        ".npy",
        ".npz",
        ".url",
    ),
    *(".lnk", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".db", ".sql", ".bib", ".tex", ".tmp", ".bak", ".part"),
)
_PICTURES = {"images", "image", "imgs", "img", "pictures", "photos", "jpegimages", "originals", "original", "inputs"}
_MASKS = {
    *("masks", "mask", "segmentation", "segmentations", "segmentationclass", "segmentationobject", "seg", "labels"),
    *("label", "annotations", "annotation", "gt", "groundtruth", "ground_truth", "targets", "outlines", "contours"),
}
_PART = re.compile(
    r"(.*?)[ _.-]*(part|batch|chunk|shard|images?|imgs?|folder|dis[ck]|vol|volume|archive|fold)[ _.-]*\d+"
)
_MASK_FILE = re.compile(r"(.+?)[ _-](mask|seg|segmentation|gt|groundtruth)([ _-]?\d+)?")
_FEW_STRAYS = 5


@dataclass(frozen=True)
class Layout:
    """What lies in a bundle, by paths below the folders around it."""

    declaration: Member | None
    pictures: dict[str, Member]  # in sorted order
    empty_folders: tuple[str, ...]  # of other splits too: they keep their place in the order
    tables: dict[str, Member]  # what may name the pictures
    others: tuple[str, ...]  # neither of these
    notes: tuple[Note, ...]


def arrange(members: Iterable[Member], holds_picture: Callable[[Member], bool]) -> Layout:
    """Finds the pictures; `holds_picture` is asked, in the archive's order, of files whose names do not tell."""
    notes: list[Note] = []
    kept: list[Member] = []
    leftovers: list[Member] = []
    for member in members:
        (leftovers if any(map(_is_left_behind, member.parts)) else kept).append(member)
    if files := [member.path for member in leftovers if not member.is_folder]:
        notes.append(_counted(NoteKind.SKIPPED_LEFTOVERS, files, "left behind by a desktop or a file server"))
    pictures: dict[str, Member] = {}
    beside: dict[str, Member] = {}
    for member in kept:
        if not member.is_folder:
            (pictures if _is_picture(member, holds_picture) else beside)[member.path] = member
    wrapper = around = _unwrapped(pictures, beside)
    if wrapper:
        looked = f"All images lie in the folder `{printable(wrapper)}`, which was looked through."
        notes.append(Note(NoteKind.UNWRAPPED, looked, wrapper.count("/") + 1, wrapper))
    inside = _below(wrapper, pictures)
    others = {folder for folder in _below(wrapper, _empty_folders(kept)) if "/" not in folder}
    elsewhere: set[str] = set()  # the splits that are not taken
    if split := _split(inside, _below(wrapper, beside)):
        around, others = f"{wrapper}/{split}".strip("/"), {path.split("/")[1] for path in inside if path.count("/") > 1}
        left = [path for path in inside if not path.startswith(f"{split}/")]
        elsewhere = {f"{wrapper}/{path.split('/')[0]}".strip("/") for path in left}
        notes.append(_split_note(split, left))
        inside = _below(split, inside)
    inside = _without_masks(_without_strays(_through_constant(inside), notes), notes)
    found = {path.split("/")[0] for path in inside if "/" in path}
    declarations = [path for path in beside if _name(path) == DECLARATION and _folder(path) in _ancestors(around)]
    declaration = beside.pop(min(declarations, key=lambda path: path.count("/"))) if declarations else None
    holding = {_folder(member.path) for member in inside.values()}
    tables = {
        path: member
        for path, member in beside.items()
        if path.lower().endswith(TABLE_ENDINGS)
        and (len(holding) == 1 or _folder(path) not in holding)
        and not elsewhere & _ancestors(_folder(path))
    }
    return Layout(
        declaration,
        dict(sorted(inside.items())),
        tuple(sorted(others - found)) if found else (),
        tables,
        tuple(path for path in beside if path not in tables),
        tuple(notes),
    )


def class_folders(found: Layout, declared: Mapping[str, int]) -> tuple[str, ...] | None:
    """The folders that name a class, in sorted order, with empty ones; None where the pictures lie in no folder.

    Raises Refusal where the arrangement has no clear meaning.
    """
    if not any("/" in path for path in found.pictures):
        return None
    _refuse_unclear(found.pictures)
    folders = sorted({path.split("/")[0] for path in found.pictures} | set(found.empty_folders))
    if not declared.keys() & set(folders):
        _refuse_no_classes(folders)
    return tuple(folders)


def skipped(others: Iterable[str]) -> tuple[Note, ...]:
    """What was found beside the pictures and is of no use here."""
    paths = list(others)
    return (_counted(NoteKind.SKIPPED_FILES, paths, "neither images nor anything else that is read"),) if paths else ()


def _counted(kind: NoteKind, paths: list[str], what: str) -> Note:
    if len(paths) == 1:
        return Note(kind, f"1 file was skipped, {what}: `{printable(paths[0])}`.", 1, paths[0])
    return Note(
        kind, f"{len(paths):,} files were skipped, {what}, such as `{printable(paths[0])}`.", len(paths), paths[0]
    )


def _is_left_behind(part: str) -> bool:
    return part.startswith(".") or part.endswith("~") or part.lower() in _LEFT_BEHIND


def _is_picture(member: Member, holds_picture: Callable[[Member], bool]) -> bool:
    name = member.path.lower()
    return name.endswith(PICTURE_ENDINGS) or (not name.endswith(_DOCUMENTS) and holds_picture(member))


def _name(path: str) -> str:
    return path.lower().rpartition("/")[2]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _below(folder: str, paths: Mapping[str, Member]) -> dict[str, Member]:
    start = f"{folder}/" if folder else ""
    return {path.removeprefix(start): member for path, member in paths.items() if path.startswith(start)}


def _empty_folders(members: list[Member]) -> dict[str, Member]:
    used = {"/".join(member.parts[:depth]) for member in members for depth in range(1, len(member.parts))}
    return {member.path: member for member in members if member.is_folder and member.path not in used}


def _unwrapped(pictures: Iterable[str], beside: Iterable[str]) -> str:
    """The chain of single folders around the pictures; the innermost folder is none of them, it may be a class."""
    wrapper, inside = "", list(pictures)
    described = {_folder(path) for path in beside if _name(path) in (DECLARATION, LABEL_TABLE)}
    while len(tops := {path.split("/")[0] for path in inside}) == 1 and all("/" in path for path in inside):
        top = tops.pop()
        deeper = f"{wrapper}/{top}".strip("/")
        if deeper not in described and not any(path.count("/") >= 2 for path in inside):
            break
        wrapper, inside = deeper, [path.removeprefix(f"{top}/") for path in inside]
    return wrapper


def _ancestors(folder: str) -> set[str]:
    parts = folder.split("/")
    return {"", *("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))}


def _split(pictures: Iterable[str], beside: Iterable[str]) -> str | None:
    """The split that is taken where every folder at the top is one, and one of them holds class folders, or a table."""
    tops = {path.split("/")[0] for path in pictures}
    if len(tops) < 2 or not all(top.lower() in SPLITS for top in tops):
        return None
    telling = {path.split("/")[0] for path in pictures if path.count("/") >= 2}
    telling = telling or {_folder(path) for path in beside if _name(path).startswith((LABEL_TABLE, "metadata."))} & tops
    return min(telling, key=lambda top: (SPLITS[top.lower()], top), default=None)


def _split_note(split: str, skipped: list[str]) -> Note:
    others = sorted({path.split("/")[0] for path in skipped})
    shown = " and ".join(f"`{printable(other)}`" for other in others)
    sentence = f"The images of `{printable(split)}` were taken; {len(skipped):,} of {shown} were left out."
    return Note(NoteKind.SKIPPED_SPLIT, sentence, len(skipped), others[0] if others else "")


def _through_constant(pictures: dict[str, Member]) -> dict[str, Member]:
    """Without a folder that every class folder has: `cat/images/1.png`."""
    parts = [path.split("/") for path in pictures]
    if not parts or {len(path) for path in parts} != {3} or len({path[1].lower() for path in parts}) != 1:
        return pictures
    return {f"{path[0]}/{path[2]}": member for path, member in zip(parts, pictures.values(), strict=True)}


def _without_strays(pictures: dict[str, Member], notes: list[Note]) -> dict[str, Member]:
    """Without the few pictures that lie beside the class folders, such as a logo."""
    strays = [path for path in pictures if "/" not in path]
    if not strays or len(strays) > min(_FEW_STRAYS, (len(pictures) - len(strays)) // 10):
        return pictures
    notes.append(_counted(NoteKind.SKIPPED_FILES, strays, "images beside the class folders, in none of them"))
    return {path: member for path, member in pictures.items() if path not in strays}


def _without_masks(pictures: dict[str, Member], notes: list[Note]) -> dict[str, Member]:
    """Without `x_mask.png` where there is an `x.png`."""
    stems = {path.rpartition(".")[0] for path in pictures}
    masks = [
        path
        for path in pictures
        if (match := _MASK_FILE.fullmatch(path.rpartition(".")[0])) and match.group(1) in stems
    ]
    if not masks:
        return pictures
    notes.append(_counted(NoteKind.SKIPPED_MASKS, masks, "masks of other images"))
    return {path: member for path, member in pictures.items() if path not in set(masks)}


def _refuse_unclear(pictures: Mapping[str, Member]) -> None:
    seconds = {path.split("/")[1].lower() for path in pictures if path.count("/") >= 2}
    if seconds & _MASKS and seconds & _PICTURES:
        raise _masks(sorted(seconds))
    for name in pictures:
        depth = name.count("/")
        if depth == 0:
            raise Refusal(
                "mixed_layout",
                f"The file `{printable(name)}` lies at the top of the bundle, beside folders of images.",
                "Put it into the folder of its class, or leave it out.",
            )
        if depth > 1:
            raise Refusal(
                "nested_folders",
                f"The file `{printable(name)}` lies in a folder within a folder, so its class is not clear.",
                "Pack the folder whose direct children are the class folders: `cat/1.png`, not `animals/cat/1.png`.",
            )


def _refuse_no_classes(folders: list[str]) -> None:
    """Refuses folders whose names are those of something else than classes."""
    tops = {folder.lower() for folder in folders}
    if tops & _PICTURES and tops & _MASKS and tops <= _PICTURES | _MASKS:
        raise _masks(folders)
    if len(tops) > 1 and tops <= SPLITS.keys():
        raise _no_classes(f"The folders {_list(folders)} are splits, not classes, and hold no class folders.")
    parts = [_PART.fullmatch(top) for top in tops]
    stems = Counter(match.group(1) for match in parts if match)
    if len(tops) > 1 and all(parts) and len(stems) == 1:
        raise _no_classes(f"The folders {_list(folders)} look like the parts of one archive, not like classes.")
    if tops <= _PICTURES:
        raise _no_classes(f"The images lie in {_list(folders)}, which names no class.")


def _masks(folders: list[str]) -> Refusal:
    return _no_classes(f"The folders {_list(folders)} hold images and their masks or annotations, not classes.")


def _no_classes(what: str) -> Refusal:
    return Refusal(
        "folders_not_classes",
        what,
        "Pack one folder per class, or add a table `labels.csv` with the columns `file` and `label`; unlabelled images "
        "belong at the top, in no folder.",
    )


def _list(folders: list[str]) -> str:
    shown = [f"`{printable(folder, 40)}`" for folder in folders[:4]]
    return ", ".join(shown) + (", ..." if len(folders) > 4 else "")
