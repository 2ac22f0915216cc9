"""bundle.json: what the owner of a bundle declares about the model's input and the order of its classes.

    {"input": {"height": 32, "width": 32, "mean": [0.5], "std": [0.5], "range": [0, 1], "expected_accuracy": 0.93},
     "classes": {"cat": 0, "dog": 1}}

Every entry is optional. Classes may come in the words and forms that people have: `class_to_idx`, `id2label`, a list of
names, or nothing but those; and an entry of `input` may stand at the top. What is not understood is refused by name,
because a misspelt `expected_acuracy` that is silently ignored helps nobody. Whether the declaration fits the model is
not known here.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, NoReturn
from unicodedata import normalize

from app.core.errors import Refusal
from app.core.intake.guards import LARGEST_LABEL, MEGABYTE
from app.core.intake.notes import Note, NoteKind
from app.core.text import printable

LARGEST_SIDE = 8192  # a classifier that looks at larger images is not what a bundle should be able to ask for


@dataclass(frozen=True)
class DeclaredInput:
    """The `input` object: what is None was not declared.

    Mean and std are in units of `range`, one per channel in the order that the model takes them in.
    """

    height: int | None = None
    width: int | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    range: tuple[float, float] | None = None
    channel_order: str | None = None  # "rgb" or "bgr"
    expected_accuracy: float | None = None

    def filled_from(self, other: "DeclaredInput | None") -> "DeclaredInput":
        """This declaration, with what it leaves open taken from another."""
        if other is None:
            return self
        said = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return DeclaredInput(**{name: getattr(other, name) if value is None else value for name, value in said.items()})


_INPUT_WORDS = tuple(entry.name for entry in fields(DeclaredInput))
# Words for classes, without case and signs: from name to index, the other way round, and such as may be either.
_MAPS = [*product(("class", "label", "name"), ("to", "2"), ("id", "idx", "index"))]
_BY_NAME = {f"{name}{to}{index}" for name, to, index in _MAPS}
_BY_INDEX = {f"{index}{to}{name}" for name, to, index in _MAPS}
_CLASS_WORDS = _BY_NAME | _BY_INDEX | {
    *("class", "classes", "classnames", "classlabels", "classlist", "classindices", "classids", "classmap"),
    *("labels", "labelnames", "labellist", "labelmap", "names", "categories", "vocab"),
}  # fmt: skip
_ELSEWHERE = {
    **dict.fromkeys(("imagemean", "means"), "`mean` in `input`"),
    **dict.fromkeys(("imagestd", "stds", "stddev"), "`std` in `input`"),
    **dict.fromkeys(("normalize", "normalise", "normalization", "transform"), "`mean` and `std` in `input`"),
    **dict.fromkeys(("size", "imagesize", "imgsize", "inputsize", "inputshape", "cropsize", "shape", "resolution"),
                    "`height` and `width` in `input`"),
    **dict.fromkeys(("scale", "rescalefactor", "pixelrange", "minmax"), "`range` in `input`, such as [0, 1]"),
    **dict.fromkeys(("accuracy", "acc", "expectedacc", "testaccuracy"), "`expected_accuracy` in `input`"),
    **dict.fromkeys(("preprocessing", "preprocess", "preprocessor"), "`input`"),
    **dict.fromkeys(("numchannels", "inchannels", "inchans"), "`channels` in `input`"),
}  # fmt: skip


@dataclass(frozen=True)
class Declaration:
    """A whole bundle.json."""

    input: DeclaredInput | None = None
    classes: dict[str, int] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()


def read_declaration(content: bytes) -> Declaration:
    """Reads and checks bundle.json; raises Refusal `bundle_json`."""
    try:
        return _declaration(_document(content))
    except _MisdeclaredError as error:
        raise Refusal(
            "bundle_json",
            f"The bundle's `bundle.json` {error}.",
            'One looks like {"input": {"height": 32, "width": 32}, "classes": {"cat": 0}}; see docs/export.md.',
        ) from error


def read_class_file(path: Path) -> dict[str, int]:
    """The classes in a file of their own: JSON as in bundle.json, or text with a name a line; raises Refusal."""
    try:
        with path.open("rb") as source:
            content = source.read(MEGABYTE + 1)
    except OSError as error:
        reason = printable(error.strerror or str(error))
        raise Refusal("class_file", f"The file of classes cannot be read: {reason}.", "Check the path.") from error
    try:
        if len(content) > MEGABYTE:
            _refuse("is larger than 1 MB")
        classes = classes_in(content)
    except _MisdeclaredError as error:
        raise Refusal(
            "class_file",
            f"The file of classes `{printable(path.name)}` {error}.",
            'Write JSON, {"cat": 0, "dog": 1} or ["cat", "dog"], or plain text with one name a line, in the order '
            "of the model's outputs.",
        ) from error
    return classes


def classes_in(content: bytes) -> dict[str, int]:
    """The classes in a file that is there for them, JSON or text; raises ValueError, worded as what it does."""
    is_json = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
    classes = declared_classes(_document(content) if is_json else _lines(content))
    if not classes:
        _refuse("names no class")
    return classes


def declared_classes(document: Any) -> dict[str, int]:
    """The classes in a document that is there for them; raises ValueError, worded as what the document does."""
    if isinstance(document, dict) and (words := [word for word in document if _plain(word) in _CLASS_WORDS]):
        return _agreed({word: _classes(document[word], word) for word in words})
    return _classes(document, "classes")


def _document(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)
    except _MisdeclaredError:
        raise
    except (ValueError, RecursionError) as error:
        _refuse(f"is no JSON: {printable(str(error))}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            _refuse(f"says `{printable(name)}` twice")
        found[name] = value
    return found


def _declaration(document: Any) -> Declaration:
    if isinstance(document, list) and document:
        return Declaration(None, _classes(document, "classes"), (_told("is a list of classes"),))
    if not isinstance(document, dict):
        _refuse("must be an object")
    words, inputs, at_top, unknown = [], [], dict[str, Any](), []
    for word, value in document.items():
        if _plain(word) in _CLASS_WORDS:
            words.append(word)
        elif _plain(word) in ("input", "inputs"):
            inputs.append(word)
        elif word.lower() in _INPUT_WORDS:
            at_top[word.lower()] = value
        else:
            unknown.append(word)
    if unknown and unknown == list(document) and len(unknown) > 1 and not {*map(_plain, unknown)} & set(_ELSEWHERE):
        return Declaration(None, _classes(document, "classes"), (_told("is a map of classes"),))
    if unknown:
        _refuse(f"has an unknown entry `{printable(unknown[0])}`{_hint(unknown[0])}")
    if len(inputs) > 1:
        _refuse(f"has both `{inputs[0]}` and `{inputs[1]}`")
    entry = document[inputs[0]] if inputs else None
    notes = [_told(f"says `{word}`, read as `classes`") for word in words if word != "classes"]
    if at_top:
        if isinstance(entry, dict) and (twice := sorted(at_top.keys() & {word.lower() for word in entry})):
            _refuse(f"says `{twice[0]}` both at its top and in `input`")
        entry = at_top | (entry if isinstance(entry, dict) else {})
        notes.append(_told(f"says `{'`, `'.join(at_top)}` at its top, read as part of `input`"))
    declared = None if entry is None else declared_input(entry)
    return Declaration(declared, _agreed({word: _classes(document[word], word) for word in words}), tuple(notes))


def _told(what: str) -> Note:
    return Note(NoteKind.DECLARED_ELSEWHERE, f"`bundle.json` {what}.", example="bundle.json")


def _plain(word: str) -> str:
    return re.sub("[^a-z0-9]", "", word.lower())


def _hint(word: str) -> str:
    """Where an entry that nobody knows probably belongs."""
    if place := _ELSEWHERE.get(_plain(word)):
        return f"; say it as {place}"
    near = get_close_matches(word.lower(), (*_INPUT_WORDS, "classes", "class_to_idx", "id2label"), 1)
    known = f"; known are `input` with {', '.join(_INPUT_WORDS)}, and `classes`"
    return f"; perhaps `{near[0]}` is meant" if near else known


def declared_input(entry: Any) -> DeclaredInput:
    """Checks an `input` object, wherever it was declared; raises ValueError, worded as what the declaration does."""
    known = [item.name for item in fields(DeclaredInput)]
    if not isinstance(entry, dict):
        _refuse("has an `input` that is not an object")
    if strange := [name for name in entry if name not in known]:
        place = _ELSEWHERE.get(_plain(strange[0]))
        hint = f"; say it as {place}" if place else f"; known are {', '.join(known)}"
        _refuse(f"has an unknown entry `{printable(strange[0])}` in `input`{hint}")
    entry = {name: value for name, value in entry.items() if value is not None}
    for side in {"height", "width"} & set(entry):
        if type(entry[side]) is not int or not 1 <= entry[side] <= LARGEST_SIDE:
            _refuse(f"must give `{side}` as a whole number from 1 to {LARGEST_SIDE}")
    channels = entry.get("channels")
    if channels is not None and (type(channels) is not int or channels not in (1, 3)):
        _refuse("must give `channels` as 1 or 3")
    for name in {"mean", "std"} & set(entry):
        entry[name] = _numbers(entry[name], name, (1, 3) if channels is None else tuple({1, channels}))
    if min(entry.get("std", (1.0,))) <= 0:
        _refuse("must give a `std` above zero")
    if "range" in entry:
        low, high = entry["range"] = _numbers(entry["range"], "range", (2,))
        if low >= high:
            _refuse("must give `range` as two numbers, the smaller first, such as [0, 1]")
    if entry.get("channel_order", "rgb") not in ("rgb", "bgr"):
        _refuse('must give `channel_order` as "rgb" or "bgr"')
    if "expected_accuracy" in entry:
        (accuracy,) = _numbers(entry["expected_accuracy"], "expected_accuracy", (1,))
        if not 0 < accuracy <= 1:
            _refuse("must give `expected_accuracy` as a fraction, such as 0.93")
        entry["expected_accuracy"] = accuracy
    return DeclaredInput(**entry)


def _numbers(value: Any, name: str, lengths: tuple[int, ...]) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    if len(values) not in lengths or not all(type(number) in (int, float) for number in values):
        _refuse(f"must give `{name}` as {' or '.join(map(str, sorted(lengths)))} number(s)")
    try:
        numbers = tuple(float(number) for number in values)
    except OverflowError:  # an integer of hundreds of digits
        numbers = (math.inf,)
    if not all(math.isfinite(number) for number in numbers):
        _refuse(f"must give finite numbers for `{name}`")
    return numbers


def _lines(content: bytes) -> Any:
    """A name a line, with or without its index before or behind it."""
    try:
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        _refuse("is neither JSON nor text in UTF-8")
    lines = [line for line in lines if line]
    for rest in (lines, lines[1:]):  # the first may be a header
        rows = [re.split(r"[\s,;:]+", line, maxsplit=1) for line in rest]
        if rows and all(len(row) == 2 and row[0].isdecimal() for row in rows):
            return {"id2label": _object([(index, name) for index, name in rows])}
        rows = [re.split(r"[\s,;:]+(?=[^\s,;:]+$)", line, maxsplit=1) for line in rest]
        if rows and all(len(row) == 2 and row[1].isdecimal() for row in rows):
            return {"class_to_idx": _object([(name, index) for name, index in rows])}
    return lines


def _classes(entry: Any, word: str) -> dict[str, int]:
    """The index of every class, whichever way round an entry tells it; `word` is what the entry is called."""
    if isinstance(entry, list):
        pairs: Iterable[tuple[Any, Any]]
        if all(isinstance(item, dict) for item in entry):  # [{"id": 0, "name": "cat"}]
            pairs = [_pair(item) for item in entry]
        else:
            pairs = [(name, index) for index, name in enumerate(entry)]
    elif isinstance(entry, dict):
        pairs = _pairs(entry, word)
    else:
        _refuse(f"must give `{printable(word)}` as an object from folder names to class indices, or as a list of names")
    classes: dict[str, int] = {}
    for name, index in pairs:
        if type(name) not in (str, int) or name == "":
            _refuse(f"must give the names in `{printable(word)}` as text, not as {printable(json.dumps(name), 40)}")
        if type(index) is not int or not 0 <= index <= LARGEST_LABEL:
            _refuse(f"must give class `{printable(str(name))}` an index from 0 to {LARGEST_LABEL:,}")
        name = normalize("NFC", str(name))
        if classes.setdefault(name, index) != index:
            _refuse(
                f"gives `{printable(name)}` to the indices {classes[name]} and {index}; give every class its own name"
            )
    return classes


def _pairs(entry: Mapping[str, Any], word: str) -> Iterable[tuple[Any, Any]]:
    """Name and index of each entry, told by the word where the entries alone could mean either."""
    values = list(entry.values())
    keys_count, values_count = all(map(_counts, entry)), all(map(_counts, values))
    if values and all(isinstance(value, list) and value for value in values):  # {"0": ["n01440764", "tench"]}
        return [(value[0], _index(key)) for key, value in entry.items()]
    if keys_count and all(type(value) in (str, int) for value in values) and _plain(word) in _BY_INDEX:
        return [(value, _index(key)) for key, value in entry.items()]
    if values and all(isinstance(value, str) for value in values):
        if keys_count and values_count and _plain(word) not in _BY_NAME:
            _refuse(f"has numbers on both sides of `{printable(word)}`; say it as `class_to_idx` or as `id2label`")
        if values_count:
            return [(key, _index(value)) for key, value in entry.items()]
        if keys_count:
            return [(value, _index(key)) for key, value in entry.items()]
    return entry.items()


def _counts(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) is not None


def _index(text: str) -> int | None:
    return int(text) if _counts(text) else None


def _pair(item: Mapping[str, Any]) -> tuple[Any, Any]:
    """Name and index of a class that is told as an object; `label` and `class` may be either."""
    told = {_plain(word): value for word, value in item.items()}
    name = next((word for word in ("name", "classname", "labelname", "label", "class") if word in told), "")
    index = next((word for word in ("id", "idx", "index", "classid", "labelid", "label", "class", "value")
                  if word in told and word != name), "")  # fmt: skip
    return told.get(name), told.get(index)


def _agreed(classes: Mapping[str, dict[str, int]]) -> dict[str, int]:
    """What several entries say alike, such as `id2label` and `label2id`."""
    (first, agreed), *others = classes.items() or {"classes": dict[str, int]()}.items()
    for word, said in others:
        if said != agreed:
            _refuse(f"says other classes in `{printable(first)}` than in `{printable(word)}`; keep one of them")
    return agreed


class _MisdeclaredError(ValueError):
    pass


def _refuse(what: str) -> NoReturn:
    raise _MisdeclaredError(what)
