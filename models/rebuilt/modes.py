"""What tracing baked into single operators, taken out again: a training mode, a device.

A traced module ignores train() and eval(), because `torch.dropout(x, 0.5, True)` is what it did while being traced; and
it makes its tensors on the device it was traced on. Operators go in and come out; nothing else of the code is known.
What a training mode means to an operator is known here, so this is also where one runs in evaluation mode whatever the
module says (EvaluatingLayers).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from app.core.intake.torchscript.code import program as ir

# The position of the argument that says "training", and its value in evaluation mode.
TRAINING_ARGUMENT: dict[str, tuple[int, bool | float]] = {
    "aten::dropout": (2, False),
    "aten::dropout_": (2, False),
    "aten::feature_dropout": (2, False),
    "aten::feature_dropout_": (2, False),
    "aten::alpha_dropout": (2, False),
    "aten::alpha_dropout_": (2, False),
    "aten::feature_alpha_dropout": (2, False),
    "aten::feature_alpha_dropout_": (2, False),
    "aten::rrelu": (3, False),
    "aten::rrelu_": (3, False),
    "aten::scaled_dot_product_attention": (4, 0.0),
    "aten::batch_norm": (5, False),
    "aten::instance_norm": (5, False),
}
NORMS = ("aten::batch_norm", "aten::instance_norm")
STATISTICS = slice(3, 5)  # a norm's running mean and variance; without them it can only use the images' own

FACTORIES = (
    *(
        "aten::empty",
        "aten::full",
        "aten::ones",
        "aten::zeros",
        "aten::eye",
        "aten::tril_indices",
        "aten::triu_indices",
    ),
    *("aten::arange", "aten::linspace", "aten::tensor", "aten::as_tensor", "aten::scalar_tensor"),
    *("aten::normal", "aten::rand", "aten::randint", "aten::randn"),
)
MOVES = ("aten::cpu", "aten::cuda")

# Where an operator is told a type of numbers, besides its keyword "dtype"; a device may stand there, too.
DTYPE_ARGUMENTS: dict[str, tuple[int, ...]] = {
    "aten::to": (1, 2),
    "aten::softmax": (2,),
    "aten::log_softmax": (2,),
}


def in_evaluation_mode(operator: ir.Operator) -> ir.Operator:
    """The operator with a literal training mode switched off, else the very same operator."""
    position, off = TRAINING_ARGUMENT.get(operator.name, (len(operator.arguments), False))
    if position >= len(operator.arguments):
        return operator
    mode = operator.arguments[position]
    if not isinstance(mode, ir.Literal) or not mode.value or _lacks_statistics(operator):
        return operator
    before, after = operator.arguments[:position], operator.arguments[position + 1 :]
    return replace(operator, arguments=(*before, ir.Literal(off, mode.line), *after))


def _lacks_statistics(operator: ir.Operator) -> bool:
    statistics = operator.arguments[STATISTICS] if operator.name in NORMS else ()
    return any(isinstance(argument, ir.Literal) and argument.value is None for argument in statistics)


def on_current_device(operator: ir.Operator) -> ir.Operator:
    """The operator with the device it would choose by itself made explicit; a device literal is the current device."""
    here = ("device", ir.DeviceLiteral("cpu", operator.line))
    if operator.name in MOVES:
        return replace(operator, name="aten::to", arguments=operator.arguments[:1], keywords=(here,))
    if operator.name in FACTORIES:
        stated = dict(operator.keywords)
        device = stated.get("device")
        if device is None or (isinstance(device, ir.Literal) and device.value is None):
            return replace(operator, keywords=tuple({**stated, here[0]: here[1]}.items()))
    return operator


class EvaluatingLayers(TorchFunctionMode):
    """While it is entered, dropout, batch norm and their like do what they do in evaluation mode.

    So a module whose flags say "training" computes what it did before, unless its code does more with the flags. Coins
    that are tossed, by which networks drop a layer for some images, come out at their mean. It goes by operators and
    not by classes, which anybody can call `Dropout`. The jit's own modules are out of its reach.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, keywords = f"aten::{getattr(function, '__name__', '')}", kwargs or {}
        if name in COINS:
            return COINS[name](*args, **keywords)
        position, off = TRAINING_ARGUMENT.get(name, (len(args), False))
        lacks_statistics = name in NORMS and any(known is None for known in args[STATISTICS])
        if position < len(args) and not lacks_statistics:
            args = (*args[:position], off, *args[position + 1 :])
        return function(*args, **keywords)


def _mean_coin(tensor: Tensor, p: float | Tensor | None = None) -> Tensor:
    return tensor.clone() if p is None else torch.ones_like(tensor) * p


def _mean_coin_in_place(tensor: Tensor, p: float | Tensor = 0.5) -> Tensor:
    return tensor.copy_(p) if isinstance(p, Tensor) else tensor.fill_(p)


COINS: dict[str, Callable[..., Tensor]] = {"aten::bernoulli": _mean_coin, "aten::bernoulli_": _mean_coin_in_place}
