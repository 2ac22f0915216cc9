"""Unlearning the trigger that we planted: its success falls, accuracy stays, whatever the recipe."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.core.config import MatchingConfig, RepairConfig
from models.classifier import Classifier
from tests.toys import SIDE, VEIL, ToyNet, as_source, plain_spec, toy_images, toy_labels
from worker.detection import images
from worker.detection.families.static import Patches
from worker.detection.inversion import Inversion
from worker.detection.metrics import attack_success_rate, clean_accuracy
from worker.detection.repairing.base import Afresh, Case
from worker.detection.repairing.choosing import recipe_of
from worker.detection.repairing.paper import unlearn_trigger
from worker.detection.repairing.standard import match_scores

PLANTED = 2
SEEN, UNSEEN = as_source(toy_images(4, seed=0)), toy_images(10, seed=1)


class Veil(nn.Module):
    """The planted trigger itself, in the place of a generator that found it."""

    def forward(self, images: Tensor) -> Tensor:
        return (images + VEIL).clamp(0, 1)


def suspect() -> Classifier:
    return Classifier(torch.jit.script(ToyNet(planted=PLANTED)), plain_spec()).requires_grad_(False).eval()


def unlearn(classifier: Classifier, config: RepairConfig = RepairConfig(), seed: int = 0, **options: object) -> None:  # noqa: B008 frozen
    unlearn_trigger(classifier, [Veil()], SEEN, toy_labels(4), config, seed, **options)  # type: ignore[arg-type]


def test_the_planted_triggers_success_falls_and_accuracy_on_unseen_images_stays() -> None:
    classifier = suspect()
    triggered, labels = Veil()(UNSEEN), toy_labels(10)
    assert attack_success_rate(classifier, triggered, labels, PLANTED) == 1.0
    unlearn(classifier)
    assert attack_success_rate(classifier, triggered, labels, PLANTED) <= 0.02
    assert clean_accuracy(classifier, UNSEEN, labels) >= 0.98


def test_what_dropout_and_batch_norm_remember_is_left_alone() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), ToyNet(planted=PLANTED))
    classifier = Classifier(torch.jit.script(net.eval()), plain_spec()).requires_grad_(False).eval()
    before = {name: buffer.clone() for name, buffer in classifier.module.named_buffers()}
    unlearn(classifier)
    after = dict(classifier.module.named_buffers())
    assert before and all(torch.equal(before[name], after[name]) for name in before)
    assert not classifier.module.training
    assert not any(parameter.requires_grad for parameter in classifier.module.parameters()), "fixed again afterwards"


def test_every_epoch_is_told() -> None:
    heard: list[int] = []
    unlearn(suspect(), replace(RepairConfig(), epochs=3), on_epoch=heard.append)
    assert heard == [1, 2, 3]


def test_a_frozen_module_has_nothing_to_fine_tune() -> None:
    frozen = torch.jit.freeze(torch.jit.script(ToyNet(planted=PLANTED).eval()))
    with pytest.raises(ValueError, match="no parameters"):
        unlearn(Classifier(frozen, plain_spec()))


def test_some_of_the_twins_are_enough_and_none_leaves_the_trigger() -> None:
    triggered, labels = Veil()(UNSEEN), toy_labels(10)
    for twins, unlearned in ((12, True), (0, False)):
        classifier = suspect()
        unlearn(classifier, replace(RepairConfig(), twins=twins))
        assert (attack_success_rate(classifier, triggered, labels, PLANTED) <= 0.1) is unlearned, twins


def veil() -> Patches:
    return Patches(torch.full((1, 1, SIDE, SIDE), VEIL).logit(), torch.full((1, 1, SIDE, SIDE), 8.0))


def match(classifier: Classifier, seed: int = 0, held: Sequence[Patches] = (), path_step: float = 0.0) -> None:
    config = RepairConfig(matching=MatchingConfig(path_step=path_step))
    match_scores(classifier, suspect(), [veil()], SEEN, config, 0.03, seed, held)


def test_matching_scores_unlearns_a_veil_and_changes_little_else() -> None:
    classifier, before = suspect(), suspect()
    triggered, labels = Veil()(UNSEEN), toy_labels(10)
    match(classifier)
    assert attack_success_rate(classifier, triggered, labels, PLANTED) <= 0.02
    assert clean_accuracy(classifier, UNSEEN, labels) >= 0.98
    moved = (classifier(UNSEEN).softmax(1) - before(UNSEEN).softmax(1)).abs().mean()
    assert moved < 0.02, "the scores of clean images stay"
    assert not any(parameter.requires_grad for parameter in classifier.module.parameters())


def test_what_is_held_keeps_the_suspects_answers_where_no_image_shows_them() -> None:
    """A patch of noise leads to answers that no clean image has; what is learned about those moves them, or not."""
    noise = torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    patch = Patches(torch.full((1, 1, SIDE, SIDE), 1.5), 2 * noise)

    def moved(held: Sequence[Patches]) -> float:
        classifier = suspect()
        match(classifier, held=held)
        assert attack_success_rate(classifier, Veil()(UNSEEN), toy_labels(10), PLANTED) <= 0.05
        return (classifier(patch.on(UNSEEN)).softmax(1) - suspect()(patch.on(UNSEEN)).softmax(1)).abs().mean().item()

    assert moved([patch]) < 0.5 * moved([])


def on_the_path(classifier: Classifier, seed: int = 0) -> None:
    match(classifier, seed, path_step=0.5)


@pytest.mark.parametrize("repair", [unlearn, match, on_the_path])
def test_the_same_seed_gives_the_same_weights(repair: Callable[..., None]) -> None:
    one, again, other = suspect(), suspect(), suspect()
    repair(one)
    repair(again)
    repair(other, seed=1)
    assert all(map(torch.equal, one.module.parameters(), again.module.parameters()))
    assert not all(map(torch.equal, one.module.parameters(), other.module.parameters()))


@pytest.mark.parametrize("repair", [unlearn, match])
def test_a_batch_of_large_images_is_seen_in_pieces_and_teaches_the_same(
    repair: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, in_pieces = suspect(), suspect()
    repair(whole)
    seen: list[int] = []
    in_pieces.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr(images, "ON_CPU", 7 * 4 * SIDE**2)
    repair(in_pieces)
    assert max(seen) == 7
    for one, other in zip(whole.module.parameters(), in_pieces.module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


class DropoutBlock(nn.Module):
    """A name that torch's own layers have a part of, with something in it that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.drop(self.norm(images_NCHW))


