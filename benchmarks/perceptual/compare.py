"""How well the packaged net stands in for LPIPS: `python -m benchmarks.perceptual.compare --teachers FOLDER`.

Pictures it was never trained on (fresh drawings, and real images where they can be had) are distorted in every family
and at strengths from hardly visible to gross. Shown are Spearman's rank correlations of the distances that two nets
give, and the mean cosine of their gradients at the distorted images. AlexNet against SqueezeNet is the measure: two
genuine LPIPS nets do not agree better than that. `mse` is what one gets without any net.

    N images   C channel   H, W pixels
"""

import argparse
import runpy
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.computing import set_up_torch
from benchmarks.datasets import as_tensors, load_dataset, packed_folder
from benchmarks.perceptual.distortions import ALL, distort
from benchmarks.perceptual.drawings import draw
from benchmarks.perceptual.train import direction, load_teachers
from models.perceptual import PACKAGED, PerceptualDistance, load_perceptual

SOURCES = ("drawings", "digits", "mnist", "cifar10", "photos")
NETS = ("packaged", "alexnet", "squeezenet", "mse")
COLUMNS = (
    ("packaged", "alexnet"),
    ("packaged", "squeezenet"),
    ("alexnet", "squeezenet"),
    ("mse", "alexnet"),
    ("mse", "squeezenet"),
)
SEED = 20_261_123  # training draws from seeds (seed, round): no picture here was one of its own


@dataclass(frozen=True)
class Reading:
    """What the nets say about the distorted images of one source."""

    families: list[str]
    distances: dict[str, np.ndarray]
    gradients_NCHW: dict[str, Tensor]  # unit length

    def rank_correlation(self, pair: tuple[str, str], family: str | None = None) -> float:
        picked = np.array([family in (None, one) for one in self.families])
        return float(spearmanr(self.distances[pair[0]][picked], self.distances[pair[1]][picked]).statistic)

    def rank_correlation_at_equal_mse(self, pair: tuple[str, str]) -> float:
        """Partial rank correlation: what two nets share beyond "a larger change is farther away"."""
        columns = [self.distances[name] for name in (*pair, "mse")]
        r = spearmanr(np.stack(columns, 1)).statistic
        return float((r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)))

    def gradient_cosine(self, pair: tuple[str, str]) -> float:
        return (self.gradients_NCHW[pair[0]] * self.gradients_NCHW[pair[1]]).sum((1, 2, 3)).mean().item()


def source_images(source: str, count: int) -> np.ndarray | None:
    """Pictures of one source as float32 NHWC with three channels, or None where there are none."""
    random = np.random.default_rng(SEED)
    if source == "drawings":
        return np.stack([draw(random, 32) for _ in range(count)])
    if source == "photos":
        folder = packed_folder()
        if folder is None:
            return None
        pixels = runpy.run_path(str(folder / "load.py"))["photos"]()["x"]
    else:
        pixels = load_dataset(source).x_test
    images_NCHW = as_tensors(pixels[random.permutation(len(pixels))[:count]])
    if source == "photos":
        images_NCHW = torch.nn.functional.avg_pool2d(images_NCHW, 2)  # 128 to 64 pixels
    return images_NCHW.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def read(nets: dict[str, PerceptualDistance], originals_NHWC: np.ndarray, per_family: int) -> Reading:
    random = np.random.default_rng(SEED + 1)
    count = len(originals_NHWC)
    families = [family for family in ALL for _ in range(per_family)]
    first, others = random.integers(0, count, (2, len(families)))
    strengths = np.exp(random.uniform(np.log(0.01), 0, len(families)))
    changes = zip(families, first, others, strengths, strict=True)
    distorted_NHWC = [distort(family, originals_NHWC[i], originals_NHWC[j], s, random) for family, i, j, s in changes]
    a_NCHW, b_NCHW = (torch.as_tensor(np.stack(x)).permute(0, 3, 1, 2) for x in (originals_NHWC[first], distorted_NHWC))
    distances = {"mse": (a_NCHW - b_NCHW).square().mean((1, 2, 3)).numpy()}
    gradients = {}
    for name, net in nets.items():
        parts, directions = [], []
        for a, b in zip(a_NCHW.split(100), b_NCHW.split(100), strict=True):
            with torch.no_grad():
                anchor = net.features(a)
                parts.append(net.distance(anchor, net.features(b)))
            directions.append(direction(net, anchor, b.clone().requires_grad_()))
        distances[name], gradients[name] = torch.cat(parts).numpy(), torch.cat(directions)
    return Reading(families, distances, gradients)


