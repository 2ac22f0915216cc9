"""Expressions of printed code: each form that torch prints is read into its node, every other is refused.

A name is a variable that was assigned before, or it stands for what torch gives it; a variable may not hide the
latter. What is called, asked for an attribute or subscripted is a name or stands in brackets, as torch prints it, so
expressions are nested no deeper than brackets are.
"""

import ast
from dataclasses import dataclass, field

from app.core.intake.torchscript.code.lexicon import LONGEST_NAME, is_dunder
from app.core.intake.torchscript.code.literals import (
    dotted_name,
    read_constant_tensor,
    read_device,
    read_scalar,
    unexpected,
)
from app.core.intake.torchscript.code.program import (
    Attribute,
    Call,
    Expression,
    Item,
    Literal,
    Mapping,
    Method,
    Name,
    Operator,
    Reference,
    Sequence,
    Typed,
    Uninitialized,
)
from app.core.intake.torchscript.code.rules import FORBIDDEN_OPERATOR, REFERENCE, RESERVED_NAME, SYNTAX, UNSUPPORTED
from app.core.intake.torchscript.code.typenames import read_type
from app.core.text import printable

PYTHON_OPERATORS = {
    "int": "aten::Int",
    "float": "aten::Float",
    "bool": "aten::Bool",
    "str": "aten::str",
    "sorted": "aten::sorted",
    "print": "prim::Print",
}
_TASKS = ("fork", "awaitable", "rpc_async", "rpc_sync", "rpc_remote")
_NOT_FOLLOWED = ("isinstance", "hasattr", "complex")
_FORMS = ("annotate", "unchecked_cast", "uninitialized", "getattr", "range")
_ROOTS = ("torch", "ops", "CONSTANTS", "__torch__")
RESERVED = frozenset(("inf", "nan", "infj", "nanj", *PYTHON_OPERATORS, *_TASKS, *_NOT_FOLLOWED, *_FORMS, *_ROOTS))
_AUTOGRAD = {"torch.autograd.grad": "aten::grad", "torch.autograd.backward": "aten::backward"}


@dataclass
class Scope:
    """The variables that have been assigned at one place of a function.

    A guard is a variable that holds a `no_grad`: it can be entered, and nothing else can be done with it.
    """

    variables: set[str] = field(default_factory=set)  # all of them, or those that were assigned since it branched off
    guards: set[str] = field(default_factory=set)
    outer: "Scope | None" = None

    def has(self, name: str) -> bool:
        return name in self.variables or (self.outer is not None and self.outer.has(name))

    def assign(self, name: str, line: int) -> None:
        self._check_new(name, name in self.guards, line)
        self.variables.add(name)

    def guard(self, name: str, line: int) -> None:
        self._check_new(name, self.has(name), line)
        self.guards.add(name)

    def branch(self) -> "Scope":
        return Scope(guards=set(self.guards), outer=self)

    def _check_new(self, name: str, is_taken: bool, line: int) -> None:
        if is_taken or name in RESERVED or is_dunder(name):
            raise SYNTAX.refusal(f"A variable is called `{name}`, which means something else here.", line=line)


def read_expression(node: ast.expr, scope: Scope) -> Expression:
    """The expression, every variable of which has been assigned in the scope."""
    line = node.lineno
    match node:
        case ast.Name(name) if scope.has(name):
            return Name(name, line)
        case ast.Constant() | ast.UnaryOp() | ast.Name("inf" | "nan"):
            return Literal(read_scalar(node), line)
        case ast.Name(name):
            raise REFERENCE.refusal(f"The variable `{name}` is used before it is assigned.", line=line)
        case ast.Attribute():
            return _read_attribute(node, scope)
        case ast.Subscript(value, index) if not isinstance(index, ast.Slice | ast.Tuple):
            return Item(_read_base(value, node, scope), read_expression(index, scope), line)
        case ast.Tuple(items):
            return Sequence("tuple", _read_all(items, scope), line)
        case ast.List(items):
            return Sequence("list", _read_all(items, scope), line)
        case ast.Dict(keys, values):
            known_keys = [key for key in keys if key is not None]
            if len(known_keys) == len(values):
                return Mapping(_read_all(known_keys, scope), _read_all(values, scope), line)
        case ast.Call():
            return _read_call(node, scope)
        case ast.BinOp(_, ast.Add() | ast.Sub(), ast.Constant(complex())):
            raise UNSUPPORTED.refusal("The code holds a complex number.", line=line)
    raise unexpected(node, "an expression that torch prints")


def attribute_name(name: object, line: int) -> str:
    """The name of an attribute: any words without a dot, for `nn.ModuleDict` and `nn.Sequential` take any."""
    if isinstance(name, str) and name == printable(name, LONGEST_NAME) and name and "." not in name:
        if not is_dunder(name):
            return name
        raise RESERVED_NAME.refusal(f"An attribute is called `{name}`, which has a meaning to Python.", line=line)
    raise SYNTAX.refusal(f"`{printable(str(name))}` cannot be the name of an attribute.", line=line)


