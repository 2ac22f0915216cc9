"""The tensors of a pickle: every storage held against its record, every view held against its storage.

A tensor that reaches outside its record would let the reader see, or overwrite, memory that is not the model's. And a
view with a stride of zero is large for free: what all tensors take together, once each is written out, is bounded by
what the archive really holds. No number is read here; only sizes are known.
"""

import math
import re
from collections.abc import Mapping
from typing import TypeGuard

from app.core.intake.torchscript.rules import DO_NOT_LOAD, EXPORT_AGAIN, Rule
from app.core.intake.torchscript.values import ITEM_BYTES, DeviceValue, Storage, TensorValue
from app.core.text import printable

STORAGE = Rule("pickle-storage", "unsafe_pickle", DO_NOT_LOAD)
TENSOR = Rule("pickle-tensor", "unsafe_pickle", DO_NOT_LOAD)
UNSUPPORTED = Rule(
    "pickle-unsupported-tensor",
    "unsupported_operator",
    "Export the model with plain dense tensors of float, half, integer or bool, on a real device; see docs/export.md.",
)
DEVICE = Rule("pickle-device", "malformed_archive", EXPORT_AGAIN)

_MOST_DIMENSIONS = 16  # an image classifier has some six
_MOST_ITEMS = 1 << 31  # of a tensor or a storage, and the most any of their sizes and strides may be
_SMALL_BYTES = 256 << 20  # what expanded views may always take together
_EXPANSION = 4  # and beyond that, so many times what the records hold

_KEY = re.compile(r"[0-9]{1,9}")
_DEVICE = re.compile(r"[a-z]{1,16}(:[0-9]{1,3})?")


class StorageTable:
    """The storages that one pickle refers to, each backed by a record in its folder ("data", "constants")."""

    def __init__(self, folder: str, record_bytes: Mapping[str, int]) -> None:
        self.folder = folder
        self.record_bytes = record_bytes  # of the archive's members, by their names below its root
        self.described: set[str] = set()  # by their keys
        held = sum(size for record, size in record_bytes.items() if record.startswith(f"{folder}/"))
        self._bytes_left = _EXPANSION * held + _SMALL_BYTES

    def storage(self, dtype: str, key: object, device: object, items: object) -> Storage:
        """The storage of this key; described again, it would be a copy to torch, which fetches what it noted down."""
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise STORAGE.refusal("A storage has a key that is not a number")
        if not _is_size(items):
            raise STORAGE.refusal(f"The storage {key} has a size that is not a number of items")
        if key in self.described:
            raise STORAGE.refusal(f"The storage {key} is described twice")
        self.described.add(key)
        storage = Storage(f"{self.folder}/{key}", dtype, items, device_named(device).name)
        self._check_record(storage)
        return storage

    def tensor(
        self, storage: Storage, offset: object, shape: object, strides: object, requires_grad: object
    ) -> TensorValue:
        """A view of a storage that stays inside it."""
        if not isinstance(requires_grad, bool):
            raise TENSOR.refusal(f"A tensor of `{storage.record}` does not say whether it requires a gradient")
        if not (_is_size(offset) and _are_sizes(shape) and _are_sizes(strides) and len(shape) == len(strides)):
            raise TENSOR.refusal(f"A tensor of `{storage.record}` has an offset, a shape or strides that are no sizes")
        items = math.prod(shape)
        if math.prod(max(size, 1) for size in shape) > _MOST_ITEMS:
            raise TENSOR.refusal(f"A tensor of `{storage.record}` has more than {_MOST_ITEMS:,} items")
        reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1 if items else 0
        if offset + reach > storage.items:
            raise TENSOR.refusal(
                f"A tensor reaches to item {offset + reach:,} of `{storage.record}`, which has {storage.items:,}"
            )
        self._bytes_left -= items * ITEM_BYTES[storage.dtype]
        if self._bytes_left < 0:
            raise TENSOR.refusal("The tensors, written out, are many times larger than the archive")
        return TensorValue(storage, offset, shape, strides, requires_grad)

    def _check_record(self, storage: Storage) -> None:
        held = self.record_bytes.get(storage.record)
        if held is None:
            raise STORAGE.refusal(f"The archive has no record `{storage.record}`")
        needed = storage.items * ITEM_BYTES[storage.dtype]
        if needed > held:
            raise STORAGE.refusal(f"The record `{storage.record}` has {held:,} bytes where {needed:,} are needed")


def device_named(name: object) -> DeviceValue:
    """A device such as "cpu" or "cuda:0"; on "meta" a tensor would have no numbers."""
    if not isinstance(name, str) or not _DEVICE.fullmatch(name):
        shown = printable(name) if isinstance(name, str) else type(name).__name__
        raise DEVICE.refusal(f"`{shown}` is not the name of a device")
    if name.startswith("meta"):
        raise UNSUPPORTED.refusal("The device is `meta`, where tensors have no numbers")
    return DeviceValue(name)


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _MOST_ITEMS


def _are_sizes(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and len(values) <= _MOST_DIMENSIONS and all(map(_is_size, values))
