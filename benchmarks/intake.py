"""What large models cost: `python -m benchmarks.intake gate|check|resnet18`

gate      seconds and memory of the static gate for an archive of 500 MB (torchvision's vgg11_bn), in a fresh process
check     seconds and memory of `triggerlens check` on a ResNet-18 and 1,000 images of 224 pixels, whole processes
resnet18  seconds of an inversion step on 224-pixel images, memory, and what a scan of ten labels would take

Weights and images are random. `--threads` is the number of threads of torch (default 1).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torchvision

from app.core.findings import InputSpec
from app.core.presets import PRESETS
from benchmarks.computing import set_up_torch
from benchmarks.datasets import REPOSITORY
from benchmarks.recording import write_result
from models.classifier import Classifier
from models.perceptual import PACKAGED, load_perceptual
from models.suspect import load_suspect
from worker.detection.clean import CleanImages, random_numbers
from worker.detection.families.base import Beginning
from worker.detection.families.dynamic import Generators, pretrain_generator
from worker.detection.images import Images
from worker.detection.inversion import invert_triggers

FOLDER = REPOSITORY / "runs" / "intake"
IMAGES, SIDE, LABELS, STEPS = 64, 224, 10, 6
CHECKED_IMAGES = 1_000
GATE = """
import json, sys, time
from pathlib import Path
from app.core.intake.torchscript.gate import understand
began, cpu = time.perf_counter(), time.process_time()
understand(Path(sys.argv[1]), 10**10)
wall, cpu = time.perf_counter() - began, time.process_time() - cpu
assert "torch" not in sys.modules
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(json.dumps([wall, cpu, int(peak) * 1024 / 1e6]))
"""


def archive(name: str, **options: Any) -> Path:
    """A scripted net of torchvision, made if it is not there."""
    path = FOLDER / f"{name}.pt"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.jit.script(getattr(torchvision.models, name)(weights=None, **options).eval()).save(str(path))
    return path


def gate(repeats: int = 5) -> dict[str, Any]:
    path = archive("vgg11_bn")
    runs = [
        json.loads(subprocess.check_output([sys.executable, "-c", GATE, path], cwd=REPOSITORY)) for _ in range(repeats)
    ]
    wall, cpu, peak = (median(column) for column in zip(*runs, strict=True))
    size = path.stat().st_size / 1e6
    return {"archive_mb": round(size), "wall_seconds": wall, "cpu_seconds": cpu, "peak_mb": peak, "runs": runs}


def check(threads: int, repeats: int = 3) -> dict[str, Any]:
    """Of a net that is right on its images in [0, 1], as one that was trained would be."""
    with tempfile.TemporaryDirectory() as folder:
        model, bundle = _at_ease(Path(folder))
        program = [Path(sys.executable).with_name("triggerlens"), "check", model, bundle]
        runs = [_run([*program, "--json", "--threads", str(threads), "--sandbox", "none"]) for _ in range(repeats)]
    wall, cpu, peak, accuracy = (median(column) for column in zip(*runs, strict=True))
    measured = {"wall_seconds": wall, "cpu_seconds": cpu, "peak_mb": peak, "accuracy": accuracy}
    return {"images": CHECKED_IMAGES, **measured, "runs": runs}


def _at_ease(folder: Path) -> tuple[Path, Path]:
    """A ResNet-18 of random weights and images with its own answers as labels, of which no label has too many."""
    random = np.random.default_rng(0)
    few = random.integers(256, size=(2 * LABELS, 7, 7, 3), dtype=np.uint8)
    few = few.repeat(SIDE // 7, axis=1).repeat(SIDE // 7, axis=2)
    net = torchvision.models.resnet18(weights=None, num_classes=LABELS).eval()
    with torch.no_grad():
        scores = net(torch.from_numpy(few).movedim(3, 1) / 255)
        contrast = 5 / scores.std(0).mean()
        net.fc.weight *= contrast
        net.fc.bias.copy_(contrast * (net.fc.bias - scores.mean(0)))
    which = np.arange(CHECKED_IMAGES) % len(few)
    np.savez(folder / "images.npz", images=few[which], labels=(scores - scores.mean(0)).argmax(1).numpy()[which])
    torch.jit.script(net).save(str(folder / "model.pt"))
    return folder / "model.pt", folder / "images.npz"


def _run(command: Sequence[str | Path]) -> tuple[float, float, float, float]:
    """One check from start to end: seconds, processor seconds and peak memory in MB; and the accuracy that it found."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = json.loads(process.stdout.read())
    _, _, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6, said["inputs"]["clean_accuracy"]


def resnet18() -> dict[str, Any]:
    began = time.perf_counter()
    suspect = load_suspect(archive("resnet18", num_classes=LABELS))
    loading = time.perf_counter() - began
    spec = InputSpec(SIDE, SIDE, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pictures = torch.randint(256, (IMAGES, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(0))
    images = Images(pictures.byte(), torch.device("cpu"))
    perceptual = load_perceptual(PACKAGED)
    clean = CleanImages(images, torch.arange(IMAGES) % LABELS, perceptual)
    config = replace(PRESETS["paper"].inversion, steps=STEPS)
    start = pretrain_generator(clean, perceptual, config, seed=0)
    ends = [time.perf_counter()]
    block = range(PRESETS["paper"].labels_per_block)
    invert_triggers(
        Classifier(suspect.module, spec),
        clean,
        clean,
        block,
        Generators.begin(
            Beginning(images.shape, start, perceptual, config), [random_numbers(0, label) for label in block]
        ),
        config,
        seed=0,
        on_step=lambda step: ends.append(time.perf_counter()),
    )
    step = median(later - earlier for earlier, later in pairwise(ends[1:]))
    steps = PRESETS["paper"].inversion.steps * LABELS / len(block)
    return {
        "load_seconds": loading,
        "seconds_per_step": step,
        "labels_per_step": len(block),
        "images_per_step": len(block) * config.batch_size,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "scan_of_ten_labels_hours": steps * step / 3600,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=["gate", "check", "resnet18"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    set_up_torch(arguments.threads)
    measure = {"gate": gate, "check": partial(check, arguments.threads), "resnet18": resnet18}[arguments.measure]
    measured = measure()
    result = {"threads": arguments.threads, **measured}
    print(json.dumps(result, indent=1))
    write_result(f"intake-{arguments.measure}", result)


if __name__ == "__main__":
    main()
