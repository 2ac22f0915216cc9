"""A suspect model from its file: understood by the gate, then rebuilt as an ordinary module in evaluation mode.

torch.jit never sees the file. Half precision is turned into single, in which gradients are steadier and CPUs faster;
the records of the file stay what they are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.core.intake.torchscript.gate import Understood, understand
from app.core.intake.torchscript.walk import walk
from models.rebuilt import RebuiltModule, rebuild

Form = Literal["scripted", "traced", "frozen"]


@dataclass(frozen=True)
class Suspect:
    """A rebuilt module and what is known of the archive it came in."""

    module: RebuiltModule
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
        return bool(self.module.was_training or self.module.baked_training)


def load_suspect(path: Path) -> Suspect:
    """Raises GateRefusal for what the gate does not understand or allow."""
    most_bytes = path.stat().st_size
    archive = understand(path, most_bytes)
    with walk(path, most_bytes) as walked:
        module = rebuild(
            archive.module, archive.constants, archive.program, lambda record: walked.read(record, most_bytes)
        )
    return Suspect(module.float(), archive)