def table(heading: str, rows: dict[str, list[float]], columns: list[str]) -> str:
    lines = [f"| {heading} | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    return "\n".join(
        lines + [f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |" for name, values in rows.items()]
    )


def cost(net: PerceptualDistance, batch: int = 32, repeats: int = 80) -> list[float]:
    """Million multiplications for one forward, and milliseconds for forward and backward, per 32x32 image."""
    images_NCHW = torch.rand(batch, 3, 32, 32, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        anchor = net.features(images_NCHW.detach())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        net.distance(net.features(images_NCHW), anchor).sum().backward()
        seconds.append(time.perf_counter() - began)
    return [counter.get_total_flops() / 2e6 / batch, 1000 * min(seconds) / batch]


def compare(nets: dict[str, PerceptualDistance], images: int, per_family: int) -> str:
    readings = {}
    for source in SOURCES:
        originals_NHWC = source_images(source, images)
        if originals_NHWC is not None:
            readings[source] = read(nets, originals_NHWC, per_family)
    genuine = COLUMNS[:3]  # a pair with mse has no partial correlation
    titles = [f"{a} ~ {b}" for a, b in COLUMNS]

    def over_sources(family: str) -> list[float]:
        found = [[reading.rank_correlation(pair, family) for pair in COLUMNS] for reading in readings.values()]
        return [float(value) for value in np.mean(found, 0)]

    ranks, partial, cosines, scales = {}, {}, {}, {}
    for source, reading in readings.items():
        ranks[source] = [reading.rank_correlation(pair) for pair in COLUMNS]
        partial[source] = [reading.rank_correlation_at_equal_mse(pair) for pair in genuine]
        cosines[source] = [reading.gradient_cosine(pair) for pair in genuine]
        scales[source] = _scale(reading)
    parts = [
        table("rank correlation", ranks, titles),
        table("at equal mse", partial, titles[:3]),
        table("by family, mean over sources", {family: over_sources(family) for family in ALL}, titles),
        table("gradient cosine", cosines, titles[:3]),
        table("packaged / teachers", scales, ["median", "90 % within a factor of"]),
        table(
            "cost, 32x32, 1 thread",
            {n: cost(net) for n, net in nets.items()},
            ["MMAC forward", "ms forward + backward"],
        ),
    ]
    return "\n\n".join(parts)


def _scale(reading: Reading) -> list[float]:
    """Whether the packaged distance is as large as the teachers' geometric mean: median ratio, and spread about it."""
    logs = {name: np.log(reading.distances[name] + 1e-6) for name in NETS[:3]}
    ratios = logs["packaged"] - (logs["alexnet"] + logs["squeezenet"]) / 2
    middle = float(np.median(ratios))
    return [float(np.exp(middle)), float(np.exp(np.quantile(np.abs(ratios - middle), 0.9)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--teachers", type=Path, required=True, help="the folder with torchvision's two feature nets")
    parser.add_argument("--images", type=int, default=100, help="pictures per source")
    parser.add_argument("--per-family", type=int, default=100, help="distorted images per source and family")
    arguments = parser.parse_args()
    set_up_torch()
    alexnet, squeezenet = load_teachers(arguments.teachers)
    nets = {"packaged": load_perceptual(PACKAGED), "alexnet": alexnet, "squeezenet": squeezenet}
    print(compare(nets, arguments.images, arguments.per_family))


if __name__ == "__main__":
    main()
