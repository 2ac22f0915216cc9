"""What tracing baked into single operators, taken out again: a training mode, a device.

A traced module ignores train() and eval(), because `torch.dropout(x, 0.5, True)` is what it did while being traced; and
it makes its tensors on the device it was traced on. Operators go in and come out; nothing else of the code is known.
"""

from dataclasses import replace

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
}
STATISTICS = slice(3, 5)  # a batch norm's running mean and variance; without them it can only use the batch's own

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
    statistics = operator.arguments[STATISTICS] if operator.name == "aten::batch_norm" else ()
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
