"""From the names people give their classes to the class indices a model answers with.

A wrong order makes every label wrong, so the rules are few and said aloud: what is declared wins; a name that is a
whole number is that index (0, 1, 10, 2 never sort); other names are numbered in sorted order, as torchvision's
ImageFolder does, only when all of them are such names, and as an assumption that has to be checked. Anything between
is refused, not guessed.

Whether a model was trained with the same order cannot be known here; its answers on the bundle tell.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from app.core.errors import Refusal
from app.core.intake.guards import LARGEST_LABEL
from app.core.intake.notes import Note, NoteKind
from app.core.text import printable


class LabelSource(StrEnum):
    """Where the class indices of a bundle come from."""

    DECLARED = "declared"  # bundle.json or the request names at least one of the classes
    INDICES = "indices"  # the names, or the labels of an npz, are class indices
    SORTED = "sorted"  # an assumption: labels are the places of the names in sorted order, as ImageFolder has them
    NONE = "none"  # unlabelled


@dataclass(frozen=True, eq=False)
class Labels:
    """The class index of every image, and how it was told."""

    values: NDArray[np.int64]
    source: LabelSource
    indices: Mapping[str, int]  # by the name that folders, a table or an array use
    notes: tuple[Note, ...] = ()


def labels_of(names: Sequence[str], declared: Mapping[str, int], empty: Iterable[str] = ()) -> Labels:
    """Labels from one name an image; `empty` names classes without an image, which count where names are sorted."""
    without = sorted(set(empty) - set(names))
    indices, source = class_indices({*names, *without}, declared)
    values = np.array([indices[name] for name in names], dtype=np.int64)
    notes = []
    if without:
        told = (
            f"{len(without):,} class folders hold no image, such as `{printable(without[0])}`; they keep their place."
        )
        notes.append(Note(NoteKind.EMPTY_CLASSES, told, len(without), without[0]))
    if source is LabelSource.SORTED:
        notes.append(_assumption(list(indices)))
    return Labels(values, source, indices, tuple(notes))


def _assumption(names: list[str]) -> Note:
    shown = [f"`{printable(name, 30)}` is {place}" for place, name in enumerate(names)]
    listed = ", ".join(shown if len(shown) <= 4 else [*shown[:3], "...", shown[-1]])
    told = f"Nothing says in which order the model knows its classes; they were numbered as their names sort: {listed}."
    if (natural := natural_order(names)) != names:
        place = next(place for place, pair in enumerate(zip(names, natural, strict=True)) if pair[0] != pair[1])
        told += f" In natural order `{printable(natural[place], 30)}` would be {place}."
    return Note(NoteKind.ASSUMED_ORDER, told, len(names), names[0])


def natural_order(names: Iterable[str]) -> list[str]:
    """As people count: `class2` before `class10`."""

    def key(name: str) -> list[tuple[int, str]]:
        parts = enumerate(re.split("([0-9]+)", name))  # numbers are at the odd places; of those, a longer one is larger
        return [(len(part.lstrip("0")), part.lstrip("0")) if place % 2 else (0, part) for place, part in parts]

    return sorted(names, key=key)


def class_indices(names: Iterable[str], declared: Mapping[str, int]) -> tuple[dict[str, int], LabelSource]:
    """The class index of every name, and where it comes from."""
    names = sorted(set(names))
    numbers = {name: int(name) for name in names if re.fullmatch(r"-?[0-9]{1,20}", name)}
    unknown = [name for name in names if name not in declared and name not in numbers]
    if not unknown:
        indices = {name: declared.get(name, numbers.get(name, -1)) for name in names}
        _check_indices(indices, declared)
        return indices, LabelSource.DECLARED if declared.keys() & set(names) else LabelSource.INDICES
    if len(unknown) < len(names) or declared:
        near = get_close_matches(unknown[0], declared, 1)
        if near:
            advice = f"The declared classes have `{printable(near[0])}`: write both alike."
        elif declared:
            shown = ", ".join(f"`{printable(name, 20)}`" for name in list(declared)[:4])
            advice = f'List every class, {{"classes": {{"{printable(unknown[0], 30)}": 0}}}}; declared are {shown}.'
        else:
            advice = 'List every class in bundle.json: {"classes": {"cat": 0, "dog": 1}}.'
        raise Refusal(
            "class_unmapped",
            f"The class `{printable(unknown[0])}` has no index: it is not listed in bundle.json, and not a number.",
            advice,
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
