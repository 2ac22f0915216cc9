"""`python -m worker.engine JOBDIR [--control FD] [--progress FD] [--time-limit SECONDS]`

Tasks come in over the control descriptor, one JSON object a line: {"kind": "invert", "labels": [0, 1], "round": 0}.
Progress goes to a descriptor of its own, never to stdout, on which a suspect model can print; the last event of every
task is "done" or "refused". The engine ends when the other end of the control descriptor closes, whatever it is doing,
so a killed launcher leaves no orphan.
"""

import argparse
import json
import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Any, NoReturn

import torch

from app.core.errors import Problem, Refusal, refusing_full_disk
from app.core.jobs import JobDirectory
from app.core.plan import JobKind, Task
from models.classifier import ModelFailedError
from worker.engine.confirm import confirm
from worker.engine.eager import run_eagerly
from worker.engine.first_pass import look_through
from worker.engine.prepare import prepare
from worker.engine.repair import repair
from worker.engine.search import invert
from worker.engine.telling import Emit
from worker.engine.workbench import Workbench
from worker.sandbox import limits

WORK: dict[JobKind, Callable[[Workbench, Task], None]] = {
    JobKind.PREPARE: lambda bench, task: prepare(bench),
    JobKind.FIRST_PASS: lambda bench, task: look_through(bench, task.labels),
    JobKind.INVERT: lambda bench, task: invert(bench, task.labels),
    JobKind.CONFIRM: lambda bench, task: confirm(bench, task.labels, task.round),
    JobKind.REPAIR: lambda bench, task: repair(bench, task.labels, task.round),
}
SIDE_BY_SIDE = (JobKind.FIRST_PASS, JobKind.INVERT, JobKind.CONFIRM)


def open_workbench(directory: JobDirectory, emit: Emit, time_limit: float = float("inf")) -> Workbench:
    """The workbench of a job, with torch set up as the job asks."""
    deadline = time.monotonic() + time_limit
    job = directory.read_job()
    torch.set_flush_denormal(True)  # dark images drown a CPU in denormal numbers
    torch.set_deterministic_debug_mode("warn")  # sets what use_deterministic_algorithms does, and imports no compiler
    return Workbench(directory, job, emit, deadline)


def answer(bench: Workbench, task: Task) -> dict[str, Any]:
    """Do a task; the event that ends it."""
    try:
        torch.set_num_threads(_threads(bench, task))
        with refusing_full_disk(bench.directory.root), bench.telling.hearing_networks():
            WORK[task.kind](bench, task)
    except Refusal as refusal:
        return {"event": "refused", "problem": refusal.problem.to_json()}
    except ModelFailedError as failure:
        return {"event": "refused", "problem": _model_failed(failure).to_json()}
    finally:
        bench.telling.end()
    return {"event": "done"}


def _threads(bench: Workbench, task: Task) -> int:
    """Those of the job, for what runs alone. Blocks of labels run side by side, on a thread each."""
    beside_others = task.kind in SIDE_BY_SIDE and bench.device.type == "cpu"
    return 1 if beside_others else bench.job.threads


def _model_failed(failure: ModelFailedError) -> Problem:
    return Problem(
        "model_failed",
        f"The model's own code failed in the middle of the scan: {failure}.",
        "It took other images before, so what it fails on is part of it: ask the supplier. If it is memory that was "
        "lacking, scan on a machine with more of it.",
    )


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m worker.engine", description=__doc__)
    parser.add_argument("jobdir", type=Path)
    parser.add_argument("--control", type=int, default=0, help="file descriptor for tasks (default: stdin)")
    parser.add_argument("--progress", type=int, default=2, help="file descriptor for progress (default: stderr)")
    parser.add_argument("--time-limit", type=float, default=float("inf"), help="seconds")
    arguments = parser.parse_args()
    limits.lower()
    run_eagerly()
    tasks: Queue[Task] = Queue()
    threading.Thread(target=_receive, args=(arguments.control, tasks), daemon=True).start()
    progress = os.fdopen(arguments.progress, "w", buffering=1)

    def emit(event: str, **data: Any) -> None:
        progress.write(json.dumps({"event": event, **data}) + "\n")

    bench = open_workbench(JobDirectory(arguments.jobdir), emit, arguments.time_limit)
    while True:
        last_event = answer(bench, tasks.get())
        tasks.task_done()  # before anybody hears of it, and may close the pipe
        emit(**last_event)


def _receive(descriptor: int, tasks: Queue[Task]) -> NoReturn:
    """Pass on the tasks that come in until the other end of the pipe closes, or says no task; then end this process."""
    with os.fdopen(descriptor, "rb") as lines:
        for line in lines:
            try:
                task = json.loads(line)
                tasks.put(Task(JobKind(task["kind"]), tuple(task["labels"]), task["round"]))
            except Exception:  # whoever waits for an answer would wait for ever
                traceback.print_exc()
                os._exit(1)
    os._exit(5 if tasks.unfinished_tasks else 0)


if __name__ == "__main__":
    main()
