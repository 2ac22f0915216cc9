"""Victims are trained reproducibly, go on where they were stopped, and load as they were measured."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import false_alarms
from benchmarks.attacks import input_aware
from benchmarks.attacks.blended import Blended
from benchmarks.datasets import Dataset, as_tensors, load_dataset
from benchmarks.victims.augmentation import Augmentation
from benchmarks.victims.recipes import Recipe
from benchmarks.victims.roster import ROSTER, in_order
from benchmarks.victims.train import Training, Victim, attack_success, load_victim, missing, train

TINY = Recipe("digits", seed=5, target=3, epochs=2, width=0.25, batch=32)
KINDS = {
    "clean": replace(TINY, target=None),
    "wanet": TINY,
    "badnets": replace(TINY, attack="badnets", softmax=True),
    "input_aware": replace(TINY, attack="input_aware", cross_ratio=1.0),
    "deep": replace(TINY, attack="blended", net="preact_resnet18", width=0.125, flip=True, rotation=10, rotated=0.5),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """200 digits to train on and 50 to test."""
    data = load_dataset("digits")
    return Dataset(data.x_train[:200], data.y_train[:200], data.x_test[:50], data.y_test[:50])


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_aware, "MASK_STEPS", 3)


def answers(victim: Victim, data: Dataset) -> list[Tensor]:
    """What net and attack make of the test images, which is all of them that a benchmark sees."""
    images = as_tensors(data.x_test)
    with torch.inference_mode():
        return [victim.net(images)] + ([victim.attack.apply(images)] if victim.attack else [])


@pytest.mark.slow
@every_kind
def test_a_stopped_training_ends_as_if_it_had_not_been_stopped(
    kind: str, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run_epoch = KINDS[kind], Training.run_epoch

    def stopped_in_the_second(training: Training) -> float:
        if training.epoch == 1:
            raise KeyboardInterrupt
        return run_epoch(training)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run_epoch", stopped_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, digits, tmp_path)
    resumed = train(recipe, digits, tmp_path)
    assert capsys.readouterr().out.count(f"{recipe.name}  epoch 1/2") == 1
    for mine, theirs in zip(answers(resumed, digits), answers(train(recipe, digits), digits), strict=True):
        assert torch.equal(mine, theirs)
    assert not list(tmp_path.glob("*.ckpt")) and not list(tmp_path.glob("*.part"))


@every_kind
def test_a_loaded_victim_is_the_one_that_was_trained(kind: str, digits: Dataset, tmp_path: Path) -> None:
    recipe = replace(KINDS[kind], epochs=1)
    trained, loaded = load_victim(recipe, digits, tmp_path), load_victim(recipe, digits, tmp_path)
    for mine, theirs in zip(answers(loaded, digits), answers(trained, digits), strict=True):
        assert torch.equal(mine, theirs)
    assert loaded.attack is None or not loaded.attack.apply(as_tensors(digits.x_test)).requires_grad
    figures = ("accuracy", "attack_success_rate", "cross_accuracy")
    assert [getattr(loaded, name) for name in figures] == [getattr(trained, name) for name in figures]
    assert (loaded.attack_success_rate is None) == (kind == "clean")
    assert (loaded.cross_accuracy is not None) == (kind in ("wanet", "input_aware"))
    assert not loaded.net.training


def test_a_record_tells_how_a_victim_was_made_and_how_good_it_is(digits: Dataset, tmp_path: Path) -> None:
    victim = train(TINY, digits, tmp_path, log=False)
    made = json.loads((tmp_path / f"{TINY.name}.json").read_text())
    assert Recipe(**made["recipe"]) == TINY
    assert made["attack_success_rate"] == victim.attack_success_rate
    assert made["torch"] == torch.__version__


def test_the_record_of_an_early_victim_still_means_its_recipe() -> None:
    """Records written before there were other attacks and nets lack their fields."""
    early = {"dataset": "mnist", "seed": 1, "target": 3, "epochs": 12, "width": 1.0, "batch": 128}
    early |= {"learning_rate": 0.05, "strength": 0.5, "control_points": 4, "poison_rate": 0.1, "cross_ratio": 2.0}
    early |= {"shift": 2, "rotation": 0.0}
    assert Recipe(**early) in ROSTER["reporting"]
    assert Recipe(**early).name == "mnist-wanet-t3-s1"


def test_a_victim_of_another_recipe_is_not_taken_for_this_one(digits: Dataset, tmp_path: Path) -> None:
    train(replace(TINY, epochs=1), digits, tmp_path, log=False)
    with pytest.raises(ValueError, match="another recipe"):
        load_victim(replace(TINY, epochs=2), digits, tmp_path)


def test_a_checkpoint_of_another_recipe_is_not_gone_on_with(digits: Dataset, tmp_path: Path) -> None:
    torch.save(Training(TINY, digits).state(), tmp_path / f"{TINY.name}.ckpt")
    with pytest.raises(ValueError, match="delete it"):
        train(replace(TINY, epochs=3), digits, tmp_path)


def test_a_victim_may_end_in_probabilities(digits: Dataset) -> None:
    recipe = replace(TINY, epochs=1)
    logits = answers(train(recipe, digits, log=False), digits)[0]
    shares = answers(train(replace(recipe, softmax=True), digits, log=False), digits)[0]
    assert torch.equal(shares, logits.softmax(1))


def test_what_is_there_is_not_trained_again(tmp_path: Path) -> None:
    first, second = in_order()[:2]
    (tmp_path / f"{first.name}.pt").touch()
    (tmp_path / f"{second.name}.ckpt").touch()
    assert missing([first, second], tmp_path) == [second]


def test_images_move_by_whole_pixels_and_half_of_them_are_mirrored() -> None:
    images = torch.zeros(400, 1, 9, 9)
    images[:, 0, 4, 4], images[:, 0, 4, 6] = 1.0, 0.5
    moved = Augmentation(shift=2, flip=True).apply(images, torch.Generator().manual_seed(0))
    bright = (moved[:, 0] > 0.9).nonzero()
    assert len(bright) == 400
    assert {*(bright[:, 1] - 4).tolist()} == {*(bright[:, 2] - 4).tolist()} == {-2, -1, 0, 1, 2}
    grey = ((moved[:, 0] > 0.4) & (moved[:, 0] < 0.6)).nonzero()
    mirrored = (dict(zip(grey[:, 0].tolist(), grey[:, 2].tolist(), strict=True))[n] < x for n, _, x in bright.tolist())
    assert 150 < sum(mirrored) < 250


def test_no_seed_serves_both_tuning_and_reporting() -> None:
    tuning, *others = ({recipe.seed for recipe in recipes} for recipes in ROSTER.values())
    assert all(tuning.isdisjoint(other) for other in others)


def test_the_files_of_two_victims_never_collide() -> None:
    names = [recipe.name for recipe in in_order()]
    assert len(names) == len({*names}) == sum(len(recipes) for recipes in ROSTER.values())


def test_false_alarms_are_counted_in_cells_that_no_choice_was_made_on() -> None:
    cells = {use: {false_alarms.cell_of(recipe) for recipe in ROSTER[use]} for use in ("tuning", "false_alarms")}
    assert len(cells["false_alarms"]) >= 8 and cells["tuning"].isdisjoint(cells["false_alarms"])
    assert sum(recipe.target is None for recipe in ROSTER["false_alarms"]) >= 60


def test_beyond_mnist_and_digits_no_architecture_serves_both_uses() -> None:
    cells = [
        {(recipe.dataset, recipe.net) for recipe in ROSTER[use] if recipe.dataset not in ("mnist", "digits")}
        for use in ("tuning", "reporting")
    ]
    assert cells[0].isdisjoint(cells[1])


@pytest.mark.parametrize(
    ("beginning", "least"),
    [
        ("mnist-wanet", 10),
        ("mnist-badnets", 6),
        ("mnist-blended", 4),
        ("mnist-input_aware", 3),
        ("mnist-clean", 20),
        ("cifar10-preact_resnet18-wanet", 3),
        ("cifar10-preact_resnet18-badnets", 3),
        ("cifar10-preact_resnet18-clean", 3),
        ("gtsrb-preact_resnet18-wanet", 1),
        ("gtsrb-preact_resnet18-clean", 1),
    ],
)
def test_there_are_enough_victims_to_report_on(beginning: str, least: int) -> None:
    assert sum(recipe.name.startswith(beginning) for recipe in ROSTER["reporting"]) >= least


class Brightness(nn.Module):
    """Says 2 of bright images and 0 of dark ones."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return functional.one_hot(torch.where(images_NCHW.mean((1, 2, 3)) > 0, 2, 0), 4).float()


