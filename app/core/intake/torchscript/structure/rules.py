"""What is looked for in the code of a network, and what is said where it is found.

A finding blocks a verdict where it could keep a scan from seeing what the deployed network does; others are notes. How
it is found is not known here.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from app.core.findings import Reason

_ASK = "Ask the supplier for a model without it, or for what it is there; a classifier rarely needs it."
_EXPORT = "If the network is yours, export it without this code, in evaluation mode; see docs/export.md."
_SMOOTH = (
    "Ask the supplier what it is for. If the network is yours, write it with an operator that has a gradient (relu, "
    "leaky_relu, clamp, softmax), and export it again."
)
_ENDS = "Ask for a network whose loops have a fixed number of turns."
_NOTHING = "Nothing, unless you wonder what it is there for."


@dataclass(frozen=True)
class StructureRule:
    """One thing to look for; `reason` is why a scan gives no verdict where a finding blocks."""

    id: str  # kebab-case, as that of a rule of the gate
    reason: Reason
    advice: str
    blocks: bool = True  # unless the finding itself says otherwise


_FLOW, _SENSITIVE = Reason.DATA_DEPENDENT_CONTROL_FLOW, Reason.ENVIRONMENT_SENSITIVE_MODEL

BRANCH = StructureRule("structure-branch", _FLOW, _SMOOTH)
GATE = StructureRule("structure-gate", _FLOW, _SMOOTH)
DETACHED = StructureRule("structure-detached", _FLOW, _ASK)
NO_GRAD = StructureRule("structure-no-grad", _FLOW, _EXPORT, blocks=False)
ENDLESS = StructureRule("structure-endless", _FLOW, _ENDS)
NOT_FOLLOWED = StructureRule("structure-not-followed", _FLOW, _ASK)
GRAD_MODE = StructureRule("structure-grad-mode", _SENSITIVE, _ASK)
BATCH_SIZE = StructureRule("structure-batch-size", _SENSITIVE, _ASK)
SURROUNDINGS = StructureRule("structure-surroundings", _SENSITIVE, _ASK)
MEMORY = StructureRule("structure-memory", _SENSITIVE, _ASK)
RANDOM = StructureRule("structure-random", _SENSITIVE, _ASK)
TRAINING = StructureRule("structure-training", _SENSITIVE, _EXPORT, blocks=False)
ALLOCATION = StructureRule("structure-allocation", _FLOW, _ASK, blocks=False)
PRINT = StructureRule("structure-print", _FLOW, _NOTHING, blocks=False)
UNUSED = StructureRule("structure-unused", _FLOW, _NOTHING, blocks=False)


@dataclass(frozen=True)
class Finding:
    """Where the code does what a rule looks for; `text` is the line as torch printed it."""

    rule: StructureRule
    detail: str  # whole sentences
    member: str | None = None
    line: int | None = None
    blocks: bool = field(default=True, kw_only=True)
    text: str = field(default="", kw_only=True)

    def to_json(self) -> dict[str, Any]:
        rule = self.rule
        reason = rule.reason.value if self.blocks else None
        return {**asdict(self), "rule": rule.id, "reason": reason, "advice": rule.advice}
