"""The objects of a pickle, held against the classes of the code that declare what they have.

torch builds an object by filling slots of a stated type from the pickle; where the two differ, a number is taken for a
tensor. Here every object has exactly the attributes that its class declares, each of the type declared. What the
methods do with them is not known.
"""

from collections.abc import Iterator

from app.core.intake.torchscript.code.program import Class, Program, Type
from app.core.intake.torchscript.rules import DO_NOT_LOAD, Rule
from app.core.intake.torchscript.values import DeviceValue, ObjectValue, TensorValue, Value
from app.core.text import printable

CLASS = Rule("pickle-class", "unsafe_pickle", DO_NOT_LOAD)
ATTRIBUTES = Rule("pickle-attributes", "unsafe_pickle", DO_NOT_LOAD)


def check_agreement(root: Value, program: Program, member: str) -> None:
    """Raises GateRefusal unless every object in the value, and in what it holds, is as its class declares."""
    for place in objects_in(root):
        declared = program.classes.get(place.type_name)
        if declared is None or declared.kind != "Module":
            shown = printable(place.type_name)
            raise CLASS.refusal(
                f"The pickle holds an object of `{shown}`, a class that the code does not have.", member
            )
        _check_attributes(place, declared, program, member)


def objects_in(root: Value) -> Iterator[ObjectValue]:
    """Every object once, however often it is shared; from the outside to the inside."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        match waiting.pop():
            case ObjectValue() as found if id(found) not in seen:
                seen.add(id(found))
                yield found
                waiting.extend(reversed(found.attributes.values()))
            case tuple() | list() as items:
                waiting.extend(reversed(items))
            case dict() as items:
                waiting.extend(reversed(items.values()))


def _check_attributes(place: ObjectValue, declared: Class, program: Program, member: str) -> None:
    shown = printable(place.type_name)
    if place.attributes.keys() != declared.attributes.keys():
        names = sorted(place.attributes.keys() ^ declared.attributes.keys())
        detail = f"An object of `{shown}` and its class differ in the attribute `{printable(names[0])}`."
        raise ATTRIBUTES.refusal(detail, member)
    for name, type_ in declared.attributes.items():
        if not _fits(place.attributes[name], type_, program):
            detail = (
                f"The attribute `{printable(name)}` of `{shown}` is not of the type `{type_.name}` it is declared as."
            )
            raise ATTRIBUTES.refusal(detail, member)
    for name in (*declared.parameters, *declared.buffers):
        if not isinstance(place.attributes[name], TensorValue | None):
            detail = (
                f"The attribute `{printable(name)}` of `{shown}` is listed as a parameter or a buffer, and no tensor."
            )
            raise ATTRIBUTES.refusal(detail, member)


def _fits(value: Value, type_: Type, program: Program) -> bool:
    """Whether a value is of a type; a `Union` fits nothing, as trying its choices one by one has no bound."""
    match type_.name, type_.arguments:
        case "Tensor", ():
            return isinstance(value, TensorValue)
        case "bool", ():
            return isinstance(value, bool)
        case "int", ():
            return type(value) is int
        case "float", ():
            return isinstance(value, float)
        case "number", ():
            return isinstance(value, int | float)
        case "str", ():
            return isinstance(value, str)
        case "NoneType", ():
            return value is None
        case "Device", ():
            return isinstance(value, DeviceValue)
        case "Optional", (inner,):
            return value is None or _fits(value, inner, program)
        case "List", (inner,):
            return isinstance(value, list) and all(_fits(item, inner, program) for item in value)
        case "Dict", (key_type, inner):
            return isinstance(value, dict) and all(
                _fits(key, key_type, program) and _fits(item, inner, program) for key, item in value.items()
            )
        case "Tuple", types:
            return isinstance(value, tuple) and _each_fits(value, types, program)
        case name, ():
            named = program.classes.get(name)
            if named is not None and named.kind == "NamedTuple":
                return isinstance(value, tuple) and _each_fits(value, tuple(named.attributes.values()), program)
            return isinstance(value, ObjectValue) and value.type_name == name
    return False


def _each_fits(values: tuple[Value, ...], types: tuple[Type, ...], program: Program) -> bool:
    return len(values) == len(types) and all(_fits(*pair, program) for pair in zip(values, types, strict=True))
