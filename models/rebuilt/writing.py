"""Code of the archive written as Python's own syntax tree, node by node.

Every name of the archive gets a prefix of ours (`v_` a local, `a_` an attribute, `m_` a method), so none of them is a
name of Python's: what the archive calls `__import__` is the local `v___import__`. Literals are constants of the tree;
functions and operators are names that a namespace hands out. What they are bound to is not known here.

`with torch.no_grad():` is left out and its body kept: the values are the same, and a network that hides its gradient
could not be searched for triggers.
"""

import ast
from collections.abc import Sequence
from typing import Protocol

from app.core.intake.torchscript.code import program as ir
from models.rebuilt.errors import INCONSISTENT, UNKNOWN_OPERATOR
from models.rebuilt.modes import DTYPE_ARGUMENTS, in_evaluation_mode, on_current_device
from models.rebuilt.operators import HALVES, is_unknown_type

LOCAL, ATTRIBUTE, METHOD = "v_", "a_", "m_"
CONSTANTS = "constants"  # the hidden argument: the tensors of the code, and the current device
TRIPS = "trips"  # a function that says what a loop runs through
NUMBER = "number"  # a function that takes the number out of a tensor
REAL = "real"  # the same, as a float
ITEM = "item"  # a function that takes an item out of a list, a tuple, a dict or a text
MAPPING = "mapping"  # a function that makes a dict of pairs


class Names(Protocol):
    """Where the names of functions, operators and constants come from; each refuses what it does not know."""

    def function(self, name: str, member: str, line: int) -> str: ...
    def operator(self, name: str, member: str, line: int) -> str: ...
    def constant(self, index: int, member: str, line: int) -> str: ...


