"""Tables that lie beside the pictures of a bundle and name them: which column is the file, which one the label.

People have `labels.csv` (`file,label`), but also `train.csv`, `metadata.jsonl`, `HAM10000_metadata.csv` with names that
lack the extension, `val.txt` with no header at all. The column of files is told by its values, not by its header: it
is the one that names most pictures of this bundle. The column of labels is told by its header; where no header says
"label" in words that we know, no column is guessed. Rows of pictures that are not in the bundle are counted.

This module does not know class indices, nor whether folders say something else.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.errors import Refusal
from app.core.text import printable

LABEL_TABLE = "labels.csv"
TABLE_ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".json")
UNREAD = {  # by their endings: what people keep labels in, too
    **dict.fromkeys(("xlsx", "xls", "xlsm"), "an Excel file"),
    "ods": "an OpenDocument table",
    "numbers": "a Numbers table",
    "parquet": "a Parquet file",
    **dict.fromkeys(("feather", "arrow"), "an Arrow file"),
    **dict.fromkeys(("pkl", "pickle"), "a pickle, which can run code"),
    "mat": "a MATLAB file",
    **dict.fromkeys(("npy", "npz"), "a NumPy file"),
    **dict.fromkeys(("h5", "hdf5"), "an HDF5 file"),
    "xml": "an XML file",
    **dict.fromkeys(("yaml", "yml"), "a YAML file"),
}
SPLITS = {  # in the order in which one is taken: a suspect has seen the last
    **dict.fromkeys(("test", "testing", "test_set", "testset"), 0),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "val_set"), 1),
    **dict.fromkeys(("train", "training", "train_set", "trainset", "training_set"), 2),
}
_LABEL_COLUMNS = (
    *("label", "labels", "class", "classid", "classidx", "classindex", "classlabel", "classname", "category"),
    *("categoryid", "categoryname", "target", "targets", "y", "labelid", "labelidx", "labelname", "dx", "diagnosis"),
    *("species", "breed", "groundtruth", "gt", "annotation"),
)
_FILE_COLUMNS = (
    "file",
    "filename",
    "filepath",
    "path",
    "image",
    "imagename",
    "imageid",
    "imagepath",
    "img",
    "id",
    "name",
)
_FEWEST = 0.1  # of the pictures, which a table that is about them names
_NUMBER = re.compile(r"[-+]?([0-9]*\.[0-9]*|[0-9.]+e[-+]?[0-9]+|nan|inf)", re.IGNORECASE)


class UnclearTableError(ValueError):
    """A table that cannot be taken for the labels, worded as what it does; the advice says what would do."""

    def __init__(self, what: str, advice: str = "Its first line reads `file,label`, a further one `images/1.png,7`."):
        super().__init__(what)
        self.advice = advice

    def refusal(self, table: str) -> Refusal:
        return Refusal("labels_csv", f"The table `{printable(table)}` {self}.", self.advice)


@dataclass(frozen=True)
class Table:
    """The labels, still as text, of the pictures that a table names; the others of its rows are only counted."""

    name: str
    labels: dict[str, str]  # by picture
    place: str  # where in it the labels are, in words
    rows_without_file: int
    without_file: str  # the first of them


class Places:
    """Finds a picture by what a table calls it: its path, the end of its path, or its name without extension."""

    def __init__(self, pictures: Iterable[str]) -> None:
        self._whole: dict[str, str | None] = {}
        self._stems: dict[str, str | None] = {}
        self.count = 0
        for path in pictures:
            self.count += 1
            parts = path.split("/")
            for start in range(len(parts)):
                tail = "/".join(parts[start:])
                self._add(self._whole, tail, path)
                self._add(self._stems, tail.rpartition(".")[0] or tail, path)

    def find(self, said: str, near: Iterable[str] = ()) -> str | None:
        """The only picture that is meant, first in the folders `near`; None where none is, or several are."""
        cleaned = unicodedata.normalize("NFC", said.strip().replace("\\", "/"))
        for folder in near:
            for known in (self._whole, self._stems):
                if (path := known.get(f"{folder}/{cleaned.removeprefix('./')}")) is not None:
                    return path
        parts = [part for part in cleaned.split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            for known in (self._whole, self._stems):
                if (path := known.get(tail)) is not None and not _other_split(parts[:start], path.split("/")[:-1]):
                    return path
        return None

    @staticmethod
    def _add(known: dict[str, str | None], tail: str, path: str) -> None:
        known[tail] = path if known.get(tail, path) == path else None


def _other_split(said: Sequence[str], found: Sequence[str]) -> bool:
    """Whether a row of the training images was about to name a test image of the same name."""
    splits = [{SPLITS[part.lower()] for part in parts if part.lower() in SPLITS} for parts in (said, found)]
    return bool(splits[0] and splits[1] and splits[0] != splits[1])


def read_table(content: bytes, name: str, places: Places, code_page: str | None = None) -> Table | None:
    """The labels a table gives, None if it names no picture at all; raises UnclearTableError."""
    is_json = name.lower().endswith((".json", ".jsonl"))
    rows = _json_rows(content, name) if is_json else _text_rows(content, name, code_page)
    if not rows:
        return None
    width = max(len(row) for row in rows[:100])
    folder, _, own = name.rpartition("/")
    near = [*filter(None, [folder]), *(word for word in re.split("[^A-Za-z]+", own) if word.lower() in SPLITS)]
    found = [[places.find(row[column], near) if column < len(row) else None for row in rows] for column in range(width)]
    headers = [_plain(cell) for cell in rows[0]] + [""] * width
    counts = [len({path for path in column if path}) for column in found]
    files = max(range(width), key=lambda column: (counts[column], -_rank(headers[column], _FILE_COLUMNS)))
    if counts[files] < (1 if own.lower() == LABEL_TABLE else _FEWEST * places.count):
        return None  # a map of class indices may name a picture called 3.png
    has_header = not any(column[0] for column in found) and not any(_is_picture_name(cell) for cell in rows[0])
    if has_header and not {*headers} & {*_LABEL_COLUMNS} and (given := _one_hot(rows, files, width)):
        return _table(name, given, found[files], 0, 1, has_header)
    labels = _label_column(rows[0] if has_header else None, headers, files, width, name)
    return _table(name, rows, found[files], files, labels, has_header)


def _one_hot(rows: list[list[str]], files: int, width: int) -> list[list[str]]:
    """Files and labels of a table with a column of 0 and 1 for each class; nothing of another one."""
    columns = [column for column in range(width) if column != files]
    given = []
    for row in rows[1:]:
        cells = [row[column].strip().removesuffix(".0") if column < len(row) else "" for column in columns]
        if len(columns) < 2 or cells.count("1") != 1 or set(cells) != {"0", "1"}:
            return []
        given.append([row[files], rows[0][columns[cells.index("1")]].strip()])
    first, last = rows[0][columns[0]].strip(), rows[0][columns[-1]].strip()
    return [["file", f"{first} ... {last}"], *given] if given else []


def _table(
    name: str, rows: list[list[str]], found: list[str | None], files: int, labels: int, has_header: bool
) -> Table:
    given: dict[str, str] = {}
    missing: list[str] = []
    for line, (row, path) in enumerate(zip(rows, found, strict=True), 1):
        if line == 1 and has_header:
            continue
        said = row[files].strip() if files < len(row) else ""
        label = row[labels].strip() if labels < len(row) else ""
        if not said or (path and not label):
            raise UnclearTableError(
                f"has no file or no label in line {line}", "Give every listed image a label, or leave its line out."
            )
        if path is None:
            missing.append(said)
            continue
        if _NUMBER.fullmatch(label):
            raise UnclearTableError(
                f"has the label `{printable(label)}` in line {line}, which is not a whole number",
                'Write labels as whole numbers or names; in pandas `table["label"].astype(int)` before `to_csv`.',
            )
        label = unicodedata.normalize("NFC", label)
        if given.setdefault(path, label) != label:
            raise UnclearTableError(
                f"lists `{printable(path)}` a second time with another label, in line {line}", "List every image once."
            )
    place = f"its column `{printable(rows[0][labels].strip())}`" if has_header else "which has no header"
    return Table(name, given, place, len(missing), missing[0] if missing else "")


def _label_column(header: list[str] | None, headers: list[str], files: int, width: int, name: str) -> int:
    others = [column for column in range(width) if column != files]
    known = [column for column in others if headers[column] in _LABEL_COLUMNS]
    if header is not None and known:
        return min(known, key=lambda column: _LABEL_COLUMNS.index(headers[column]))
    if header is None and others:
        return files + 1 if files + 1 < width else others[0]
    if len(others) == 1 and name.lower().rpartition("/")[2] == LABEL_TABLE:
        return others[0]
    shown = ", ".join(f"`{printable(cell, 20)}`" for cell in (header or [])[:8])
    raise UnclearTableError(
        f"names the images but has no column that is called `label` (its columns: {shown})",
        "Call the column with the classes `label`; for an unlabelled bundle leave the table out.",
    )


def _rank(header: str, known: tuple[str, ...]) -> int:
    return known.index(header) if header in known else len(known)


def _plain(cell: str) -> str:
    return re.sub("[^a-z0-9]", "", cell.lower())


def _is_picture_name(cell: str) -> bool:
    return cell.strip().lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm"))


def _text_rows(content: bytes, name: str, code_page: str | None) -> list[list[str]]:
    text = _text(content, code_page)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t|", key=first.count)
    if first.count(delimiter) == 0:
        if not name.lower().endswith(".txt"):
            return [[cell] for cell in text.splitlines() if cell.strip()]
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len({len(line.split()) for line in lines}) == 1:
            return [line.split() for line in lines]
        if all(line.split()[-1].isdecimal() for line in lines):  # names of files, or else of classes, have spaces
            return [line.rsplit(None, 1) for line in lines]
        return [line.split(None, 1) for line in lines]
    try:
        return [
            row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(map(str.strip, row))
        ]
    except csv.Error as error:
        raise UnclearTableError(f"cannot be read: {printable(str(error))}", "Save it as plain CSV.") from error


def _text(content: bytes, code_page: str | None) -> str:
    encodings = ["utf-16"] if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", *filter(None, [code_page])]
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise UnclearTableError(
        "cannot be read: it is not in UTF-8", "Save it as plain CSV in UTF-8, with the columns `file` and `label`."
    )


def _json_rows(content: bytes, name: str) -> list[list[str]]:
    """Objects as rows of one header; a map from pictures to labels as rows without one."""
    try:
        text = content.decode("utf-8-sig")
        lines = [line for line in text.splitlines() if line.strip()]
        document = [json.loads(line) for line in lines] if name.lower().endswith(".jsonl") else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnclearTableError(f"cannot be read: {printable(str(error))}", "Save it as JSON, in UTF-8.") from error
    if isinstance(document, dict) and all(isinstance(value, (str, int)) for value in document.values()):
        return [[key, _cell(value)] for key, value in document.items()]
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        return []
    columns = list(dict.fromkeys(key for row in document for key in row))
    return [columns, *([_cell(row.get(key, "")) for key in columns] for row in document)]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