def _read_all(nodes: list[ast.expr], scope: Scope) -> tuple[Expression, ...]:
    return tuple(read_expression(node, scope) for node in nodes)


def _read_base(value: ast.expr, whole: ast.expr, scope: Scope) -> Expression:
    """What is called, asked or subscripted."""
    in_brackets = (value.lineno, value.col_offset) > (whole.lineno, whole.col_offset)
    if not in_brackets and dotted_name(value) is None:
        raise unexpected(value, "a name, or an expression in brackets")
    return read_expression(value, scope)


def _read_attribute(node: ast.Attribute, scope: Scope) -> Expression:
    name = dotted_name(node)
    root, _, rest = (name or "").partition(".")
    if name is None or scope.has(root):
        return Attribute(_read_base(node.value, node, scope), attribute_name(node.attr, node.lineno), node.lineno)
    if root == "__torch__" and not any(map(is_dunder, rest.split("."))):
        return Reference(name, node.lineno)
    if root == "CONSTANTS":
        return read_constant_tensor(name, node.lineno)
    raise REFERENCE.refusal(f"`{printable(name)}` is nothing that torch prints.", line=node.lineno)


def _read_call(node: ast.Call, scope: Scope) -> Expression:
    name = dotted_name(node.func)
    root = (name or "").partition(".")[0]
    if scope.has(root) or name is None:
        return _read_call_of_value(node, scope)
    if root == "__torch__" and isinstance(node.func, ast.Attribute):
        if node.func.attr == "__new__":
            raise UNSUPPORTED.refusal(f"An object is made with `{printable(name)}`.", line=node.lineno)
        function = _read_attribute(node.func, scope)
        return Call(function, _read_all(node.args, scope), _read_keywords(node, scope), node.lineno)
    if root in ("torch", "ops"):
        return _read_operator(name, node, scope)
    return _read_form(name, node, scope)


def _read_call_of_value(node: ast.Call, scope: Scope) -> Expression:
    arguments, keywords = _read_all(node.args, scope), _read_keywords(node, scope)
    if isinstance(node.func, ast.Name):
        return Call(Name(node.func.id, node.lineno), arguments, keywords, node.lineno)
    if not isinstance(node.func, ast.Attribute):
        raise unexpected(node.func, "a function or a method")
    value = _read_base(node.func.value, node.func, scope)
    return Method(value, node.func.attr, arguments, keywords, node.lineno)


def _read_operator(name: str, node: ast.Call, scope: Scope) -> Expression:
    if name == "torch.device" and not node.keywords:
        device = read_device(node.args)
        if device is not None:
            return device
    match name.split("."):
        case ["torch", operator]:
            operator = f"aten::{operator}"
        case ["ops", namespace, operator]:
            operator = f"{namespace}::{operator}"
        case _ if name in _AUTOGRAD:
            operator = _AUTOGRAD[name]
        case _:
            raise FORBIDDEN_OPERATOR.refusal(f"`{printable(name)}` is no operator of TorchScript.", line=node.lineno)
    return Operator(operator, _read_all(node.args, scope), _read_keywords(node, scope), node.lineno)


def _read_form(name: str, node: ast.Call, scope: Scope) -> Expression:
    """A call of a bare name that is no variable."""
    line = node.lineno
    if name in _TASKS:
        raise FORBIDDEN_OPERATOR.refusal(f"`{name}` starts a task beside the network or elsewhere.", line=line)
    if name in _NOT_FOLLOWED:
        raise UNSUPPORTED.refusal(f"`{name}` depends on types that are known only when the network runs.", line=line)
    match name, node.args, node.keywords:
        case "getattr", [value, ast.Constant() as literal], []:
            found = read_scalar(literal)
            return Attribute(read_expression(value, scope), attribute_name(found, line), line)
        case "annotate" | "unchecked_cast", [type_node, value], []:
            return Typed(read_type(type_node), _read_listed(value, scope), line, name)
        case "uninitialized", [type_node], []:
            return Uninitialized(read_type(type_node), line)
        case _, [value], [] if name in PYTHON_OPERATORS:
            return Operator(PYTHON_OPERATORS[name], (read_expression(value, scope),), (), line)
        case "print", values, []:
            return Operator("prim::Print", _read_all(values, scope), (), line)
    raise REFERENCE.refusal(f"`{printable(name)}` is called in a way that torch does not print.", line=line)


def _read_listed(node: ast.expr, scope: Scope) -> Expression:
    """`x.tolist()`, which is printed only where its type is stated, or any other expression."""
    match node:
        case ast.Call(ast.Attribute(value, "tolist") as function, [], []):
            return Operator("prim::tolist", (_read_base(value, function, scope),), (), node.lineno)
    return read_expression(node, scope)


def _read_keywords(node: ast.Call, scope: Scope) -> tuple[tuple[str, Expression], ...]:
    read: dict[str, Expression] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in read:
            raise unexpected(node, "arguments with names of their own")
        read[keyword.arg] = read_expression(keyword.value, scope)
    return tuple(read.items())
