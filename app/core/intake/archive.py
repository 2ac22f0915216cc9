"""A first look at the model file: is it a TorchScript archive at all, and if not, what is it and what helps?

The file is hashed and its zip directory is walked; no tensor is read, nothing is unpickled, torch is not imported.
A file that passes is a TorchScript archive by its shape. Whether its code is harmless, its records complete, or its
weights frozen is not known here.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from app.core.errors import Refusal
from app.core.intake.formats import explain_head, explain_kind, explain_members
from app.core.intake.guards import GIGABYTE, MEGABYTE, Allowance, readable_size
from app.core.intake.members import Archive, open_archive, unreadable
from app.core.text import printable

MODEL_BYTES = 2 * GIGABYTE
_DIRECTORY_BYTES = 8 * MEGABYTE  # a network of some 50,000 tensors
_HEAD_BYTES = 512
_PICKLE_BYTES = 1 << 16  # enough to name the outermost class


@dataclass(frozen=True)
class ArchiveFacts:
    """What is known of a model file before its code is read."""

    bytes: int
    sha256: str
    members: int
    root: str  # the folder that holds everything, named by whoever saved the file


def check_torchscript_archive(path: Path, most_bytes: int = MODEL_BYTES) -> ArchiveFacts:
    """Facts about a TorchScript archive; raises Refusal for anything else."""
    size, sha256 = _check_file(path, most_bytes)
    with open_archive(path, "model", Allowance(most_bytes, _too_large(most_bytes)), _DIRECTORY_BYTES) as archive:
        if sum(member.size for member in archive.members) > most_bytes:
            raise _too_large(most_bytes)
        return ArchiveFacts(size, sha256, len(archive.members), _torchscript_root(archive))


def _check_file(path: Path, most_bytes: int) -> tuple[int, str]:
    """Size and hash of a file that begins like a zip."""
    shown = printable(str(path))
    try:
        if not path.exists():
            raise Refusal("model_not_found", f"There is no file `{shown}`.", "Check the path.")
        if path.is_dir():
            advice = "Give the TorchScript file; a folder of weights needs an export first, see docs/export.md."
            raise Refusal("model_not_a_file", f"`{shown}` is a folder.", advice)
        if not path.is_file():
            raise Refusal("model_not_a_file", f"`{shown}` is not an ordinary file.", "Copy the model into a file.")
        size = path.stat().st_size
        if size == 0:
            raise Refusal("model_empty", f"The file `{shown}` is empty.", "Fetch or save the model again.")
        if size > most_bytes:
            raise _too_large(most_bytes)
        with path.open("rb") as source:
            head = source.read(_HEAD_BYTES)
            if not head.startswith((b"PK\3\4", b"PK\5\6")):
                raise explain_head(head)
            source.seek(0)
            return size, hashlib.file_digest(source, "sha256").hexdigest()
    except OSError as error:
        raise unreadable("model", error) from error


def _torchscript_root(archive: Archive) -> str:
    roots = {member.parts[0] for member in archive.members}
    root = roots.pop() if len(roots) == 1 else ""
    below = {member.path.removeprefix(f"{root}/"): member for member in archive.members}
    has_code = any(path.startswith("code/") for path in below)
    if root and has_code and {"data.pkl", "constants.pkl"} <= set(below):
        if refusal := explain_kind(below.keys()):
            raise refusal
        return printable(root)
    data_pickle = b""
    if "data.pkl" in below:
        with archive.stream(below["data.pkl"]) as read:
            data_pickle = read(_PICKLE_BYTES)
    raise explain_members(below.keys(), data_pickle)


def _too_large(most_bytes: int) -> Refusal:
    return Refusal(
        "model_too_large",
        f"The model is larger than {readable_size(most_bytes)}.",
        "Save it in half precision, without optimiser state, or raise the limit.",
    )
