"""The outputs of a module by name, and which of them could be the scores.

    N image batch   K labels

A module may answer with a tensor, or with a tuple, a list or a dict of tensors and other things. An output's name is
its key in a dict, its position in a tuple (or its field, where that has one), and the path to it in something nested.
Which one is the right one is not known here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from app.core.errors import Refusal
from app.core.text import printable

EXPORT_ADVICE = "See docs/export.md for how to make a TorchScript image classifier."
DEEPEST = 3  # levels in which outputs are looked for
LONGEST_NAME = 100
MOST_NAMED = 12


def named_outputs(answer: Any) -> dict[str, Any]:
    """All that a module answered, by name, without what is None; the name of a lone tensor is empty."""
    named: dict[str, Any] = {}
    for name, value in _parts("", answer, 0):
        while name in named:
            name += "'"
        named[name] = value
    return named


def _parts(path: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        entries = [(printable(str(key), LONGEST_NAME), part) for key, part in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        names = getattr(value, "_fields", None) or map(str, range(len(value)))
        entries = list(zip(names, value, strict=True))
    else:
        entries = []
    if entries and depth < DEEPEST:
        for name, part in entries:
            yield from _parts(f"{path}.{name}" if path else name, part, depth + 1)
    elif value is not None:
        yield path, value


def scores_in(value: Any, images: int) -> Tensor | None:
    """An output as scores NK, where by type and shape it could be those: a number for each image and label."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2 or len(value) != images:
        return None
    labels = [size for size in value.shape[1:] if size != 1]
    return value.reshape(images, labels[0]) if len(labels) == 1 and labels[0] > 1 else None


def candidates(answer: Any, images: int) -> dict[str, Tensor]:
    """All outputs that could be the scores, by name, as NK."""
    found = {name: scores_in(value, images) for name, value in named_outputs(answer).items()}
    return {name: scores for name, scores in found.items() if scores is not None}


def scores_of(answer: Any, images: int, name: str | None) -> Tensor:
    """The scores NK: the output of this name, or the only one that could be them. Raises Refusal."""
    found = candidates(answer, images)
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name is not None and name in found:
        return found[name]
    outputs = named_outputs(answer)
    if name is not None and name not in outputs:
        there = "one output, which has no name" if list(outputs) == [""] else f"the outputs {_listed(outputs, images)}"
        raise Refusal(
            "output_not_found",
            f"The model has no output `{printable(name, LONGEST_NAME)}`; it has {there}.",
            "Give one of these by --output, or leave it out.",
        )
    if found and name is None:
        raise Refusal(
            "output_ambiguous",
            f"The model has several outputs that could be its scores: {_listed(found, images)}.",
            "Give the name of the one that is used by --output.",
        )
    raise _no_scores(outputs if name is None else {"": outputs[name]}, images)


def shape_of(value: Any, images: int) -> str:
    """What an output is, for people: `[N, 10]`, `[N] of int64`, `one number`, `text`."""
    if not isinstance(value, Tensor):
        return "text" if isinstance(value, str) else type(value).__name__
    kind = "" if value.is_floating_point() else f" of {str(value.dtype).removeprefix('torch.')}"
    if not value.dim():
        return f"one number{kind}"
    first = "N" if len(value) == images else str(len(value))
    return f"[{', '.join([first, *map(str, value.shape[1:])])}]{kind}"


def _listed(outputs: Mapping[str, Any], images: int) -> str:
    listed = [f"`{name}` ({shape_of(value, images)})" for name, value in outputs.items()][:MOST_NAMED]
    return ", ".join(listed) + (f" and {len(outputs) - MOST_NAMED} more" if len(outputs) > MOST_NAMED else "")


def _no_scores(outputs: Mapping[str, Any], images: int) -> Refusal:
    """Why none of these outputs could be the scores."""
    tensors = [value for value in outputs.values() if isinstance(value, Tensor)]
    if not tensors:
        what = ", ".join(sorted({type(value).__name__ for value in outputs.values()})) or "nothing"
        return Refusal(
            "unsupported_output",
            f"The model returns {what}, not a tensor of one score per class.",
            "Wrap the model so that it returns its scores. " + EXPORT_ADVICE,
        )
    if len(outputs) > 1:
        return Refusal(
            "output_not_scores",
            f"None of the model's outputs has [N, K] scores for {images} images: {_listed(outputs, images)}.",
            "Wrap the model so that it returns one score per class. " + EXPORT_ADVICE,
        )
    shape = list(tensors[0].shape)
    if not tensors[0].is_floating_point():
        return Refusal(
            "output_not_scores",
            f"The model answers {images} images with {shape_of(tensors[0], images)}: labels perhaps, but no scores.",
            "Export it without `argmax`, rounding or a comparison at its end, so that it returns one score per class.",
        )
    if len(shape) == 2 and shape[:1] == [images] and shape[1] == 1:
        return Refusal(
            "single_output",
            "The model has one output (K = 1); a scan compares labels, so it needs at least two.",
            "Export a binary classifier with two outputs, one per class.",
        )
    return Refusal(
        "output_not_scores",
        f"The model answers {images} images with shape {shape}, not [N, K] scores.",
        "Detection, segmentation and embedding models cannot be scanned. " + EXPORT_ADVICE,
    )
