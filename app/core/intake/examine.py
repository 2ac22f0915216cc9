"""A model file from a stranger: understood as a whole, or refused in the words that help most.

The gate says which rule of the format is broken. That is of no use to somebody who took a pickle, a picture or a folder
for a TorchScript archive: what such a file is, and what to do with it, the first look tells (archive.py).
"""

from pathlib import Path

from app.core.errors import Refusal
from app.core.intake.archive import MODEL_BYTES, check_torchscript_archive
from app.core.intake.torchscript.archive.end import END
from app.core.intake.torchscript.archive.layout import PREFIX
from app.core.intake.torchscript.code.rules import CUSTOM_CLASS, FORBIDDEN_OPERATOR, LOAD_TIME, UNSUPPORTED
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
    "model_is_old",
)
_NOT_SCANNABLE = ("model_is_mobile", "model_is_quantised", "model_is_data_parallel")
_OF_CODE = (LOAD_TIME, CUSTOM_CLASS, UNSUPPORTED, FORBIDDEN_OPERATOR)  # what these kinds are refused for


def examine_model(path: Path, most_bytes: int = MODEL_BYTES) -> Understood:
    """What a TorchScript archive holds; raises Refusal for anything else."""
    try:
        return understand(path, most_bytes)
    except GateRefusal as refusal:
        if refusal.rule.code == "malformed_archive" and refusal.rule not in (PREFIX, END):
            _refuse_other_files(path, most_bytes, (*_NO_ARCHIVE, *_NOT_SCANNABLE))
        elif refusal.rule in _OF_CODE:
            _refuse_other_files(path, most_bytes, _NOT_SCANNABLE)
        raise


def _refuse_other_files(path: Path, most_bytes: int, kinds: tuple[str, ...]) -> None:
    """Raises Refusal for a file of one of these kinds; what breaks a TorchScript archive, the gate knows better."""
    try:
        check_torchscript_archive(path, most_bytes)
    except Refusal as refusal:
        if refusal.problem.code in kinds:
            raise
