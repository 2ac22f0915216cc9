"""Values that are written out in printed code: numbers, texts, devices, and what a parameter or a class begins with.

A text is printed byte by byte, so what Python's parser took for Latin letters is decoded as the UTF-8 it was.
"""

import ast
import math
import re
from collections.abc import Sequence

from app.core.intake.torchscript.code.program import Constant, ConstantTensor, DeviceLiteral, Scalar
from app.core.intake.torchscript.code.rules import CUSTOM_CLASS, SYNTAX, UNSUPPORTED
from app.core.text import printable

MOST_PARTS = 64  # of a dotted name
CUSTOM_CLASSES = "__torch__.torch.classes."  # their code is in libraries, not in the archive

_NUMBERS = {"inf": math.inf, "nan": math.nan}
_INTEGERS = range(-(1 << 63), 1 << 63)
_DEVICE = re.compile(r"[a-z]{1,16}(:[0-9]{1,3})?")
_CONSTANT = re.compile(r"CONSTANTS\.c(0|[1-9][0-9]{0,8})")


def dotted_name(node: ast.expr) -> str | None:
    """`a.b.c` of a name and its attributes; None for all other expressions."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < MOST_PARTS:
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    name = ".".join([node.id, *reversed(parts)])
    if name.startswith(CUSTOM_CLASSES):
        raise CUSTOM_CLASS.refusal(f"`{printable(name)}` is a class of a library, not of the file.", line=node.lineno)
    return name


def read_scalar(node: ast.expr) -> Scalar:
    """A number, a text, True, False or None."""
    match node:
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float()) | ast.Name("inf" | "nan")):
            return _in_range(node, -_unsigned(node.operand))
        case ast.Constant(str() as text):
            return _decoded(node, text)
        case ast.Constant(None | bool() as plain):
            return plain
        case ast.Constant(int() | float()) | ast.Name("inf" | "nan"):
            return _in_range(node, _unsigned(node))
        case ast.Constant(complex()):
            raise UNSUPPORTED.refusal("The code holds a complex number.", line=node.lineno)
    raise unexpected(node, "a number, a text, True, False or None")


def read_device(nodes: Sequence[ast.expr]) -> DeviceLiteral | None:
    """What `torch.device("cuda:0")` was called with, unless the device is computed."""
    match nodes:
        case [ast.Constant(str() as name) as node]:
            if not _DEVICE.fullmatch(name):
                raise SYNTAX.refusal(f"`{printable(name)}` is not the name of a device.", line=node.lineno)
            if name.startswith("meta"):
                raise UNSUPPORTED.refusal("On the device `meta` tensors have no numbers.", line=node.lineno)
            return DeviceLiteral(name, node.lineno)
    return None


def read_constant_tensor(name: str, line: int) -> ConstantTensor:
    found = _CONSTANT.fullmatch(name)
    if not found:
        raise SYNTAX.refusal(f"`{printable(name)}` names none of the archive's constants.", line=line)
    return ConstantTensor(int(found[1]), line)


def read_constant(node: ast.expr) -> Constant:
    """What a parameter is by default, or what a class declares Final."""
    match node:
        case ast.Tuple(items) | ast.List(items):
            return tuple(map(read_constant, items))
        case ast.Call(ast.Name("annotate"), [_, ast.List([])], []):
            return ()
        case ast.Call(function, arguments, []) if dotted_name(function) == "torch.device":
            device = read_device(arguments)
            if device is not None:
                return device
        case ast.Attribute():
            return read_constant_tensor(dotted_name(node) or "", node.lineno)
    return read_scalar(node)


def unexpected(node: ast.stmt | ast.expr, expected: str) -> Exception:
    """The refusal of something that Python's parser understood, but that torch does not print at this place."""
    kind = type(node).__name__.lower()
    return SYNTAX.refusal(f"Expected {expected}, found Python's `{kind}`.", line=node.lineno)


def _unsigned(node: ast.expr) -> int | float:
    if isinstance(node, ast.Name):
        return _NUMBERS[node.id]
    assert isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    if isinstance(node.value, bool):
        raise unexpected(node, "a number")
    if isinstance(node.value, float) and math.isinf(node.value):
        raise SYNTAX.refusal("A number is too large.", line=node.lineno)
    return node.value


def _in_range(node: ast.expr, number: int | float) -> int | float:
    if isinstance(number, int) and number not in _INTEGERS:
        raise SYNTAX.refusal("A whole number needs more than 64 bits.", line=node.lineno)
    return number


def _decoded(node: ast.expr, text: str) -> str:
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        raise SYNTAX.refusal("A text is not UTF-8.", line=node.lineno) from None
