"""What a scan makes of the cores: `python -m benchmarks.cores MODEL BUNDLE [--repeats 3] [--preset standard]`

The same scan with one lane and with one for each core, on a machine that is otherwise quiet; then with all lanes beside
one process that never rests, and beside one for each core. Each is a process from start to end. Prints medians, and
ratios within this run: asked are at most .6 of one lane's time for two lanes on two cores, and 1.8 and 2.4 times the
quiet time beside others. Norms are the same for any number of lanes, to the last digit, or this ends with an error.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.recording import write_result
from benchmarks.speed import command, run_to_end

BUSY = [sys.executable, "-c", "while True: pass"]
CORES = len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {}
    norms = set()
    for _ in range(arguments.repeats):
        for name, lanes, others in ways():
            program = [*command(arguments.preset, arguments.model, arguments.bundle, threads=1), "--lanes", str(lanes)]
            with busy(others):
                document, cost = run_to_end(program)
            norms.add(tuple(row["norm"] for row in document["labels"]))
            runs.setdefault(name, []).append({**cost, "verdict": document["verdict"]})
            print(f"{name:40} {cost['seconds']:7.1f} s  {cost['cpu_seconds']:7.1f} CPU s", flush=True)
    assert len(norms) == 1, "lanes changed a number"
    seconds = {name: median(one["seconds"] for one in of) for name, of in runs.items()}
    alone, quiet, *beside = seconds.values()
    result = {"model": arguments.model.name, "preset": arguments.preset, "cores": CORES, "seconds": seconds}
    result |= {"of_one_lane": quiet / alone, "beside_others": [one / quiet for one in beside], "runs": runs}
    write_result("cores", result)
    for name, median_seconds in seconds.items():
        print(f"{name:40} {median_seconds:7.1f} s   {median_seconds / quiet:5.2f} of quiet")
    print(f"all lanes take {quiet / alone:.2f} of one lane's time")


def ways() -> Iterator[tuple[str, int, int]]:
    """What is compared: its name, the number of lanes, and of busy processes beside it."""
    yield "one lane, quiet", 1, 0
    yield f"{CORES} lanes, quiet", CORES, 0
    yield f"{CORES} lanes, beside one busy process", CORES, 1
    yield f"{CORES} lanes, beside {CORES} busy processes", CORES, CORES


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes of equal priority that never rest."""
    with ExitStack() as stack:
        for _ in range(processes):
            stack.callback(subprocess.Popen(BUSY).kill)
        yield


if __name__ == "__main__":
    main()
