"""torch without its compiler, for which an engine has no use.

torch's optimizers and dispatch modes import `torch._dynamo`, to tell it that it is not to compile them: two seconds
of a core, of which every engine would pay for its own. A stand-in says yes to that, and loads the compiler for whoever
asks for anything else.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"


def run_eagerly() -> None:
    """From now on, let the compiler be loaded only if something is to be compiled; for the whole process."""
    if COMPILER not in sys.modules:
        sys.modules[COMPILER] = torch._dynamo = _NothingIsCompiled(COMPILER)


class _NothingIsCompiled(ModuleType):
    """`torch._dynamo` as it behaves where nothing is compiled."""

    def disable(self, function: Callable[..., Any], *how: Any, **options: Any) -> Callable[..., Any]:
        return function

    def graph_break(self, *why: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # which whoever looks through all modules asks of each
            raise AttributeError(name)
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER], torch._dynamo
        return getattr(importlib.import_module(COMPILER), name)
