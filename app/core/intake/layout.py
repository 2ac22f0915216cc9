"""Where the pictures of a zip bundle lie, and which name their place gives them.

Three arrangements are understood: one folder per class, a table `labels.csv`, or pictures at the top without labels.
One folder wrapped around everything is looked through; what desktops leave behind is ignored. A folder of pictures
inside a class folder is refused, because `train/cat/1.png` would turn `train` into a class.

Names only: this module opens no member and does not know class indices.
"""

from dataclasses import dataclass

from app.core.errors import Refusal
from app.core.intake.members import Member
from app.core.text import printable

DECLARATION = "bundle.json"
LABEL_TABLE = "labels.csv"
_LEFT_BEHIND = {"__macosx", "thumbs.db", "desktop.ini"}
_BESIDE_PICTURES = (".txt", ".md", ".json", ".csv", ".html", ".xml", ".yaml", ".yml")  # read by people, or by us


@dataclass(frozen=True)
class Layout:
    """`folders` is None where no folder names a class; it includes empty ones, which keep their place in the order."""

    declaration: Member | None
    label_table: Member | None
    pictures: dict[str, Member]  # by their path below the wrapper, in sorted order
    folders: tuple[str, ...] | None

    def class_of(self, path: str) -> str:
        return path.split("/", maxsplit=1)[0]


def arrange(members: tuple[Member, ...]) -> Layout:
    """Finds the pictures; raises Refusal where their arrangement has no clear meaning."""
    members = tuple(member for member in members if not any(_is_left_behind(part) for part in member.parts))
    top = {member.path.lower(): member for member in members if not member.is_folder and len(member.parts) == 1}
    inner = tuple(member for member in members if member.path.lower() != DECLARATION)
    skipped = 1 if _is_wrapped(inner) else 0
    names = {"/".join(member.parts[skipped:]): member for member in inner if len(member.parts) > skipped}
    lowered = {name.lower(): member for name, member in names.items() if not member.is_folder}
    declaration = top.get(DECLARATION) or lowered.get(DECLARATION)
    label_table = lowered.get(LABEL_TABLE)
    pictures = {
        name: member
        for name, member in sorted(names.items())
        if not member.is_folder and not name.lower().endswith(_BESIDE_PICTURES)
    }
    if label_table is not None or not any("/" in name for name in pictures):
        if label_table is None and pictures:
            _refuse_other_tables(lowered)
        return Layout(declaration, label_table, pictures, None)
    _refuse_unclear(pictures)
    empty = {name for name, member in names.items() if member.is_folder and "/" not in name}
    return Layout(declaration, None, pictures, tuple(sorted(empty | {name.split("/")[0] for name in pictures})))


def _is_left_behind(part: str) -> bool:
    return part.startswith(".") or part.lower() in _LEFT_BEHIND


def _is_wrapped(members: tuple[Member, ...]) -> bool:
    """One folder holds everything, and it is not simply the only class."""
    files = [member for member in members if not member.is_folder]
    if len({member.parts[0] for member in members}) != 1 or any(len(member.parts) == 1 for member in files):
        return False
    inside = {"/".join(member.parts[1:]).lower() for member in files}
    return bool({DECLARATION, LABEL_TABLE} & inside) or any("/" in name for name in inside)


def _refuse_unclear(pictures: dict[str, Member]) -> None:
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
                "Pack the folder whose direct children are the class folders: `cat/1.png`, not `train/cat/1.png`.",
            )


def _refuse_other_tables(files: dict[str, Member]) -> None:
    tables = sorted(name for name in files if name.endswith(".csv"))
    if tables:
        raise Refusal(
            "labels_csv",
            f"The bundle has the table `{printable(tables[0])}` but no `{LABEL_TABLE}`.",
            f"Name it `{LABEL_TABLE}`, with the columns `file` and `label`; for an unlabelled bundle leave it out.",
        )
