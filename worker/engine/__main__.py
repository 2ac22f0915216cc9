"""`python -m worker.engine JOBDIR [--progress FD] [--control FD] [--time-limit SECONDS]`

Progress goes to the file descriptor given, as one JSON object a line, never to stdout, on which a suspect model can
print. The engine ends when the other end of the control descriptor closes, so a killed launcher leaves no orphan.
"""

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from app.core.errors import Refusal, disk_full, is_disk_full
from app.core.jobs import JobDirectory
from worker.engine.prepare import prepare
from worker.engine.repair import repair
from worker.engine.search import announce, blocks, decide, invert
from worker.engine.workbench import Workbench


def work(bench: Workbench) -> None:
    """Do everything the job asks for and the result directory does not hold yet, in the one order that makes sense."""
    directory, job = bench.directory, bench.job
    known = directory.read_preparation()
    if known is None or (not known.reasons and not directory.start.exists()):
        prepare(bench)
    else:
        bench.emit("prepared", labels=known.num_labels, names=known.label_names, images=known.images)
    if bench.preparation.reasons:
        decide(bench)
        return
    if job.repair_label is not None and not 0 <= job.repair_label < bench.preparation.num_labels:
        raise Refusal(
            "no_such_label",
            f"The model has the labels 0 to {bench.preparation.num_labels - 1}, not {job.repair_label}.",
            "Give one of them by --label.",
        )
    searched = directory.read_findings()
    done = {finding.label: finding for finding in searched if not any(f.truncated for f in finding.families)}
    for finding in done.values():
        announce(bench, finding)
    wanted = range(bench.preparation.num_labels) if job.repair_label is None else [job.repair_label]
    for block in blocks(wanted, job.config.inversion.labels_per_block):
        if not set(block) <= set(done) and not bench.out_of_time():
            invert(bench, block)
    if job.repair_label is not None:
        if not bench.out_of_time():
            repair(bench, [job.repair_label])
        return
    decide(bench)
    decision = directory.read_decision()
    assert decision is not None
    if job.repair and not bench.out_of_time():
        repair(bench, decision.flagged_labels)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.engine", description=__doc__)
    parser.add_argument("jobdir", type=Path)
    parser.add_argument("--progress", type=int, default=2, help="file descriptor for progress (default: stderr)")
    parser.add_argument("--control", type=int, help="file descriptor whose closing ends the engine")
    parser.add_argument("--time-limit", type=float, default=float("inf"), help="seconds")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.time_limit
    if arguments.control is not None:
        threading.Thread(target=_end_with, args=(arguments.control,), daemon=True).start()
    progress = os.fdopen(arguments.progress, "w", buffering=1)

    def emit(event: str, **data: Any) -> None:
        progress.write(json.dumps({"event": event, **data}) + "\n")

    directory = JobDirectory(arguments.jobdir)
    try:
        job = directory.read_job()
        torch.set_num_threads(job.threads)
        torch.set_flush_denormal(True)  # dark images drown a CPU in denormal numbers
        torch.use_deterministic_algorithms(True, warn_only=True)
        work(Workbench(directory, job, emit, deadline))
    except Refusal as refusal:
        emit("refused", problem=refusal.problem.to_json())
        return 4
    except OSError as error:
        if not is_disk_full(error):
            raise
        emit("refused", problem=disk_full(directory.root).problem.to_json())
        return 4
    emit("finished")
    return 0


def _end_with(descriptor: int) -> None:
    """Wait until the other end of the pipe closes, then end this process."""
    while os.read(descriptor, 1):
        pass
    os._exit(5)


if __name__ == "__main__":
    sys.exit(main())
