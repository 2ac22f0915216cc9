"""How the tasks of a scan are run: what needs no torch in this process, everything else by an engine.

The engine is started at the first task that needs it and kept for the next, because importing torch takes seconds. It
runs in a process group of its own, reports over a pipe that nothing else writes to, and ends when this process does,
however it dies: the control pipe closes. What the engine or the suspect model prints goes to `engine.log` in the job
directory. Used by the command line and by the runner.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from app.core.errors import Problem, Refusal, refusing_full_disk
from app.core.jobs import JobDirectory
from app.core.plan import WITHOUT_TORCH, JobKind, Task
from worker import steps
from worker.steps import Sandbox

Event = dict[str, Any]

GRACE_SECONDS = 30.0  # an engine that ignores its time limit is killed this long after it
LOG = "engine.log"
SECRET_NAME = re.compile("^(TRIGGERLENS|AWS|PG|REDIS)|SECRET|TOKEN|PASS|CREDENTIAL|API_?KEY|AUTH")
LOGIN = re.compile("://[^/@]*@")


class EngineCrashError(RuntimeError):
    """The engine ended in a way that it did not report, or was killed; `log` holds its last words."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"the engine ended with code {code}")
        self.code = code
        self.log = log


class EngineOverdueError(RuntimeError):
    """The engine ignored its time limit and was killed; no other is started."""

    def __init__(self) -> None:
        super().__init__("the engine ignored its time limit and was killed")


class ScanSession:
    """Runs tasks over one job directory, one after the other, as a context that leaves no process behind.

    Every event is handed to `on_event` as it comes. With a `time_limit`, seconds from the start of the session, a
    search ends early and what is left to search or repair is passed over; deciding and reporting are not limited.
    """

    def __init__(
        self,
        directory: JobDirectory,
        on_event: Callable[[Event], None],
        *,
        time_limit: float | None = None,
        sandbox: Sandbox = "none",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.last_event_at = time.monotonic()  # of the newest event, or the start of the newest task
        self._on_event = on_event
        self._sandbox = sandbox
        self._environment = environment or {}
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._watchdog = None if time_limit is None else threading.Timer(time_limit + GRACE_SECONDS, self._end_overdue)
        self._engine: _Engine | None = None
        self._turn = threading.RLock()  # taken to start an engine or to end it
        self._killed = self._overdue = False

    def __enter__(self) -> Self:
        if self._watchdog is not None:
            self._watchdog.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        self.kill()
        self._clear_engine()

    def run(self, task: Task) -> None:
        """Do a task; its results lie in the job directory.

        Raises Refusal, also for a full disk; EngineCrashError, after which another task starts another engine unless
        the session was killed; EngineOverdueError.
        """
        self.last_event_at = time.monotonic()
        if self._killed:
            raise EngineCrashError(-signal.SIGKILL, self._last_words())
        if task.kind in WITHOUT_TORCH:
            self._tell({"event": "stage", "stage": task.kind.value})
        with refusing_full_disk(self.directory.root):
            match task.kind:
                case JobKind.INSPECT:
                    steps.inspect(self.directory)
                case JobKind.DECIDE:
                    steps.decide(self.directory)
                case JobKind.REPORT:
                    steps.report(self.directory, self._sandbox)
                case _:
                    self._hand_to_engine(task)

    def kill(self) -> None:
        """End whatever runs, now and for good; a blocked `run` raises EngineCrashError.

        Callable from any thread and from a signal handler.
        """
        with self._turn:
            self._killed = True
            self._kill_engine()

    def _tell(self, event: Event) -> None:
        self.last_event_at = time.monotonic()
        self._on_event(event)

    def _hand_to_engine(self, task: Task) -> None:
        engine = self._running_engine()
        engine.send(task)
        try:
            answer = self._answer_of(engine)
        except BaseException:  # the listener failed, and an engine in the middle of a task can take no other one
            self._clear_engine()
            raise
        if answer is None:
            code = engine.wait()
            self._clear_engine()  # and whatever it had started
            raise EngineOverdueError if self._overdue else EngineCrashError(code, self._last_words())
        if answer["event"] == "refused":
            raise Refusal.of(Problem.from_json(answer["problem"]))

    def _answer_of(self, engine: "_Engine") -> Event | None:
        """Pass events on until the one that ends the task; None where the engine ended instead."""
        while (event := engine.receive()) is not None and event["event"] not in ("done", "refused"):
            self._tell(event)
        return event

    def _running_engine(self) -> "_Engine":
        with self._turn:
            if self._overdue:
                raise EngineOverdueError
            seconds_left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            engine = self._engine = self._engine or _Engine(self.directory.root, seconds_left, self._environment)
            if self._killed:  # while it was started
                self._kill_engine()
            return engine

    def _end_overdue(self) -> None:
        with self._turn:
            self._overdue = True
            self._kill_engine()

    def _kill_engine(self) -> None:
        if self._engine is not None:
            self._engine.kill()

    def _clear_engine(self) -> None:
        """Kill and collect the engine; the next task that needs one starts another."""
        with self._turn:
            if self._engine is not None:
                self._engine.kill()
                self._engine.wait()
                self._engine = None

    def _last_words(self, lines: int = 20) -> str:
        log = self.directory.root / LOG
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


class _Engine:
    """The process, the pipe that its tasks go into, and the one that its events come out of."""

    def __init__(self, jobdir: Path, time_limit: float | None, environment: Mapping[str, str]) -> None:
        control_read, control_write = os.pipe()
        progress_read, progress_write = os.pipe()
        self._tasks = os.fdopen(control_write, "wb", buffering=0)
        self._events = os.fdopen(progress_read, "rb")
        # Unbuffered, so that what was printed before a kill is in the log.
        command = [sys.executable, "-u", "-m", "worker.engine", str(jobdir)]
        command += ["--control", str(control_read), "--progress", str(progress_write)]
        if time_limit is not None:
            command += ["--time-limit", str(time_limit)]
        try:
            with (jobdir / LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**_without_secrets(os.environ), **environment},
                    pass_fds=(control_read, progress_write),
                    start_new_session=True,
                )
        finally:
            os.close(control_read)
            os.close(progress_write)

    def send(self, task: Task) -> None:
        with suppress(BrokenPipeError):  # it has ended, as the next event, or rather its absence, will tell
            self._tasks.write(json.dumps(asdict(task)).encode() + b"\n")

    def receive(self) -> Event | None:
        """The next event; None once the engine has ended."""
        line = self._events.readline()
        if not line.endswith(b"\n"):  # nothing, or half a line of an engine that was killed while it wrote
            return None
        event: Event = json.loads(line)
        return event

    def kill(self) -> None:
        """End the whole process group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code of the engine, once it has ended."""
        return self._process.wait()


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """What an engine, and so a suspect, may know of this process's environment: no settings, keys or addresses."""
    return {
        name: value for name, value in environment.items() if not SECRET_NAME.search(name) and not LOGIN.search(value)
    }


def run_weights(arguments: list[str]) -> int:
    """Run `worker.engine.weights` in a process of its own, so that the caller needs no torch."""
    return subprocess.run([sys.executable, "-m", "worker.engine.weights", *arguments], check=False).returncode
