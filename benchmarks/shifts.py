"""How far images from elsewhere lie from those of a training, by a victim's batch norms: `python -m benchmarks.shifts`.

A row for each way of having other images, a column for each victim: the distance of the median layer, and how much
surer the victim is than right.
"""

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.computing import set_up_torch
from benchmarks.datasets import Dataset, as_tensors, load_dataset
from benchmarks.victims.recipes import Recipe
from benchmarks.victims.roster import ROSTER
from benchmarks.victims.train import VICTIMS, load_victim, normalise
from worker.detection.clean import random_numbers
from worker.detection.shift import MOST_COMPARED, distances, graded

DEFAULT = (
    *("digits-clean-s11", "digits-wanet-t1-s1", "cifar10-preact_resnet18-clean-s72"),
    *("cifar10-vgg16_bn-badnets-t6-s91", "gtsrb-preact_resnet18-wanet-t14-s80"),
)
FEW = 12


def _smaller(images: Tensor) -> Tensor:
    small = functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    return functional.interpolate(small, size=images.shape[2:], mode="bilinear")


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "its own": lambda images: images,
    "brighter by .1": lambda images: (images + 0.1).clamp(0, 1),
    "brighter by .3": lambda images: (images + 0.3).clamp(0, 1),
    "half the contrast": lambda images: 0.25 + 0.5 * images,
    "blurred, 3 x 3": lambda images: functional.avg_pool2d(images, 3, 1, 1),
    "blurred, 5 x 5": lambda images: functional.avg_pool2d(images, 5, 1, 2),
    "noise of .1": lambda images: images + 0.1 * torch.randn(images.shape, generator=random_numbers(0)),
    "half the size and back": _smaller,
    "mirrored": lambda images: images.flip(3),
    "shifted by 3 pixels": lambda images: images.roll(3, 3),
    "inverted": lambda images: 1 - images,
}


def shown(data: Dataset) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What is shown to a victim of a data set: a name, images and their labels."""
    order = torch.randperm(len(data.y_test), generator=random_numbers(0))
    images, labels = as_tensors(data.x_test), torch.as_tensor(data.y_test)
    of_two = order[labels[order] < 2][:MOST_COMPARED]
    yield f"its own, {FEW} of them", images[order[:FEW]], labels[order[:FEW]]
    yield "its own, of two classes", images[of_two], labels[of_two]
    picked = order[:MOST_COMPARED]
    for name, change in CHANGES.items():
        yield name, change(images[picked]), labels[picked]


def row(recipe: Recipe, data: Dataset) -> dict[str, str]:
    """The figures of one victim, by what it was shown."""
    net = load_victim(recipe, data, VICTIMS).net
    cells = {}
    for name, images, labels in shown(data):
        found = graded(distances(lambda batch: net(normalise(batch)), images.split(50)), 0.0, None, len(images))
        with torch.inference_mode():
            scores = net(normalise(images)).softmax(1)
        surer = scores.amax(1).mean() - (scores.argmax(1) == labels).float().mean()
        cells[name] = f"{found.distance:.2f}, {surer:+.2f}"
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("victims", nargs="*", default=DEFAULT)
    names = parser.parse_args().victims
    set_up_torch(threads=1)
    recipes = {recipe.name: recipe for kept in ROSTER.values() for recipe in kept}
    columns = [row(recipes[name], load_dataset(recipes[name].dataset)) for name in names]
    print(f"| images | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(column[name] for column in columns)} |")


if __name__ == "__main__":
    main()
