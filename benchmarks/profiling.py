"""Where a scan's seconds go, and the floor: `python -m benchmarks.profiling [MODEL BUNDLE] [--preset P] [--threads N]`

Does the parts of a scan of ten labels one by one (the committed sample, if no other is given), each twice: once timed,
once with its multiplications counted, those of convolutions and products, forward and backward. Both are held against
the rate that convolutions and matrix products reach on the same number of threads, measured in the same run.
"""

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from app.core.config import ScanConfig
from app.core.families import FAMILIES
from app.core.intake.declaration import DeclaredInput
from app.core.jobs import JobDirectory
from app.core.plan import blocks
from app.core.presets import PRESETS
from app.local_scan import job_for
from benchmarks.computing import set_up_torch
from benchmarks.datasets import REPOSITORY
from worker.detection import recorded, students
from worker.detection.families.dynamic import pretrain_generator
from worker.engine.prepare import prepare
from worker.engine.workbench import Workbench

REPEATS, IMPORTS = 9, 3  # of a rate, of an import
FEW = 5  # steps for which multiplications are counted, and twice as many
EXAMPLES = REPOSITORY / "examples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=EXAMPLES / "digits_wanet.pt")
    parser.add_argument("bundle", type=Path, nargs="?", default=EXAMPLES / "digits_bundle.npz")
    parser.add_argument("--preset", choices=list(PRESETS), default="standard")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    set_up_torch(arguments.threads)
    given = arguments.model, arguments.bundle, PRESETS[arguments.preset], arguments.threads, arguments.device
    show(profile(*given))
    print(f"imports: torch {import_seconds('torch'):.1f} s, engine {import_seconds('worker.engine.__main__'):.1f} s")
    print(f"{arguments.device}, threads {arguments.threads}, torch {torch.__version__}, preset {arguments.preset}")


def profile(model: Path, bundle: Path, config: ScanConfig, threads: int, device: str) -> dict[str, Any]:
    """Seconds and multiplications of each part of a scan, and the machine's rates, in operations a second."""
    with tempfile.TemporaryDirectory() as folder:
        bench = workbench(Path(folder), model, bundle, config, threads, device)
        rates = {"convolutions": conv_rate(device), "matrix products": product_rate(device)}
        flops = extrapolated_flops(bench)
        return {
            "rates": rates,
            "parts": [
                {"part": part, "seconds": seconds_of(work), "flops": flops[part]}
                for part, (work, _) in parts(bench, config).items()
            ],
        }


def show(profiled: dict[str, Any]) -> None:
    print(", ".join(f"{what} {rate / 1e9:,.0f} GFLOP/s" for what, rate in profiled["rates"].items()))
    print(f"{'part':26} {'seconds':>8} {'share':>6} {'GFLOP':>7} {'floor s':>8} {'x floor':>8}")
    rows, fastest = profiled["parts"], max(profiled["rates"].values())
    everything = {"part": "all", **{name: sum(row[name] for row in rows) for name in ("seconds", "flops")}}
    for row in (*rows, everything):
        seconds, floor = row["seconds"], row["flops"] / fastest
        over = f"{seconds / floor:8.1f}" if floor else f"{'-':>8}"
        share = seconds / everything["seconds"]
        print(f"{row['part']:26} {seconds:8.1f} {share:6.0%} {row['flops'] / 1e9:7.0f} {floor:8.1f} {over}")


def workbench(
    folder: Path, model: Path, bundle: Path, config: ScanConfig, threads: int, device: str = "cpu"
) -> Workbench:
    """A prepared scan."""
    directory = JobDirectory(folder)
    shutil.copyfile(model, directory.model)
    shutil.copyfile(bundle, folder / f"bundle{bundle.suffix}")
    job = job_for(model, bundle, config=config, input=DeclaredInput(), device=device, threads=threads)
    bench = Workbench(directory, job, emit=lambda event, **data: None)
    prepare(bench)
    return bench


def parts(bench: Workbench, config: ScanConfig) -> dict[str, tuple[Callable[[], object], int]]:
    """What a scan does, by name, in its order, each with its number of steps."""
    bench.job = replace(bench.job, config=config)
    work: dict[str, tuple[Callable[[], object], int]] = {}
    if config.students:
        work["learning, students"] = partial(learn, bench, config.students), students.STEPS
    start = partial(pretrain_generator, bench.clean, bench.perceptual, config.inversion, 0)
    work["learning, generator"] = start, config.inversion.pretrain_epochs
    for family, searching in config.searches.items():
        work[f"{family}, suspect"] = partial(search, bench, family, [bench.classifier]), searching.steps
        if FAMILIES[family].asks_students and bench.students:
            work[f"{family}, students"] = partial(search, bench, family, bench.students), searching.steps
    return work


def extrapolated_flops(bench: Workbench) -> dict[str, float]:
    """Of each part: counted for a few steps and for twice as many, because counting is slow."""
    config = bench.job.config
    few, twice = (counted_flops(bench, with_steps(config, steps), steps) for steps in (FEW, 2 * FEW))
    return {
        part: few[part] + (steps - FEW) / FEW * (twice[part] - few[part])
        for part, (_, steps) in parts(bench, config).items()
    }


def with_steps(config: ScanConfig, steps: int) -> ScanConfig:
    """The same scan with so many steps of everything."""
    inversion = replace(config.inversion, steps=steps, pretrain_epochs=steps)
    families = {name: replace(search, steps=steps) for name, search in config.families.items()}
    return replace(config, inversion=inversion, families=families)


def counted_flops(bench: Workbench, config: ScanConfig, steps: int) -> dict[str, float]:
    """Step by step: what a GPU replays is not seen."""
    with patch.object(students, "STEPS", steps), patch.object(recorded, "WARM_UPS", math.inf):
        return {part: flops_of(work) for part, (work, _) in parts(bench, config).items()}


def learn(bench: Workbench, number: int) -> None:
    for seed in range(number):
        students.train_student(bench.classifier, bench.images, seed)


def search(bench: Workbench, family: str, networks: Sequence[nn.Module]) -> None:
    """All labels of one family, in blocks as a scan takes them."""
    for network in networks:
        for block in blocks(range(bench.preparation.num_labels), bench.job.config, bench.preparation.device):
            bench.search(network, family, block, seed=0)


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def flops_of(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def median_seconds(work: Callable[[], object]) -> float:
    work()
    return median(seconds_of(work) for _ in range(REPEATS))


def conv_rate(device: str, channels: int = 64, side: int = 32) -> float:
    """Multiplications and additions a second of a 3 x 3 convolution."""
    batch = 60 if device == "cpu" else 2048
    images = torch.randn(batch, channels, side, side, device=device)
    weights = torch.randn(channels, channels, 3, 3, device=device)
    flops = 2 * batch * side**2 * channels**2 * 9
    return flops / median_seconds(lambda: functional.conv2d(images, weights, padding=1))


def product_rate(device: str) -> float:
    size = 1024 if device == "cpu" else 8192
    left, right = torch.randn(2, size, size, device=device)
    return 2 * size**3 / median_seconds(lambda: left @ right)


def import_seconds(module: str) -> float:
    command = [sys.executable, "-c", f"import {module}"]
    return median(seconds_of(lambda: subprocess.run(command, check=True, cwd=REPOSITORY)) for _ in range(IMPORTS))


if __name__ == "__main__":
    main()
