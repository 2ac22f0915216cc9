"""A suspect model from its file: understood by the gate, then rebuilt as an ordinary module in evaluation mode.

torch.jit never sees the file. What the gate accepts and the rebuild cannot express, the jit runs from an archive that
was written afresh of what the gate understood; torch has deprecated it, and without it such a file is refused. Weights
in half precision are turned into single, in which gradients are steadier and CPUs faster, and so is then what the code
would cast to half. The records of the file stay as they are.
"""

import itertools
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from app.core.intake.torchscript.gate import Understood, reopened, understand
from app.core.intake.torchscript.inventory import tensor_places
from app.core.intake.torchscript.repack import repack
from app.core.intake.torchscript.rules import EXPORT_AGAIN, GateRefusal, Rule
from app.core.text import printable
from models.rebuilt import RebuiltModule, rebuild

UNSOUND = Rule("repack-unsound", "malformed_archive", EXPORT_AGAIN)
_LONGEST_ERROR = 500  # characters

HALVES = ("float16", "bfloat16")

Form = Literal["scripted", "traced", "frozen"]


@dataclass(frozen=True)
class Suspect:
    """A module in evaluation mode, its parameters fixed, and what is known of the archive it came in."""

    module: nn.Module  # a RebuiltModule unless only the jit can express it
    archive: Understood

    @property
    def form(self) -> Form:
        """How the module was exported: "frozen" has no parameters of its own, "traced" calls the tracer's operators."""
        if not any(defined.parameters for defined in self.archive.program.classes.values()):
            return "frozen"
        traced = "traced_inputs.pkl" in self.archive.members or "aten::_convolution" in self.archive.operators
        return "traced" if traced else "scripted"

    @property
    def was_training(self) -> bool:
        """Whether a dropout or a batch norm was saved in training mode; it is in evaluation mode here."""
        rebuilt = self.module
        return isinstance(rebuilt, RebuiltModule) and bool(rebuilt.was_training or rebuilt.baked_training)

    @property
    def was_half(self) -> bool:
        """Whether numbers of the archive have half precision; the module computes with single ones."""
        archive = self.archive
        places = tensor_places(archive.module, archive.constants, archive.program)
        return any(place.tensor.storage.dtype in HALVES for place in places)


def load_suspect(path: Path) -> Suspect:
    """Raises GateRefusal for what the gate does not understand or allow."""
    archive = understand(path, path.stat().st_size)
    try:
        module: nn.Module = _rebuilt(archive)
    except GateRefusal as refusal:
        module = _repacked(archive, refusal)
    suspect = Suspect(module, archive)
    if suspect.was_half:
        module._apply(_in_single)
    if _takes_doubles(module):
        module.register_forward_pre_hook(_in_double)
    return suspect


def _in_single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _takes_doubles(module: nn.Module) -> bool:
    numbers = itertools.chain(module.parameters(), module.buffers())
    return {weight.dtype for weight in numbers if weight.is_floating_point() and weight.dim() > 1} == {torch.float64}


def _in_double(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The images as doubles: a batch, or a list of them."""
    return tuple([image.double() for image in given] if isinstance(given, list) else given.double() for given in inputs)


def _rebuilt(archive: Understood) -> RebuiltModule:
    with reopened(archive) as walked:
        return rebuild(
            archive.module,
            archive.constants,
            archive.program,
            lambda record: walked.read(record, archive.size),
            archive.format_version,
        )


def _repacked(archive: Understood, not_rebuilt: GateRefusal) -> nn.Module:
    """The module as the jit runs it; why it was not rebuilt is what a torch without a jit answers."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's advice is to who wrote the model
        fresh = Path(folder) / "model.pt"
        repack(archive, fresh)
        try:
            # The profiling executor recompiles for every new shape, which costs seconds and gains little here.
            torch._C._jit_set_profiling_executor(False)
            module: nn.Module = torch.jit.load(str(fresh), map_location="cpu")
        except (AttributeError, NotImplementedError) as error:
            raise not_rebuilt from error
        except RuntimeError as error:
            raise UNSOUND.refusal(f"The jit cannot read the code: {printable(str(error), _LONGEST_ERROR)}.") from error
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()
