"""Why an archive is refused: each rule has an id that does not change, a problem code, and advice."""

from dataclasses import dataclass

from app.core.errors import Problem, Refusal
from app.core.text import printable

FETCH_AGAIN = "Fetch the file again from where it was published, and compare its checksum."
EXPORT_AGAIN = "Export the model again with torch.jit.script or torch.jit.trace, see docs/export.md."
LONGEST_MEMBER = 1_000  # characters of the name of a member
DO_NOT_LOAD = "Do not load this file with torch.jit.load: loading it would run what was refused here."


@dataclass(frozen=True)
class Rule:
    """One rule of the gate."""

    id: str  # kebab-case: "zip-overlap", "pickle-global", "code-operator"
    code: str  # of the problem: malformed_archive, unsafe_pickle, unsafe_code or unsupported_operator
    advice: str

    def refusal(self, detail: str, member: str | None = None, line: int | None = None) -> "GateRefusal":
        return GateRefusal(self, detail, member, line)


class GateRefusal(Refusal):
    """A refusal that says which rule was broken, and where."""

    def __init__(self, rule: Rule, detail: str, member: str | None = None, line: int | None = None) -> None:
        super().__init__(rule.code, detail, rule.advice)
        self.rule = rule
        shown = None if member is None else printable(member, LONGEST_MEMBER)
        self.problem = Problem(rule.code, detail, rule.advice, rule=rule.id, member=shown, line=line)
