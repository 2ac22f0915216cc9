"""CUDA for tests on machines without it: tensors that lie there and hold nothing.

Torch's fake tensors know their device and shape, and mixing devices raises. What they cannot do is run backwards, which
wants a driver: here every leaf that a loss depends on gets a gradient of zeros instead. Whoever reads a number from
the device is counted, and gets a zero or is told that it is so.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worker.detection.recorded import Recorded

CUDA = torch.device("cuda", 0)
CLASSES = 10  # that a count of labels tells of

Net = TypeVar("Net", bound=nn.Module)


@contextmanager
def pretend_cuda() -> Iterator[Counter[str]]:
    """Within, tensors of device="cuda" can be made; counts by name what reads from there."""
    reads: Counter[str] = Counter()

    def reading(name: str, value: Any) -> Any:
        real = getattr(Tensor, name)

        def read(tensor: Tensor, *of: Any, **more: Any) -> Any:
            if not tensor.is_cuda:
                return real(tensor, *of, **more)
            reads[name] += 1
            return value(tensor)

        return read

    stand_ins = {
        "backward": lambda loss, *of, **more: _give_gradients(loss),
        "item": reading("item", lambda tensor: _zeros(tensor).view(-1)[0].tolist()),
        "bincount": reading("bincount", lambda tensor: torch.empty(CLASSES, dtype=torch.long, device=CUDA)),
        "__bool__": reading("__bool__", lambda tensor: True),
        "tolist": reading("tolist", lambda tensor: _zeros(tensor).tolist()),
        "cpu": reading("cpu", _zeros),
        "to": _moving(reads),
    }
    with (
        patch.multiple(Tensor, **stand_ins),
        patch.object(Recorded, "__call__", lambda recorded: recorded._step()),  # a graph wants a driver
        FakeTensorMode(allow_non_fake_inputs=True),
        _RealOnTheProcessor(),
    ):
        yield reads


class _RealOnTheProcessor(TorchDispatchMode):
    """Over a fake mode: only what is done on the device, or brought there, is left to it; all else is real."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        goes_there = torch.device(kwargs.get("device") or "cpu").type == "cuda"
        if goes_there or any(isinstance(value, FakeTensor) for value in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        with unset_fake_temporarily():
            return func(*args, **kwargs)


def on_pretend_cuda(make: Callable[[], Net]) -> Net:
    """What is made, of real numbers, with all that `.to` would move there; what is no parameter and no buffer stays."""
    module = make()
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(torch.empty_like(parameter, device=CUDA), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty_like(buffer, device=CUDA)
    return module


def _zeros(tensor: Tensor) -> Tensor:
    """As many zeros as there are numbers, which nobody pretends to have."""
    return torch.zeros(tensor.shape, dtype=tensor.dtype)


def _moving(reads: Counter[str]) -> Any:
    """`Tensor.to`, counted where it goes from the device to the processor."""
    real = Tensor.to

    def to(tensor: Tensor, *of: Any, **more: Any) -> Tensor:
        moved = real(tensor, *of, **more)
        reads["to"] += tensor.is_cuda and not moved.is_cuda
        return moved

    return to


def _give_gradients(loss: Tensor) -> None:
    """A gradient of zeros for every leaf that a loss depends on; raises RuntimeError where there is none, as torch."""
    ahead, seen = [loss.grad_fn], set()
    if loss.grad_fn is None:
        raise RuntimeError("nothing that the loss depends on requires a gradient")
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaf.grad = torch.zeros_like(leaf)
        ahead += [before for before, _ in node.next_functions]
