"""Where one scan's seconds go, and the floor: `python -m benchmarks.profiling [--threads N]`

Times the parts of an inversion step on the committed sample, ten labels in blocks as `paper` runs them, each part
forward and backward on the same tensors, the median of several runs; counts their FLOPs; and holds both against the
matrix-multiplication rate that this machine reaches on the same number of threads, measured in the same run.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from app.core.config import PRESETS
from app.core.findings import InputSpec
from benchmarks.datasets import REPOSITORY, as_tensors
from benchmarks.victims.nets import conv_net
from models.classifier import Classifier
from models.perceptual import PACKAGED, load_perceptual
from models.suspect import load_suspect
from worker.detection.clean import CleanImages
from worker.detection.families.dynamic import pretrain_generator

REPEATS = 9


def seconds(function: Callable[[], object]) -> float:
    """The median time of several calls after a warm-up."""
    function()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return median(times)


def flops(function: Callable[[], object]) -> float:
    """Multiplications and additions of convolutions and products, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def import_seconds(module: str) -> float:
    command = [sys.executable, "-c", f"import {module}"]
    return seconds(lambda: subprocess.run(command, check=True, cwd=REPOSITORY))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    config = PRESETS["paper"].inversion
    with np.load(REPOSITORY / "examples" / "digits_bundle.npz") as bundle:
        images, labels = as_tensors(bundle["images"]), torch.as_tensor(bundle["labels"])
    module = load_suspect(REPOSITORY / "examples" / "digits_wanet.pt").module
    classifier = Classifier(module, InputSpec(32, 32, 1, (0.5,), (0.5,)))
    perceptual = load_perceptual(PACKAGED)
    clean = CleanImages.measure(images, labels, perceptual)
    start = pretrain_generator(clean, perceptual, config, seed=0)
    batch, block = config.batch_size, config.labels_per_block
    one, together = images[:batch], images[: batch * block]
    features = [layer[: batch * block] for layer in clean.features]

    def generate() -> None:
        start(one).sum().backward()

    def classify() -> None:
        classifier(together.clone().requires_grad_(True)).sum().backward()

    def compare() -> None:
        generated = (together * 0.9).requires_grad_(True)
        perceptual.distance(features, perceptual.features(generated)).sum().backward()

    optimizer = torch.optim.Adam([p for _ in range(block) for p in _copy(start)], 1e-3, foreach=True)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    per_step = {
        "generator": (block * seconds(generate), block * flops(generate)),
        "suspect": (seconds(classify), flops_of_suspect(classifier, together)),
        "LPIPS": (seconds(compare), flops(compare)),
        "Adam": (seconds(optimizer.step), 0.0),
    }
    size = 1024
    a = torch.randn(size, size)
    rate = 2 * size**3 / seconds(lambda: a @ a)
    steps = config.steps * 10 // block
    print(f"threads {arguments.threads}, torch {torch.__version__}; matrix product {rate / 1e9:.0f} GFLOP/s")
    print(f"imports: torch {import_seconds('torch'):.1f} s, engine {import_seconds('worker.engine.__main__'):.1f} s")
    print(f"one scan of ten labels: {steps} steps of {block} labels x {batch} images")
    print(f"{'part':10} {'s/scan':>8} {'share':>6} {'GFLOP/scan':>11} {'floor s':>8} {'x floor':>8}")
    total = sum(second for second, _ in per_step.values())
    for part, (second, count) in [*per_step.items(), ("all", (total, sum(c for _, c in per_step.values())))]:
        floor = steps * count / rate
        over = f"{steps * second / floor:8.1f}" if floor else "       -"
        print(f"{part:10} {steps * second:8.1f} {second / total:6.0%} {steps * count / 1e9:11.0f} {floor:8.1f} {over}")


def flops_of_suspect(classifier: Classifier, images_NCHW: torch.Tensor) -> float:
    """The counter does not see into TorchScript, so count the same network in eager mode."""
    net = conv_net(width=0.5).eval().requires_grad_(False)
    return flops(lambda: net(images_NCHW.clone().requires_grad_(True)).sum().backward())


def _copy(generator: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(parameter.detach().clone()) for parameter in generator.parameters()]


if __name__ == "__main__":
    main()