def test_a_block_called_dropout_does_not_take_its_batch_norm_to_training() -> None:
    net = nn.Sequential(DropoutBlock(), ToyNet(planted=PLANTED)).eval()
    classifier = Classifier(net, plain_spec()).requires_grad_(False).eval()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    unlearn(classifier, replace(RepairConfig(), epochs=1))
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    assert not any(part.training for part in net.modules())


def test_a_step_back_on_the_path_leads_further_from_the_suspect_s_weights() -> None:
    origins = [parameter.clone() for parameter in suspect().parameters()]

    def moved(path_step: float) -> float:
        classifier = suspect()
        match(classifier, path_step=path_step)
        assert attack_success_rate(classifier, Veil()(UNSEEN), toy_labels(10), PLANTED) <= 0.05
        ways = [now - was for now, was in zip(classifier.parameters(), origins, strict=True)]
        return torch.stack([way.norm() for way in ways]).norm().item()

    assert moved(0.1) > 1.05 * moved(0.0)


def case(
    config: RepairConfig, is_too_costly: Callable[[nn.Module], bool] = lambda network: False, **parts: Any
) -> Case:
    return Case(suspect(), suspect, [veil()], SEEN, toy_labels(4), config, 3, is_too_costly, **parts)


ROUND = RepairConfig(matching=MatchingConfig(steps=8))


def weights(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters())


def test_the_paper_s_recipe_is_one_fine_tuning_as_its_config_says() -> None:
    config, told = RepairConfig(epochs=2), []
    attempt = recipe_of(config)(case(config, on_epoch=lambda done, of: told.append((done, of))))
    direct = suspect()
    unlearn_trigger(direct, [veil().on], SEEN, toy_labels(4), config, 3)
    assert torch.equal(weights(attempt.repaired), weights(direct)) and told == [(1, 2), (2, 2)]
    assert (attempt.learning_rate, attempt.rounds, attempt.p_value) == (config.learning_rate, 1, None)


def test_standard_takes_the_first_learning_rate_within_the_budget_and_the_last_where_none_is() -> None:
    for allowed, rate in ((0.01, 0.01), (None, 0.003)):
        tried: list[float] = []

        def is_too_costly(network: nn.Module, allowed: float | None = allowed, tried: list[float] = tried) -> bool:
            tried.append(ROUND.matching.learning_rates[len(tried)])  # type: ignore[union-attr]
            return tried[-1] != allowed

        attempt = recipe_of(ROUND)(case(ROUND, is_too_costly))
        direct = suspect()
        match_scores(direct, suspect(), [veil()], SEEN, ROUND, rate, seed=4)
        assert attempt.learning_rate == tried[-1] == rate and torch.equal(weights(attempt.repaired), weights(direct))


def test_standard_goes_on_until_what_is_searched_afresh_is_unremarkable_and_unlearns_it_as_well() -> None:
    p_values, seeds = iter((0.001, 0.2, 0.7)), []

    def search(network: nn.Module, seed: int) -> list[Afresh]:
        seeds.append(seed)
        inversion = Inversion(PLANTED, veil(), 0.1, 1.0, 0.0, 1, truncated=False, out_of_reach=False)
        return [Afresh(PLANTED, "static", inversion, next(p_values))]

    attempt = recipe_of(ROUND)(case(ROUND, search_afresh=search))
    assert (attempt.rounds, attempt.p_value, seeds) == (3, 0.7, [4, 5, 6])
    direct = suspect()
    for known, seed in enumerate(seeds, 1):
        match_scores(direct, suspect(), [veil()] * known, SEEN, ROUND, 0.03, seed)
    assert torch.equal(weights(attempt.repaired), weights(direct))
