"""The names a pickle of TorchScript may use, and what each of them makes. Nothing of that name is imported.

Classes below `__torch__` are the archive's own; a storage's type says what its numbers are; eight functions of torch
and Python are known, and each is stood in for by a line or two. Old versions of torch wrote the same names.
"""

import re
from dataclasses import dataclass

from app.core.intake.torchscript.pickles.storages import UNSUPPORTED, StorageTable, device_named
from app.core.intake.torchscript.rules import DO_NOT_LOAD, Rule
from app.core.intake.torchscript.values import Storage, Value
from app.core.text import printable

GLOBAL = Rule("pickle-global", "unsafe_pickle", DO_NOT_LOAD)
CALL = Rule("pickle-call", "unsafe_pickle", DO_NOT_LOAD)

FUNCTIONS = (
    "collections.OrderedDict",
    "torch.device",
    "torch._utils._rebuild_tensor_v2",
    "torch.jit._pickle.build_boollist",
    "torch.jit._pickle.build_doublelist",
    "torch.jit._pickle.build_intlist",
    "torch.jit._pickle.build_tensorlist",
    "torch.jit._pickle.restore_type_tag",
)
STORAGE_TYPES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_OTHER_TENSORS = re.compile(r"torch\._utils\._rebuild_\w+|torch\.[A-Za-z0-9_]+Storage|builtins\.complex", re.ASCII)
_CLASS = re.compile(r"__torch__(\.[A-Za-z_][A-Za-z0-9_]*)+")
_CUSTOM_CLASS = "__torch__.torch.classes."
_TYPE_TAG = re.compile(r"[A-Za-z0-9_., \[\]()]{1,1000}")


@dataclass(frozen=True)
class ClassName:
    """A class of the archive's own code."""

    name: str


@dataclass(frozen=True)
class StorageType:
    dtype: str


@dataclass(frozen=True)
class Function:
    """One of FUNCTIONS."""

    name: str


def find_global(module: str, name: str) -> ClassName | StorageType | Function:
    """What a name stands for; raises GateRefusal for names that TorchScript does not use."""
    full = f"{module}.{name}"
    if full in FUNCTIONS:
        return Function(full)
    if full in STORAGE_TYPES:
        return StorageType(STORAGE_TYPES[full])
    if _CLASS.fullmatch(full) and not full.startswith(_CUSTOM_CLASS):
        return ClassName(full)
    if _OTHER_TENSORS.fullmatch(full):
        raise UNSUPPORTED.refusal(f"The pickle holds a tensor or a number made by `{printable(full)}`")
    raise GLOBAL.refusal(f"The pickle names `{printable(full)}`, which no archive of TorchScript needs")


def call(function: Function, arguments: tuple[object, ...], storages: StorageTable) -> Value:
    """What the function would make of the arguments; what a list may hold is said by the class that declares it."""
    match function.name.rpartition(".")[2], arguments:
        case "OrderedDict", ():
            return {}
        case "device", (name,):
            return device_named(name)
        case "_rebuild_tensor_v2", (Storage() as storage, *view, dict() as hooks) if len(view) == 4 and not hooks:
            return storages.tensor(storage, *view)
        case "build_boollist" | "build_doublelist" | "build_intlist" | "build_tensorlist", (list() as items,):
            return items
        case "restore_type_tag", (list() | dict() as value, str() as tag) if _TYPE_TAG.fullmatch(tag):
            return value
    raise CALL.refusal(f"`{function.name}` is called with arguments that do not fit it")
