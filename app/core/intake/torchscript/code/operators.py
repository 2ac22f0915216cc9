"""Which operators of torch a program uses, and whether it may.

What may be used is an allowlist, a file of names that people looked through (allowlist.txt says how it came about). It
decides; the short list of the forbidden only tells apart what is off the allowlist: an operator that reaches beyond
the network's numbers is refused for good, any other of torch's own is named as not supported.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from app.core.intake.torchscript.code.program import Function, Operator, Program
from app.core.intake.torchscript.code.rules import FORBIDDEN_OPERATOR, UNKNOWN_OPERATOR
from app.core.text import printable

_OWN_NAMESPACES = ("aten", "prim")
# Files, gradients of everybody, random numbers of everybody, other threads and machines, memory of other tensors.
_FORBIDDEN = re.compile(
    r"aten::(save|load|from_file|set_grad_enabled|manual_seed|seed|initial_seed|set_data|_set_data|set_|backward"
    r"|requires_grad_|retain_grad|shallow_copy_data_|_propagate_xla_data|pin_memory|_pin_memory|record_stream|wait"
    r"|_cufft_.*|_autocast_.*|_resize_output_?|resize_.*|_reshape_alias|_print|get_gradients|confirmed_by_owner|owner"
    r"|owner_name|is_owner|local_value|to_here)"
    r"|prim::(fork|awaitable.*|rpc.*|grad|AddStatValue|TimePoint|PythonOp|IgnoredPythonOp|.*Graph|.*Group"
    r"|CallMethod|CallFunction|CreateObject|SetAttr|GetAttr|id)"
)


@cache
def allowlist() -> frozenset[str]:
    """The names of all operators that may be used, such as "aten::relu"."""
    text = files(__package__).joinpath("allowlist.txt").read_text("ascii")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


def check_operators(program: Program) -> Counter[str]:
    """How often each operator is used; raises GateRefusal for a forbidden operator, then for an unknown one."""
    uses = list(operators_of(program))
    unknown = [(function, use) for function, use in uses if use.name not in allowlist()]
    for function, use in unknown:
        if is_forbidden(use.name):
            detail = f"The operator `{printable(use.name)}` reaches beyond the network's numbers."
            raise FORBIDDEN_OPERATOR.refusal(detail, function.member, use.line)
    for function, use in unknown:
        detail = f"The operator `{printable(use.name)}` is not among those that image classifiers are known to need."
        raise UNKNOWN_OPERATOR.refusal(detail, function.member, use.line)
    return Counter(use.name for _, use in uses)


def is_forbidden(name: str) -> bool:
    """Whether an operator can reach files, processes, machines, or state that outlives the call."""
    return name.partition("::")[0] not in _OWN_NAMESPACES or _FORBIDDEN.fullmatch(name) is not None


def operators_of(program: Program) -> Iterator[tuple[Function, Operator]]:
    """Every use of an operator, in the order of the text, with the function it stands in."""
    methods = (method for class_ in program.classes.values() for method in class_.methods.values())
    for function in (*methods, *program.functions.values()):
        for node in nodes_of(function):
            if isinstance(node, Operator):
                yield function, node


def nodes_of(node: object) -> Iterator[object]:
    """A node of a program and all nodes below it, in the order of the text."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, tuple):
            waiting.extend(reversed(part))
        elif fields := getattr(part, "__match_args__", ()):  # which only nodes have, faster than dataclasses.fields
            yield part
            waiting.extend([getattr(part, field) for field in reversed(fields)])
