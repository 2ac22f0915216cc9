"""Trigger inversion on a toy whose backdoor we planted: what is found, and what the numbers may depend on."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.config import InversionConfig, SearchConfig
from models.classifier import Classifier
from models.generator import TriggerGenerator
from models.perceptual import PACKAGED, PerceptualDistance, load_perceptual
from tests.detection.beginnings import SHAPE, begun, each
from tests.toys import QUICK, SHORT, SIDE, ToyNet, all_of, as_source, plain_spec, toy_images, toy_labels
from worker.detection.clean import CleanImages, classes_alike
from worker.detection.families.base import Beginning
from worker.detection.families.dynamic import Generators, pretrain_generator
from worker.detection.families.static import Patches
from worker.detection.inversion import Inversion, at_equal_success, invert_triggers

PLANTED = 2


@pytest.fixture(scope="module")
def perceptual() -> PerceptualDistance:
    return load_perceptual(PACKAGED)


@pytest.fixture(scope="module")
def clean(perceptual: PerceptualDistance) -> CleanImages:
    return CleanImages(as_source(toy_images(2)), toy_labels(2), perceptual)


@pytest.fixture(scope="module")
def suspect() -> Classifier:
    return Classifier(ToyNet(planted=PLANTED), plain_spec()).requires_grad_(False)


def search(
    suspect: Classifier,
    clean: CleanImages,
    perceptual: PerceptualDistance,
    config: InversionConfig,
    labels: Sequence[int],
    seed: int = 0,
    **options: object,
) -> list[Inversion]:
    start = pretrain_generator(clean, perceptual, config, seed)
    triggers = Generators.begin(Beginning(SHAPE, start, perceptual, config), each(labels))
    return invert_triggers(suspect, clean, clean, labels, triggers, config, seed, **options)  # type: ignore[arg-type]


def weights(inversion: Inversion) -> list[torch.Tensor]:
    return list(inversion.trigger.state_dict().values())


def same(one: Inversion, other: Inversion) -> bool:
    """To the last bit."""
    figures = [(i.label, i.norm, i.attack_success_rate, i.loss, i.steps) for i in (one, other)]
    return figures[0] == figures[1] and all(map(torch.equal, weights(one), weights(other)))


def test_the_planted_label_gets_the_smallest_norm_and_its_trigger_works(
    suspect: Classifier, clean: CleanImages, perceptual: PerceptualDistance
) -> None:
    found = search(suspect, clean, perceptual, SHORT, range(6))
    smallest = min(found, key=lambda inversion: inversion.norm)
    assert smallest.label == PLANTED and smallest.attack_success_rate > 0.9
    assert smallest.norm < 0.7 * sorted(inversion.norm for inversion in found)[1]
    assert not any(inversion.truncated for inversion in found)


def test_a_residual_start_is_the_identity_and_a_trained_one_comes_closer_to_it(
    clean: CleanImages, perceptual: PerceptualDistance
) -> None:
    def distance(start: str, epochs: int) -> float:
        config = replace(QUICK, identity_start=start, pretrain_epochs=epochs, learning_rate=1e-2)
        generated = pretrain_generator(clean, perceptual, config, seed=0)(all_of(clean.images))
        return (generated - all_of(clean.images)).abs().mean().item()

    assert distance("residual", 0) == 0.0
    assert distance("trained", 60) < 0.5 * distance("trained", 0)


@pytest.mark.parametrize("start", ["trained", "residual"])
def test_the_same_block_gives_the_same_numbers_to_the_last_bit(
    suspect: Classifier, clean: CleanImages, perceptual: PerceptualDistance, start: str
) -> None:
    config = replace(QUICK, identity_start=start)
    once, again = (search(suspect, clean, perceptual, config, [0, PLANTED, 5]) for _ in range(2))
    assert [inversion.label for inversion in once] == [0, PLANTED, 5]
    assert all(map(same, once, again))
    (other_seed,) = search(suspect, clean, perceptual, config, [PLANTED], seed=1)
    assert other_seed.norm != once[1].norm


def test_a_label_searched_alone_ends_where_it_ends_among_others(
    suspect: Classifier, clean: CleanImages, perceptual: PerceptualDistance
) -> None:
    """Its random numbers are its own; only the rounding of larger batches differs."""
    (alone,) = search(suspect, clean, perceptual, QUICK, [PLANTED])
    among = search(suspect, clean, perceptual, QUICK, [0, PLANTED, 5])[1]
    assert among.norm == pytest.approx(alone.norm, rel=0.01)


def test_the_search_draws_nothing_from_the_global_random_numbers(
    suspect: Classifier, clean: CleanImages, perceptual: PerceptualDistance
) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    (once,) = search(suspect, clean, perceptual, QUICK, [PLANTED])
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(search(suspect, clean, perceptual, QUICK, [PLANTED])[0], once)


def test_a_search_that_runs_out_of_time_stops_where_it_is_and_says_so(
    suspect: Classifier, clean: CleanImages, perceptual: PerceptualDistance
) -> None:
    heard: list[int] = []
    found = search(suspect, clean, perceptual, QUICK, [0, 1], on_step=heard.append, out_of_time=lambda: len(heard) == 2)
    assert heard == [1, 2]
    assert all(inversion.truncated and inversion.steps == 2 for inversion in found)


def test_a_target_that_no_image_can_be_moved_to_is_an_error(
    suspect: Classifier, clean: CleanImages, perceptual: PerceptualDistance
) -> None:
    all_of_one = replace(clean, labels_N=torch.full_like(clean.labels_N, 3))
    with pytest.raises(ValueError, match="label 3"):
        search(suspect, all_of_one, perceptual, QUICK, [3])


def test_the_starting_generator_is_left_as_it_was(
    suspect: Classifier, clean: CleanImages, perceptual: PerceptualDistance
) -> None:
    start = pretrain_generator(clean, perceptual, QUICK, seed=0)
    before = [tensor.clone() for tensor in start.state_dict().values()]
    invert_triggers(
        suspect,
        clean,
        clean,
        [0],
        Generators.begin(Beginning(SHAPE, start, perceptual, QUICK), each([0])),
        QUICK,
        seed=0,
    )
    assert all(map(torch.equal, before, start.state_dict().values()))


def test_at_equal_success_every_trigger_carries_the_share_and_hardly_more(
    suspect: Classifier, clean: CleanImages
) -> None:
    """Triggers of very different strength are read where each carries as many of the images."""
    level, veils = 0.75, torch.tensor([0.5, 0.8, 1.1])
    pattern = torch.full((3, 1, SIDE, SIDE), 8.0)  # white: an overlay of it is a veil
    mask = (0.09 * veils).view(-1, 1, 1, 1).expand(3, 1, SIDE, SIDE).logit()
    targets, others = [PLANTED] * 3, clean.others(PLANTED)
    scaled, reached = at_equal_success(suspect, clean, [others] * 3, targets, Patches(mask.clone(), pattern), level)
    assert reached.all()
    norms = scaled.norm(all_of(clean.images)[None], all_of(clean.images)[None])
    torch.testing.assert_close(norms, norms.mean().expand(3), rtol=0.05, atol=0)
    images = clean.images[others]
    for index in range(3):
        carried = (suspect(scaled.of(index).on(images)).argmax(1) == PLANTED).float().mean()
        weaker = (
            (suspect(scaled.scaled(torch.full((3,), 0.9)).of(index).on(images)).argmax(1) == PLANTED).float().mean()
        )
        assert carried >= level > weaker


def test_a_steered_weight_rises_until_the_label_is_reached_and_falls_again(
    suspect: Classifier, clean: CleanImages
) -> None:
    config = SearchConfig(steps=150, success_level=0.95, lambda_attack=1e-2)
    triggers = begun("static", range(6))
    found = invert_triggers(suspect, clean, clean, range(6), triggers, config, seed=0)
    assert all(inversion.attack_success_rate >= 0.8 and not inversion.out_of_reach for inversion in found)
    fixed = invert_triggers(
        suspect,
        clean,
        clean,
        range(6),
        begun("static", range(6)),
        replace(config, success_level=None),
        seed=0,
    )
    assert all(inversion.attack_success_rate < 0.5 for inversion in fixed), (
        "a weight so small reaches nothing by itself"
    )


class RootsOfPixels(nn.Module):
    """A toy that adds hardly anything, in a way that has no gradient where a pixel is black."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ToyNet(planted=PLANTED)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.net(images_NCHW) + 1e-6 * images_NCHW.sqrt()[:, 0, :2, :3].flatten(1)


