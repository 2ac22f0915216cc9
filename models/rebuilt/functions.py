"""Each function of the archive becomes a Python function, compiled once: eager speed, and torch.compile can read it.

No text of the archive is evaluated: a fresh syntax tree is written from the understood code (writing.py), and compiled
into a namespace of its own, without Python's builtins, in which functions and operators have numbered names.

The functions hold no state. They take the tensors of the code and the current device as a hidden argument, so a copy of
a module can share its functions and still have constants, and a device, of its own.
"""

import ast
from collections import namedtuple
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from app.core.errors import Refusal
from app.core.intake.torchscript.code import program as ir
from app.core.intake.torchscript.code.grad_mode import NO_GRAD
from models.rebuilt import plain
from models.rebuilt.devices import check_devices, device_attributes
from models.rebuilt.errors import INCONSISTENT, UNKNOWN_OPERATOR
from models.rebuilt.operators import implementation_of, trips
from models.rebuilt.writing import ATTRIBUTE, ITEM, MAPPING, METHOD, NUMBER, REAL, TRIPS, Writer, number_for

Function = Callable[..., Any]
NUMBERS: dict[str, Function] = {NUMBER: plain.number, REAL: plain.real}
ASKS_FOR_GRADIENTS = "aten::is_grad_enabled"
NOT_COMPILED = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)


class Namespace:
    """All that the functions of one program can reach by a name."""

    def __init__(self, program: ir.Program, constants: int, format_version: int) -> None:
        self.baked_training: list[tuple[str, int]] = []
        self.named_tuples = {
            name: _named_tuple(defined) for name, defined in program.classes.items() if defined.kind == "NamedTuple"
        }
        self._constants = constants
        self._devices = device_attributes(program)
        self._leaves_no_grad_out = NO_GRAD in program.classes
        self._format_version = format_version
        self._values: dict[str, Any] = {"__builtins__": {}, TRIPS: trips, **NUMBERS, ITEM: plain.item}
        self._values[MAPPING] = plain.mapping
        self._functions = {name: f"f_{n}" for n, name in enumerate([*program.functions, *self.named_tuples])}
        self._operators: dict[str, str] = {}
        for name, kind in self.named_tuples.items():
            self._values[self._functions[name]] = _constructor(kind, program.classes[name])
        for name, function in program.functions.items():
            self._values[self._functions[name]] = self._compiled(function, is_method=False)

    def methods(self, defined: ir.Class) -> dict[str, Function]:
        """The methods of a class, under their prefixed names."""
        return {METHOD + name: self._compiled(method, is_method=True) for name, method in defined.methods.items()}

    def function(self, name: str, member: str, line: int) -> str:
        if name not in self._functions:
            raise INCONSISTENT.refusal(f"The code calls {name}, which is not in it.", member, line)
        return self._functions[name]

    def operator(self, name: str, member: str, line: int) -> str:
        if name == ASKS_FOR_GRADIENTS and self._leaves_no_grad_out:
            raise UNKNOWN_OPERATOR.refusal("The code asks whether gradients are taken.", member, line)
        if name not in self._operators:
            implementation = implementation_of(name, self._format_version)
            if implementation is None:
                raise UNKNOWN_OPERATOR.refusal(f"The operator {name} is not known.", member, line)
            self._operators[name] = f"op_{len(self._operators)}"
            self._values[self._operators[name]] = implementation
        return self._operators[name]

    def constant(self, index: int, member: str, line: int) -> str:
        if not 0 <= index < self._constants:
            raise INCONSISTENT.refusal(f"The code reads constant {index}, which does not exist.", member, line)
        return f"c{index}"

    def _compiled(self, function: ir.Function, is_method: bool) -> Function:
        check_devices(function, self._devices)
        writer = Writer(function, self)
        try:
            tree = ast.Module([writer.definition(is_method)], type_ignores=[])
            code = compile(ast.fix_missing_locations(tree), f"<{function.member}>", "exec")
        except Refusal:
            raise
        except NOT_COMPILED as error:
            raise INCONSISTENT.refusal(
                f"The function {function.name} cannot be compiled: {error}.", function.member, function.line
            ) from error
        self.baked_training += [(function.member, line) for line in writer.baked_training]
        made: dict[str, Function] = {}
        exec(code, self._values, made)
        (compiled,) = made.values()
        return compiled


def _named_tuple(defined: ir.Class) -> type[tuple[Any, ...]]:
    """A NamedTuple class of the archive; a field whose name is none for Python is called by its position."""
    fields = [*defined.attributes]
    kind = namedtuple(defined.name.rpartition(".")[2], fields, rename=True)  # type: ignore[misc]
    for position, field in enumerate(fields):
        setattr(kind, ATTRIBUTE + field, property(itemgetter(position)))
    return kind


def _as_it_is(value: Any) -> Any:
    return value


def _constructor(kind: type[tuple[Any, ...]], defined: ir.Class) -> Function:
    """Called as all functions are, with the constants first."""
    as_declared: list[Function] = [
        NUMBERS.get(number_for(type_) or "", _as_it_is) for type_ in defined.attributes.values()
    ]

    def construct(constants: Any, *values: Any) -> tuple[Any, ...]:
        declared = [declare(value) for declare, value in zip(as_declared, values, strict=True)]
        return kind(*declared)

    return construct
