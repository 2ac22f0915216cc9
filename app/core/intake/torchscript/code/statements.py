"""Statements of printed code, and which variables each of them leaves behind.

A variable that only one branch assigns is gone after the `if`, and one that a loop's body assigns first is gone after
the loop: TorchScript has it so, and torch prints it so. A function returns once, at its end.
"""

import ast
from collections.abc import Sequence

from app.core.intake.torchscript.code.expressions import Scope, attribute_name, read_expression
from app.core.intake.torchscript.code.grad_mode import makes_no_grad
from app.core.intake.torchscript.code.literals import unexpected
from app.core.intake.torchscript.code.program import (
    Assign,
    For,
    If,
    Literal,
    NoGrad,
    Return,
    SetAttribute,
    Statement,
    Typed,
    While,
)
from app.core.intake.torchscript.code.program import Sequence as SequenceNode
from app.core.intake.torchscript.code.rules import FORBIDDEN_OPERATOR, SYNTAX, UNSUPPORTED
from app.core.intake.torchscript.code.typenames import read_type


def read_body(nodes: Sequence[ast.stmt], scope: Scope) -> tuple[Statement, ...]:
    """All statements of a function, the last of which returns."""
    *before, last = nodes
    body = read_block(before, scope)
    if not isinstance(last, ast.Return) or last.value is None:
        raise unexpected(last, "`return` and a value at the end of the function")
    return (*body, Return(read_expression(last.value, scope), last.lineno))


def read_block(nodes: Sequence[ast.stmt], scope: Scope) -> tuple[Statement, ...]:
    """The statements, in order; the scope learns what they assign."""
    read = (_read_statement(node, scope) for node in nodes if not isinstance(node, ast.Pass))
    return tuple(statement for statement in read if statement)


def _read_statement(node: ast.stmt, scope: Scope) -> Statement | None:
    """The statement; None for one that only makes the object for a `with`."""
    line = node.lineno
    match node:
        case ast.Assign([ast.Name(guard)], value) if makes_no_grad(value):
            scope.guard(guard, line)
            return None
        case ast.Assign([ast.Attribute(ast.Name(guard), "prev")], ast.Constant(False)) if guard in scope.guards:
            return None
        case ast.Assign([ast.Name(name)], ast.Call(ast.Attribute(ast.Name(guard), "__init__"), [], [])) if (
            guard in scope.guards
        ):
            scope.assign(name, line)
            return Assign((name,), False, Literal(None, line), line)
        case ast.With([ast.withitem(ast.Name(guard), None)], nodes) if guard in scope.guards:
            return _read_no_grad(guard, nodes, scope, line)
        case ast.Assign([target], value):
            return _read_assignment(target, value, scope)
        case ast.AnnAssign(ast.Name(name), annotation, ast.expr() as value):
            typed = Typed(read_type(annotation), read_expression(value, scope), line, "declared")
            scope.assign(name, line)
            return Assign((name,), False, typed, line)
        case ast.Expr(ast.Call() as call):
            return Assign((), False, read_expression(call, scope), line)
        case ast.If(test, then_nodes, else_nodes):
            return _read_if(test, then_nodes, else_nodes, scope)
        case ast.For(ast.Name(name), ast.Call(ast.Name("range"), [trips], []), nodes, []):
            count = read_expression(trips, scope)
            inside = scope.branch()
            inside.assign(name, line)
            return For(name, count, read_block(nodes, inside), line)
        case ast.While(test, nodes, []):
            condition = read_expression(test, scope)
            return While(condition, read_block(nodes, scope.branch()), line)
        case ast.With():
            raise UNSUPPORTED.refusal("A `with` statement other than that of `torch.no_grad`.", line=line)
        case ast.FunctionDef():
            detail = "A function inside a function, as torch prints it for `fork`, starts a task beside the network."
            raise FORBIDDEN_OPERATOR.refusal(detail, line=line)
    raise unexpected(node, "a statement that torch prints")


def _read_assignment(target: ast.expr, value: ast.expr, scope: Scope) -> Statement:
    line = target.lineno
    read = read_expression(value, scope)
    match target:
        case ast.Name(name):
            scope.assign(name, line)
            return Assign((name,), False, read, line)
        case ast.Attribute(owner, name):
            return SetAttribute(read_expression(owner, scope), attribute_name(name, line), read, line)
        case ast.Tuple(elements):
            names = tuple(element.id for element in elements if isinstance(element, ast.Name))
            if 0 < len(names) == len(elements) == len(set(names)) and _may_unpack(read, len(names)):
                for name in names:
                    scope.assign(name, line)
                return Assign(names, True, read, line)
    raise SYNTAX.refusal("Expected a variable, several of them or an attribute to assign to.", line=line)


def _may_unpack(value: object, count: int) -> bool:
    return not isinstance(value, SequenceNode) or len(value.items) == count


def _read_no_grad(guard: str, nodes: list[ast.stmt], scope: Scope, line: int) -> NoGrad:
    """What is assigned inside stays; the object itself is out of reach, as entering it twice leaves gradients off."""
    scope.guards.remove(guard)
    body = read_block(nodes, scope)
    scope.guard(guard, line)
    return NoGrad(guard, body, line)


def _read_if(test: ast.expr, then_nodes: list[ast.stmt], else_nodes: list[ast.stmt], scope: Scope) -> If:
    condition = read_expression(test, scope)
    then_scope, else_scope = scope.branch(), scope.branch()
    then, otherwise = read_block(then_nodes, then_scope), read_block(else_nodes, else_scope)
    scope.variables |= then_scope.variables & else_scope.variables
    return If(condition, then, otherwise, test.lineno)