def test_an_attack_succeeds_on_images_that_are_not_of_the_wanted_label_anyway() -> None:
    labels = torch.tensor([0, 1, 2, 2, 2, 3])
    images = (labels == 2).float()[:, None, None, None].expand(-1, 1, 4, 4)
    white, black = (Blended(torch.full((1, 4, 4), value), target=2, alpha=1.0) for value in (1.0, 0.0))
    assert attack_success(Brightness(), white, images, labels) == 1.0
    assert attack_success(Brightness(), black, images, labels) == 0.0
    without_trigger = Blended(torch.zeros(1, 4, 4), target=2, alpha=0.0)
    assert attack_success(Brightness(), without_trigger, images, labels) == 0.0


def test_a_rate_of_nothing_is_not_certain() -> None:
    rows = [{"cell": f"cell {number % 8}"} for number in range(64)]
    none, all_of_one = [False] * 64, [row["cell"] == "cell 3" for row in rows]
    assert 0.04 < false_alarms.rate_of(rows, none)["high"] < 0.06 and false_alarms.rate_of(rows, none)["low"] == 0.0
    exact = binomtest(8, 64).proportion_ci(method="exact")
    assert false_alarms.rate_of(rows, all_of_one)["high"] > exact.high, "one cell's nets are alike"


def test_mnist_is_trained_first() -> None:
    order = [recipe.source for recipe in in_order()]
    assert order[0] == "mnist"
    assert sum(before != after for before, after in pairwise(order)) == 4
