"""What each operator of the code does: a function of torch, or Python's own for numbers, lists, dicts and strings.

An operator of torch is found under its name in torch.ops.aten, which chooses among its overloads by the types of the
arguments, as the jit does. It cannot be asked where a list is changed in place (it would change a copy), where the
identity of an object counts, or where it would turn plain numbers into tensors: there the jit's meaning is written out.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from app.core.intake.torchscript.code.operators import allowlist
from models.rebuilt.errors import RebuiltError

Implementation = Callable[..., Any]

# The numbers that stand for types in the code: c10::ScalarType.
DTYPES = {
    0: torch.uint8,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.int64,
    5: torch.float16,
    6: torch.float32,
    7: torch.float64,
    11: torch.bool,
    15: torch.bfloat16,
}
DTYPE_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
STRIDED = 0  # the only layout that is read


def implementation_of(name: str) -> Implementation | None:
    """What `aten::add` or `prim::dtype` does, or None for an operator that the gate would not let through."""
    if name not in allowlist():
        return None
    in_torch = _in_torch(name)
    if in_torch and name in ALSO_OF_TENSORS:
        return _by_first_arguments(in_torch, ALSO_OF_TENSORS[name])
    return PYTHON.get(name) or in_torch


def _in_torch(name: str) -> Implementation | None:
    namespace, _, bare = name.partition("::")
    return getattr(torch.ops.aten, bare, None) if namespace == "aten" else None


def _by_first_arguments(in_torch: Implementation, in_python: Implementation) -> Implementation:
    def choose(first: Any, *others: Any, **keywords: Any) -> Any:
        if isinstance(first, Tensor) or (others and isinstance(others[0], Tensor)):
            return in_torch(first, *others, **keywords)
        return in_python(first, *others, **keywords)

    return choose


# Numbers


def trips(count: int) -> range:
    """What a loop with so many trips runs through."""
    return range(count)


def number(value: Any) -> Any:
    """A tensor of one item as the number in it; a number as it is."""
    return value.item() if isinstance(value, Tensor) else value


# Lists and dicts


def _append(values: list[Any], value: Any) -> list[Any]:
    values.append(value)
    return values


def _extend(values: list[Any], more: list[Any]) -> list[Any]:
    values.extend(more)
    return values


def _repeat(values: list[Any], times: int) -> list[Any]:
    values *= times
    return values


def _set_item(values: Any, key: Any, value: Any) -> Any:
    values[key] = value
    return values


def _slice(values: Any, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return values[start:end:step]


def _sort(values: list[Any], reverse: bool = False) -> None:
    values.sort(reverse=reverse)


# Strings


def _format(template: str, *values: Any) -> str:
    """Each {} is replaced by the next value; a template of Python's could look into the values, this one cannot."""
    first, *rest = template.split("{}")
    if len(rest) > len(values):
        raise RebuiltError("A message has more places than values.")
    return first + "".join(str(value) + piece for value, piece in zip(values, rest, strict=False))


# Tensors


def _size(tensor: Tensor, dim: int | None = None) -> list[int] | int:
    return list(tensor.shape) if dim is None else tensor.shape[dim]


def _tensor(
    data: Any, dtype: int | None = None, device: torch.device | None = None, requires_grad: bool = False
) -> Tensor:
    """A new tensor; the jit copies a tensor that it is given, and so does this."""
    kind = None if dtype is None else DTYPES[dtype]
    if isinstance(data, Tensor):
        return data.detach().to(device=device, dtype=kind, copy=True).requires_grad_(requires_grad)
    return torch.tensor(data, dtype=kind, device=device, requires_grad=requires_grad)


def _as_tensor(data: Any, dtype: int | None = None, device: torch.device | None = None) -> Tensor:
    return torch.as_tensor(data, dtype=None if dtype is None else DTYPES[dtype], device=device)


def _number_to_tensor(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else None)


def _nothing(*values: Any, **keywords: Any) -> None:
    """Warnings and prints are not for the one who scans."""


def _raise(message: str = "", kind: str | None = None) -> NoReturn:
    raise RebuiltError(f"The model's own code raised: {message}")


def _unwrapped(value: Any) -> Any:
    if value is None:
        raise RebuiltError("A value that is needed is None.")
    return value


def _smallest(first: Any, second: Any = None) -> Any:
    return min(first) if second is None else min(first, second)


def _largest(first: Any, second: Any = None) -> Any:
    return max(first) if second is None else max(first, second)


# Python's own functions are not bound as they are: torch.compile would look for them among the builtins of the code
# that calls them, and that code has none.

