"""What in the code of an understood archive a scan could not see through, or that people should know of.

The code is followed from the image to the scores: the first tensor of what `forward` returns. A finding says where it
is; whether it was put there on purpose is not known here.
"""

from dataclasses import replace

from app.core.intake.torchscript.code.operators import operators_of
from app.core.intake.torchscript.code.program import Function
from app.core.intake.torchscript.gate import Understood, reopened
from app.core.intake.torchscript.structure import knowledge
from app.core.intake.torchscript.structure.heap import Heap, TooMuchWorkError
from app.core.intake.torchscript.structure.objects import Objects
from app.core.intake.torchscript.structure.operators import StoppedError
from app.core.intake.torchscript.structure.rules import (
    ALLOCATION,
    ENDLESS,
    NOT_FOLLOWED,
    PRINT,
    TRAINING,
    Finding,
)
from app.core.intake.torchscript.structure.running import Run
from app.core.intake.torchscript.structure.taints import BATCH, PIXELS, SHAPE, Marks
from app.core.intake.torchscript.structure.unused import unused_tensors
from app.core.intake.torchscript.structure.values import (
    Container,
    Memory,
    Part,
    Some,
    Tuple,
    Value,
    is_tensor,
)
from app.core.text import printable

WHEREVER = (ENDLESS, PRINT, TRAINING, ALLOCATION)  # found where the code does it; all others, in the scores
MOST_FINDINGS = 100  # of one archive that are told
_MOST_CALLS = 5  # until the state of the network changes no more
_LONGEST_TEXT = 200
_CODE_BYTES = 2 << 20
# What is raised where an operator is given what it does not take, which the gate does not know; no jit would run it.
_DOES_NOT_FIT = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError)


def structure_findings(understood: Understood) -> tuple[Finding, ...]:
    """All findings, those that block a verdict first, each with its line of code."""
    marks, heap = Marks(), Heap()
    objects = Objects(heap, marks, understood.program, understood.constants)
    run = Run(objects, heap, marks, understood.program)
    asked = knowledge.OF_GRADIENTS
    run.operators.asks_for_gradients = any(node.name in asked for _, node in operators_of(understood.program))
    found: list[Finding] = []
    try:
        reached = _followed(understood, run)
        found += marks.in_taint(reached | marks.of(*WHEREVER))
        found += unused_tensors(understood.module, understood.constants, understood.program, objects.read)
    except (TooMuchWorkError, StoppedError, RecursionError, *_DOES_NOT_FIT) as error:
        found += marks.findings
        found.append(_not_followed(understood, error))
    ordered = sorted(found, key=lambda one: (not one.blocks, one.rule.id, one.member or "", one.line or 0))
    return _with_lines(understood, ordered[:MOST_FINDINGS])


def _followed(understood: Understood, run: Run) -> int:
    """What the scores depend on, in the first call and in later ones."""
    forward = understood.program.classes[understood.module.type_name].methods.get("forward")
    if forward is None:
        raise StoppedError
    for _ in range(_MOST_CALLS):
        changes = run.heap.kept_changes
        answer = run.call(forward, [Part((understood.module,)), *map(_image, forward.parameters[1:2])], _more(forward))
        reached = run.heap.evidence(_scores(answer))
        if not run.objects.end_call() and run.heap.kept_changes == changes:
            return reached
    raise TooMuchWorkError


def _image(_: object) -> Value:
    """A batch of images, of whose numbers nothing is known."""
    dims = tuple(Some(source, is_positive=True) for source in (BATCH, SHAPE, SHAPE, SHAPE))
    return Some(0, frozenset((Memory(PIXELS),)), dims, is_tensor=True)


def _more(forward: Function) -> dict[str, Value]:
    """What else `forward` takes and has no default for: nobody gives it, so the scan will say so."""
    return {one.name: Some() for one in forward.parameters[2:] if not one.has_default}


def _scores(answer: Value) -> Value:
    """The first tensor of a tuple, a list or a dict, as models/classifier.py takes it; all, where none is sure."""
    inside = answer.items if isinstance(answer, Tuple) else answer.values if isinstance(answer, Container) else ()
    return next((one for one in inside if is_tensor(one)), answer)


def _not_followed(understood: Understood, error: Exception) -> Finding:
    forward = understood.program.classes[understood.module.type_name].methods.get("forward")
    told = "No way through `forward` ends without an exception."
    if not isinstance(error, StoppedError):
        told = "The code is too entangled to be followed from the image to the scores."
    where = (forward.member, forward.line) if forward else (None, None)
    return Finding(NOT_FOLLOWED, told, *where)


def _with_lines(understood: Understood, found: list[Finding]) -> tuple[Finding, ...]:
    """The findings with the text of their lines, which the gate has read before."""
    members = {one.member for one in found if one.member}
    if not members:
        return tuple(found)
    with reopened(understood) as walked:
        lines = {member: walked.read(member, _CODE_BYTES).decode("ascii").split("\n") for member in members}
    return tuple(
        replace(one, text=printable(lines[one.member][one.line - 1].strip(), _LONGEST_TEXT))
        if one.member and one.line
        else one
        for one in found
    )
