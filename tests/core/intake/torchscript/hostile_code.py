"""Code that must be refused: modules that torch really scripts, and lines that only a hand would write."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from app.core.intake.torchscript.code.grad_mode import NO_GRAD, NO_GRAD_TEXT
from tests.core.intake.torchscript.hostile_no_grad import CHANGED_NO_GRAD
from tests.core.intake.torchscript.sources import MEMBER, PAGE, page_with, sources_of


class Saves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "stolen")
        return x


class ReadsFile(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_file("/etc/passwd", shared=False, size=8, dtype=torch.uint8)


class WritesFile(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_file("target", shared=True, size=8).copy_(x)


class LoadsItself(nn.Module):
    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return torch.zeros(1), self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        torch.save(state[0], "written while loading")
        self.training = state[1]

    def forward(self, x: Tensor) -> Tensor:
        return x


def before(self: nn.Module, images: tuple[Tensor]) -> tuple[Tensor]:
    return (images[0] * 2,)


def after(self: nn.Module, images: tuple[Tensor], scores: Tensor) -> Tensor:
    return scores + 1


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Forks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(torch.relu, x))


class Seeds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return x


class Autocasts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = x + 1
        return y * 2


class Records(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autograd.profiler.record_function("a name"):
            y = x + 1
        return y * 2


@torch.jit.script
class Entered:
    """A context manager of the stranger's own."""

    def __init__(self) -> None:
        self.prev = False

    def __enter__(self) -> None:
        self.prev = torch.is_grad_enabled()

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        raise ValueError("left")


class EntersItsOwn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with Entered():
            y = x + 1
        return y * 2


def scripted(build: Callable[[], nn.Module]) -> Callable[[], dict[str, str]]:
    return lambda: sources_of(torch.jit.script(build()))


def hooked(before_forward: bool) -> nn.Module:
    net = Plain()
    net.register_forward_pre_hook(before) if before_forward else net.register_forward_hook(after)
    return net


def line(text: str) -> Callable[[], dict[str, str]]:
    return lambda: page_with(f"    {text}")


def definition(text: str) -> Callable[[], dict[str, str]]:
    """The text in front of everything, so that it is line 1."""
    return lambda: {MEMBER: f"{text}\n{PAGE}"}


