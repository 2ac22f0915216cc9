"""How the functions of a program call one another: in no circle, not too deep, not too often.

Ten functions that each call the one before ten times are a short text and ten thousand million calls; and TorchScript,
which writes every call out, knows no recursion. Loops are not looked at: how often they turn is known when they run.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from app.core.intake.torchscript.code.program import Function
from app.core.intake.torchscript.code.rules import LIMIT, RECURSION
from app.core.text import printable

MOST_CALLS = 1_000_000  # with every call written out; a network of 700 modules has about 1,000
MOST_LEVELS = 100


def check_calls(functions: Mapping[str, Function], calls: Mapping[str, Sequence[str]]) -> None:
    """Raises GateRefusal for circles and avalanches; `calls` are the names of all that each function calls."""
    try:
        order = list(TopologicalSorter(calls).static_order())
    except CycleError as error:
        name = error.args[1][0]
        detail = f"`{printable(name)}` calls itself, perhaps through others."
        raise RECURSION.refusal(detail, functions[name].member, functions[name].line) from None
    levels: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for name in order:
        called = calls[name]
        levels[name] = 1 + max((levels[one] for one in called), default=0)
        totals[name] = 1 + sum(totals[one] for one in called)
        if levels[name] > MOST_LEVELS or totals[name] > MOST_CALLS:
            detail = f"`{printable(name)}` calls too many functions, directly or through others."
            raise LIMIT.refusal(detail, functions[name].member, functions[name].line)
