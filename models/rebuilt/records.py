"""What the weights of a rebuilt module have become, as bytes of the records they were made of.

A record keeps its type and its length, while the module may have been moved and cast (half precision is trained in
float32): an item that is what it was keeps its bits, any other is rounded to the record's type. Tensors may share a
record, and items of it; casting and moving end that in the module, so here they must still agree on what they share.

It knows no archive: a function reads a record by its name. Tensors in lists and dicts of the module's own are no
weights, and are not looked at. What the module's own code counts while it runs has changed like anything else.
"""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from app.core.intake.torchscript.values import ITEM_BYTES, Storage, TensorValue
from models.rebuilt.module import RebuiltModule
from models.rebuilt.tensors import ReadRecord

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class UnwritableError(ValueError):
    """A tensor of the module, named, cannot stand in the archive that it came from; the message is advice."""


def changed_records(module: RebuiltModule, read_record: ReadRecord) -> dict[str, bytes]:
    """The records that parameters and buffers have changed, by name; empty if the module is what was rebuilt.

    Raises UnwritableError for a tensor of another shape or kind, for a number that the record's type cannot hold, and
    for tensors that share items and disagree on them.
    """
    sharing: dict[Storage, dict[str, TensorValue]] = defaultdict(dict)
    for name, origin in module.origins.items():
        sharing[origin.storage][name] = origin
    state = dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])
    changed = {}
    for storage, origins in sharing.items():
        before = read_record(storage.record)
        after = _rewritten(storage, before, origins, state)
        if after != before:
            changed[storage.record] = after
    return changed


def _rewritten(
    storage: Storage, record: bytes | memoryview, origins: Mapping[str, TensorValue], state: Mapping[str, Tensor]
) -> bytes:
    """The record with all tensors that were made of it written over it, and read again to see that they agree."""
    memory = torch.empty(len(record), dtype=torch.uint8)
    memory.numpy()[:] = np.frombuffer(record, np.uint8)
    items = memory[: storage.items * ITEM_BYTES[storage.dtype]].view(getattr(torch, storage.dtype))
    views = {name: items.as_strided(origin.shape, origin.strides, origin.offset) for name, origin in origins.items()}
    wanted = {name: _wanted(name, view, state.get(name)) for name, view in views.items()}
    for name, view in views.items():
        _unexpanded(view, origins[name]).copy_(_unexpanded(wanted[name], origins[name]))
    for name, view in views.items():
        if not torch.equal(_bits(view), _bits(wanted[name])):
            raise UnwritableError(
                f"The tensor `{name}` shares numbers of `{storage.record}` with other tensors, or with itself, and "
                "they disagree. Change them on the CPU and in the precision they were saved in, where they share their "
                "memory, or export the model with separate weights."
            )
    return memory.numpy().tobytes()


def _wanted(name: str, before: Tensor, now: Tensor | None) -> Tensor:
    """What a tensor is to be in the archive; `before` is what it is there."""
    if now is None or now.shape != before.shape or not _is_cast(before, now):
        became = "gone" if now is None else f"{now.dtype} of shape {tuple(now.shape)}"
        raise UnwritableError(
            f"The tensor `{name}` was {before.dtype} of shape {tuple(before.shape)} and is now {became}, which its "
            "record cannot hold. Change its numbers only."
        )
    now = now.detach().cpu()
    rounded = now.to(before.dtype)
    if bool((rounded.isinf() & now.isfinite()).any()):
        raise UnwritableError(
            f"The tensor `{name}` holds {float(now.abs().max()):g}, which is beyond {before.dtype}. "
            "Use a smaller learning rate, or export the model in float32."
        )
    return torch.where(_bits(before.to(now.dtype)) == _bits(now), before, rounded)


def _is_cast(before: Tensor, now: Tensor) -> bool:
    return now.dtype == before.dtype or (now.is_floating_point() and before.is_floating_point())


def _unexpanded(tensor: Tensor, origin: TensorValue) -> Tensor:
    """Of dimensions with a stride of zero, where every item is the same one in the record, the first item only."""
    return tensor[tuple(slice(None if stride else 1) for stride in origin.strides)]


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as integers, for which a NaN equals itself and the two zeros differ."""
    return tensor.view(_BITS[tensor.element_size()])
