"""What each operator of the code does: a function of torch, or Python's own for numbers, lists, dicts and strings.

An operator of torch is found under its name in torch.ops.aten, which chooses among its overloads by the types of the
arguments, as the jit does. It cannot be asked where a list is changed in place (it would change a copy), where the
identity of an object counts, or where it would turn plain numbers into tensors: there the jit's meaning is written out.
"""

import math
import operator
from typing import Any, NoReturn

import torch
from torch import Tensor

from app.core.intake.torchscript.code.operators import allowlist
from models.rebuilt import attention, devices, overloads, plain
from models.rebuilt.errors import RebuiltError
from models.rebuilt.upgrades import NEWEST_FORMAT, Implementation, in_format

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
HALVES = (DTYPE_NUMBERS[torch.float16], DTYPE_NUMBERS[torch.bfloat16])
STRIDED = 0  # the only layout that is read


def is_unknown_type(number: Any) -> bool:
    """Whether a number stands for no type; torch does not check that, and would read memory that is none of its own."""
    return type(number) is int and number not in DTYPES


def implementation_of(name: str, format_version: int = NEWEST_FORMAT) -> Implementation | None:
    """What `aten::add` or `prim::dtype` does, or None for an operator that the gate would not let through."""
    if name not in allowlist():
        return None
    in_torch = _in_torch(name)
    if in_torch:
        in_torch = in_format(format_version, name, in_torch)
    if in_torch and name in ALSO_OF_TENSORS:
        return _by_first_arguments(in_torch, ALSO_OF_TENSORS[name], name in COMPARISONS)
    return PYTHON.get(name) or in_torch


def _in_torch(name: str) -> Implementation | None:
    namespace, _, bare = name.partition("::")
    in_torch = getattr(torch.ops.aten, bare, None) if namespace == "aten" else None
    in_torch = overloads.divided if name == "aten::div" else in_torch
    places = overloads.places_of_numbers(name)
    return overloads.with_numbers(in_torch, places) if in_torch and places else in_torch


def _by_first_arguments(in_torch: Implementation, in_python: Implementation, compares: bool) -> Implementation:
    """In a comparison the tensor comes first: the jit prints `0 < x` as `x > 0`."""

    def choose(first: Any, *others: Any, **keywords: Any) -> Any:
        if isinstance(first, Tensor) or (not compares and others and isinstance(others[0], Tensor)):
            return in_torch(first, *others, **keywords)
        return in_python(first, *others, **keywords)

    return choose


# Numbers


def trips(count: int) -> range:
    """What a loop with so many trips runs through."""
    return range(count)


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


# Tensors


def _size(tensor: Tensor, dim: int | None = None) -> list[int] | int:
    return list(tensor.shape) if dim is None else tensor.shape[dim]


def _tensor(
    data: Any, dtype: int | None = None, device: torch.device | None = None, requires_grad: bool = False
) -> Tensor:
    """A new tensor; the jit copies a tensor that it is given, and so does this. Nobody trains it (_requires_grad)."""
    kind = None if dtype is None else DTYPES[dtype]
    if isinstance(data, Tensor):
        return data.detach().to(device=device, dtype=kind, copy=True)
    return torch.tensor(_holding(data, dtype), dtype=kind, device=device)


def _requires_grad(tensor: Tensor) -> bool:
    """What a tensor says in use, where nobody takes gradients: a search must not be shown another network."""
    return False


def _as_tensor(data: Any, dtype: int | None = None, device: torch.device | None = None) -> Tensor:
    kind = None if dtype is None else DTYPES[dtype]
    return torch.as_tensor(_holding(data, dtype), dtype=kind, device=device)


def _holding(data: Any, dtype: int | None) -> Any:
    """The same data, unless it is a list of nothing: what it would hold, and so its type, the jit alone knows."""
    inner = data
    while isinstance(inner, list) and inner:
        inner = inner[0]
    if dtype is None and inner == []:
        raise RebuiltError("The model's code makes a tensor of an empty list, and does not say of which type.")
    return data


def _layout(tensor: Tensor) -> int:
    if tensor.layout != torch.strided:
        raise RebuiltError("The model's code makes a sparse tensor.")
    return STRIDED


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


# Python's own functions are not bound as they are: torch.compile would look for them among the builtins of the code
# that calls them, and that code has none.

COMPARISONS = ("aten::eq", "aten::ne", "aten::lt", "aten::le", "aten::gt", "aten::ge")

