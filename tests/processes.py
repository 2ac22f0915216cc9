"""Engine processes, seen from outside: which are alive, and what world they live in."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="tells processes apart by /proc")


@contextmanager
def own_world() -> Iterator[None]:
    """Processes started within run on one thread and find no LPIPS weights but the packaged ones."""
    with tempfile.TemporaryDirectory() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", hub)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def engines_of(root: Path) -> list[int]:
    """The process ids of the engines at work on a job directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if b"worker.engine" in command and os.fsencode(root) in command:
            found.append(int(path.name))
    return found
