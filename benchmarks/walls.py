"""What the walls around a suspect cost: `python -m benchmarks.walls start|scan [--repeats 5]`

start  seconds of the gate, the re-pack, the rebuilding and the fence's start, for an archive of 50 MB (torchvision's
       resnet18 with random weights); each in a process of its own, without the imports that a scan has anyway
scan   seconds of short scans of the examples' digits network, behind the fence and without it in turn, and of the part
       of them that is computing; their ratio with the interval in which it lies by 95 %

One thread. Of `start` the median over the repeats, with the range.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from math import exp, log, sqrt
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from scipy.stats import t as student

from app.core.intake.declaration import DeclaredInput
from app.core.presets import PRESETS
from app.local_scan import job_for, run_scan
from benchmarks.datasets import REPOSITORY
from benchmarks.intake import archive
from benchmarks.recording import write_result
from worker.sandbox.events import Event
from worker.sandbox.fence import Fence, Sandbox, choose, run

MODEL = REPOSITORY / "examples" / "digits_wanet.pt"
BUNDLE = REPOSITORY / "examples" / "digits_bundle.npz"
BACKENDS: tuple[Sandbox, ...] = ("bwrap", "none")
STEPS = 10  # of a search; what else a machine does changes less between two short scans than between two long ones
GOAL_SECONDS = 3.0
WALLS = """
import json, sys, time
from pathlib import Path
from app.core.intake.torchscript.gate import understand
from app.core.intake.torchscript.repack import repack
from models import suspect
path, seconds = Path(sys.argv[1]), []
began = time.perf_counter()
understood = understand(path, 10**10)
gated = time.perf_counter()
repack(understood, Path(sys.argv[2]))
packed = time.perf_counter()
suspect._rebuilt(understood)
print(json.dumps({"gate": gated - began, "repack": packed - gated, "rebuild": time.perf_counter() - packed}))
"""


def start(repeats: int) -> dict[str, Any]:
    """Of an archive that is in the cache of the disk."""
    path = archive("resnet18")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = [sys.executable, "-c", WALLS, path, folder / "fresh.pt"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        runs = []
        for _ in range(repeats):
            seconds = json.loads(subprocess.check_output(program, cwd=REPOSITORY, env=environment))
            runs.append({**seconds, "fence": _fence_seconds(folder)})
    total = [sum(seconds.values()) for seconds in runs]
    return {
        "archive_mb": round(path.stat().st_size / 1e6),
        **{f"{wall}_seconds": median(seconds[wall] for seconds in runs) for wall in runs[0]},
        "seconds": median(total),
        "range_seconds": [min(total), max(total)],
        "runs": runs,
        "goal_seconds": GOAL_SECONDS,
    }


def _fence_seconds(folder: Path) -> float:
    """What an interpreter takes longer to start and end behind the fence."""
    nothing = [sys.executable, "-c", "pass"]
    began = time.perf_counter()
    subprocess.run(nothing, check=True)
    without = time.perf_counter()
    run(Fence({}, (folder, "/out")), nothing, os.environ).check_returncode()
    return (time.perf_counter() - without) - (without - began)


def scan(repeats: int) -> dict[str, Any]:
    """The numbers of the two are equal, which tests/worker/sandbox/test_fence.py sees to."""
    paper = PRESETS["paper"]
    config = replace(paper, inversion=replace(paper.inversion, steps=STEPS))
    job = job_for(MODEL, BUNDLE, config=config, input=DeclaredInput(), device="cpu", threads=1)
    runs: dict[Sandbox, list[dict[str, float]]] = {backend: [] for backend in BACKENDS}
    for number in range(repeats):
        for backend in BACKENDS[:: -1 if number % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                document = run_scan(job, MODEL, BUNDLE, Path(folder, "out"), _unheard, sandbox=backend).document
                seconds = time.perf_counter() - began
            assert document is not None, "there was no time limit"
            runs[backend].append({"seconds": seconds, "computing_seconds": sum(document["timings"].values())})
            print(backend, json.dumps(runs[backend][-1]), flush=True)
    pairs = list(zip(*(runs[backend] for backend in BACKENDS), strict=True))
    result: dict[str, Any] = {"runs": runs, "steps": STEPS}
    for name in ("seconds", "computing_seconds"):
        ratio = f"{name.removesuffix('seconds')}ratio"
        result[ratio], result[f"{ratio}_interval"] = mean_ratio([(of[name], to[name]) for of, to in pairs])
    return result


def mean_ratio(pairs: Sequence[tuple[float, float]]) -> tuple[float, tuple[float, float] | None]:
    """The geometric mean of ratios, and its interval of 95 % by Student's t; None for one pair."""
    logs = [log(of / to) for of, to in pairs]
    middle = fmean(logs)
    if len(logs) < 2:
        return exp(middle), None
    reach = stdev(logs) / sqrt(len(logs)) * float(student.ppf(0.975, len(logs) - 1))
    return exp(middle), (exp(middle - reach), exp(middle + reach))


def _unheard(event: Event) -> None:
    """Nobody waits for it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=["start", "scan"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-result", action="store_true", help="print only: this was a trial")
    arguments = parser.parse_args()
    choose("bwrap")
    measured = {"start": start, "scan": scan}[arguments.measure](arguments.repeats)
    result = {**measured, "repeats": arguments.repeats, "threads": 1}
    print(json.dumps(result, indent=1))
    if not arguments.no_result:
        write_result(f"walls-{arguments.measure}", result)


if __name__ == "__main__":
    main()
