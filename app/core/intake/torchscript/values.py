"""What the pickles of a TorchScript archive hold, as plain data. No torch.

Two places that held one object hold one object here, too, so a shared module or a shared tensor stays shared.
"""

import math
from dataclasses import dataclass, field

ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


@dataclass(frozen=True, eq=False)
class Storage:
    """One record of numbers; tensors are views of it."""

    record: str  # the member below the archive's root, as "data/0" or "constants/3"
    dtype: str  # a key of ITEM_BYTES
    items: int
    device: str  # as saved, "cpu" or "cuda:0"


@dataclass(frozen=True, eq=False)
class TensorValue:
    """A strided view of a storage; offset and strides count items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool

    @property
    def items(self) -> int:
        """How many numbers it shows, which may be more than its storage holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class DeviceValue:
    """A device literal, such as "cpu" or "cuda:0"."""

    name: str


@dataclass(eq=False)
class ObjectValue:
    """An instance of a class of the archive's own code, such as `__torch__.torch.nn.modules.conv.Conv2d`."""

    type_name: str
    attributes: "dict[str, Value]" = field(default_factory=dict)


Scalar = None | bool | int | float | str
Value = Scalar | DeviceValue | TensorValue | ObjectValue | tuple["Value", ...] | list["Value"] | dict[Scalar, "Value"]
