"""From the names people give their classes to the class indices a model answers with.

A wrong order makes every label wrong, so the rules are few and said aloud: what bundle.json declares wins; a name
that is a whole number is that index (0, 1, 10, 2 never sort); other names are numbered in sorted order, as
torchvision's ImageFolder does, only when all of them are such names. Anything between is refused, not guessed.

Whether a model was trained with the same order cannot be known here; its accuracy on the bundle tells.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping
from enum import StrEnum

from app.core.errors import Refusal
from app.core.intake.guards import LARGEST_LABEL
from app.core.text import printable


class LabelSource(StrEnum):
    """Where the class indices of a bundle come from."""

    DECLARED = "declared"  # bundle.json names at least one of the classes
    INDICES = "indices"  # the names, or the labels of an npz, are class indices
    SORTED = "sorted"  # an assumption (ImageFolder order): worth a look at the accuracy
    NONE = "none"  # unlabelled


def class_indices(names: Iterable[str], declared: Mapping[str, int]) -> tuple[dict[str, int], LabelSource]:
    """The class index of every name, and where it comes from."""
    names = sorted(set(names))
    numbers = {name: int(name) for name in names if re.fullmatch(r"-?[0-9]{1,18}", name)}
    unknown = [name for name in names if name not in declared and name not in numbers]
    if not unknown:
        indices = {name: declared.get(name, numbers.get(name, -1)) for name in names}
        _check_indices(indices, declared)
        return indices, LabelSource.DECLARED if declared.keys() & set(names) else LabelSource.INDICES
    if len(unknown) < len(names) or declared:
        raise Refusal(
            "class_unmapped",
            f"The class `{printable(unknown[0])}` has no index: it is not listed in bundle.json, and not a number.",
            'List every class in bundle.json: {"classes": {"cat": 0, "dog": 1}}.',
        )
    return {name: index for index, name in enumerate(names)}, LabelSource.SORTED


def check_index(index: int, name: str) -> None:
    """Refuses a class index that no model can answer with."""
    if index < 0:
        raise Refusal(
            "negative_label",
            f"The label `{printable(name)}` is negative.",
            "Class indices count from 0; leave images without a label out.",
        )
    if index > LARGEST_LABEL:
        raise Refusal(
            "label_out_of_range",
            f"The label `{printable(name)}` is larger than {LARGEST_LABEL:,}.",
            "A label is the index of the model's output, counted from 0.",
        )


def _check_indices(indices: Mapping[str, int], declared: Mapping[str, int]) -> None:
    owners: dict[int, str] = {}
    for name, index in indices.items():
        check_index(index, name)
        other = owners.setdefault(index, name)
        if other != name and not (name in declared and other in declared):  # declared twins are a wish, not a slip
            raise Refusal(
                "class_unmapped",
                f"The classes `{printable(other)}` and `{printable(name)}` both mean index {index}.",
                'Say what you mean in bundle.json: {"classes": {"cat": 0, "dog": 1}}.',
            )


def read_label_table(content: bytes) -> dict[str, str]:
    """labels.csv (`file,label`, more columns are ignored): the label, still as text, of every file it lists."""
    try:
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        if not {"file", "label"} <= set(columns):
            found = ", ".join(printable(name, 20) for name in list(columns)[:6]) or "nothing"
            raise Refusal(
                "labels_csv",
                f"labels.csv needs the columns `file` and `label`, separated by a comma; found: {found}.",
                "Its first line reads `file,label`, a further one `images/0001.png,7`.",
            )
        table: dict[str, str] = {}
        for row in rows:
            name, label = ((row[columns[column]] or "").strip() for column in ("file", "label"))
            path = "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
            _add(table, unicodedata.normalize("NFC", path), label, rows.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refusal(
            "labels_csv",
            f"labels.csv cannot be read: {printable(str(error))}.",
            "Save it as plain CSV in UTF-8, with the columns `file` and `label`.",
        ) from error
    return table


def _add(table: dict[str, str], path: str, label: str, line: int) -> None:
    if not path or not label:
        problem, advice = "has no file or no label", "Give every listed image a label, or leave its line out."
    elif re.fullmatch(r"[-+]?([0-9]*\.[0-9]*|[0-9.]+e[-+]?[0-9]+|nan|inf)", label, re.IGNORECASE):
        problem = f"has the label `{printable(label)}`, which is not a whole number"
        advice = 'Write labels as whole numbers or names; in pandas `table["label"].astype(int)` before `to_csv`.'
    elif path in table:
        problem, advice = f"lists `{printable(path)}` a second time", "List every image once."
    else:
        table[path] = label
        return
    raise Refusal("labels_csv", f"Line {line} of labels.csv {problem}.", advice)
