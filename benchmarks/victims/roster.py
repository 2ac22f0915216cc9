"""Every victim there is, and what it may be used for: the one place where the seeds are listed.

On `tuning` victims choices are made; `reporting` victims are only measured, with the choices made. No seed is in both.
MNIST's net serves both with different seeds; on colour images the two use different architectures. `false_alarms` has
many quickly trained nets, in cells of data set and architecture that no choice was made on; `gpu`, the published sizes.
What these recipes lead to (accuracy, attack success) is written beside each victim's weights, not here.
"""

from dataclasses import replace

from benchmarks.victims.recipes import RECIPES, Recipe

DATASETS = ("mnist", "cifar10", "gtsrb", "gtsrb10", "digits")  # in the order of training
CROSS_RATIOS = {"wanet": 2.0, "wanet_all_to_all": 2.0, "input_aware": 1.0}  # as published; others have no cross images
MNIST = replace(RECIPES["mnist"], epochs=5)  # as strong as the 12 epochs of the first five WaNet victims

# Whether a trigger belongs to its image is hard to learn, and much harder where images move after they were poisoned.
MNIST_INPUT_AWARE = replace(MNIST, epochs=12, shift=0)


def attacked(recipe: Recipe, attack: str, seed: int, target: int) -> Recipe:
    """The recipe with an attack in it."""
    return replace(recipe, attack=attack, seed=seed, target=target, cross_ratio=CROSS_RATIOS.get(attack, 0.0))


def clean(recipe: Recipe, *seeds: int) -> list[Recipe]:
    return [replace(recipe, seed=seed) for seed in seeds]


def _mnist(attack: str, *seeds_and_targets: tuple[int, int]) -> list[Recipe]:
    recipe = MNIST_INPUT_AWARE if attack == "input_aware" else MNIST
    return [attacked(recipe, attack, seed, target) for seed, target in seeds_and_targets]


def _first_wanets(*seeds_and_targets: tuple[int, int]) -> list[Recipe]:
    return [replace(RECIPES["mnist"], seed=seed, target=target) for seed, target in seeds_and_targets]


def _digits(*seeds_and_targets: tuple[int, int]) -> list[Recipe]:
    return [replace(RECIPES["digits"], seed=seed, target=target) for seed, target in seeds_and_targets]


CIFAR10 = RECIPES["cifar10"]
PATCHED = replace(CIFAR10, epochs=8)  # a warp takes longer to learn than a patch or nothing
# Accuracy .57 after one epoch, in which a patch is learned only if it stays in its place.
WEAK = replace(CIFAR10, epochs=1, batch=256, poison_rate=0.2, shift=0, flip=False)
NARROW_VGG = replace(CIFAR10, net="vgg16_bn", epochs=12)
DEEP = replace(CIFAR10, net="resnet56", width=1.0, epochs=1)  # to see what its scan costs

# The cells of false alarms, each a data set and an architecture.
SMALL_DIGITS = replace(RECIPES["digits"], epochs=60, batch=64, width=0.25)
SMALL_GTSRB = replace(RECIPES["gtsrb"], dataset="gtsrb10", epochs=10)
CELLS = (
    replace(CIFAR10, net="conv", width=1.0, epochs=6),
    replace(MNIST, net="mobilenet_v2", width=0.25, epochs=2),
    replace(MNIST, net="preact_resnet18", width=0.125, epochs=2),
    replace(SMALL_DIGITS, net="mobilenet_v2"),
    replace(SMALL_DIGITS, net="vgg16_bn"),
    replace(SMALL_GTSRB, net="conv", width=1.0),
    replace(SMALL_GTSRB, net="mobilenet_v2"),
    SMALL_GTSRB,
)


