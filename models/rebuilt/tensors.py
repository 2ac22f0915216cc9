"""Tensors of an archive from the bytes of its records; what shared memory in the archive shares it here.

It knows no archive: a function reads a record by its name.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from app.core.intake.torchscript.values import ITEM_BYTES, Storage, TensorValue
from models.rebuilt.errors import INCONSISTENT

ReadRecord = Callable[[str], bytes | memoryview]


class Tensors:
    """Every tensor is made once: asking twice for one value answers one tensor, or one parameter."""

    def __init__(self, read_record: ReadRecord) -> None:
        self._read_record = read_record
        self._memory: dict[Storage, Tensor] = {}
        self._tensors: dict[TensorValue, Tensor] = {}
        self._parameters: dict[TensorValue, nn.Parameter] = {}

    def tensor(self, value: TensorValue) -> Tensor:
        if value not in self._tensors:
            self._tensors[value] = self._view(value)
        return self._tensors[value]

    def parameter(self, value: TensorValue) -> nn.Parameter:
        """A parameter that takes no gradient until somebody asks for it."""
        if value not in self._parameters:
            self._parameters[value] = nn.Parameter(self.tensor(value), requires_grad=False)
        return self._parameters[value]

    def origins(self) -> dict[int, TensorValue]:
        """The id() of each tensor and parameter so far, with the value it was made of."""
        made = [*self._tensors.items(), *self._parameters.items()]
        return {id(tensor): value for value, tensor in made}

    def _view(self, value: TensorValue) -> Tensor:
        last = sum((size - 1) * stride for size, stride in zip(value.shape, value.strides, strict=True))
        if 0 not in value.shape and not 0 <= value.offset <= value.offset + last < value.storage.items:
            raise INCONSISTENT.refusal("A tensor reaches beyond its record.", value.storage.record)
        return self._items(value.storage).as_strided(value.shape, value.strides, value.offset)

    def _items(self, storage: Storage) -> Tensor:
        """All items of a record, in memory that torch aligned itself."""
        if storage not in self._memory:
            needed = storage.items * ITEM_BYTES[storage.dtype]
            data = np.frombuffer(self._read_record(storage.record), np.uint8)
            if len(data) < needed:
                raise INCONSISTENT.refusal(
                    f"The record has {len(data)} bytes where {needed} are needed.", storage.record
                )
            memory = torch.empty(needed, dtype=torch.uint8)
            memory.numpy()[:] = data[:needed]
            self._memory[storage] = memory.view(getattr(torch, storage.dtype))
        return self._memory[storage]
