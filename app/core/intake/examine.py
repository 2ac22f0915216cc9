"""A model file from a stranger: understood as a whole, or refused in the words that help most.

The gate says which rule of the format is broken. That is of no use to somebody who took a pickle, a picture or a folder
for a TorchScript archive: what such a file is, and what to do with it, the first look tells (archive.py).
"""

from pathlib import Path

from app.core.errors import Refusal
from app.core.intake.archive import MODEL_BYTES, check_torchscript_archive
from app.core.intake.torchscript.archive.end import END
from app.core.intake.torchscript.archive.layout import PREFIX
from app.core.intake.torchscript.gate import Understood, understand
from app.core.intake.torchscript.rules import GateRefusal

_NO_ARCHIVE = (
    "model_not_found",
    "model_not_a_file",
    "model_empty",
    "model_not_torchscript",
    "model_is_pickle",
    "model_is_state_dict",
    "model_is_export",
)


def examine_model(path: Path, most_bytes: int = MODEL_BYTES) -> Understood:
    """What a TorchScript archive holds; raises Refusal for anything else."""
    try:
        return understand(path, most_bytes)
    except GateRefusal as refusal:
        if refusal.rule.code == "malformed_archive" and refusal.rule not in (PREFIX, END):
            _refuse_other_files(path, most_bytes)
        raise


def _refuse_other_files(path: Path, most_bytes: int) -> None:
    """Raises Refusal for a file that was never a TorchScript archive; what breaks one, the gate knows better."""
    try:
        check_torchscript_archive(path, most_bytes)
    except Refusal as refusal:
        if refusal.problem.code in _NO_ARCHIVE:
            raise
