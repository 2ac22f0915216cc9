"""Which label of the suspect each class of a bundle is: as somebody said, or as the suspect's own answers say.

    N images   F classes   K labels

What was said stands, and is contradicted aloud. An order that was only assumed (the one in which names sort) is taken
if the answers fit it, and replaced if they fit exactly one other. Where there are fewer classes than labels no order of
names says anything, so the answers have to. Raises Refusal where nothing is left to go by.
"""

import json
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.core.errors import Refusal
from app.core.intake.bundle import Bundle, check_labels
from app.core.intake.labelling import LabelSource
from app.core.text import printable
from worker.detection.class_order import Answers, Reading, answers_of, explain, is_contradicted

SHOWN_CLASSES = 4  # in a sentence


@dataclass(frozen=True)
class Classes:
    """The classes of a labelled bundle, and what the suspect answers to their images."""

    bundle: Bundle
    num_labels: int

    @property
    def labels_N(self) -> NDArray[np.int64]:
        assert self.bundle.labels is not None
        return self.bundle.labels

    @property
    def present_F(self) -> NDArray[np.int64]:
        """Their indices in the bundle."""
        return np.unique(self.labels_N)

    @property
    def names(self) -> tuple[str, ...]:
        """What the bundle calls them."""
        called = {index: name for name, index in sorted(self.bundle.class_indices.items(), reverse=True)}
        return tuple(called.get(index) or str(index) for index in self.present_F.tolist())

    @property
    def is_assumed(self) -> bool:
        return self.bundle.label_source is LabelSource.SORTED

    @property
    def says_nothing(self) -> bool:
        """Whether the indices cannot be the suspect's labels: too large, or ranks among other classes than its own."""
        some_missing = self.is_assumed and len(self.bundle.class_indices) != self.num_labels
        return some_missing or int(self.labels_N.max()) >= self.num_labels

    def answers(self, picked: NDArray[np.int64], predictions_N: Tensor) -> Answers:
        """The table of what the suspect says of these images."""
        rows = np.searchsorted(self.present_F, self.labels_N[picked])
        return answers_of(rows, predictions_N.cpu().numpy(), self.num_labels)

    def contradicted(self, answers: Answers) -> bool:
        return is_contradicted(answers, tuple(self.present_F.tolist()))

    def explained(self, answers: Answers) -> Reading | None:
        said = None if self.says_nothing and self.is_assumed else tuple(self.present_F.tolist())
        return explain(answers, self.names, said)

    def mapped(self, reading: Reading) -> tuple[int, ...]:
        """By index in the bundle, the label of the suspect; -1 for those without images."""
        order = np.full(int(self.present_F.max()) + 1, -1)
        order[self.present_F] = reading.order
        return tuple(order.tolist())

    def read(self, reading: Reading) -> dict[str, int]:
        """The label of each class by its name, as bundle.json has it."""
        return {printable(name): label for name, label in zip(self.names, reading.order, strict=True)}


def refuse_unknown(classes: Classes, reading: Reading | None) -> NoReturn:
    """Nothing says which label each class is, or what was said cannot be: raises Refusal."""
    if reading is not None:
        raise Refusal(
            "label_out_of_range",
            f"The bundle has the label {classes.labels_N.max()}, but the model has only the labels 0 to "
            f"{classes.num_labels - 1}. By the model's own answers the classes are numbered in {reading.cause}: "
            f"{shown(classes, reading)}.",
            remedy(classes, reading),
        )
    check_labels(classes.bundle, classes.num_labels)
    raise AssertionError("labels that say nothing are refused")


def shown(classes: Classes, reading: Reading) -> str:
    """The first few classes and their outputs."""
    pairs = [f"`{name}` is output {label}" for name, label in classes.read(reading).items()]
    return ", ".join(pairs[:SHOWN_CLASSES]) + (" and so on" if len(pairs) > SHOWN_CLASSES else "")


def remedy(classes: Classes, reading: Reading) -> str:
    """How to say it, for those who agree with what was read."""
    known = classes.read(reading)
    if len(known) > 2 * SHOWN_CLASSES + 4:
        known = dict(list(known.items())[:SHOWN_CLASSES])
        return (
            f"If that is right, say so in bundle.json or with `--classes FILE`: {_json(known)[:-2]}, ...}}}}; "
            "`triggerlens check --json` prints all of it as `suggested_classes`."
        )
    return f"If that is right, say so in bundle.json or with `--classes FILE`: {_json(known)}."


def relabelled(labels_N: NDArray[np.int64], order: tuple[int, ...]) -> Tensor:
    """The suspect's labels for the bundle's own, in the order that was taken; empty means they are the same."""
    labels = torch.as_tensor(labels_N)
    return torch.tensor(order)[labels] if order else labels


def _json(classes: dict[str, int]) -> str:
    return json.dumps({"classes": classes}, ensure_ascii=False)
