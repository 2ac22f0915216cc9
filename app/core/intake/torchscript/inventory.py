"""What an understood archive consists of, counted for a report: tensors by their role, what they share, devices.

The file is not read again. Names that a stranger chose are made printable. Whether any of it is suspicious is not
judged here.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from app.core.intake.torchscript.agreement import objects_in
from app.core.intake.torchscript.code.operators import nodes_of
from app.core.intake.torchscript.code.program import DeviceLiteral, Program
from app.core.intake.torchscript.values import ITEM_BYTES, DeviceValue, ObjectValue, TensorValue, Value
from app.core.text import ELLIPSIS, printable

ROLES = ("parameter", "buffer", "attribute", "constant")
_LONGEST_PATH = 200
_MOST_PATHS = 20  # of one record that a report lists


@dataclass(frozen=True)
class Place:
    """Where a tensor is found: one tensor may be found in several places."""

    path: str  # as in a state dict: "layer1.0.conv1.weight"; a constant's is "CONSTANTS.c3"
    role: str  # one of ROLES
    tensor: TensorValue


def tensor_places(module: ObjectValue, constants: tuple[Value, ...], program: Program) -> Iterator[Place]:
    """The places of all tensors, in the order of the pickles; what is inside a shared object is listed once."""
    seen: set[int] = set()
    yield from _places_in("", "attribute", module, program, seen)
    for index, constant in enumerate(constants):
        yield from _places_in(f"CONSTANTS.c{index}", "constant", constant, program, seen)


def tensor_facts(places: Iterable[Place]) -> dict[str, object]:
    """How many tensors of each role there are, with their bytes by type; one that is shared counts once."""
    roles: dict[str, dict[int, TensorValue]] = {role: {} for role in ROLES}
    for place in places:
        roles[place.role].setdefault(id(place.tensor), place.tensor)
    return {f"{role}s": _sizes(tensors.values()) for role, tensors in roles.items()}


def shared_storages(places: Iterable[Place]) -> dict[str, list[str]]:
    """The records that are seen from more than one place, with these places."""
    seen_from: defaultdict[str, list[str]] = defaultdict(list)
    for place in places:
        seen_from[place.tensor.storage.record].append(place.path)
    return {record: _first(paths) for record, paths in seen_from.items() if len(paths) > 1}


def baked_devices(places: Iterable[Place], module: ObjectValue, program: Program) -> dict[str, list[str]]:
    """The devices that tensors were saved on, and those that attributes and the code name."""
    attributes = (value for found in objects_in(module) for value in found.attributes.values())
    return {
        "tensors": sorted({place.tensor.storage.device for place in places}),
        "attributes": sorted({value.name for value in attributes if isinstance(value, DeviceValue)}),
        "code": sorted({node.name for _, node in code_nodes(program) if isinstance(node, DeviceLiteral)}),
    }


def code_nodes(program: Program) -> Iterator[tuple[str, object]]:
    """Every node of the code, with the member it stands in."""
    for class_ in program.classes.values():
        for part in (*class_.constants.values(), *class_.methods.values()):
            for node in nodes_of(part):
                yield class_.member, node
    for function in program.functions.values():
        for node in nodes_of(function):
            yield function.member, node


def _first(paths: list[str]) -> list[str]:
    more = len(paths) - _MOST_PATHS
    return [*paths[:_MOST_PATHS], f"and {more:,} more"] if more > 0 else paths


def _sizes(tensors: Collection[TensorValue]) -> dict[str, object]:
    dtype_bytes: Counter[str] = Counter()
    for tensor in tensors:
        dtype_bytes[tensor.storage.dtype] += tensor.items * ITEM_BYTES[tensor.storage.dtype]
    items = sum(tensor.items for tensor in tensors)
    return {"tensors": len(tensors), "items": items, "bytes": dict(dtype_bytes)}


def _places_in(path: str, role: str, value: Value, program: Program, seen: set[int]) -> Iterator[Place]:
    if isinstance(value, TensorValue):
        yield Place(path, role, value)
    elif id(value) not in seen:
        seen.add(id(value))
        for name, its_role, part in _parts(value, role, program):
            yield from _places_in(_extended(path, name), its_role, part, program, seen)


def _extended(path: str, name: str) -> str:
    """The path of a part, whose name is printable; one that is long is cut, and grows no further."""
    longer = f"{path}.{name}" if path else name
    return longer if len(longer) <= _LONGEST_PATH else longer[: _LONGEST_PATH - 1] + ELLIPSIS


def _parts(value: Value, role: str, program: Program) -> Iterator[tuple[str, str, Value]]:
    """The parts of a value with their names and roles; those of a list or a dict have its role."""
    match value:
        case ObjectValue(type_name, attributes):
            declared = program.classes[type_name]
            roles = dict.fromkeys(declared.buffers, "buffer") | dict.fromkeys(declared.parameters, "parameter")
            for name, part in attributes.items():
                yield name, roles.get(name, "attribute"), part
        case tuple() | list() as items:
            for index, part in enumerate(items):
                yield str(index), role, part
        case dict() as entries:
            for key, part in entries.items():
                yield printable(str(key)), role, part
