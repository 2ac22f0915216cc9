"""The objects of an archive made into one RebuiltModule: shared objects stay shared, everything in evaluation mode."""

from collections.abc import Iterator, Sequence
from typing import Any

from app.core.errors import Refusal
from app.core.intake.torchscript.code import program as ir
from app.core.intake.torchscript.code.operators import nodes_of
from app.core.intake.torchscript.values import ObjectValue, TensorValue, Value
from models.rebuilt.constants import read_constants
from models.rebuilt.errors import INCONSISTENT
from models.rebuilt.functions import Namespace
from models.rebuilt.module import Place, RebuiltModule, module_class, place_of
from models.rebuilt.tensors import ReadRecord, Tensors
from models.rebuilt.upgrades import NEWEST_FORMAT

NOT_BUILT = (RuntimeError, ValueError, TypeError, LookupError, MemoryError)


def rebuild(
    module: ObjectValue,
    constants: Sequence[Value],
    program: ir.Program,
    read_record: ReadRecord,
    format_version: int = NEWEST_FORMAT,
) -> RebuiltModule:
    """The archive's module, ready to run in evaluation mode; raises GateRefusal for what does not fit together."""
    try:
        return _Builder(constants, program, read_record, format_version).root(module)
    except Refusal:
        raise
    except NOT_BUILT as error:
        raise INCONSISTENT.refusal(f"The module cannot be rebuilt: {error}.") from error


class _Builder:
    def __init__(
        self, constants: Sequence[Value], program: ir.Program, read_record: ReadRecord, format_version: int
    ) -> None:
        self._program = program
        self._modes_are_read = _reads_modes_of_others(program)
        self._tensors = Tensors(read_record)
        self._constants = read_constants(constants, program, self._tensors)
        self._namespace = Namespace(program, len(constants), format_version)
        self._classes: dict[str, type[RebuiltModule]] = {}
        self._modules: dict[ObjectValue, RebuiltModule] = {}
        self._plain: dict[int, Any] = {}
        self._was_training: list[str] = []

    def root(self, value: ObjectValue) -> RebuiltModule:
        root = self._module(value, "")
        if "forward" not in self._program.classes[value.type_name].methods:
            raise INCONSISTENT.refusal(f"The class {value.type_name} has no forward.")
        name = "constants"
        while name in {**root._modules, **root._parameters, **root._buffers}:
            name += "_"
        root._modules[name] = self._constants
        root.was_training = tuple(self._was_training)
        root.baked_training = tuple(self._namespace.baked_training)
        root.origins = self._origins(root)
        return root.eval()

    def _module(self, value: ObjectValue, path: str) -> RebuiltModule:
        if value in self._modules:
            return self._modules[value]
        defined = self._program.classes.get(value.type_name)
        if defined is None or defined.kind != "Module":
            raise INCONSISTENT.refusal(f"An object is of class {value.type_name}, which is no module of the code.")
        module = self._modules[value] = self._class(defined)(self._constants)
        for name, attribute in value.attributes.items():
            self._fill(module, defined, name, attribute, f"{path}.{name}" if path else name)
        if value.attributes.get("training") is True and (self._modes_are_read or _reads_its_mode(defined)):
            self._was_training.append(path)
        return module

    def _class(self, defined: ir.Class) -> type[RebuiltModule]:
        if defined.name not in self._classes:
            self._classes[defined.name] = module_class(defined, self._program, self._namespace.methods(defined))
        return self._classes[defined.name]

    def _fill(self, module: RebuiltModule, defined: ir.Class, name: str, value: Value, path: str) -> None:
        """Put one attribute in its place; what does not belong there is refused."""
        if not name or "." in name:
            raise INCONSISTENT.refusal(f"An object of class {defined.name} has an attribute that is no name.")
        match place_of(name, defined, self._program), value:
            case (Place.PARAMETERS | Place.BUFFERS | Place.MODULES) as place, None:
                getattr(module, place)[name] = None
            case Place.PARAMETERS, TensorValue():
                module._parameters[name] = self._tensors.parameter(value)
            case Place.BUFFERS, TensorValue():
                module._buffers[name] = self._tensors.tensor(value)
                if name not in defined.buffers:  # it moves along, but torch's state dict is without it
                    module._non_persistent_buffers_set.add(name)
            case Place.MODULES, ObjectValue():
                module._modules[name] = self._module(value, path)
            case Place.MODE, bool():
                pass  # the root decides, see _was_training
            case Place.PLAIN, _:
                kind = self._namespace.named_tuples.get(defined.attributes[name].name)
                plain = self._plain_value(value)
                module.plain[name] = kind(*plain) if kind and isinstance(plain, tuple) else plain
            case place, _:
                raise INCONSISTENT.refusal(
                    f"The attribute {name} of class {defined.name} is {type(value).__name__}, which its class excludes."
                )

    def _plain_value(self, value: Value) -> Any:
        """Numbers and strings, and lists, tuples and dicts of them; a list that two places hold is made once."""
        if isinstance(value, TensorValue):
            return self._tensors.tensor(value)
        if isinstance(value, ObjectValue):
            raise INCONSISTENT.refusal(f"An object of class {value.type_name} lies where no module can be.")
        if not isinstance(value, list | tuple | dict):
            return value
        if id(value) not in self._plain:
            if isinstance(value, dict):
                made: Any = {key: self._plain_value(item) for key, item in value.items()}
            else:
                made = type(value)(self._plain_value(item) for item in value)
            self._plain[id(value)] = made
        return self._plain[id(value)]

    def _origins(self, root: RebuiltModule) -> dict[str, TensorValue]:
        """The value of the archive behind each parameter and buffer, by its name."""
        made = self._tensors.origins()
        named = [*root.named_parameters(remove_duplicate=False), *root.named_buffers(remove_duplicate=False)]
        return {name: made[id(tensor)] for name, tensor in named if id(tensor) in made}


def _reads_its_mode(defined: ir.Class) -> bool:
    """Whether a class behaves otherwise in training mode, as dropout and batch norm do."""
    return any(True for _ in _modes_read_by(defined))


def _reads_modes_of_others(program: ir.Program) -> bool:
    """Whether any class asks for the mode of more than `self`; of what, is not followed."""
    reads = (read for defined in program.classes.values() for read in _modes_read_by(defined))
    return any(not is_own for is_own in reads)


def _modes_read_by(defined: ir.Class) -> Iterator[bool]:
    """For each time that a class asks for a mode, whether it is plainly its own."""
    for method in defined.methods.values():
        for node in nodes_of(method.body):
            match node:
                case ir.Attribute(ir.Name(name), "training"):
                    yield name == method.parameters[0].name
                case ir.Attribute(_, "training"):
                    yield False
