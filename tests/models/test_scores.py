"""What scores are, and the logits behind them: gradients that no softmax loses, and no softmax that is not one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.classifier import Classifier, has_input_gradient
from models.rebuilt import RebuiltModule
from models.scores import Output, Softmaxes, are_sound, as_logits, recognise_output
from models.suspect import load_suspect
from tests.toys import AsProbabilities, ToyNet, plain_spec, save_toy, toy_images

IMAGES = toy_images(2)
GAP = 98.0  # between the best score and the one that is asked for


class SoftmaxThenLog(AsProbabilities):
    def forward(self, images: Tensor) -> Tensor:
        return torch.log(functional.softmax(self.net(images), dim=1))


class Spatial(AsProbabilities):
    def forward(self, images: Tensor) -> Tensor:
        return functional.softmax(self.net(images)[:, :, None, None], dim=1)


class Averaged(AsProbabilities):
    """A softmax that is not the last thing that happens."""

    def forward(self, images: Tensor) -> Tensor:
        return (functional.softmax(self.net(images), dim=1) + functional.softmax(self.net(images), dim=1)) / 2


class TamperedWith(AsProbabilities):
    """What looks like the result of a softmax, and was changed in place since."""

    def forward(self, images: Tensor) -> Tensor:
        shares = functional.softmax(self.net(images), dim=1)
        shares.mul_(0.5).add_(1 / 12)
        return shares


class TamperedBefore(AsProbabilities):
    def forward(self, images: Tensor) -> Tensor:
        scores = self.net(images)
        shares = functional.softmax(scores, dim=1)
        scores.mul_(-1.0)
        return shares


class OverTheBatch(AsProbabilities):
    """As many images as labels, and each label's shares add up to one."""

    def forward(self, images: Tensor) -> Tensor:
        return functional.softmax(self.net(images), dim=0)


class DependsOnTheWay(AsProbabilities):
    """Turned around, it has the same memory, of as many numbers."""

    def forward(self, images: Tensor) -> Tensor:
        return functional.softmax(self.net(images), dim=1).t()


class WideApart(nn.Module):
    """The label that is asked for lies far behind the others."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.behind = nn.Parameter(torch.tensor([-GAP, 0.0, 0.0, 0.0, 0.0, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) * 0.1 + self.behind


def gradient_to_label_0(score: Callable[[Tensor], Tensor]) -> Tensor:
    images = IMAGES.clone().requires_grad_()
    loss = functional.cross_entropy(score(images), torch.zeros(len(images), dtype=torch.long))
    return torch.autograd.grad(loss, images)[0].flatten()


def classifier_of(tmp_path: Path, net: nn.Module, output: Output) -> Classifier:
    module = load_suspect(save_toy(tmp_path / "net.pt", net.eval())).module
    assert isinstance(module, RebuiltModule)
    return Classifier(module, plain_spec(), output)


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (AsProbabilities, Output.PROBABILITIES),
        (Spatial, Output.PROBABILITIES),
        (Averaged, Output.PROBABILITIES),
        (SoftmaxThenLog, Output.LOG_PROBABILITIES),
    ],
)
def test_probabilities_keep_the_gradient_however_far_behind_a_label_is(
    tmp_path: Path, wrap: Callable[[nn.Module], nn.Module], output: Output
) -> None:
    net = WideApart(ToyNet())
    true, ours = gradient_to_label_0(net), gradient_to_label_0(classifier_of(tmp_path, wrap(net), output))
    assert ours.isfinite().all() and functional.cosine_similarity(true, ours, dim=0) > 0.95


@pytest.mark.parametrize("wrap", [AsProbabilities, Spatial, SoftmaxThenLog])
def test_the_input_of_the_last_softmax_is_used_itself(tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]) -> None:
    net = WideApart(ToyNet())
    module = load_suspect(save_toy(tmp_path / "net.pt", wrap(net).eval())).module
    classifier = Classifier(module, plain_spec(), Output.PROBABILITIES)
    assert torch.equal(classifier(IMAGES), net(IMAGES))
    with torch.inference_mode():
        assert torch.equal(classifier(IMAGES), net(IMAGES)), "where nobody counts versions, too"


@pytest.mark.parametrize("wrap", [Averaged, TamperedWith, TamperedBefore, OverTheBatch, DependsOnTheWay])
def test_what_is_not_the_softmax_of_its_scores_is_taken_as_it_is(
    tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    module, images = load_suspect(save_toy(tmp_path / "net.pt", wrap(ToyNet()).eval())).module, IMAGES[:6]
    assert len(images) == 6, "as many as labels"
    with torch.no_grad(), Softmaxes() as softmaxes:
        answer = module(images)
    assert softmaxes.before(answer) is None


def test_the_logarithm_of_nothing_is_a_score_and_infinity_is_none() -> None:
    lost = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    assert are_sound(lost) and as_logits(lost, Output.LOG_PROBABILITIES).isfinite().all()
    assert not are_sound(torch.tensor([[1.0, -torch.inf]])), "a score, but no logarithm of a probability"
    assert not are_sound(-lost) and not are_sound(torch.tensor([[0.0, torch.nan]]))


def test_logits_that_happen_to_be_positive_are_no_probabilities() -> None:
    assert recognise_output(torch.rand(20, 6)) is Output.LOGITS
    assert recognise_output(torch.full((20, 4), 0.25)) is Output.PROBABILITIES


def test_a_small_probability_has_the_gradient_of_its_logit() -> None:
    scores = torch.tensor([[40.0, 0.0, -3.0]], requires_grad=True)
    losses = [
        nn.functional.cross_entropy(logits, torch.tensor([2]))
        for logits in (scores, as_logits(scores.softmax(1), Output.PROBABILITIES))
    ]
    of_logits, of_shares = (torch.autograd.grad(loss, scores, retain_graph=True)[0] for loss in losses)
    assert torch.allclose(of_logits, of_shares) and of_logits[0, 2] == -1


def test_a_net_that_is_certain_is_not_taken_for_one_without_a_gradient(tmp_path: Path) -> None:
    for wrap, output in ((AsProbabilities, Output.PROBABILITIES), (SoftmaxThenLog, Output.LOG_PROBABILITIES)):
        net = ToyNet()
        with torch.no_grad():
            net.match.weight.mul_(100)
        assert has_input_gradient(classifier_of(tmp_path, wrap(net), output), IMAGES)