# What it is: how it is made, the rule that refuses it, and what the line that is named holds.
HOSTILE: dict[str, tuple[Callable[[], dict[str, str]], str, str]] = {
    "torch.save": (scripted(Saves), "code-forbidden-operator", "torch.save(x"),
    "from_file reads": (scripted(ReadsFile), "code-forbidden-operator", "torch.from_file("),
    "from_file writes": (scripted(WritesFile), "code-forbidden-operator", "torch.from_file("),
    "setstate": (scripted(LoadsItself), "code-load-time", "def __getstate__"),
    "setstate alone": (
        definition("def __setstate__(x: Tensor) -> Tensor:\n  return x"),
        "code-load-time",
        "__setstate__",
    ),
    "pre-hook": (scripted(lambda: hooked(True)), "code-hook", "__forward_pre_hooks__"),
    "hook": (scripted(lambda: hooked(False)), "code-hook", "__forward_hooks__"),
    "fork": (scripted(Forks), "code-forbidden-operator", "def __forked_function"),
    "fork by hand": (line("f = fork(x)"), "code-forbidden-operator", "fork(x)"),
    "awaitable": (line("f = awaitable(x)"), "code-forbidden-operator", "awaitable"),
    "seed": (scripted(Seeds), "code-forbidden-operator", "torch.manual_seed(3)"),
    "autocast": (scripted(Autocasts), "code-unsupported", "autocast.__new__("),
    "record_function": (scripted(Records), "code-unsupported", "record_function.__new__("),
    "a context manager of its own": (scripted(EntersItsOwn), "code-unsupported", "Entered.__new__("),
    **{f"no_grad that {what}": changed for what, changed in CHANGED_NO_GRAD.items()},
    "no_grad without its class": (
        line(f"g = {NO_GRAD}.__new__({NO_GRAD})\n    with g:\n      pass"),
        "code-reference",
        "with g",
    ),
    "no_grad of another place": (definition(NO_GRAD_TEXT), "code-unsupported", "class no_grad"),
    "set_grad_enabled": (line("torch.set_grad_enabled(False)"), "code-forbidden-operator", "set_grad_enabled"),
    "rpc": (line('f = rpc_async("worker", __torch__.page.double, (x,))'), "code-forbidden-operator", "rpc_async"),
    "rpc as an operator": (line('f = ops.prim.rpc_sync("worker", x)'), "code-forbidden-operator", "rpc_sync"),
    "custom class": (
        line("q = __torch__.torch.classes.quantized.LinearPackedParamsBase(x)"),
        "code-custom-class",
        "torch.classes",
    ),
    "custom class as a type": (
        definition("def f(x: __torch__.torch.classes.dist_rpc.WorkerInfo) -> Tensor:\n  return x"),
        "code-custom-class",
        "dist_rpc",
    ),
    "image.write_file": (line('ops.image.write_file("f", x)'), "code-forbidden-operator", "write_file"),
    "image.read_file": (line('f = ops.image.read_file("f")'), "code-forbidden-operator", "read_file"),
    "image.decode_image": (line("f = ops.image.decode_image(x, 0)"), "code-forbidden-operator", "decode_image"),
    "unknown namespace": (line("f = ops.mylib.run(x)"), "code-forbidden-operator", "mylib"),
    "torch.ops": (line("f = torch.ops.mylib.run(x)"), "code-forbidden-operator", "mylib"),
    "a method of a tensor": (line('f = (x).save("stolen")'), "code-reference", "save"),
    "a method of a result": (line('f = (torch.relu(x)).save("stolen")'), "code-reference", "save"),
    "a method of a number": (line('f = (3).save("stolen")'), "code-reference", "save"),
    "an attribute of a tensor": (line("f = x.grad"), "code-reference", "x.grad"),
    "an `elif`": (line("if flag:\n      pass\n    elif flag:\n      pass"), "code-syntax", "elif flag"),
    "lines without words": (definition("\n" * 200_000), "code-limit", ""),
    "an optional of an optional": (
        definition("def f(x: Optional[Optional[int]]) -> int:\n  return 1"),
        "code-syntax",
        "Optional[Optional",
    ),
    "a parameter that is listed twice": (
        definition('class P(Module):\n  __parameters__ = ["a", "a"]\n  a : Tensor'),
        "code-syntax",
        "class P",
    ),
    "a function of too many parameters": (
        definition(f"def f({', '.join(f'a{number}: int' for number in range(300))}) -> int:\n  return 1"),
        "code-limit",
        "def f(",
    ),
    "a named tuple of too many fields": (
        definition("class P(NamedTuple):\n" + "\n".join(f"  a{number} : int" for number in range(300))),
        "code-limit",
        "class P",
    ),
    "a field that is no plain name": (
        definition('class P(NamedTuple):\n  __annotations__["\\357\\254\\201"] = int'),
        "code-syntax",
        "__annotations__",
    ),
    "import": (definition("import os"), "code-syntax", "import os"),
    "import in a function": (line("import os"), "code-syntax", "import os"),
    "from": (definition("from os import system"), "code-syntax", "from os"),
    "eval": (line('f = eval("1")'), "code-reference", "eval"),
    "open": (line('f = open("/etc/passwd")'), "code-reference", "open"),
    "os.system": (line('f = os.system("ls")'), "code-reference", "os.system"),
    "dunder import": (line('f = __import__("os")'), "code-reserved-name", "__import__"),
    "dunder escape": (line("f = self.__class__.__mro__"), "code-reserved-name", "__class__"),
    "dunder escape by getattr": (line('f = getattr(self, "__class__")'), "code-reserved-name", "getattr"),
    "builtins": (line("f = __builtins__"), "code-reserved-name", "__builtins__"),
    "lambda": (line("f = lambda : (lambda : x)"), "code-syntax", "lambda"),
    "decorator": (definition("@torch.jit.export\ndef f(x: Tensor) -> Tensor:\n  return x"), "code-syntax", "@"),
    "walrus": (line("f = torch.relu((y := x))"), "code-syntax", ":="),
    "ternary": (line("f = x if flag else x"), "code-syntax", "if flag"),
    "comprehension": (line("f = [i for i in sizes]"), "code-syntax", "for i"),
    "f-string": (line('f = f"{x}"'), "code-syntax", 'f"'),
    "semicolon": (line("f = x; g = x"), "code-syntax", ";"),
    "comment with a type": (line("f = x # type: Any"), "code-syntax", "#"),
    "tab": (line("f =\tx"), "code-syntax", "\t"),
    "not ASCII": (line('f = "\u202e"'), "code-syntax", "\u202e"),
    "arithmetic": (line("f = 3 + 4"), "code-syntax", "3 + 4"),
    "star": (line("f = torch.relu(*sizes)"), "code-syntax", "*"),
    "exec": (line('exec("1")'), "code-reference", "exec"),
    "try": (line("try:\n      pass\n    finally:\n      pass"), "code-syntax", "try"),
    "raise": (line("raise x"), "code-syntax", "raise"),
    "assert": (line("assert x"), "code-syntax", "assert"),
    "global": (line("global f"), "code-syntax", "global"),
    "delete": (line("del x"), "code-syntax", "del x"),
    "with": (line("with x:\n      pass"), "code-unsupported", "with"),
    "isinstance": (line("f = isinstance(x, Tensor)"), "code-unsupported", "isinstance"),
    "complex number": (line("f = 0.+1.j"), "code-unsupported", "1.j"),
    "interface": (definition("class I(ModuleInterface):\n  pass"), "code-unsupported", "ModuleInterface"),
    "enumeration": (definition("class E(Enum):\n  A = 1"), "code-unsupported", "Enum"),
    "class of Python": (definition("class E:\n  a : int"), "code-unsupported", "class E"),
    "a variable hides torch": (line("torch = x"), "code-syntax", "torch = x"),
    "a variable hides int": (line("int = x"), "code-syntax", "int = x"),
    "a variable that is not there": (line("f = y"), "code-reference", "f = y"),
    "an early return": (line("return x"), "code-syntax", "return x"),
    "a call that calls itself": (
        definition("def f(x: Tensor) -> Tensor:\n  return __torch__.page.f(x, )"),
        "code-recursion",
        "def f",
    ),
    "a function that is not there": (line("f = __torch__.page.nothing(x, )"), "code-reference", "nothing"),
    "a module as data": (line("f = torch.relu(self)"), "code-reference", "relu(self)"),
    "a chain of calls": (line("f = torch.relu(x)" + "(x)" * 3), "code-syntax", "(x)(x)"),
    "an attribute 1,000 deep": (line("f = self" + ".part" * 1000), "code-syntax", ".part.part"),
    "deep brackets": (line("f = " + "(" * 10_000 + "x" + ")" * 10_000), "code-limit", "(((("),
    "deep minus signs": (line("f = " + "-" * 10_000 + "1"), "code-limit", ""),
    "deep subscripts": (line("f = sizes" + "[0]" * 10_000), "code-limit", ""),
    "deep attributes": (line("f = self" + ".part" * 100_000), "code-limit", ""),
    "deep indentation": (
        line("\n".join("    " + "  " * depth + "if flag:" for depth in range(90))[4:]),
        "code-limit",
        "if flag",
    ),
    "many numbers": (line("f = [" + "1," * 80_000 + "]"), "code-limit", ""),
    "20 MB in one line": (line("f = [" + "1," * 10_000_000 + "]"), "code-limit", ""),
    "a long number": (line("f = " + "9" * 5000), "code-syntax", "999"),
    "a number of 65 bits": (line("f = 18446744073709551616"), "code-syntax", "1844"),
    "a number beyond all": (line("f = 1e999"), "code-syntax", "1e999"),
    "a long name": (line("f" * 300 + " = x"), "code-limit", "ffff"),
    "a text that is not UTF-8": (line(r'f = "\377"'), "code-syntax", "377"),
}
