"""What an engine may leave, by name, and when it is believed: read as a stranger's words, and written afresh.

A record (JSON) has the shape of its dataclass and finite numbers; what is kept is what was understood of it. Two other
kinds of files are handed on to people: pictures of triggers, of which the outline is read and nothing is decoded, and
repaired weights, which have to pass the gate like any model. Tensors are read by other engines, behind their fences.
"""

import json
import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.core.errors import Refusal
from app.core.findings import Confirmation, FirstPass, LabelFinding, Preparation, RepairReport
from app.core.intake.examine import examine_model
from app.core.report.figures import check_png

JSON_BYTES = 2**20
TENSOR_BYTES = 2**30  # of a file; repaired weights may be larger where the model is
STRIP_BYTES = 2**23
MOST_BYTES = 2**60  # of memory, that a search could take
RECORDS: dict[str, Any] = {
    r"preparation\.json": TypeAdapter(Preparation),
    r"repair\.json": TypeAdapter(RepairReport),
    r"first_pass/\d{6}\.json": TypeAdapter(FirstPass),
    r"labels/\d{6}\.json": TypeAdapter(LabelFinding),
    r"confirmations/\d{6}-[a-z]+\.json": TypeAdapter(Confirmation),
}
TENSORS = re.compile(
    r"(start|students|repaired)\.safetensors|repaired\.pt|triggers/\d{6}-[a-z]+\.safetensors|strips/\d{6}-[a-z]+\.png"
)


class UntrustworthyError(Exception):
    """An engine has left what no engine of ours leaves."""


def record_of(name: str) -> TypeAdapter[Any] | None:
    """What a JSON file of this name must hold, None for other files."""
    return next((record for pattern, record in RECORDS.items() if re.fullmatch(pattern, name)), None)


def rewritten(name: str, record: TypeAdapter[Any], content: bytes) -> bytes:
    """A record as our own engine would have written it; raises UntrustworthyError."""
    try:
        found = record.validate_json(content)
        written = json.dumps(record.dump_python(found), indent=1, allow_nan=False)
    except ValidationError as error:
        raise UntrustworthyError(f"{name} is no {error.title}: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise UntrustworthyError(f"{name} has a number that is not finite") from error
    if isinstance(found, LabelFinding) and name != f"labels/{found.label:06d}.json":
        raise UntrustworthyError(f"{name} is about label {found.label}")
    if isinstance(found, FirstPass) and not _is_whole(name, found):
        raise UntrustworthyError(f"{name} is not about the labels of a block")
    if isinstance(found, Preparation) and len(found.label_names) != found.num_labels:
        raise UntrustworthyError(f"{name} has {len(found.label_names)} names for {found.num_labels} labels")
    if isinstance(found, Preparation) and not _is_possible(found):
        raise UntrustworthyError(f"{name} tells of a search that is none")
    return written.encode() + b"\n"


def _is_possible(found: Preparation) -> bool:
    """Whether what a search takes together, and of memory, can be so."""
    parts = (found.labels_at_once, found.images_at_once)
    return all(part is None or part >= 1 for part in parts) and 0 <= found.search_bytes < MOST_BYTES


def _is_whole(name: str, found: FirstPass) -> bool:
    """Whether a block's scores are of the labels that its name says, one of each."""
    first = int(name.removeprefix("first_pass/").removesuffix(".json"))
    consecutive = found.labels == tuple(range(first, first + len(found.labels))) and bool(found.labels)
    return consecutive and all(len(scores) == len(found.labels) for scores in found.scores.values())


def check_file(name: str, copy: Path) -> None:
    """Look into a file that was copied out under this name; raises UntrustworthyError."""
    if name == "repaired.pt":
        try:
            examine_model(copy, copy.stat().st_size)
        except Refusal as refusal:
            raise UntrustworthyError(f"{name} does not pass the gate: {refusal}") from refusal
    elif name.startswith("strips/"):
        try:
            check_png(copy.read_bytes())
        except ValueError as error:
            raise UntrustworthyError(f"{name} is no picture of a trigger: {error}") from error


def largest_bytes(name: str, model_bytes: int) -> int:
    """How large a file of this name may be, made from a model of that size."""
    if record_of(name) is not None:
        return JSON_BYTES
    return STRIP_BYTES if name.startswith("strips/") else max(TENSOR_BYTES, 2 * model_bytes)
