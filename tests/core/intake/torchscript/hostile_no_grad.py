"""`torch.no_grad` as torch prints it, with one change each that makes something else of it."""

from collections.abc import Callable

from app.core.intake.torchscript.code.grad_mode import NO_GRAD, NO_GRAD_TEXT
from tests.core.intake.torchscript.sources import page_with

MADE, PREPARED, ENTERED, INSIDE = (
    f"    g = {NO_GRAD}.__new__({NO_GRAD})",
    "    _9 = (g).__init__()",
    "    with g:",
    "      f = x",
)
PRINTED = page_with("\n".join([MADE, PREPARED, ENTERED, INSIDE])) | {
    "code/__torch__/torch/autograd/grad_mode.py": NO_GRAD_TEXT
}


def changed(old: str, new: str) -> Callable[[], dict[str, str]]:
    """What torch prints, in the class and where it is used, with a change where `old` stands first."""

    def make() -> dict[str, str]:
        sources = {member: text.replace(old, new, 1) for member, text in PRINTED.items()}
        assert sources != PRINTED
        return sources

    return make


OF_PYTHON, WITH, UNKNOWN, TAKEN = (
    ("code-unsupported", "class no_grad"),
    ("code-unsupported", "with g"),
    ("code-reference", "g"),
    ("code-syntax", "g"),
)
# How it is made, the rule that refuses it, and what the line that is named holds.
CHANGED_NO_GRAD = {
    # The class.
    "saves when it is left": (changed("    torch.set_grad_enabled(prev)", '    torch.save(prev, "f")'), *OF_PYTHON),
    "raises when it is left": (changed("    prev = self.prev", '    ops.prim.RaiseException("left")'), *OF_PYTHON),
    "leaves gradients off": (changed("torch.set_grad_enabled(prev)", "torch.set_grad_enabled(False)"), *OF_PYTHON),
    "answers when it is entered": (changed("return None", "return self"), *OF_PYTHON),
    "has one more attribute": (changed("  prev : bool", "  prev : bool\n  more : Tensor"), *OF_PYTHON),
    "has one more method": (changed("  def __init__", "  def f() -> Tensor:\n    pass\n  def __init__"), *OF_PYTHON),
    "is a network's part": (changed("no_grad:", "no_grad(Module):"), "code-unsupported", "def __enter__"),
    "has a decorator": (changed("class no_grad:", "@torch.jit.script\nclass no_grad:"), "code-syntax", ""),
    # How an object of it is made.
    "is of another class": (changed(f"new__({NO_GRAD})", "new__(__torch__.page.Net)"), "code-unsupported", "new"),
    "is made with an argument": (changed("__init__()", "__init__(x)"), *UNKNOWN),
    "was made on one way only": (changed(MADE, f"    if flag:\n  {MADE}\n    else:\n      pass"), *UNKNOWN),
    # What is done with it.
    "is asked for its methods": (changed(PREPARED, "    _9 = (g).__exit__(x, x, x)"), *UNKNOWN),
    "remembers something else": (changed(PREPARED, "    g.prev = x"), *UNKNOWN),
    "is asked what it remembers": (changed(PREPARED, "    _9 = g.prev"), *UNKNOWN),
    "is read": (changed(PREPARED, "    _9 = g"), *UNKNOWN),
    "is replaced": (changed(PREPARED, "    g = x"), *TAKEN),
    "is called as a variable is": (changed(INSIDE, "      g = x"), *TAKEN),
    "is given a name": (changed(ENTERED, "    with g as f:"), *WITH),
    "is entered twice": (changed(INSIDE, "      with g:\n        f = x"), *WITH),
    "is entered beside another": (changed(ENTERED, "    with g, g:"), *WITH),
    "is made again inside": (changed(INSIDE, "      _8 = (g).__init__()"), *UNKNOWN),
    "returns inside": (changed(INSIDE, "      return x"), "code-syntax", "return x"),
}
