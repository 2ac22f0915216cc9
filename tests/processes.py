"""Engine processes, seen from outside: what they tell, which are alive, and what world they live in."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.core.clock import MACHINE
from app.core.jobs import JobDirectory
from app.local_scan import run_tasks
from tests.clocks import PretendClock
from tests.waiting import eventually
from worker.launch import ScanSession
from worker.sandbox.events import Event

needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="tells processes apart by /proc")


@contextmanager
def own_world() -> Iterator[None]:
    """Processes started within run on one thread and find no LPIPS weights but the packaged ones."""
    with tempfile.TemporaryDirectory() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", hub)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def small_world() -> Iterator[None]:
    """A world of their own for all tests of a module, which ask for it by `usefixtures`."""
    with own_world():
        yield


def engines_of(root: Path) -> list[int]:
    """The process ids of the engines at work on a job directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if b"worker.engine" in command and os.fsencode(root / "cell") in command:
            found.append(int(path.name))
    return found


def all_end(root: Path) -> bool:
    """True, once the engines at work on a job directory have ended; fails where they do not."""
    return eventually(lambda: engines_of(root) == [])


def run_job(directory: JobDirectory, time_limit: float | None = None) -> list[Event]:
    """Run every task of a job as the command line does, and return what was told; a slow engine is not killed."""
    events: list[Event] = []
    clock = MACHINE if time_limit is None else PretendClock()
    with ScanSession(directory, events.append, time_limit=time_limit, clock=clock) as session:
        run_tasks([session], directory.read_job())
    return events
