"""How the tasks of a scan are run: what needs no torch in this process, everything else by an engine.

The engine is started at the first task that needs it and kept for the next, because importing torch takes seconds. It
runs in a process group of its own, behind a fence where there is one, works in a folder that nobody trusts (both in
`sandbox/`), reports over a pipe that nothing else writes to, and ends when this process does, however it dies: the
control pipe closes. What the engine or the suspect model prints goes to `engine.log` in the job directory, as much as
anybody would read. A watchdog ends an engine that takes too much time, memory or disk space.

Used by the command line and by the runner.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from pydantic import ValidationError

from app.core.clock import MACHINE, Clock
from app.core.errors import Problem, Refusal, refusing_full_disk
from app.core.jobs import JobDirectory
from app.core.plan import WITHOUT_TORCH, JobKind, Task
from worker import steps
from worker.sandbox.cell import Cell
from worker.sandbox.events import Event, read_event
from worker.sandbox.fence import Fence, Sandbox, filter_file, known_inside
from worker.sandbox.results import UntrustworthyError
from worker.sandbox.usage import memory_bytes, memory_left, usage

if TYPE_CHECKING:  # cryptography is only needed where something is signed
    from securesystemslib.signer import CryptoSigner

GRACE_SECONDS = 4.0  # an engine that ignores its time limit is killed this long after it
LOG = "engine.log"
LOG_BYTES = 2**20  # what is printed beyond it is dropped
EVENT_BYTES = 2**20
INSIDE = "/job"  # where a fenced engine finds its cell
WATCH_SECONDS = 1.0
DISK_BYTES = 20 * 2**30  # of a cell
MEMORY_SHARE = 0.9  # of this machine's memory, or of what its container has
MEMORY_RESERVE = 0.02  # of the same: an engine is ended before less is left for everybody
THREADS = 1024
CRASHES = (signal.SIGFPE, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGABRT)
FENCED_SIGNAL = 128  # is added to the number of the signal that ended a process, by the fence around it
# OpenMP's threads wait asleep, not spinning: beside anything busy, one that spins keeps those from computing that it
# waits for, and a scan with two threads takes 8 to 22 times as long. Whoever starts it may say otherwise.
CALM = {"OMP_WAIT_POLICY": "PASSIVE"}
SECRET_NAME = re.compile("^(TRIGGERLENS|AWS|PG|REDIS)|SECRET|TOKEN|PASS|CREDENTIAL|API_?KEY|AUTH")
LOGIN = re.compile("://[^/@]*@")
TIMINGS = threading.Lock()  # sessions side by side add to the same


class EngineCrashError(RuntimeError):
    """The engine ended in a way that it did not report, or was killed; `log` holds its last words."""

    def __init__(self, code: int, log: str, why: str | None = None) -> None:
        self.code = code
        self.log = log
        said = f"code {code}" if self.ended_by is None else self.ended_by.name
        super().__init__(f"the engine ended with {said}" if why is None else f"the engine was ended: {why}")

    @property
    def ended_by(self) -> signal.Signals | None:
        """What ended the process, as a fence reports it or Python; None where it ended by itself."""
        number = -self.code if self.code < 0 else self.code - FENCED_SIGNAL
        return signal.Signals(number) if number in set(signal.Signals) else None

    @property
    def advice(self) -> str:
        if self.ended_by in CRASHES:
            return (
                "The model's code made torch itself crash, which code of ordinary classifiers does not: ask the "
                "supplier for another export, and do not use this one. A defect of torch or of TriggerLens can do "
                "the same; if another model ends so, too, please report it."
            )
        return "This is a defect or a lack of memory."


class EngineOverdueError(RuntimeError):
    """The engine ignored its time limit and was killed; no other is started."""

    def __init__(self) -> None:
        super().__init__("the engine ignored its time limit and was killed")


class ScanSession:
    """Runs tasks over one job directory, one after the other, as a context that leaves no process behind.

    Every event is handed to `on_event` as it comes. With a `time_limit`, seconds from the start of the session, a
    search ends early and what is left to search or repair is passed over; deciding and reporting are not limited.
    `signer` is whose statements lie beside repaired weights.
    """

    def __init__(
        self,
        directory: JobDirectory,
        on_event: Callable[[Event], None],
        *,
        time_limit: float | None = None,
        sandbox: Sandbox = "none",
        environment: Mapping[str, str] | None = None,
        clock: Clock = MACHINE,
        lane: int = 0,
        signer: "CryptoSigner | None" = None,
    ) -> None:
        self.directory = directory
        self.last_event_at = clock.now()  # of the newest event, or the start of the newest task
        self.task: Task | None = None  # what is done, or was done last
        self._clock = clock
        self._on_event = on_event
        self._sandbox = sandbox
        self._environment = environment or {}
        self._signer = signer
        self._cell = Cell(directory, lane)
        self._stage: tuple[str, float] | None = None  # what is done, and since when
        self._deadline = None if time_limit is None else clock.now() + time_limit
        self._over = threading.Event()
        self._engine: _Engine | None = None
        self._turn = threading.RLock()  # taken to start an engine or to end it
        self._killed = self._overdue = False

    def __enter__(self) -> Self:
        if self._deadline is not None:
            threading.Thread(target=self._watch_deadline, args=(self._deadline,), name="deadline", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self.kill()
        self._clear_engine()
        self._cell.remove()

    def run(self, task: Task) -> None:
        """Do a task; its results lie in the job directory.

        Raises Refusal, also for a full disk; EngineCrashError, after which another task starts another engine unless
        the session was killed; EngineOverdueError.
        """
        self.last_event_at, self.task = self._clock.now(), task
        if self._killed:
            raise EngineCrashError(-signal.SIGKILL, self._last_words())
        if task.kind in WITHOUT_TORCH:
            self._tell({"event": "stage", "stage": task.kind.value})
        with refusing_full_disk(self.directory.root), self._timing():
            match task.kind:
                case JobKind.INSPECT:
                    steps.inspect(self.directory)
                case JobKind.SELECT:
                    self._tell({"event": "selected", "labels": steps.select(self.directory)})
                case JobKind.DECIDE:
                    steps.decide(self.directory, task.round)
                case JobKind.REPORT:
                    steps.report(self.directory, self._sandbox, task.round)
                case JobKind.REPAIR:
                    try:
                        self._hand_to_engine(task)
                    finally:  # an engine that was ended may have been done with it
                        steps.state(self.directory, self._signer)
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
        self.last_event_at = self._clock.now()
        if event["event"] == "stage":
            self._end_stage()
            self._stage = event["stage"], self.last_event_at
        self._on_event(event)

    @contextmanager
    def _timing(self) -> Iterator[None]:
        """Around a task: the last of its stages ends with it."""
        try:
            yield
        finally:
            self._end_stage()

    def _end_stage(self) -> None:
        if self._stage is not None:
            (stage, began), self._stage = self._stage, None
            with TIMINGS:
                self.directory.add_timing(stage, self._clock.now() - began)

    def _hand_to_engine(self, task: Task) -> None:
        engine = self._running_engine()
        try:
            self._cell.bring()
            engine.send(task)
            answer = self._answer_of(engine, task)
        except UntrustworthyError as error:
            self._clear_engine()
            raise EngineCrashError(-signal.SIGKILL, self._last_words(), str(error)) from error
        except BaseException:  # the listener failed, and an engine in the middle of a task can take no other one
            self._clear_engine()
            raise
        if answer is None:
            code, why = engine.wait(), engine.why_killed
            self._clear_engine()  # and whatever it had started
            raise EngineOverdueError if self._overdue else EngineCrashError(code, self._last_words(), why)
        if answer["event"] == "refused":
            raise Refusal.of(Problem.from_json(answer["problem"]))

    def _answer_of(self, engine: "_Engine", task: Task) -> Event | None:
        """Pass events on until the one that ends the task; None where the engine ended instead.

        What a label's event is about has been collected before anybody hears of it.
        """
        while (event := engine.receive(task)) is not None:
            if event["event"] in ("label", "done", "refused"):
                self._cell.collect()
            if event["event"] in ("done", "refused"):
                break
            self._tell(event)
        return event

    def _running_engine(self) -> "_Engine":
        with self._turn:
            if self._overdue:
                raise EngineOverdueError
            if self._engine is None:
                seconds_left = None if self._deadline is None else max(0.0, self._deadline - self._clock.now())
                self._cell.furnish()
                self._engine = _Engine(self._cell, seconds_left, self._sandbox, self._environment, self._clock)
            if self._killed:  # while it was started
                self._kill_engine()
            return self._engine

    def _watch_deadline(self, deadline: float) -> None:
        if not self._clock.wait(deadline + GRACE_SECONDS - self._clock.now(), self._over):
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
                with suppress(UntrustworthyError, OSError):  # what a full disk has no room for is done again
                    self._cell.collect()

    def _last_words(self, lines: int = 20) -> str:
        log = self.directory.root / LOG
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


class _Engine:
    """The process, the pipe that its tasks go into, and the one that its events come out of."""

    def __init__(
        self,
        cell: Cell,
        time_limit: float | None,
        sandbox: Sandbox,
        environment: Mapping[str, str],
        clock: Clock,
    ) -> None:
        self.why_killed: str | None = None
        self._cell, self._clock = cell, clock
        self._ended = threading.Event()
        control_read, control_write = os.pipe()
        progress_read, progress_write = os.pipe()
        self._tasks = os.fdopen(control_write, "wb", buffering=0)
        self._events = os.fdopen(progress_read, "rb")
        passed = [control_read, progress_write]
        # Unbuffered, so that what was printed before a kill is in the log.
        command = [sys.executable, "-u", "-m", "worker.engine", str(cell.root) if sandbox == "none" else INSIDE]
        command += ["--control", str(control_read), "--progress", str(progress_write)]
        if time_limit is not None:
            command += ["--time-limit", str(time_limit)]
        known = {**CALM, **_without_secrets(os.environ), **environment}
        if sandbox == "bwrap":
            passed.append(filter_file())
            command, known = _fence(cell).command(command, passed[-1]), known_inside(known)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=known,
                pass_fds=passed,
                start_new_session=True,
            )
        finally:
            for descriptor in passed:
                os.close(descriptor)
        assert self._process.stdout is not None
        self._logger = threading.Thread(
            target=_log, args=(self._process.stdout, cell.directory.root / LOG), daemon=True
        )
        self._logger.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def send(self, task: Task) -> None:
        with suppress(BrokenPipeError):  # it has ended, as the next event, or rather its absence, will tell
            self._tasks.write(json.dumps(asdict(task)).encode() + b"\n")

    def receive(self, task: Task) -> Event | None:
        """The next event of a task; None once the engine has ended, which it has to if it says what makes no sense."""
        line = self._events.readline(EVENT_BYTES)
        if not line:
            return None
        try:
            return read_event(line, task)
        except ValidationError:  # or half a line, of an engine that was killed while it wrote
            if line.endswith(b"\n") or len(line) == EVENT_BYTES:
                self._end(f"it reported what is no event: {line[:100]!r}")
            return None

    def kill(self) -> None:
        """End the whole process group. In a fence that is the fence, which takes everything in it along."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code of the engine, once it has ended and its last words are in the log."""
        code = self._process.wait()
        self._ended.set()
        self._logger.join(WATCH_SECONDS)
        return code

    def _watch(self) -> None:
        """End an engine that takes more than it may."""
        whole = memory_bytes()
        while not self._clock.wait(WATCH_SECONDS, self._ended) and self._process.poll() is None:
            resident, threads = usage(self._process.pid)
            if resident > MEMORY_SHARE * whole:
                self._end(f"it took {resident / 2**30:.1f} GiB of memory")
            elif (left := memory_left()) < MEMORY_RESERVE * whole:
                self._end(f"only {left / 2**30:.1f} GiB of memory were left")
            elif threads > THREADS:
                self._end(f"it started {threads:,} threads")
            elif self._cell.size() > DISK_BYTES:
                self._end(f"it wrote more than {DISK_BYTES / 2**30:.0f} GiB")

    def _end(self, why: str) -> None:
        self.why_killed = self.why_killed or why
        self.kill()


def _fence(cell: Cell) -> Fence:
    """What the engine of a job may see: its cell, where it may write results only, and the weights it is told of."""
    job = cell.directory.read_job()
    readable = {cell.root: INSIDE}
    if job.perceptual is not None:
        readable[Path(job.perceptual).resolve()] = str(Path(job.perceptual).absolute())
    return Fence(readable, (cell.result, f"{INSIDE}/result"), gpus=job.device != "cpu")


def _log(printed: IO[bytes], log: Path) -> None:
    """Keep the beginning of what an engine prints, and drop the rest."""
    with log.open("ab") as file:
        left = LOG_BYTES
        while part := os.read(printed.fileno(), 2**16):
            left -= file.write(part[: max(left, 0)])
            file.flush()
    printed.close()


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """What an engine, and so a suspect, may know of this process's environment: no settings, keys or addresses."""
    return {
        name: value for name, value in environment.items() if not SECRET_NAME.search(name) and not LOGIN.search(value)
    }


def run_weights(arguments: list[str]) -> int:
    """Run `worker.engine.weights` in a process of its own, so that the caller needs no torch."""
    return subprocess.run([sys.executable, "-m", "worker.engine.weights", *arguments], check=False).returncode
