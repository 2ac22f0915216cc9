"""Engines that run in the process of the tests, where many jobs would each pay for an import of torch of their own.

What is a matter of processes (that an engine crashes, is killed, is fenced in, prints) is tried with real ones.
"""

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from app.core.clock import Clock
from app.core.jobs import JobDirectory
from app.core.plan import Task
from tests.processes import run_job
from worker import launch
from worker.engine import __main__ as engine
from worker.sandbox.cell import Cell
from worker.sandbox.events import Event
from worker.sandbox.fence import Sandbox


class EngineInThisProcess:
    """Does a task at once, and hands out its events afterwards."""

    why_killed = None

    def __init__(
        self, cell: Cell, time_limit: float | None, sandbox: Sandbox, environment: Mapping[str, str], clock: Clock
    ) -> None:
        self.events: deque[Event] = deque()
        seconds = math.inf if time_limit is None else time_limit
        self.bench = engine.open_workbench(JobDirectory(cell.root), self.emit, seconds)

    def emit(self, event: str, **data: Any) -> None:
        self.events.append(json.loads(json.dumps({"event": event, **data})))

    def send(self, task: Task) -> None:
        self.emit(**engine.answer(self.bench, task))

    def receive(self, task: Task) -> Event:
        return self.events.popleft()

    def kill(self) -> None: ...

    def wait(self) -> int:
        return 0


@contextmanager
def sharing_process() -> Iterator[None]:
    """Engines that are started within run in this process, and leave it as they found it."""
    threads, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_Engine", EngineInThisProcess)
        yield
    torch.set_flush_denormal(False)  # hypothesis draws denormal numbers, too
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(deterministic)


def run_job_here(directory: JobDirectory) -> list[Event]:
    """Every task of a job, one after the other, in this process; returns what was told."""
    with sharing_process():
        return run_job(directory)
