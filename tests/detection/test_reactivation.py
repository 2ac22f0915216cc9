"""A backdoor that was only hidden is back at once, one that was never there is not, and noise is told by its size."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from app.core.findings import ComesBack
from models.classifier import Classifier
from tests.toys import SIDE, VEIL, ToyNet, as_source, plain_spec, toy_images, toy_labels
from worker.detection import reactivation
from worker.detection.metrics import attack_success_rate, under
from worker.detection.reactivation import Known, comes_back, noise_beyond, retune, success_on_the_line, tried

PLANTED = 2
SEEN = Known(as_source(toy_images(20, seed=0)), toy_labels(20))
JUDGES = Known(as_source(toy_images(10, seed=1)), toy_labels(10))


def veil(images: Tensor) -> Tensor:
    return (images + VEIL).clamp(0, 1)


def toy(planted: int | None = PLANTED, bonus: float | None = None) -> Classifier:
    net = ToyNet(planted=planted)
    if bonus is not None:
        net.bonus.data[PLANTED] = bonus
    return Classifier(net, plain_spec()).requires_grad_(False).eval()


def success(network: nn.Module) -> float:
    return attack_success_rate(under(veil, network), *JUDGES, PLANTED)


def test_a_hidden_backdoor_is_back_where_a_net_without_one_learns_little() -> None:
    """The bonus for a veil was lowered until it no longer wins: five poisoned images raise it again."""
    hidden, never = toy(bonus=0.11), Classifier(nn.Sequential(nn.Flatten(), ToyNet().match), plain_spec()).eval()
    assert success(hidden) < 0.1 and success(never) == 0.0
    came, reference = (tried(lambda of=of: deepcopy(of), veil, PLANTED, SEEN, JUDGES, 0) for of in (hidden, never))
    assert came.retuned > reference.retuned + 0.5 and came.retuned_accuracy > 0.95
    assert comes_back(came.retuned, reference.retuned) is ComesBack.QUICKLY
    assert success(hidden) < 0.1, "copies are tried"


def test_without_a_poisoned_image_nothing_comes_back() -> None:
    hidden = toy(bonus=0.11)
    retune(hidden, veil, PLANTED, SEEN, seed=0, poisoned=0)
    assert success(hidden) < 0.1 and not any(weight.requires_grad for weight in hidden.parameters())


def test_a_re_tuning_is_the_same_for_a_seed_and_sees_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reactivation, "MOST_IMAGES", 30)
    seen: list[int] = []
    one, again, other = toy(), toy(), toy()
    one.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    for network, seed in ((one, 1), (again, 1), (other, 2)):
        retune(network, veil, PLANTED, SEEN, seed)
    weights = [nn.utils.parameters_to_vector(network.parameters()) for network in (one, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert sum(seen) == 30 * reactivation.EPOCHS


def test_noise_helps_a_trigger_that_hardly_fails_and_is_never_larger_than_it_says() -> None:
    hidden = toy(bonus=0.11)
    noisy = noise_beyond(hidden, lambda images: images, PLANTED, SEEN, seed=0)
    grey = torch.full((1, 1, SIDE, SIDE), 0.5)
    assert 0 < (noisy(grey) - grey).abs().max() <= reactivation.NOISE + 1e-6
    over = noise_beyond(hidden, veil, PLANTED, SEEN, seed=0)
    assert attack_success_rate(under(over, hidden), *JUDGES, PLANTED) > success(hidden) + 0.5


def test_on_the_way_back_to_the_suspect_the_trigger_works_again() -> None:
    line = success_on_the_line(toy(bonus=0.0), toy(), veil, PLANTED, JUDGES)
    assert len(line) == len(reactivation.LINE) and line[0] == 0.0 and line[-1] == 1.0 == success(toy())
    assert line == sorted(line)


@pytest.mark.parametrize(
    ("retuned", "reference", "word"),
    [
        (0.3, 0.25, ComesBack.HARDLY),
        (0.1, None, ComesBack.HARDLY),
        (0.3, 0.1, ComesBack.PARTLY),
        (0.3, None, ComesBack.PARTLY),
        (0.95, 0.4, ComesBack.QUICKLY),
        (0.0, 0.9, ComesBack.HARDLY),
    ],
)
def test_how_soon_it_is_back_is_said_beside_what_any_net_learns(
    retuned: float, reference: float | None, word: ComesBack
) -> None:
    assert comes_back(retuned, reference) is word
