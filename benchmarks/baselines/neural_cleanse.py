"""Neural Cleanse (Wang et al., IEEE S&P 2019): the smallest patch for each label, and labels whose patch is an outlier.

    N images   C channels   H, W pixels   K labels

The constants are those of the authors' program: Adam .1 with betas (.5, .9), up to 1,000 rounds of 31 batches of 32, a
weight of the mask's L1 norm that starts at zero, becomes 1e-3 once 99 % of a round's images were carried in five rounds
in a row, doubles after five such rounds and falls by 2 ** 1.5 after five that were not, and an early stop once the best
norm has not fallen in 25 rounds and the weight has moved both ways. (A port in wide use has a threshold with which the
early stop never fires.) Pixels are in [0, 1]; a label is flagged by the anomaly index above 2.

    python -m benchmarks.baselines.neural_cleanse MODEL BUNDLE.npz    # all labels of a victim that expects [-1, 1]
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks.computing import set_up_torch
from benchmarks.datasets import as_tensors
from models.suspect import load_suspect
from worker.detection.outliers import anomaly_indices, flagged

LEARNING_RATE, BETAS = 0.1, (0.5, 0.9)
ROUNDS, BATCHES, BATCH = 1000, 31, 32
SUCCESS, PATIENCE, STOP_PATIENCE = 0.99, 5, 25
FIRST_WEIGHT, UP, DOWN = 1e-3, 2.0, 2.0**1.5
EPSILON = 1e-7
THRESHOLD = 2.0


@dataclass(frozen=True)
class Patch:
    """The smallest patch that was found for one label."""

    label: int
    mask_HW: Tensor
    pattern_CHW: Tensor
    norm: float  # L1 of the mask, in pixels; infinite where no round was successful
    batches: int
    stopped_early: bool


def smallest_patch(
    classifier: Callable[[Tensor], Tensor], images_NCHW: Tensor, target: int, seed: int, most_batches: int | None = None
) -> Patch:
    """Search the patch of one label on images of all labels; ends after `most_batches` where that is given."""
    random = torch.Generator().manual_seed(seed * 1009 + target)
    _, channels, height, width = images_NCHW.shape
    mask = _before_tanh(torch.rand((height, width), generator=random)).requires_grad_()
    pattern = _before_tanh(torch.rand((channels, height, width), generator=random)).requires_grad_()
    optimizer = torch.optim.Adam([mask, pattern], LEARNING_RATE, BETAS)
    targets = torch.full((BATCH,), target)
    weight = _Weight()
    best: tuple[float, Tensor, Tensor] = (float("inf"), _after_tanh(mask.detach()), _after_tanh(pattern.detach()))
    last_best, unchanged, batches = float("inf"), 0, 0
    for _ in range(ROUNDS):
        carried, norms = [], []
        for _ in range(BATCHES):
            images = images_NCHW[torch.randint(len(images_NCHW), (BATCH,), generator=random)]
            shown, laid = _after_tanh(mask), _after_tanh(pattern)
            logits = classifier(images + shown * (laid - images))
            norm = shown.abs().sum()
            loss = functional.cross_entropy(logits, targets) + weight.value * norm
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            carried.append((logits.argmax(1) == target).float().mean().item())
            norms.append(norm.item())
        batches += BATCHES
        is_success, norm_of_round = np.mean(carried) >= SUCCESS, float(np.mean(norms))
        if is_success and norm_of_round < best[0]:
            best = norm_of_round, _after_tanh(mask.detach()), _after_tanh(pattern.detach())
        if best[0] < float("inf"):
            unchanged = unchanged + 1 if best[0] >= last_best else 0
            last_best = min(best[0], last_best)
        weight.round(bool(is_success))
        if weight.moved_both_ways and unchanged >= STOP_PATIENCE:
            return Patch(target, best[1], best[2], best[0], batches, stopped_early=True)
        if most_batches is not None and batches >= most_batches:
            break
    return Patch(target, best[1], best[2], best[0], batches, stopped_early=False)


class _Weight:
    """The weight of the mask's norm, moved by how rounds end."""

    def __init__(self) -> None:
        self.value = 0.0
        self.good, self.bad = 0, 0  # rounds in a row
        self.went_up, self.went_down = False, False

    @property
    def moved_both_ways(self) -> bool:
        return self.went_up and self.went_down

    def round(self, is_success: bool) -> None:
        self.good, self.bad = (self.good + 1, 0) if is_success else (0, self.bad + 1)
        if self.value == 0.0:
            if self.good >= PATIENCE:
                self.value, self.good, self.bad = FIRST_WEIGHT, 0, 0
                self.went_up, self.went_down = False, False
        elif self.good >= PATIENCE:
            self.value, self.good, self.went_up = self.value * UP, 0, True
        elif self.bad >= PATIENCE:
            self.value, self.bad, self.went_down = self.value / DOWN, 0, True


def flagged_labels(patches: Sequence[Patch]) -> tuple[list[int], NDArray[np.float64]]:
    """The labels whose anomaly index is above 2, and all indices."""
    norms_K = np.array([patch.norm for patch in patches])
    return np.flatnonzero(flagged(norms_K, THRESHOLD)).tolist(), anomaly_indices(norms_K)


def _before_tanh(values: Tensor) -> Tensor:
    return ((values - 0.5) * (2 - EPSILON)).atanh()


def _after_tanh(values: Tensor) -> Tensor:
    return values.tanh() / (2 - EPSILON) + 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("bundle", type=Path, help=".npz with uint8 images NHWC")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-batches", type=int, help="for each label")
    arguments = parser.parse_args()
    set_up_torch(arguments.threads)
    suspect = load_suspect(arguments.model).module.requires_grad_(False)
    with np.load(arguments.bundle) as bundle:
        images = as_tensors(bundle["images"])

    def classifier(images_NCHW: Tensor) -> Tensor:
        return suspect(images_NCHW * 2 - 1)  # type: ignore[no-any-return]

    labels = classifier(images[:1]).shape[1]
    patches = [
        smallest_patch(classifier, images, label, arguments.seed, arguments.most_batches) for label in range(labels)
    ]
    accused, indices = flagged_labels(patches)
    result = {
        "flagged": accused,
        "anomaly_indices": indices.tolist(),
        "norms": [patch.norm for patch in patches],
        "batches": [patch.batches for patch in patches],
        "stopped_early": [patch.stopped_early for patch in patches],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
