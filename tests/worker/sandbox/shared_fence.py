"""Engines that share one process behind one fence, where many jobs would each pay for an import of torch of their own.

Fence, environment, system calls and limits are those of any engine, and so is what is done there. That every scan has
a fence of its own is tried with real ones (test_fence.py, test_watched.py).
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from app.core.clock import Clock
from app.core.plan import Task
from worker import launch
from worker.sandbox.cell import Cell
from worker.sandbox.events import Event, read_event
from worker.sandbox.fence import Fence, Sandbox, filter_file, known_inside

INSIDE = "/jobs"
SERVES_ALL = """
import json, sys
from pathlib import Path
from app.core.jobs import JobDirectory
from app.core.plan import JobKind, Task
from worker.engine import __main__ as engine
from worker.sandbox import limits

def emit(event, **data):
    print(json.dumps({"event": event, **data}), file=told, flush=True)

limits.lower()
told, sys.stdout, opened = sys.stdout, sys.stderr, None
for line in sys.stdin:
    place, task = json.loads(line)
    if place != opened:
        bench, opened = engine.open_workbench(JobDirectory(Path(place)), emit), place
    emit(**engine.answer(bench, Task(JobKind(task["kind"]), tuple(task["labels"]), task["round"])))
"""


class FencedProcess:
    """Does the tasks of jobs below a folder, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        filtered = filter_file()
        self._process = subprocess.Popen(
            Fence({}, (folder, INSIDE)).command([sys.executable, "-u", "-c", SERVES_ALL], filtered),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=known_inside({**launch.CALM, **os.environ}),
            pass_fds=(filtered,),
        )
        os.close(filtered)

    def send(self, cell: Cell, task: Task) -> None:
        assert self._process.stdin is not None
        place = f"{INSIDE}/{cell.root.relative_to(self.folder)}"
        self._process.stdin.write(json.dumps([place, asdict(task)]).encode() + b"\n")
        self._process.stdin.flush()

    def receive(self, task: Task) -> Event | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return read_event(line, task) if line else None

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@contextmanager
def sharing_fence(fenced: FencedProcess) -> Iterator[None]:
    """Engines that are started within, for jobs below its folder, are this process."""

    class Visitor:
        why_killed = None

        def __init__(
            self, cell: Cell, time_limit: float | None, sandbox: Sandbox, environment: Mapping[str, str], clock: Clock
        ) -> None:
            assert sandbox == "bwrap" and time_limit is None
            self._cell = cell

        def send(self, task: Task) -> None:
            fenced.send(self._cell, task)

        def receive(self, task: Task) -> Event | None:
            return fenced.receive(task)

        def kill(self) -> None: ...

        def wait(self) -> int:
            return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_Engine", Visitor)
        yield
