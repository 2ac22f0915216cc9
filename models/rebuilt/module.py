"""Objects of the archive as modules: parameters, buffers and submodules under their own names, methods compiled.

Each class of the archive becomes a class of Python, with a property for each attribute that says where an object keeps
it. What a property is called has a prefix, so that an attribute called `forward` or `__class__` is only an attribute.
"""

import traceback
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from torch import Tensor, nn

from app.core.intake.torchscript.code import program as ir
from app.core.intake.torchscript.values import DeviceValue, TensorValue
from models.rebuilt.constants import Constants
from models.rebuilt.errors import RebuiltError
from models.rebuilt.writing import ATTRIBUTE, CONSTANTS, METHOD

# What Python raises where the jit would raise its own error: a wrong type, a missing key, a variable that is not set.
CODE_ERRORS = (TypeError, ValueError, LookupError, ArithmeticError, NameError, AttributeError)


class Place(StrEnum):
    """Where an object keeps an attribute."""

    PARAMETERS = "_parameters"
    BUFFERS = "_buffers"
    MODULES = "_modules"
    PLAIN = "plain"
    MODE = "training"


class RebuiltModule(nn.Module):
    """One object of the archive; its forward runs the code of its class.

    A root also says which modules were saved in training mode and behave otherwise in it (their paths), which operators
    tracing had fixed in that mode (member and line), and which value of the archive each entry of its state is made of.
    """

    inputs: tuple[ir.Parameter, ...] = ()  # of forward, without self
    was_training: tuple[str, ...] = ()
    baked_training: tuple[tuple[str, int], ...] = ()

    def __init__(self, constants: Constants) -> None:
        super().__init__()
        self.plain: dict[str, Any] = {}
        self.origins: dict[str, TensorValue] = {}
        object.__setattr__(self, CONSTANTS, constants)  # not registered here: the root alone lists them

    def forward(self, *inputs: Any) -> Any:
        """The output of the module's own code; raises RebuiltError, or what torch raises, on input it cannot take."""
        needed = [parameter.name for parameter in self.inputs if not parameter.has_default]
        if len(inputs) < len(needed):
            raise RebuiltError(f"The model is missing value for argument '{needed[len(inputs)]}'.")
        try:
            return getattr(self, METHOD + "forward")(*inputs)
        except CODE_ERRORS as error:
            raise RebuiltError(f"The model's code fails on this input: {error}{_place_of(error)}.") from error


def module_class(defined: ir.Class, program: ir.Program, methods: dict[str, Callable[..., Any]]) -> type[RebuiltModule]:
    """The class of Python for a class of the archive; its objects are filled by whoever makes them."""
    members: dict[str, Any] = dict(methods)
    for name, value in defined.constants.items():
        members[ATTRIBUTE + name] = _fixed_at(value)
    for name in dict.fromkeys([*defined.parameters, *defined.buffers, *defined.attributes]):
        members[ATTRIBUTE + name] = _kept_in(place_of(name, defined, program), name)
    forward = defined.methods.get("forward")
    members["inputs"] = forward.parameters[1:] if forward else ()
    return type(defined.name.rpartition(".")[2], (RebuiltModule,), members)


def place_of(name: str, defined: ir.Class, program: ir.Program) -> Place:
    """Where objects of a class keep an attribute."""
    kind = defined.attributes.get(name, ir.Type("Tensor"))
    kind = kind.arguments[0] if kind.name == "Optional" and kind.arguments else kind
    if name == "training":
        return Place.MODE
    if name in defined.parameters:
        return Place.PARAMETERS
    if name in defined.buffers or kind.name == "Tensor":
        return Place.BUFFERS
    return (
        Place.MODULES if kind.name in program.classes and program.classes[kind.name].kind == "Module" else Place.PLAIN
    )


def _fixed_at(value: ir.Constant) -> property:
    """An attribute that its class declares final."""

    def read(module: RebuiltModule) -> Any:
        match value:
            case ir.ConstantTensor(index):
                return getattr(module.constants, f"c{index}")
            case ir.DeviceLiteral():
                return module.constants.device
        return value

    return property(read)


def _kept_in(place: Place, name: str) -> property:
    """An attribute of a RebuiltModule; those that torch moves and trains can only be replaced by their like."""

    kept = place.value

    def read(module: RebuiltModule) -> Any:
        return getattr(module, kept)[name]

    def read_plain(module: RebuiltModule) -> Any:
        value = module.plain[name]
        return module.constants.device if isinstance(value, DeviceValue) else value

    def read_mode(module: RebuiltModule) -> bool:
        return module.training

    def write_buffer(module: RebuiltModule, value: Any) -> None:
        if not (value is None or isinstance(value, Tensor)):
            raise RebuiltError(f"The model's code sets its tensor {name} to {type(value).__name__}.")
        module._buffers[name] = value

    def write_plain(module: RebuiltModule, value: Any) -> None:
        module.plain[name] = value

    def write_mode(module: RebuiltModule, value: Any) -> None:
        module.training = bool(value)

    if place == Place.MODE:
        return property(read_mode, write_mode)
    if place == Place.PLAIN:
        return property(read_plain, write_plain)
    return property(read, write_buffer if place == Place.BUFFERS else None)


def _place_of(error: Exception) -> str:
    """The innermost line of the archive's code that an error went through."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [(frame.f_code.co_filename, line) for frame, line in frames]
    ours = [f" ({name.strip('<>')}, line {line})" for name, line in lines if name.startswith("<code/")]
    return ours[-1] if ours else ""
