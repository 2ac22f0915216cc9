"""Steps that a GPU repeats without being told of every kernel anew.

A step of these searches is hundreds of small kernels, and to tell a GPU of one takes longer than computing it. Recorded
as a CUDA graph, all of them are one order.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

WARM_UPS = 3  # steps in which libraries choose their kernels and take their memory


class Recorded:
    """A step that is called again and again; on a GPU it is recorded after a few calls and replayed from then on.

    It takes and gives back nothing: what it reads and writes are tensors that stay where they are. It must not wait for
    the GPU, so what a suspect's code does is never recorded.
    """

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self._step, self._on_gpu = step, device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._calls = 0

    def __call__(self) -> None:
        if not self._on_gpu:
            self._step()
        elif self._calls < WARM_UPS:
            self._calls += 1
            self._beside()
        else:
            if self._graph is None:
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph):
                    self._step()  # recorded, not done
            self._graph.replay()

    def _beside(self) -> None:
        """The step on a stream of its own, as what is to be recorded has to be done before."""
        here, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            self._step()
        here.wait_stream(beside)


def adam(parameters: Iterable[nn.Parameter], learning_rate: float, **options: Any) -> torch.optim.Adam:
    """An optimizer whose step can be recorded: on a GPU its learning rate is a tensor, which a schedule changes."""
    held = list(parameters)
    device = held[0].device
    on_gpu = device.type == "cuda"
    rate = torch.tensor(learning_rate, device=device) if on_gpu else learning_rate
    return torch.optim.Adam(held, rate, foreach=True, capturable=on_gpu, **options)
