"""What the walls around a suspect cost: `python -m benchmarks.walls start|scan [--repeats 5]`

start  seconds of the gate, the re-pack, the rebuilding and the fence's start, for an archive of 50 MB (torchvision's
       resnet18 with random weights); each in a process of its own, without the imports that a scan has anyway
scan   seconds of scans of the examples' digits network, behind the fence and without it, in turn; whole processes, and
       the part of them that is computing

One thread. Medians over the repeats, with the range.
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

from benchmarks.datasets import REPOSITORY
from benchmarks.intake import archive
from benchmarks.recording import write_result
from worker.sandbox.fence import Fence, Sandbox, choose, run

MODEL = REPOSITORY / "examples" / "digits_wanet.pt"
BUNDLE = REPOSITORY / "examples" / "digits_bundle.npz"
BACKENDS: tuple[Sandbox, ...] = ("bwrap", "none")
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
    runs: dict[Sandbox, list[dict[str, float]]] = {backend: [] for backend in BACKENDS}
    for _ in range(repeats):
        for backend in BACKENDS:
            with tempfile.TemporaryDirectory() as folder:
                began, out = time.perf_counter(), Path(folder, "out")
                done = subprocess.run(
                    command(backend, out), cwd=REPOSITORY, capture_output=True, text=True, check=False
                )
                seconds = time.perf_counter() - began
                assert done.returncode in (0, 1, 3), done.stderr
                timings = json.loads((out / "report.json").read_text())["timings"]
            runs[backend].append({"seconds": seconds, "computing_seconds": sum(timings.values())})
            print(backend, json.dumps(runs[backend][-1]), flush=True)
    pairs = list(zip(*(runs[backend] for backend in BACKENDS), strict=True))
    ratios = {what: [fenced[what] / bare[what] for fenced, bare in pairs] for what in ("seconds", "computing_seconds")}
    return {
        "runs": runs,
        **{f"{what.removesuffix('seconds')}ratio": median(of) for what, of in ratios.items()},
        **{f"{what.removesuffix('seconds')}ratio_range": [min(of), max(of)] for what, of in ratios.items()},
    }


def command(backend: Sandbox, out: Path) -> Sequence[str | Path]:
    program = [str(Path(sys.executable).with_name("triggerlens")), "scan", MODEL, BUNDLE, "--preset", "paper"]
    return [*program, "--threads", "1", "--sandbox", backend, "--out", out, "--json"]


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
