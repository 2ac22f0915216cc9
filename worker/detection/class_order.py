"""Which output of the suspect each class of a bundle means, read off the suspect's own answers.

    F classes of the bundle   K labels of the suspect

Whoever numbers classes by the order of their names may use another order than the suspect was trained with, and then
every label is wrong. The suspect knows better: in a table of its answers, [F, K], a row that is dominated by one column
says which label this class is. Where the rows' columns differ from each other and from the numbering, the numbering is
contradicted; and the columns say by which of the usual slips, or that it is none of them.

An order that somebody has said is contradicted, not changed. Only an assumed one may be replaced by what is read here.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Order = tuple[int, ...]  # by class of the bundle, a label of the suspect
Answers = NDArray[np.int64]  # [F, K]: how many images of a class got each label

TEXT, NATURAL, IGNORING_CASE = "text order", "natural order", "alphabetical order that ignores case"
FROM_ONE, BACKGROUND_FIRST = "numbers that count from 1", "numbers that leave out the first output"
READ_OFF = "an order of the model's own"
FEWEST = 3  # images of a class by whose answers it is known
CLEAR = 0.8  # the share of a class by which one row alone contradicts its number


@dataclass(frozen=True)
class Reading:
    """An order of the classes that explains the answers, and its name."""

    order: Order
    cause: str
    accuracy: float


def answers_of(classes: NDArray[np.int64], labels: NDArray[np.int64], num_labels: int) -> Answers:
    """The table of answers: `classes` are rows, and `labels` the answers, of the same images."""
    table = np.zeros((int(classes.max()) + 1, num_labels), dtype=np.int64)
    np.add.at(table, (classes, labels), 1)
    return table


def accuracy_under(answers: Answers, order: Order) -> float:
    """The share of right answers if the classes were in this order."""
    right = sum(int(row[label]) for row, label in zip(answers, order, strict=True) if 0 <= label < len(row))
    return right / max(1, int(answers.sum()))


def is_contradicted(answers: Answers, order: Order) -> bool:
    """Whether the answers say of several classes, or clearly of one, that they are other labels than the order says.

    A class that is taken for another one which is itself in the bundle, and recognised, is only a hard one.
    """
    columns = _dominant(answers)
    agreed = {column for column, label in zip(columns, order, strict=True) if column == label}
    moved = [
        row
        for row, column, label in zip(answers, columns, order, strict=True)
        if column not in (None, label) and column not in agreed
    ]
    clear = [row for row in moved if row.sum() >= FEWEST and row.max() >= CLEAR * row.sum()]
    known = sum(column is not None for column in columns)
    return len(moved) >= max(2, 0.1 * known) or len(clear) >= max(1, 0.02 * known)


def explain(answers: Answers, names: Sequence[str], order: Order | None = None) -> Reading | None:
    """The one order that explains the answers: a usual one, or what can be read off where every row is plain.

    None where there is none, or more than one. `order` is what was taken so far: its own slips are tried, too.
    """
    usual: dict[Order, str] = {}
    for cause, found in _usual_orders(names, answers.shape[1], order):
        if min(found) >= 0 and max(found) < answers.shape[1]:
            usual.setdefault(found, cause)
    best = max((accuracy_under(answers, found) for found in usual), default=0.0)
    plausible = {
        found: cause
        for found, cause in usual.items()
        if found != order and accuracy_under(answers, found) > 0.75 * best and not is_contradicted(answers, found)
    }
    if not plausible and (read := _read_off(answers)) not in (None, order):
        plausible = {read: READ_OFF}
    if len(plausible) != 1:
        return None
    ((found, cause),) = plausible.items()
    return Reading(found, cause, accuracy_under(answers, found))


def _usual_orders(names: Sequence[str], num_labels: int, order: Order | None) -> Iterator[tuple[str, Order]]:
    """The orders that people number classes in, each with its name; some do not fit the number of labels."""
    if all(re.fullmatch("[0-9]{1,9}", name) for name in names):
        numbers = [int(name) for name in names]
        yield FROM_ONE, tuple(number - 1 for number in numbers)
        for first in (0, 1):  # of all classes, of which some may be missing
            everything = range(first, num_labels + first)
            if set(numbers) <= set(everything):
                yield TEXT, _ranks([str(n) for n in numbers], sorted(map(str, everything)))
    if len(set(names)) == num_labels:
        yield NATURAL, _ranks(names, sorted(names, key=natural_key))
        yield TEXT, _ranks(names, sorted(names))
        yield IGNORING_CASE, _ranks(names, sorted(names, key=lambda name: (name.casefold(), name)))
    if order is not None:
        yield FROM_ONE, tuple(label - 1 for label in order)
        yield BACKGROUND_FIRST, tuple(label + 1 for label in order)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts a2 before a10."""
    parts = re.split("([0-9]+)", name)
    return [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]


def _ranks(names: Sequence[str], ordered: Sequence[str]) -> Order:
    place = {name: rank for rank, name in enumerate(ordered)}
    return tuple(place[name] for name in names)


def _dominant(answers: Answers) -> list[int | None]:
    """For each class the label that most of its images get, None where that is not plain."""
    return [int(row.argmax()) if row.max() >= 2 and 2 * row.max() > row.sum() else None for row in answers]


def _read_off(answers: Answers) -> Order | None:
    """The label of every class, where each row has one column far ahead and no two rows have the same."""
    columns = []
    for row in answers:
        second, first = np.sort(row)[-2:]
        if first < FEWEST or first < 2 * row.sum() / 3 or first < 3 * second:
            return None
        columns.append(int(row.argmax()))
    return tuple(columns) if len(set(columns)) == len(columns) else None
