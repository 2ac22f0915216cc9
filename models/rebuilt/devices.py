"""A device that the code names, `torch.device("cuda:0")`, may say where a tensor goes; nothing else may come of it.

Here such a device is whichever one the module is on. Code that could compare it, write it into a text or hand it on
would see another device than in the jit, and could be another network there. The device of a tensor is what it is, and
may be asked for anything. What it answers can be changed for a while, to see what the code makes of it (as_if_on).
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from app.core.intake.torchscript.code import program as ir
from app.core.intake.torchscript.code.operators import nodes_of
from models.rebuilt.errors import UNKNOWN_OPERATOR

_PLACING = ("aten::to", "aten::tensor", "aten::as_tensor")  # those that take a device without its name


def device_attributes(program: ir.Program) -> frozenset[str]:
    """The names under which any class keeps a device, or something with devices in it."""
    classes = program.classes.values()
    types = [pair for defined in classes for pair in (*defined.attributes.items(), *defined.constant_types.items())]
    return frozenset(name for name, kind in types if ir.Type("Device") in nodes_of(kind))


def check_devices(function: ir.Function, attributes: Collection[str]) -> None:
    """Raises GateRefusal for a function in which more comes of a named device."""
    variables = _variables(function, attributes)
    for node in nodes_of(function.body):
        if isinstance(node, ir.Operator) and node.name == "aten::device" and not _is_plain(node):
            raise UNKNOWN_OPERATOR.refusal("The code computes a device.", function.member, node.line)
        for part in _observed(node):
            if _is_named_device(part, attributes, variables):
                detail = "The code does more with a device it names than to put a tensor there."
                raise UNKNOWN_OPERATOR.refusal(detail, function.member, part.line)


def _variables(function: ir.Function, attributes: Collection[str]) -> set[str]:
    """The variables that hold a named device."""
    waiting: list[str] = []
    copies: dict[str, list[str]] = {}
    for node in nodes_of(function.body):
        match node:
            case ir.Assign((name,), False, ir.Name(copied)):
                copies.setdefault(copied, []).append(name)
            case ir.Assign((name,), False, value) if _is_named_device(value, attributes, ()):
                waiting.append(name)
    variables: set[str] = set()
    while waiting:
        name = waiting.pop()
        variables.add(name)
        waiting += copies.pop(name, [])
    return variables


def _is_named_device(node: ir.Expression, attributes: Collection[str], variables: Collection[str]) -> bool:
    match node:
        case ir.DeviceLiteral() | ir.Operator("aten::device"):
            return True
        case ir.Attribute(_, name):
            return name in attributes
        case ir.Name(name):
            return name in variables
    return False


def _is_plain(operator: ir.Operator) -> bool:
    """Whether nothing happens while its arguments are computed, as they will not be."""
    arguments = (*operator.arguments, *(value for _, value in operator.keywords))
    return all(isinstance(argument, ir.Name | ir.Literal) for argument in arguments)


def _observed(node: object) -> Iterable[ir.Expression]:
    """The parts of a node from which something may come, other than a tensor's place."""
    match node:
        case ir.Operator(name, arguments, keywords):
            stated = [value for keyword, value in keywords if keyword != "device"]
            return stated if name in _PLACING else [*arguments, *stated]
        case ir.Call(_, arguments, keywords) | ir.Method(_, _, arguments, keywords):
            return [*arguments, *(value for _, value in keywords)]
        case ir.Sequence(_, items):
            return items
        case ir.Mapping(keys, values):
            return [*keys, *values]
        case ir.Item(value, index):
            return [value, index]
        case ir.Typed(_, value) | ir.Return(value) | ir.SetAttribute(_, _, value):
            return [value]
        case ir.Assign(_, True, value):
            return [value]
    return ()


_said: list[str] = []  # the kind of device that code is told, innermost last; none: the true one


@contextmanager
def as_if_on(kind: str) -> Iterator[None]:
    """Code that asks of which kind a device is, or whether a tensor is on one of a kind, is told this one meanwhile."""
    _said.append(kind)
    try:
        yield
    finally:
        _said.pop()


def kind_of(device: torch.device) -> str:
    """What the code is told when it asks for the type of a device."""
    return _said[-1] if _said else device.type


def is_cpu(tensor: Tensor) -> bool:
    return kind_of(tensor.device) == "cpu"


def is_cuda(tensor: Tensor) -> bool:
    return kind_of(tensor.device) == "cuda"