def test_a_gradient_that_is_not_a_number_moves_no_trigger(clean: CleanImages, perceptual: PerceptualDistance) -> None:
    images = all_of(clean.images)
    images[::2, :, :4] = 0
    blackened = CleanImages(as_source(images), clean.labels_N, perceptual)
    suspect = Classifier(RootsOfPixels(), plain_spec()).requires_grad_(False)
    warps = begun("warp", range(3))
    for found in invert_triggers(suspect, blackened, blackened, range(3), warps, SearchConfig(steps=5), seed=0):
        assert 0 < found.norm < float("inf")


def test_a_label_is_searched_alike_beside_one_that_most_images_have(
    suspect: Classifier, perceptual: PerceptualDistance
) -> None:
    labels = toy_labels(4)
    labels[:18] = 0
    clean = CleanImages(as_source(toy_images(4)), labels, perceptual)
    assert clean.fewest_others == len(clean.others(0)) < QUICK.batch_size
    beside, alone = (search(suspect, clean, perceptual, QUICK, block)[-1] for block in ([0, 1], [1]))
    assert beside.norm == pytest.approx(alone.norm, rel=1e-3)


class GivesAway(nn.Module):
    """A toy that gives the planted label to every image of class 0 as it is, with hardly a lead."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ToyNet(planted=PLANTED)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        scores = self.net(images_NCHW)
        given_away = functional.one_hot(scores.argmax(1), scores.shape[1])[:, :1]
        return scores + given_away * 1e4 * functional.one_hot(torch.tensor(PLANTED), scores.shape[1])


def test_images_that_have_the_label_as_they_are_count_neither_for_its_success_nor_for_its_norm(
    clean: CleanImages,
) -> None:
    suspect = Classifier(GivesAway(), plain_spec()).requires_grad_(False)
    pattern = torch.full((1, 1, SIDE, SIDE), 8.0)
    hardly = Patches(torch.full((1, 1, SIDE, SIDE), -12.0), pattern)  # an overlay that nobody sees
    config = SearchConfig(steps=1, success_level=0.1, learning_rate=1e-9)
    (found,) = invert_triggers(suspect, clean, clean, [PLANTED], hardly, config, seed=0)
    assert found.attack_success_rate == 0.0 and found.out_of_reach, "one class in five was given away before"


def test_classes_weigh_alike_in_what_is_read_however_many_images_they_have(suspect: Classifier) -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 3])
    weights = classes_alike(labels)
    assert torch.allclose(weights, torch.tensor([1 / 18] * 6 + [1 / 3] * 2)) and weights.sum().item() == pytest.approx(
        1
    )
    images = toy_images(2)
    triggered = images + 0.1 * torch.arange(len(images)).view(-1, 1, 1, 1) / len(images)
    generators = Generators([TriggerGenerator(1, 4, 1, "residual")], load_perceptual(PACKAGED), QUICK)
    weights = torch.zeros(len(images))
    weights[-1] = 1.0
    alone = generators.norm(images[-1:][None], triggered[-1:][None])
    torch.testing.assert_close(generators.norm(images[None], triggered[None], weights), alone)
