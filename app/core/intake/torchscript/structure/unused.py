"""Large tensors of an archive that its code never reads: what they are there for, the code does not say.

Of an object that the code names and does not look into, as in training only, nothing is said.
"""

from collections.abc import Collection, Iterator

from app.core.intake.torchscript.code.operators import nodes_of
from app.core.intake.torchscript.code.program import ConstantTensor, Program
from app.core.intake.torchscript.structure.objects import Key
from app.core.intake.torchscript.structure.rules import UNUSED, Finding
from app.core.intake.torchscript.values import ITEM_BYTES, ObjectValue, TensorValue, Value
from app.core.text import printable

LARGE_BYTES = 1 << 20
_LONGEST_PATH = 200


def unused_tensors(
    module: ObjectValue, constants: tuple[Value, ...], program: Program, read: Collection[Key]
) -> Iterator[Finding]:
    """A note for each large tensor among the attributes of objects and the constants of the code."""
    for path, tensor in _unread(module, read):
        yield from _noted(f"The tensor `{printable(path, _LONGEST_PATH)}`", tensor)
    named = {node.index for node in _constants_in(program)}
    for index, constant in enumerate(constants):
        if index not in named and isinstance(constant, TensorValue):
            yield from _noted(f"The constant `c{index}`", constant)


def _noted(what: str, tensor: TensorValue) -> Iterator[Finding]:
    size = tensor.items * ITEM_BYTES[tensor.storage.dtype]
    if size >= LARGE_BYTES:
        yield Finding(UNUSED, f"{what} has {size:,} bytes, and no code that is reached reads it.", blocks=False)


def _unread(module: ObjectValue, read: Collection[Key]) -> Iterator[tuple[str, TensorValue]]:
    looked_into = {key for key, _ in read}
    waiting: list[tuple[str, ObjectValue]] = [("", module)]
    seen: set[int] = set()
    while waiting:
        path, owner = waiting.pop()
        if id(owner) in seen or id(owner) not in looked_into:
            continue
        seen.add(id(owner))
        for name, value in owner.attributes.items():
            longer = f"{path}.{name}" if path else name
            if isinstance(value, TensorValue) and (id(owner), name) not in read:
                yield longer, value
            elif isinstance(value, ObjectValue):
                waiting.append((longer[-_LONGEST_PATH:], value))


def _constants_in(program: Program) -> Iterator[ConstantTensor]:
    for class_ in program.classes.values():
        for part in (*class_.constants.values(), *class_.methods.values()):
            yield from (node for node in nodes_of(part) if isinstance(node, ConstantTensor))
    for function in program.functions.values():
        yield from (node for node in nodes_of(function) if isinstance(node, ConstantTensor))
