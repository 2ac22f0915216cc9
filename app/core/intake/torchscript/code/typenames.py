"""Types as printed code writes them: `Tensor`, `Optional[List[int]]`, `__torch__.some.module.Name`.

Whether a class of that name exists is checked when all code has been read (references.py).
"""

import ast

from app.core.intake.torchscript.code.literals import dotted_name, unexpected
from app.core.intake.torchscript.code.program import Type
from app.core.intake.torchscript.code.rules import SYNTAX, UNSUPPORTED
from app.core.text import printable

_PLAIN = ("Tensor", "int", "float", "bool", "str", "number", "NoneType", "Device")
_ARGUMENTS = {"Optional": range(1, 2), "List": range(1, 2), "Dict": range(2, 3)} | dict.fromkeys(
    ("Tuple", "Union"), range(100)
)


def read_type(node: ast.expr) -> Type:
    """The type that an annotation states."""
    match node:
        case ast.Subscript(ast.Name(name), inner):
            arguments = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if name not in _ARGUMENTS:
                raise _foreign(name, node)
            if len(arguments) not in _ARGUMENTS[name]:
                raise SYNTAX.refusal(f"`{name}` has {len(arguments)} types within.", line=node.lineno)
            read = tuple(map(read_type, arguments))
            if name == "Optional" == read[0].name:
                raise SYNTAX.refusal("torch prints no `Optional` of an `Optional`.", line=node.lineno)
            return Type(name, read)
        case ast.Name(name):
            if name not in _PLAIN:
                raise _foreign(name, node)
            return Type(name)
        case ast.Attribute():
            name = dotted_name(node) or ""
            if name.startswith("__torch__."):
                return Type(name)
    raise unexpected(node, "a type")


def _foreign(name: str, node: ast.expr) -> Exception:
    return UNSUPPORTED.refusal(f"The type `{printable(name)}` is not followed here.", line=node.lineno)
