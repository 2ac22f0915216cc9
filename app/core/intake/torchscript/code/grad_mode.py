"""`with torch.no_grad():` in printed code: the one class of Python, and the one kind of `with`, that is followed.

torch prints the class with its three methods, makes an object of it and enters that. Here the class must be, word for
word, the one that torch has, so what entering it means is known and nothing of a stranger's is run. `__init__` sets an
attribute that `__enter__` sets again; freezing writes it out where the object is made. The object can do nothing else.
"""

import ast

from app.core.intake.torchscript.code.literals import dotted_name

NO_GRAD = "__torch__.torch.autograd.grad_mode.no_grad"
NO_GRAD_KIND = "no_grad"  # of its class, which has no base
NO_GRAD_TEXT = f"""class no_grad:
  prev : bool
  def __enter__(self: {NO_GRAD}) -> NoneType:
    self.prev = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    return None
  def __exit__(self: {NO_GRAD},
    exc_type: Any,
    exc_value: Any,
    traceback: Any) -> NoneType:
    prev = self.prev
    torch.set_grad_enabled(prev)
    return None
  def __init__(self: {NO_GRAD}) -> NoneType:
    self.prev = False
    return None
"""
_TREE = ast.dump(ast.parse(NO_GRAD_TEXT).body[0])  # without lines


def is_no_grad(node: ast.ClassDef) -> bool:
    """Whether a class is torch's own, under whatever name it stands in."""
    return ast.dump(node) == _TREE


def makes_no_grad(node: ast.expr) -> bool:
    """`no_grad.__new__(no_grad)`, both under its full name."""
    match node:
        case ast.Call(ast.Attribute(made, "__new__"), [of], []):
            return dotted_name(made) == dotted_name(of) == NO_GRAD
    return False
