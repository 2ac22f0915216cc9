"""What a scan took for true about its inputs, in rows of words, the same in the terminal, on the page and in a report.

A reader should see at one glance whether the model was understood: which output, which labels, which pixels, and how
well they go together. Made from a report's or a check's document alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.core.findings import Likeness
from app.core.intake.notes import NoteKind

DASH = "\N{EN DASH}"  # a number that does not exist
MOST_NAMES = 8  # of missing classes, outputs or conventions

LABEL_SOURCES = {
    "declared": "declared with the bundle",
    "indices": "the bundle gives indices",
    "sorted": "assumed: numbered as the names sort",
    "inferred": "read off the model's own answers",
    "none": "there are none; the model's own answers stand in",
}
LIKENESS = {
    Likeness.AS_TRAINED: "the images are like those of the training",
    Likeness.SOMEWHAT_DIFFERENT: "the images are somewhat different from those of the training",
    Likeness.FROM_ELSEWHERE: "the images are from elsewhere",
    Likeness.NOT_KNOWN: "not known, for no batch norm remembers the training",
}
INPUT_SOURCES = {"given": "given with the scan", "bundle": "given in the bundle", "inferred": "inferred"}
TAKES = {
    "batch": "",
    "channels_last": "; channels last",
    "list": "; as a list of images",
    "single": "; one image at a time",
    "single_channels_last": "; one image at a time, channels last",
}


@dataclass(frozen=True)
class Fact:
    """One row."""

    name: str
    words: str


def facts(document: Mapping[str, Any]) -> list[Fact]:
    """The rows for a document; none of a model that was not loaded."""
    if document["inputs"]["input"] is None:
        return []
    names = [row["name"] for row in document["labels"]]
    return [Fact(name, words) for name, words in _facts(document["inputs"], names)]


def understood(document: Mapping[str, Any]) -> dict[str, Any]:
    """All of it for programs that show it: the rows, the doubts, and the values behind them."""
    doubts = document["inputs"]["doubts"]
    return {
        "ready": not (document["reasons"] or doubts),
        "facts": [asdict(fact) for fact in facts(document)],
        "doubts": doubts,
        "inputs": document["inputs"],
    }


def _facts(inputs: Mapping[str, Any], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    output = inputs["output"].replace("_", " ")
    yield "Outputs", f"{output} for {len(names)} labels{_other_outputs(inputs)}"
    yield "Accuracy", _accuracy(inputs)
    if inputs["shift"]:
        yield "Likeness", _shift(inputs["shift"])
    yield "Classes", _labels(inputs)
    yield "Images", _images(inputs, names)
    yield "Pixels", _pixels(inputs)
    if inputs["conventions"]:
        yield "Runners-up", _runners_up(inputs)
    yield "Size", _size(inputs)
    if told := [note["sentence"] for note in inputs["notes"] if note["kind"] != NoteKind.ASSUMED_ORDER]:
        yield "Bundle", " ".join(told)


def _other_outputs(inputs: Mapping[str, Any]) -> str:
    chosen, others = inputs["chosen_output"], inputs["other_outputs"]
    said = "" if chosen is None else f", from the output `{chosen}`"
    if others:
        shown = [
            f"`{other['name']}` {other['shape']}"
            + (" (says the same)" if other["same_as_chosen"] else "")
            + (f" ({percent(other['clean_accuracy'])} right)" if other["clean_accuracy"] is not None else "")
            for other in others[:MOST_NAMES]
        ]
        said += f"; not scanned: {_listed(shown, len(others))}"
    return said


def _accuracy(inputs: Mapping[str, Any]) -> str:
    sure = f"the model is {percent(inputs['confidence'])} sure of its answers"
    if inputs["clean_accuracy"] is None:
        return f"unknown, for the images carry no labels; {sure}"
    low, high = map(percent, inputs["accuracy_interval"] or (None, None))
    said = f"{percent(inputs['clean_accuracy'])} of {inputs['images_judged']:,} images ({low} to {high})"
    expected = inputs["expected_accuracy"]
    return f"{said}; {sure}; {'nothing was declared' if expected is None else f'{percent(expected)} declared'}"


def _shift(shift: Mapping[str, Any]) -> str:
    said = LIKENESS[Likeness(shift["likeness"])]
    if shift["distance"] is not None:
        norms = f"the median of {shift['layers']} batch norms" if shift["layers"] > 1 else "by its only batch norm"
        said += f", {shift['distance']:.2f} standard deviations away ({norms})"
    if shift["shortfall"]:
        said += f"; beyond chance, the accuracy is {percent(shift['shortfall'])} lower than it should be"
    return said


def _labels(inputs: Mapping[str, Any]) -> str:
    source = LABEL_SOURCES.get(inputs["label_source"], inputs["label_source"])
    cause = inputs["class_order_cause"]
    if cause and inputs["label_source"] == "inferred":
        return f"{source}: {cause}"
    assumed = [note["sentence"] for note in inputs["notes"] if note["kind"] == NoteKind.ASSUMED_ORDER]
    return ". ".join([source, *assumed])


def _images(inputs: Mapping[str, Any], names: Sequence[str]) -> str:
    counts = inputs["images_per_label"]
    there = [count for count in counts if count] or [0]
    spread = f"{min(there):,}" if min(there) == max(there) else f"{min(there):,} to {max(there):,}"
    said = f"{inputs['images']:,}, {spread} of each of {sum(map(bool, counts))} classes"
    missing = [name for name, count in zip(names, counts, strict=True) if not count]
    if not missing:
        return said + "; none is missing"
    return f"{said}; {len(missing)} missing: {_listed(missing[:MOST_NAMES], len(missing))}"


def _pixels(inputs: Mapping[str, Any]) -> str:
    spec = inputs["input"]
    low, high = spec["range"]
    numbers = f"range {low:g} to {high:g}, mean {_numbers(spec['mean'])}, std {_numbers(spec['std'])}"
    order = ", blue first (BGR)" if spec["bgr"] else ""
    source = INPUT_SOURCES.get(inputs["input_source"], inputs["input_source"])
    return f"{inputs['convention'] or numbers + order}, {source}" + (f" ({numbers})" if inputs["convention"] else "")


def _runners_up(inputs: Mapping[str, Any]) -> str:
    _, *others = inputs["conventions"]
    if not others:
        return "none comes near"
    close = set(inputs["close_conventions"])
    shown = [
        f"{other['name']} ({percent(other['accuracy'])} right{', about as good' if other['name'] in close else ''})"
        for other in others[:3]
    ]
    return _listed(shown, len(others))


def _size(inputs: Mapping[str, Any]) -> str:
    spec = inputs["input"]
    colour = "grey" if spec["channels"] == 1 else "colour" if spec["channels"] == 3 else f"{spec['channels']} channels"
    return f"{spec['height']} x {spec['width']}, {colour}{TAKES.get(inputs['takes'], '')}"


def _numbers(values: Sequence[float]) -> str:
    same = len(set(values)) == 1
    return ", ".join(f"{value:.4g}" for value in (values[:1] if same else values))


def _listed(shown: Sequence[str], count: int) -> str:
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return ", ".join(shown) + more


def percent(rate: float | None) -> str:
    return DASH if rate is None else f"{100 * rate:.1f}\N{NO-BREAK SPACE}%"