def _cells() -> list[Recipe]:
    """Of each cell eight clean nets, a WaNet and a BadNets victim, the cells' first nets first."""
    made = []
    for number, attack in enumerate([*[None] * 7, "wanet", "badnets", None]):
        for cell, recipe in enumerate(CELLS, start=1):
            seed = 1000 + 10 * cell + number
            if recipe.dataset == "gtsrb10":  # other classes for every net
                recipe = replace(recipe, dataset=f"gtsrb10-{seed}")
            made += clean(recipe, seed) if attack is None else [attacked(recipe, attack, seed, target=cell)]
    return made


ROSTER: dict[str, tuple[Recipe, ...]] = {
    "tuning": (
        *_first_wanets((31, 0), (32, 3)),
        *clean(MNIST, 60, 61, 62),
        *_mnist("wanet", (33, 7), (34, 8)),
        *_mnist("badnets", (35, 1), (96, 5), (97, 2), (98, 9)),
        *_mnist("badnets_grid", (36, 6), (93, 3), (94, 8)),
        *_mnist("blended", (37, 2), (38, 8)),
        *_mnist("input_aware", (39, 4), (30, 9)),
        *clean(MNIST, 63, 64, 65),
        attacked(NARROW_VGG, "wanet", seed=90, target=2),
        attacked(NARROW_VGG, "badnets", seed=91, target=6),
        *clean(NARROW_VGG, 92),
        *clean(DEEP, 95),
        *_digits((31, 4), (33, 9)),
        *clean(RECIPES["digits"], *range(101, 109)),
    ),
    "reporting": (
        *_first_wanets((0, 0), (1, 3), (2, 7)),
        *clean(MNIST, *range(40, 50)),
        *_mnist("wanet", (3, 1), (4, 2), (5, 4), (6, 5), (7, 6), (8, 8), (9, 9)),
        *_mnist("badnets", (10, 0), (11, 3), (12, 5), (13, 8)),
        *_mnist("badnets_grid", (14, 2), (15, 7)),
        *_mnist("blended", (16, 1), (17, 4), (18, 6), (19, 9)),
        *_mnist("input_aware", (20, 2), (21, 5), (22, 8)),
        *clean(MNIST, *range(50, 60)),
        *_mnist("badnets_source_specific", (23, 4), (24, 9), (25, 0)),
        *_mnist("badnets_all_to_all", (26, 1), (27, 1), (28, 1)),
        *_mnist("wanet_all_to_all", (29, 1), (83, 1), (84, 1)),
        attacked(CIFAR10, "wanet", seed=70, target=0),
        attacked(PATCHED, "badnets", seed=71, target=3),
        *clean(PATCHED, 72),
        attacked(WEAK, "badnets", seed=73, target=5),
        replace(attacked(PATCHED, "badnets_grid", seed=74, target=8), softmax=True),
        attacked(CIFAR10, "wanet", seed=75, target=7),
        *clean(PATCHED, 76),
        attacked(CIFAR10, "wanet", seed=77, target=4),
        *clean(PATCHED, 78),
        attacked(RECIPES["gtsrb"], "wanet", seed=80, target=14),
        *clean(RECIPES["gtsrb"], 81),
        attacked(RECIPES["gtsrb"], "wanet", seed=82, target=2),
        *clean(RECIPES["gtsrb"], 85),
        attacked(RECIPES["gtsrb"], "wanet", seed=88, target=38),
        *clean(RECIPES["gtsrb"], 89),
        *_digits(*((seed, seed % 10) for seed in range(1, 11))),
        *clean(RECIPES["digits"], *range(11, 21)),
    ),
    "false_alarms": tuple(_cells()),
    "gpu": (
        attacked(replace(CIFAR10, width=1.0), "wanet", seed=86, target=1),
        *clean(replace(CIFAR10, width=1.0), 87),
    ),
}


def in_order() -> list[Recipe]:
    """The whole roster as it is trained: data set by data set, and of each the tuning victims first."""
    recipes = [recipe for of in ROSTER.values() for recipe in of]
    return sorted(recipes, key=lambda recipe: DATASETS.index(recipe.source))