# What means the same for numbers, lists and strings; a tensor among the first two arguments goes to torch.
ALSO_OF_TENSORS: dict[str, Implementation] = {
    "aten::add": plain.within_64_bits(operator.add),
    "aten::sub": plain.within_64_bits(operator.sub),
    "aten::mul": plain.within_64_bits(operator.mul),
    "aten::div": plain.divided,
    "aten::remainder": plain.remainder,
    "aten::pow": math.pow,  # of integers, too, the jit makes a float
    "aten::neg": plain.within_64_bits(operator.neg),
    "aten::eq": plain.are_equal,
    "aten::ne": lambda first, second: not plain.are_equal(first, second),
    "aten::lt": plain.compared(operator.lt),
    "aten::le": plain.compared(operator.le),
    "aten::gt": plain.compared(operator.gt),
    "aten::ge": plain.compared(operator.ge),
    "aten::__and__": operator.and_,
    "aten::__or__": operator.or_,
    "aten::__xor__": operator.xor,
    "aten::add_": _extend,
    "aten::mul_": _repeat,
    "aten::select": plain.item,
    "aten::slice": plain.piece,
    "aten::sort": plain.sort,
    "aten::sum": plain.added_up,
    "aten::all": lambda values: all(values),
    "aten::any": lambda values: any(values),
    "aten::copy": lambda values: values.copy(),
    "aten::values": lambda values: [*values.values()],
}

PYTHON: dict[str, Implementation] = {
    # Numbers.
    "aten::floordiv": plain.floor_divided,
    "aten::__not__": operator.not_,
    "aten::__is__": plain.are_one,
    "aten::__isnot__": lambda first, second: not plain.are_one(first, second),
    "aten::__derive_index": plain.within_64_bits(lambda trip, start, step: start + trip * step),
    "aten::__range_length": plain.range_length,
    "aten::Int": plain.integer,
    "aten::IntImplicit": plain.integer,
    "aten::Float": lambda value: float(value),
    "aten::FloatImplicit": lambda value: float(value),
    "aten::Bool": lambda value: bool(value),
    "aten::ScalarImplicit": plain.number,
    "aten::item": Tensor.item,
    "prim::abs": plain.within_64_bits(operator.abs),
    "prim::min": plain.smallest,
    "prim::max": plain.largest,
    "prim::NumToTensor": _number_to_tensor,
    # Lists and dicts.
    "aten::__contains__": plain.contains,
    "aten::__getitem__": plain.item,
    "aten::_set_item": plain.set_item,
    "aten::Delete": operator.delitem,
    "aten::append": _append,
    "aten::extend": lambda values, more: values.extend(more),
    "aten::insert": lambda values, place, value: values.insert(place, value),
    "aten::reverse": lambda values: values.reverse(),
    "aten::sorted": plain.in_order,
    "aten::pop": lambda values, *where: values.pop(*where),
    "aten::clear": lambda values: values.clear(),
    "aten::len": plain.length,
    "aten::list": plain.listed,
    "aten::keys": lambda values: [*values.keys()],
    "aten::items": lambda values: [*values.items()],
    "aten::get": lambda values, *key: values.get(*key),
    "aten::_unwrap_optional": _unwrapped,
    "prim::unchecked_unwrap_optional": _unwrapped,
    # Strings, and what a program tells people.
    "aten::str": plain.shown,
    "aten::format": plain.filled,
    "aten::percentFormat": plain.filled_by_percent,
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
    "prim::layout": _layout,
    "aten::view": overloads.view,
    **{f"aten::{name}": overloads.spread(name) for name in ("std", "std_mean", "var", "var_mean")},
    "prim::data": Tensor.detach,
    "prim::tolist": Tensor.tolist,
    "prim::device": lambda tensor: tensor.device,
    "prim::requires_grad": _requires_grad,
    "prim::is_cpu": devices.is_cpu,
    "prim::is_cuda": devices.is_cuda,
    "prim::is_mkldnn": lambda tensor: tensor.is_mkldnn,
    "prim::is_nested": lambda tensor: tensor.is_nested,
    "prim::is_quantized": lambda tensor: tensor.is_quantized,
    "prim::is_sparse": lambda tensor: tensor.is_sparse,
    # What has no derivative in one piece.
    "aten::_native_multi_head_attention": attention.native_multi_head_attention,
    "aten::_transformer_encoder_layer_fwd": attention.transformer_encoder_layer_fwd,
    # Devices, and the state of torch.
    "prim::type": devices.kind_of,
    "aten::is_grad_enabled": torch.is_grad_enabled,
    "aten::is_autocast_enabled": torch.is_autocast_enabled,
}
