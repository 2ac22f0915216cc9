"""A hundred faults, one after the other: `python -m benchmarks.faults [--count N] [--seed N]`

Each trial asks a running stack (docker-compose.yml as plain processes over PostgreSQL, Redis and an S3 server, leases
and sweeps as in production) for a small scan, breaks something at a random moment of it, and waits for the end. What is
known is kept in `runs/faults.jsonl`: a run that is stopped goes on where it was.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.datasets import REPOSITORY
from benchmarks.recording import write_result
from tests.flow.faults import FAULTS, Trial, try_fault
from tests.flow.stack import Stack
from tests.processes import own_world
from tests.servers import servers

LOG = REPOSITORY / "runs" / "faults.jsonl"


@contextmanager
def running_stack(**options: Any) -> Iterator[Stack]:
    """A stack over servers of its own, with the times of production."""
    with (
        tempfile.TemporaryDirectory(prefix="triggerlens-") as folder,
        own_world(),
        servers() as three,
        Stack(Path(folder), *three, times={}, **options) as stack,
    ):
        yield stack


def trials(count: int, seed: int) -> list[Trial]:
    """Those that the log knows, and the others as they are made."""
    known = [Trial(**json.loads(line)) for line in LOG.read_text().splitlines()] if LOG.exists() else []
    if len(known) >= count:
        return known[:count]
    LOG.parent.mkdir(exist_ok=True)
    with running_stack() as stack, LOG.open("a") as log:
        inputs = stack.upload_toy()
        for number in range(len(known), count):
            fault = list(FAULTS)[number % len(FAULTS)]
            trial = try_fault(stack, inputs, fault, Random(f"{seed} {number}"))
            print(json.dumps(asdict(trial)), file=log, flush=True)
            print(f"{number + 1:4} {trial.fault:22} {trial.recovery_seconds:6.1f} s {'' if trial.is_good else trial}")
            known.append(trial)
    return known


def row(name: str, made: list[Trial]) -> dict[str, object]:
    recovery = [trial.recovery_seconds for trial in made]
    return {
        "fault": name,
        "trials": len(made),
        "good": sum(trial.is_good for trial in made),
        "lost": sum(trial.status != "finished" for trial in made),
        "doubled": sum(trial.doubled for trial in made),
        "most_blocks_repeated": max(trial.blocks_repeated for trial in made),
        "mean_recovery_seconds": round(sum(recovery) / len(recovery), 1),
        "longest_recovery_seconds": max(recovery),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    made = trials(arguments.count, arguments.seed)
    by_fault = {fault: [trial for trial in made if trial.fault == fault] for fault in FAULTS}
    rows = [row(fault, tried) for fault, tried in by_fault.items() if tried] + [row("all", made)]
    result = {"seed": arguments.seed, "rows": rows, "trials": [asdict(trial) for trial in made]}
    write_result("faults", result)
    print(f"{'fault':22} {'good':>9} {'lost':>5} {'doubled':>8} {'blocks':>7} {'mean s':>7} {'longest s':>10}")
    for line in rows:
        good = f"{line['good']} of {line['trials']}"
        print(
            f"{line['fault']:22} {good:>9} {line['lost']:5} {line['doubled']:8} {line['most_blocks_repeated']:7}"
            f" {line['mean_recovery_seconds']:7} {line['longest_recovery_seconds']:10}"
        )


if __name__ == "__main__":
    main()
