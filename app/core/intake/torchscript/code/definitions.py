"""Classes and functions of printed code.

Two kinds of classes are followed: a network's part, and the named tuple in which a network answers. Of torch's own
classes of Python one is known, `no_grad` (grad_mode.py). Others (interfaces, enumerations, further classes of Python)
are refused by their kind.
"""

import ast
from dataclasses import replace

from app.core.intake.torchscript.code.expressions import Scope, attribute_name
from app.core.intake.torchscript.code.grad_mode import NO_GRAD, NO_GRAD_KIND, is_no_grad
from app.core.intake.torchscript.code.lexicon import is_dunder
from app.core.intake.torchscript.code.literals import read_constant, read_scalar, unexpected
from app.core.intake.torchscript.code.program import Class, Function, Parameter, Type
from app.core.intake.torchscript.code.rules import LIMIT, REFERENCE, SYNTAX, UNSUPPORTED
from app.core.intake.torchscript.code.statements import read_body
from app.core.intake.torchscript.code.typenames import read_type

MOST_PARAMETERS = 255  # of a function, and fields of a named tuple: each call is held against all of them

_DUNDER_METHODS = ("__len__", "__contains__")


def read_function(node: ast.FunctionDef, prefix: str, member: str, owner: str | None = None) -> Function:
    """A function, or a method of the class `owner`, whose first parameter is then the object itself."""
    if is_dunder(node.name) and not (owner and node.name in _DUNDER_METHODS):
        raise UNSUPPORTED.refusal(f"`{node.name}` gives a class a behaviour that is not followed.", line=node.lineno)
    if node.decorator_list or node.returns is None:
        raise unexpected(node, "a function without decorators that states what it returns")
    parameters = _read_parameters(node)
    if owner and (not parameters or parameters[0].type != Type(owner)):
        raise SYNTAX.refusal(f"The method `{node.name}` does not begin with an object of its class.", line=node.lineno)
    scope = Scope()
    for parameter in parameters:
        scope.assign(parameter.name, node.lineno)
    body = read_body(node.body, scope)
    return Function(f"{prefix}{node.name}", parameters, read_type(node.returns), body, member, node.lineno)


def read_class(node: ast.ClassDef, prefix: str, member: str) -> Class:
    """A class with its attributes in the order of their declaration."""
    if prefix + node.name == NO_GRAD and is_no_grad(node):
        return Class(NO_GRAD, NO_GRAD_KIND, (), (), {"prev": Type("bool")}, {}, {}, member, node.lineno)
    made = Class(f"{prefix}{node.name}", _read_kind(node), (), (), {}, {}, {}, member, node.lineno)
    lists: dict[str, tuple[str, ...]] = {}
    for statement in node.body:
        _read_declaration(statement, made, lists)
    if made.kind == "NamedTuple" and (lists or made.constants or made.methods):
        raise SYNTAX.refusal(f"The named tuple `{node.name}` has more than fields.", line=node.lineno)
    if made.kind == "NamedTuple" and len(made.attributes) > MOST_PARAMETERS:
        raise LIMIT.refusal(f"The named tuple `{node.name}` has more than {MOST_PARAMETERS} fields.", line=node.lineno)
    parameters, buffers = lists.get("__parameters__", ()), lists.get("__buffers__", ())
    if len({*parameters, *buffers}) < len(parameters) + len(buffers):
        raise SYNTAX.refusal(f"`{node.name}` lists a parameter or a buffer twice.", line=node.lineno)
    undeclared = {*parameters, *buffers} - set(made.attributes)
    if undeclared:
        raise REFERENCE.refusal(f"`{min(undeclared)}` is listed in a class that does not declare it.", line=node.lineno)
    return replace(made, parameters=parameters, buffers=buffers)


def _read_kind(node: ast.ClassDef) -> str:
    match node.bases, node.keywords, node.decorator_list:
        case [ast.Name("Module" | "NamedTuple" as kind)], [], []:
            return kind
        case [ast.Name(kind)], [], []:
            detail = f"`{node.name}` is a class of the kind `{kind}`, which is not followed here."
        case [], [], []:
            detail = f"`{node.name}` is a class of Python, neither a network's part nor a named tuple."
        case _:
            raise unexpected(node, "a class of one kind, without decorators")
    raise UNSUPPORTED.refusal(detail, line=node.lineno)


def _read_declaration(node: ast.stmt, made: Class, lists: dict[str, tuple[str, ...]]) -> None:
    """Enters one statement of a class's body."""
    line = node.lineno
    match node:
        case ast.AnnAssign(ast.Name(name), ast.Subscript(ast.Name("Final"), kind), ast.expr() as value):
            made.constants[_new_name(name, made, line)] = read_constant(value)
            made.constant_types[name] = read_type(kind)
        case ast.AnnAssign(ast.Name(name), annotation, None):
            made.attributes[_new_name(name, made, line)] = read_type(annotation)
        case ast.Assign([ast.Subscript(ast.Name("__annotations__"), ast.Constant() as literal)], annotation) if (
            made.kind == "Module"
        ):
            made.attributes[_new_name(read_scalar(literal), made, line)] = read_type(annotation)
        case ast.Assign([ast.Name("__annotations__")], ast.List([])):
            pass
        case ast.Assign([ast.Name("__parameters__" | "__buffers__" as name)], ast.List(items)) if name not in lists:
            lists[name] = tuple(attribute_name(read_scalar(item), line) for item in items)
        case ast.FunctionDef(name):
            method = read_function(node, "", made.member, made.name)
            made.methods[name if is_dunder(name) else _new_name(name, made, line)] = method
        case ast.Pass():
            pass
        case _:
            raise unexpected(node, "an attribute, a constant or a method")


def _new_name(name: object, made: Class, line: int) -> str:
    new = attribute_name(name, line)
    if new in made.attributes or new in made.constants or new in made.methods:
        raise SYNTAX.refusal(f"`{new}` is declared twice.", line=line)
    return new


def _read_parameters(node: ast.FunctionDef) -> tuple[Parameter, ...]:
    stated = node.args
    if stated.posonlyargs or stated.vararg or stated.kwonlyargs or stated.kwarg:
        raise unexpected(node, "a function with plain parameters")
    plain = len(stated.args) - len(stated.defaults)
    defaults: list[ast.expr | None] = [*[None] * plain, *stated.defaults]
    parameters = [_read_parameter(one, default) for one, default in zip(stated.args, defaults, strict=True)]
    if len(parameters) > MOST_PARAMETERS:
        raise LIMIT.refusal(f"`{node.name}` has more than {MOST_PARAMETERS} parameters.", line=node.lineno)
    if len({parameter.name for parameter in parameters}) < len(parameters):
        raise SYNTAX.refusal("Two parameters have one name.", line=node.lineno)
    return tuple(parameters)


def _read_parameter(node: ast.arg, default: ast.expr | None) -> Parameter:
    if node.annotation is None:
        raise SYNTAX.refusal(f"The parameter `{node.arg}` has no type.", line=node.lineno)
    stated = read_type(node.annotation)
    return Parameter(node.arg, stated) if default is None else Parameter(node.arg, stated, read_constant(default), True)
