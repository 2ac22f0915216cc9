"""What a scan costs: `python -m benchmarks.speed MODEL BUNDLE [--methods ...] [--repeats 3] [--threads 2]`

Runs the presets and Neural Cleanse on the same files, each as a process of its own from start to end with its imports,
one after the other, and prints seconds, seconds of processor time, peak memory and what was flagged: medians over the
repeats, with the range. This process loads no torch: a child's peak memory would begin at its parent's. Engines run
without their fence, behind which nothing counts what they use; it costs them nothing (`benchmarks.walls`).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.recording import write_result

REPOSITORY = Path(__file__).resolve().parent.parent
METHODS = ("standard", "paper", "neural_cleanse")
OUT = "{out}"  # stands for a folder that is there while a scan is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("bundle", type=Path, help=".npz")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="mnist", help="of the result")
    arguments = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in arguments.methods}
    for _ in range(arguments.repeats):
        for method in arguments.methods:
            runs[method].append(run(method, arguments.model, arguments.bundle, arguments.threads))
            print(method, json.dumps(runs[method][-1]), flush=True)
    result = {
        "name": arguments.name,
        "model": arguments.model.name,
        "threads": arguments.threads,
        "methods": {
            method: {name: median(one[name] for one in of) for name in ("seconds", "cpu_seconds", "peak_mb")}
            | {"range_seconds": [min(one["seconds"] for one in of), max(one["seconds"] for one in of)], "runs": of}
            for method, of in runs.items()
        },
    }
    write_result(f"speed-{arguments.name}", result)
    show(result)


def run(method: str, model: Path, bundle: Path, threads: int) -> dict[str, Any]:
    """One process from start to end: what it cost, and which labels it flagged."""
    found, cost = run_to_end(command(method, model, bundle, threads))
    return {**cost, "flagged": found["flagged"] if method == "neural_cleanse" else found["flagged_labels"]}


def run_to_end(program: Sequence[str | Path]) -> tuple[dict[str, Any], dict[str, float]]:
    """What a process says in JSON, and its cost: seconds, processor seconds with children, peak MB of any of them."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            [Path(folder) / "out" if part == OUT else part for part in program],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    cost = {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss * 1024 / 1e6}
    return json.loads(said), cost


def command(method: str, model: Path, bundle: Path, threads: int) -> Sequence[str | Path]:
    if method == "neural_cleanse":
        program = [sys.executable, "-m", "benchmarks.baselines.neural_cleanse"]
        return [*program, model, bundle, "--threads", str(threads)]
    program = [str(Path(sys.executable).with_name("triggerlens")), "scan"]
    options = ["--preset", method, "--threads", str(threads), "--sandbox", "none", "--out", OUT, "--json"]
    return [*program, model, bundle, *options]


def show(result: dict[str, Any]) -> None:
    first = next(iter(result["methods"].values()))["seconds"]
    print(f"{'method':16} {'seconds':>8} {'range':>15} {'CPU s':>8} {'peak MB':>8} {'ratio':>6}  flagged")
    for method, of in result["methods"].items():
        low, high = of["range_seconds"]
        print(
            f"{method:16} {of['seconds']:8.1f} {low:7.1f} {high:7.1f} {of['cpu_seconds']:8.1f} {of['peak_mb']:8.0f} "
            f"{of['seconds'] / first:6.1f}  {[one['flagged'] for one in of['runs']]}"
        )


if __name__ == "__main__":
    main()