# What means the same in Python for numbers, lists and strings; a tensor among the first two arguments goes to torch.
ALSO_OF_TENSORS: dict[str, Implementation] = {
    "aten::add": operator.add,
    "aten::sub": operator.sub,
    "aten::mul": operator.mul,
    "aten::div": operator.truediv,
    "aten::remainder": operator.mod,
    "aten::pow": math.pow,  # of integers, too, the jit makes a float
    "aten::neg": operator.neg,
    "aten::eq": operator.eq,
    "aten::ne": operator.ne,
    "aten::lt": operator.lt,
    "aten::le": operator.le,
    "aten::gt": operator.gt,
    "aten::ge": operator.ge,
    "aten::__and__": operator.and_,
    "aten::__or__": operator.or_,
    "aten::__xor__": operator.xor,
    "aten::add_": _extend,
    "aten::mul_": _repeat,
    "aten::select": operator.getitem,
    "aten::slice": _slice,
    "aten::sort": _sort,
    "aten::sum": lambda values: sum(values),
    "aten::all": lambda values: all(values),
    "aten::any": lambda values: any(values),
    "aten::copy": lambda values: values.copy(),
    "aten::values": lambda values: [*values.values()],
}

PYTHON: dict[str, Implementation] = {
    # Numbers.
    "aten::floordiv": operator.floordiv,
    "aten::__not__": operator.not_,
    "aten::__is__": operator.is_,
    "aten::__isnot__": operator.is_not,
    "aten::__derive_index": lambda trip, start, step: start + trip * step,
    "aten::__range_length": lambda start, stop, step: len(range(start, stop, step)),
    "aten::Int": lambda value: int(value),
    "aten::IntImplicit": lambda value: int(value),
    "aten::Float": lambda value: float(value),
    "aten::FloatImplicit": lambda value: float(value),
    "aten::Bool": lambda value: bool(value),
    "aten::ScalarImplicit": number,
    "aten::item": Tensor.item,
    "prim::abs": lambda value: abs(value),
    "prim::min": _smallest,
    "prim::max": _largest,
    "prim::NumToTensor": _number_to_tensor,
    # Lists and dicts.
    "aten::__contains__": operator.contains,
    "aten::__getitem__": operator.getitem,
    "aten::_set_item": _set_item,
    "aten::Delete": operator.delitem,
    "aten::append": _append,
    "aten::extend": lambda values, more: values.extend(more),
    "aten::insert": lambda values, place, value: values.insert(place, value),
    "aten::reverse": lambda values: values.reverse(),
    "aten::sorted": lambda values: sorted(values),
    "aten::pop": lambda values, *where: values.pop(*where),
    "aten::clear": lambda values: values.clear(),
    "aten::len": lambda values: len(values),
    "aten::list": lambda values: [*values],
    "aten::keys": lambda values: [*values.keys()],
    "aten::items": lambda values: [*values.items()],
    "aten::get": lambda values, *key: values.get(*key),
    "aten::_unwrap_optional": _unwrapped,
    "prim::unchecked_unwrap_optional": _unwrapped,
    # Strings, and what a program tells people.
    "aten::str": lambda value: str(value),
    "aten::format": _format,
    "aten::percentFormat": operator.mod,
    "aten::warn": _nothing,
    "prim::Print": _nothing,
    "prim::RaiseException": _raise,
    # Tensors.
    "aten::size": _size,
    "aten::dim": Tensor.dim,
    "aten::numel": Tensor.numel,
    "aten::tensor": _tensor,
    "aten::as_tensor": _as_tensor,
    "prim::dtype": lambda tensor: DTYPE_NUMBERS[tensor.dtype],
    "prim::layout": lambda tensor: STRIDED,
    "prim::data": Tensor.detach,
    "prim::tolist": Tensor.tolist,
    "prim::device": lambda tensor: tensor.device,
    "prim::requires_grad": lambda tensor: tensor.requires_grad,
    "prim::is_cpu": lambda tensor: tensor.is_cpu,
    "prim::is_cuda": lambda tensor: tensor.is_cuda,
    "prim::is_mkldnn": lambda tensor: tensor.is_mkldnn,
    "prim::is_nested": lambda tensor: tensor.is_nested,
    "prim::is_quantized": lambda tensor: tensor.is_quantized,
    "prim::is_sparse": lambda tensor: tensor.is_sparse,
    # Devices, and the state of torch.
    "prim::type": lambda device: device.type,
    "aten::is_grad_enabled": torch.is_grad_enabled,
    "aten::is_autocast_enabled": torch.is_autocast_enabled,
}
