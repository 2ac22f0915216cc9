"""Where torch, called from Python, reads the arguments of an operator otherwise than the jit does.

torch.ops takes what it is given for whatever it could be: True for a type of numbers, a dimension for a flag, a size
for a type. The jit knows what was meant. Numbers and lists without a tensor are not looked at here (plain.py).
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from models.rebuilt.upgrades import Implementation


@cache
def places_of_numbers(name: str) -> frozenset[int | str]:
    """Where an operator on tensors takes a number, and no form of it takes a truth value, by position and by name."""
    numbers, truths = set[int | str](), set[int | str]()
    for schema in torch._C._jit_get_schemas_for_operator(name):
        of_tensors = any("Tensor" in returned.type.annotation_str for returned in schema.returns)
        for position, argument in enumerate(schema.arguments if of_tensors else ()):
            places: set[int | str] = {argument.name} if argument.kwarg_only else {argument.name, position}
            match argument.type.annotation_str:
                case "number" | "Optional[number]":
                    numbers |= places
                case "bool" | "Optional[bool]":
                    truths |= places
    return frozenset(numbers - truths)


def with_numbers(in_torch: Implementation, places: frozenset[int | str]) -> Implementation:
    """Where a number is wanted, the jit takes True for 1; torch would take it for a tensor's type, too."""

    def number_at(place: int | str, value: Any) -> Any:
        return int(value) if place in places and isinstance(value, bool) else value

    def run(*arguments: Any, **keywords: Any) -> Any:
        if any(isinstance(value, bool) for value in (*arguments, *keywords.values())):
            arguments = tuple(number_at(place, value) for place, value in enumerate(arguments))
            keywords = {name: number_at(name, value) for name, value in keywords.items()}
        return in_torch(*arguments, **keywords)

    return run


def view(tensor: Tensor, size: list[int] | int) -> Tensor:
    """A number alone is a size; torch itself would take it for a type, and a wrong one ends the process."""
    return tensor.view([size] if isinstance(size, int) else size)


def divided(first: Any, second: Any, **rounding: Any) -> Any:
    """A number is divided by a tensor as the jit does, which is not the last digit that torch itself would give."""
    if isinstance(first, Tensor) or rounding:
        return torch.ops.aten.div(first, second, **rounding)
    return second.reciprocal() * first


def spread(name: str) -> Implementation:
    """A deviation or a variance; torch itself would take a dimension, or None, for the flag `unbiased`."""
    in_torch = getattr(torch.ops.aten, name)

    def run(tensor: Tensor, *how: Any, **keywords: Any) -> Any:
        if not how or isinstance(how[0], bool):
            return in_torch(tensor, *how, **keywords)
        dims, *others = how
        return in_torch.dim(tensor, [dims] if isinstance(dims, int) else dims, *others, **keywords)

    return run
