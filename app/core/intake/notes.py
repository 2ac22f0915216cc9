"""What was skipped, unwrapped, decoded or assumed while a bundle was read: nothing of it happens in silence.

A note is a fact about one bundle, not an error: programs go by its kind, people read its sentence. It is made of plain
values, so `dataclasses.asdict` makes it JSON. What a note means for a verdict is not known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class NoteKind(StrEnum):
    """The kinds are stable: reports keep them."""

    SKIPPED_LEFTOVERS = "skipped_leftovers"  # what desktops and file servers leave behind
    SKIPPED_FILES = "skipped_files"  # neither images nor anything we read: README, LICENSE, code
    SKIPPED_MASKS = "skipped_masks"  # `x_mask.png` beside `x.png`
    SKIPPED_ARRAYS = "skipped_arrays"  # of an npz
    SKIPPED_SPLIT = "skipped_split"  # the other of `train` and `test`
    UNWRAPPED = "unwrapped"  # folders around everything, which name no class
    TABLE = "table"  # labels are from a table that is not called labels.csv
    ROWS_WITHOUT_FILE = "rows_without_file"  # of a table
    CALLED_BY_CLASS = "called_by_class"  # unlabelled files whose names look like labels
    EMPTY_CLASSES = "empty_classes"  # folders without an image, which keep their place in the order
    CODE_PAGE = "code_page"  # names were not UTF-8
    ASSUMED_ORDER = "assumed_order"  # classes were numbered as their names sort
    DECLARED_ELSEWHERE = "declared_elsewhere"  # bundle.json says it in other words than ours
    CONVERTED_PIXELS = "converted_pixels"  # numbers other than uint8, or channels first
    CONVERTED_LABELS = "converted_labels"  # one-hot, or whole numbers kept as floats
    FITTED_IMAGES = "fitted_images"  # to the size, or to the channels, that the model takes
    DARK_PIXELS = "dark_pixels"  # the largest value of all images is far below 255


@dataclass(frozen=True)
class Note:
    """One such fact: how many it concerns, one of them by name, and the whole of it in a sentence."""

    kind: NoteKind
    sentence: str
    count: int = 1
    example: str = ""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(**{**document, "kind": NoteKind(document["kind"])})
