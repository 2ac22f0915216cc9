"""How an engine is started, fenced in, listened to and ended; used by the command line and by the runner.

The engine runs in a process group of its own. It reports over a pipe that nothing else writes to, and it ends when the
launcher does: the control pipe closes with this process, however it dies. What the engine or the suspect model prints
goes to `engine.log` in the job directory.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

Sandbox = Literal["none"]  # the only backend yet; every report says `unsandboxed`
Event = dict[str, Any]

GRACE_SECONDS = 30.0  # an engine that ignores its time limit is killed this long after it
LOG = "engine.log"


class EngineCrashError(RuntimeError):
    """The engine ended in a way that it did not report; `log` holds its last words."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"the engine ended with code {code}")
        self.code = code
        self.log = log


def run_engine(
    jobdir: Path,
    on_event: Callable[[Event], None],
    time_limit: float | None = None,
    sandbox: Sandbox = "none",
) -> bool:
    """Run an engine over a job directory until it ends; False if it had to be killed after its time limit.

    Every event of the engine is handed to `on_event` as it comes. Raises EngineCrashError. Whatever interrupts this
    function, KeyboardInterrupt included, leaves no process behind.
    """
    assert sandbox == "none"
    progress_read, progress_write = os.pipe()
    control_read, control_write = os.pipe()
    command = [sys.executable, "-m", "worker.engine", str(jobdir)]
    command += ["--progress", str(progress_write), "--control", str(control_read)]
    if time_limit is not None:
        command += ["--time-limit", str(time_limit)]
    overdue = threading.Event()
    with (jobdir / LOG).open("ab") as log:
        engine = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(progress_write, control_read),
            start_new_session=True,
        )
    os.close(progress_write)
    os.close(control_read)
    watchdog = None
    if time_limit is not None:

        def end_it() -> None:
            overdue.set()
            _kill(engine)

        watchdog = threading.Timer(time_limit + GRACE_SECONDS, end_it)
        watchdog.start()
    try:
        with os.fdopen(progress_read, "rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):  # else the engine was killed while it wrote
                    on_event(json.loads(line))
        code = engine.wait()
    finally:
        if watchdog is not None:
            watchdog.cancel()
        _kill(engine)
        os.close(control_write)
    if overdue.is_set():
        return False
    if code not in (0, 4):
        raise EngineCrashError(code, _last_words(jobdir / LOG))
    return True


def run_weights(arguments: list[str]) -> int:
    """Run `worker.engine.weights` in a process of its own, so that the caller needs no torch."""
    return subprocess.run([sys.executable, "-m", "worker.engine.weights", *arguments], check=False).returncode


def _kill(engine: subprocess.Popen[bytes]) -> None:
    """End the engine's whole process group and collect it."""
    with suppress(ProcessLookupError):
        os.killpg(engine.pid, signal.SIGKILL)
    engine.wait()


def _last_words(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
