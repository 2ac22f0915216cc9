"""How what a pickle built is nested: not in itself, not too deep, not vast once its shared parts are written out.

A list of two references to one list, sixty times over, is a list of 2^60 items to whoever walks it and forgets where he
has been. So the walk here, which remembers and does not recurse, is the last thing that happens to a pickle; after it,
any reader may recurse.
"""

from collections.abc import Collection
from typing import cast

from app.core.intake.torchscript.pickles.opcodes import BOMB
from app.core.intake.torchscript.rules import DO_NOT_LOAD, Rule
from app.core.intake.torchscript.values import DeviceValue, ObjectValue, TensorValue, Value

CYCLE = Rule("pickle-cycle", "unsafe_pickle", DO_NOT_LOAD)
INGREDIENT = Rule("pickle-ingredient", "unsafe_pickle", DO_NOT_LOAD)

MOST_LEVELS = 100
MOST_VALUES = 250_000  # what is shared counts wherever it occurs

_LEAVES = (type(None), bool, int, float, str, DeviceValue, TensorValue)
_LEAF_SIZE = (1, 1)


def check_nesting(root: object) -> Value:
    """The same value, now known to hold values alone, and to be safe to walk."""
    sizes: dict[int, tuple[int, int]] = {}  # by identity, of what is measured: how many levels, how many values
    entered: set[int] = set()  # those on the way from the root to where we are
    waiting = [root]
    while waiting:
        value = waiting[-1]
        if id(value) in sizes:
            waiting.pop()
            continue
        parts = _parts(value)
        inner = [part for part in parts if not isinstance(part, _LEAVES) and id(part) not in sizes]
        if inner:
            entered.add(id(value))
            if any(id(part) in entered for part in inner):
                raise CYCLE.refusal("A value holds itself")
            waiting.extend(inner)
        else:
            sizes[id(value)] = _measure([sizes.get(id(part), _LEAF_SIZE) for part in parts])
            entered.discard(id(value))
    return cast(Value, root)  # whatever is none was refused among the parts


def _measure(parts: list[tuple[int, int]]) -> tuple[int, int]:
    levels = 1 + max((levels for levels, _ in parts), default=0)
    values = 1 + sum(values for _, values in parts)
    if levels > MOST_LEVELS:
        raise BOMB.refusal(f"Values are nested more than {MOST_LEVELS} levels deep")
    if values > MOST_VALUES:
        raise BOMB.refusal(f"Written out, the pickle holds more than {MOST_VALUES:,} values")
    return levels, values


def _parts(value: object) -> Collection[object]:
    match value:
        case tuple() | list():
            return value
        case dict():
            return value.values()  # the keys are scalars
        case ObjectValue():
            return value.attributes.values()
        case _ if isinstance(value, _LEAVES):
            return ()
    raise INGREDIENT.refusal(f"The pickle ends with a {type(value).__name__.lstrip('_')} where a value belongs")
