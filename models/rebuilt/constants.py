"""The tensors that stand inside the code, as CONSTANTS.c0, c1, ..., and the device that a rebuilt module is on.

Freezing and tracing turn weights into constants. Those that are used as weights become parameters again, so that a
frozen module can be trained; the others (an image mean, a shape, an index) stay what they are.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from app.core.intake.torchscript.code import program as ir
from app.core.intake.torchscript.code.operators import nodes_of
from app.core.intake.torchscript.values import TensorValue, Value
from models.rebuilt.errors import INCONSISTENT, RebuiltError
from models.rebuilt.operators import DTYPE_NUMBERS, HALVES, is_unknown_type
from models.rebuilt.tensors import Tensors

# Operator -> the positions of its weights; everything that such an operator takes there was trained.
WEIGHTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("aten::_convolution", "aten::convolution", "aten::linear"), (1, 2)),
    **{f"aten::conv{n}d": (1, 2) for n in (1, 2, 3)},
    **{f"aten::conv_transpose{n}d": (1, 2) for n in (1, 2, 3)},
    **dict.fromkeys(("aten::batch_norm", "aten::instance_norm"), (1, 2)),
    **dict.fromkeys(("aten::addmm", "aten::baddbmm"), (0, 1, 2)),
    **dict.fromkeys(("aten::matmul", "aten::mm", "aten::bmm"), (0, 1)),
    **dict.fromkeys(("aten::layer_norm", "aten::group_norm"), (2, 3)),
    # Layer scales, embeddings of positions; an image's mean and deviation are subtracted and divided by.
    **dict.fromkeys(("aten::add", "aten::add_", "aten::mul", "aten::mul_"), (0, 1)),
    "aten::bilinear": (2, 3),
    "aten::embedding": (0,),
    "aten::prelu": (1,),
    "aten::rms_norm": (2,),
    "aten::_native_multi_head_attention": (5, 6, 7, 8),
}
STATISTICS: dict[str, tuple[int, ...]] = dict.fromkeys(("aten::batch_norm", "aten::instance_norm"), (3, 4))
# A weight is still the weight after these, which answer their first argument in another shape or type.
RESHAPES = (
    *("aten::contiguous", "aten::detach", "aten::to"),
    *("aten::permute", "aten::reshape", "aten::t", "aten::transpose", "aten::unsqueeze", "aten::view"),
)


MOST_STEPS = 20  # from where a weight is used back to its constant; tracing takes two or three


class Constants(nn.Module):
    """Tensor constants under the names c0, c1, ..., and what the whole module was moved and cast to last."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("here", torch.empty(0), persistent=False)  # it is moved along, and so knows
        self.register_buffer("small", torch.empty(0, dtype=torch.float16), persistent=False)  # it is cast along

    @property
    def device(self) -> torch.device:
        here = self._buffers["here"]
        assert here is not None
        return here.device

    def dtype(self, asked: Any) -> Any:
        """The type that the code gets for the one it asks for, by its number; anything else is handed back.

        In a module that was cast to single precision, what the code would cast to half stays single as well, or it
        could not be multiplied with the weights. A code that compares types finds single ones.
        """
        if is_unknown_type(asked):
            raise RebuiltError(f"The model's code asks for numbers of the unknown type {asked}.")
        small = self._buffers["small"]
        assert small is not None
        is_cast = type(asked) is int and asked in HALVES and small.dtype != torch.float16
        return DTYPE_NUMBERS[small.dtype] if is_cast else asked


def read_constants(values: Sequence[Value], program: ir.Program, tensors: Tensors) -> Constants:
    """Parameters for weights, buffers for running statistics, and buffers outside the state dict for the rest.

    A single number is not moved along: it stands in arithmetic on sizes, and goes with tensors of any device.
    """
    constants = Constants()
    definitions = list(definitions_of(program))
    weights, statistics = _used_as(WEIGHTS, definitions), _used_as(STATISTICS, definitions)
    for index, value in enumerate(values):
        name = f"c{index}"
        if isinstance(value, str):  # one that is not ASCII is kept out of the code
            setattr(constants, name, value)
        elif isinstance(value, TensorValue) and not value.shape:
            setattr(constants, name, tensors.tensor(value))
        elif not isinstance(value, TensorValue):
            raise INCONSISTENT.refusal(f"Constant {index} of the code is {type(value).__name__}, not a tensor.")
        elif index in weights and tensors.tensor(value).is_floating_point():
            constants.register_parameter(name, tensors.parameter(value))
        else:
            constants.register_buffer(name, tensors.tensor(value), persistent=index in statistics)
    return constants


def definitions_of(program: ir.Program) -> Iterator[ir.Function]:
    """Every function and every method."""
    yield from program.functions.values()
    for defined in program.classes.values():
        yield from defined.methods.values()


def _used_as(positions: dict[str, tuple[int, ...]], definitions: list[ir.Function]) -> set[int]:
    """The constants that stand at these positions of these operators, directly or by a local name."""
    used = set()
    for function in definitions:
        named: dict[str, ir.Expression] = {}
        operators = []
        for node in nodes_of(function.body):
            if isinstance(node, ir.Assign) and len(node.targets) == 1 and not node.unpacks:
                named[node.targets[0]] = node.value
            elif isinstance(node, ir.Operator):
                operators.append(node)
        for operator in operators:
            for position in positions.get(operator.name, ()):
                if position < len(operator.arguments):
                    constant = _constant_behind(operator.arguments[position], named)
                    used |= set() if constant is None else {constant}
    return used


def _constant_behind(node: ir.Expression, named: dict[str, ir.Expression]) -> int | None:
    for _ in range(MOST_STEPS):
        match node:
            case ir.ConstantTensor(index):
                return index
            case ir.Name(name) if name in named:
                node = named[name]
            case ir.Typed(_, value):
                node = value
            case ir.Operator(name, (value, *_)) if name in RESHAPES:
                node = value
            case _:
                break
    return None