class Writer:
    """Writes one function; the lines of operators that were in training mode are kept."""

    def __init__(self, function: ir.Function, names: Names) -> None:
        self._function = function
        self._names = names
        self.baked_training: list[int] = []

    def definition(self, is_method: bool) -> ast.FunctionDef:
        """The function, with the constants as its first argument; a method finds them in its object."""
        parameters = self._function.parameters
        arguments = [ast.arg(LOCAL + parameter.name) for parameter in parameters]
        body = [*map(self._declared, filter(_is_number, parameters)), *self._statements(self._function.body)]
        if is_method:
            if not parameters:
                raise INCONSISTENT.refusal("A method has no self.", self._function.member, self._function.line)
            found = ast.Attribute(_read(LOCAL + parameters[0].name), CONSTANTS, ast.Load())
            body.insert(0, ast.Assign([_write(CONSTANTS)], found))
        else:
            arguments.insert(0, ast.arg(CONSTANTS))
        return ast.FunctionDef(
            name=METHOD + self._function.name.rpartition(".")[2],
            args=ast.arguments(
                posonlyargs=[],
                args=arguments,
                kwonlyargs=[],
                kw_defaults=[],
                defaults=[self._default(parameter) for parameter in parameters if parameter.has_default],
            ),
            body=body,
            decorator_list=[],
            lineno=self._function.line,
            end_lineno=self._function.line,
        )

    def _declared(self, parameter: ir.Parameter) -> ast.stmt:
        """What is given for a number may be a tensor, which changes later on."""
        name = LOCAL + parameter.name
        return ast.Assign([_write(name)], _as_declared(_read(name), parameter.type), lineno=self._function.line)

    def _statements(self, statements: Sequence[ir.Statement]) -> list[ast.stmt]:
        return [self._statement(statement) for statement in statements] or [ast.Pass()]

    def _statement(self, node: ir.Statement) -> ast.stmt:
        written = self._statement_of(node)
        written.lineno = written.end_lineno = node.line
        return written

    def _statement_of(self, node: ir.Statement) -> ast.stmt:
        match node:
            case ir.Assign((), _, value):
                return ast.Expr(self._expression(value))
            case ir.Assign(targets, unpacks, value):
                names: list[ast.expr] = [_write(LOCAL + target) for target in targets]
                target = ast.Tuple(names, ast.Store()) if unpacks or len(names) > 1 else names[0]
                return ast.Assign([target], self._expression(value))
            case ir.SetAttribute(value, name, new):
                attribute = ast.Attribute(self._expression(value), ATTRIBUTE + name, ast.Store())
                return ast.Assign([attribute], self._expression(new))
            case ir.If(condition, then, otherwise):
                return ast.If(self._expression(condition), self._statements(then), self._statements(otherwise))
            case ir.For(target, trips, body):
                counted = ast.Call(_read(TRIPS), [self._expression(trips)], [])
                return ast.For(_write(LOCAL + target), counted, self._statements(body), [])
            case ir.While(condition, body):
                return ast.While(self._expression(condition), self._statements(body), [])
            case ir.NoGrad(_, body):
                return ast.If(ast.Constant(True), self._statements(body), [])
            case ir.Return(value):
                return ast.Return(_as_declared(self._expression(value), self._function.returns))

    def _expression(self, node: ir.Expression) -> ast.expr:
        written = self._expression_of(node)
        written.lineno = written.end_lineno = node.line
        return written

    def _expression_of(self, node: ir.Expression) -> ast.expr:
        member = self._function.member
        match node:
            case ir.Name(name):
                return _read(LOCAL + name)
            case ir.Literal(value):
                return ast.Constant(value)
            case ir.ConstantTensor(index, line):
                return ast.Attribute(_read(CONSTANTS), self._names.constant(index, member, line), ast.Load())
            case ir.DeviceLiteral():
                return ast.Attribute(_read(CONSTANTS), "device", ast.Load())
            case ir.Reference(name, line):
                return _read(self._names.function(name, member, line))
            case ir.Attribute(value, name):
                return ast.Attribute(self._expression(value), ATTRIBUTE + name, ast.Load())
            case ir.Item(value, index):
                return ast.Call(_read(ITEM), [self._expression(value), self._expression(index)], [])
            case ir.Sequence(kind, items):
                return (ast.Tuple if kind == "tuple" else ast.List)(self._expressions(items), ast.Load())
            case ir.Mapping(keys, values):
                pairs = zip(self._expressions(keys), self._expressions(values), strict=True)
                return ast.Call(_read(MAPPING), [ast.Tuple([*pair], ast.Load()) for pair in pairs], [])
            case ir.Operator():
                return self._operator(node)
            case ir.Call(function, arguments, keywords):
                given = [_read(CONSTANTS), *self._expressions(arguments)]
                return ast.Call(self._expression(function), given, self._keywords(keywords, LOCAL))
            case ir.Method(value, name, arguments, keywords):
                method = ast.Attribute(self._expression(value), METHOD + name, ast.Load())
                return ast.Call(method, self._expressions(arguments), self._keywords(keywords, LOCAL))
            case ir.Typed(kind, value):
                return _as_declared(self._expression(value), kind)
            case ir.Uninitialized():
                return ast.Constant(None)

    def _operator(self, node: ir.Operator) -> ast.expr:
        if node.name == "aten::device":
            return self._expression(ir.DeviceLiteral("cpu", node.line))
        evaluating = in_evaluation_mode(node)
        if evaluating is not node:
            self.baked_training.append(node.line)
        placed = on_current_device(evaluating)
        name = self._names.operator(placed.name, self._function.member, node.line)
        arguments, keywords = self._expressions(placed.arguments), self._keywords(placed.keywords, "")
        for position in DTYPE_ARGUMENTS.get(placed.name, ()):
            arguments[position : position + 1] = map(_in_precision, arguments[position : position + 1])
        for keyword in keywords:
            if keyword.arg == "dtype":
                keyword.value = _in_precision(keyword.value)
        return ast.Call(_read(name), arguments, keywords)

    def _expressions(self, nodes: Sequence[ir.Expression]) -> list[ast.expr]:
        return [self._expression(node) for node in nodes]

    def _keywords(self, keywords: Sequence[tuple[str, ir.Expression]], prefix: str) -> list[ast.keyword]:
        return [ast.keyword(prefix + name, self._expression(value)) for name, value in keywords]

    def _default(self, parameter: ir.Parameter) -> ast.expr:
        """The default of a parameter, which has to be plain: constants and devices are known only to a call."""
        match parameter.default:
            case tuple(items) if all(isinstance(item, ir.Scalar) for item in items):
                written: list[ast.expr] = [ast.Constant(item) for item in items]  # type: ignore[arg-type]
                kind = parameter.type.arguments[0] if parameter.type.name == "Optional" else parameter.type
                return (ast.List if kind.name == "List" else ast.Tuple)(written, ast.Load())
            case value if isinstance(value, ir.Scalar):
                return ast.Constant(value)
        detail = f"The parameter {parameter.name} has a tensor or a device as its default."
        raise UNKNOWN_OPERATOR.refusal(detail, self._function.member, self._function.line)


def number_for(kind: ir.Type) -> str | None:
    """The function that turns a value into the number which a type declares; None for other types."""
    match kind:
        case ir.Type("Optional", (inner,)):
            return number_for(inner)
        case ir.Type("int" | "number"):
            return NUMBER
        case ir.Type("float"):
            return REAL
    return None


def _is_number(parameter: ir.Parameter) -> bool:
    return number_for(parameter.type) is not None


def _as_declared(value: ast.expr, kind: ir.Type) -> ast.expr:
    function = number_for(kind)
    return ast.Call(_read(function), [value], []) if function else value


def _read(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _in_precision(dtype: ast.expr) -> ast.expr:
    """A type of numbers that an operator is told, which depends on what the module was cast to."""
    if isinstance(dtype, ast.Constant) and dtype.value not in HALVES and not is_unknown_type(dtype.value):
        return dtype
    return ast.Call(ast.Attribute(_read(CONSTANTS), "dtype", ast.Load()), [dtype], [])


def _write(name: str) -> ast.Name:
    return ast.Name(name, ast.Store())
