"""Which output is scanned: the one that is named or fits the labels; what could be another's decoy is left open."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from app.core.errors import Refusal
from models.classifier import probe_scores
from models.scorer import Manner, Scorer
from models.suspect import load_suspect
from tests.toys import AsProbabilities, ToyNet, Watching, toy_images, toy_labels
from worker.detection.choosing import Choice, choose_output

IMAGES, LABELS = toy_images(5), toy_labels(5)


class WithFeatures(AsProbabilities):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = images.flatten(1)[:, :16]
        return features, self.net(images)


class WithLoss(AsProbabilities):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        scores = self.net(images)
        return {"loss": scores.mean(), "labels": scores.argmax(1), "logits": scores}


class WithShares(AsProbabilities):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        scores = self.net(images)
        return {"shares": scores.softmax(1), "logits": scores, "logs": scores.log_softmax(1)}


class SharesOnly(AsProbabilities):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.net(images)
        return scores.softmax(1), scores.log_softmax(1)


class Decoy(Watching):
    """The clean net's answers first, beside those that are used."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"aux": self.net(images), "logits": self.other(images)}


class DecoyOnCleanImages(Watching):
    """The two say exactly the same of every image without a trigger."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        scores = self.net(images)
        veil = (images.mean((1, 2, 3)) - 0.48).clamp_min(0)
        return {"shares": scores.softmax(1), "logits": scores + veil[:, None] * 1000 * torch.eye(6)[2]}


def chosen(
    tmp_path: Path,
    net: nn.Module,
    labels_N: Tensor | None = LABELS,
    said: str | None = None,
    manner: Manner = Manner(),  # noqa: B008 frozen
) -> Choice:
    torch.jit.script(net.eval()).save(str(tmp_path / "net.pt"))
    scorer = Scorer(load_suspect(tmp_path / "net.pt").module, manner)

    def accuracy(asked: Scorer) -> float:
        return (probe_scores(asked, IMAGES).argmax(1) == labels_N).float().mean().item()

    return choose_output(scorer, IMAGES[:8], labels_N, said, accuracy)


def test_one_output_has_nothing_to_be_chosen_from(tmp_path: Path) -> None:
    choice = chosen(tmp_path, ToyNet())
    assert (choice.scorer.manner.output, choice.others, choice.is_ambiguous) == (None, (), False)


@pytest.mark.parametrize("manner", [Manner(), Manner(batch=4)])
def test_the_output_that_agrees_with_the_labels_is_taken_and_the_others_are_named(
    tmp_path: Path, manner: Manner
) -> None:
    choice = chosen(tmp_path, WithFeatures(ToyNet()), manner=manner)
    assert choice.scorer.manner.output == "1" and not choice.is_ambiguous
    [other] = choice.others
    assert (other.name, other.shape, other.could_be_scores) == ("0", "[N, 16]", True)
    assert other.clean_accuracy is not None and other.clean_accuracy < 0.5


def test_what_cannot_be_scores_is_passed_over_without_labels_too(tmp_path: Path) -> None:
    choice = chosen(tmp_path, WithLoss(ToyNet()), labels_N=None)
    assert choice.scorer.manner.output == "logits" and not choice.is_ambiguous
    assert [(other.name, other.shape) for other in choice.others] == [
        ("loss", "one number"),
        ("labels", "[N] of int64"),
    ]
    assert not any(other.could_be_scores for other in choice.others)


def test_an_output_without_numbers_is_none_for_the_labels(tmp_path: Path) -> None:
    class WithNothing(AsProbabilities):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            scores = self.net(images)
            return scores * float("nan"), scores

    choice = chosen(tmp_path, WithNothing(ToyNet()))
    assert choice.scorer.manner.output == "1" and not choice.is_ambiguous


def test_an_output_with_fewer_numbers_than_there_are_labels_is_none_for_them(tmp_path: Path) -> None:
    class WithGroups(AsProbabilities):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            scores = self.net(images)
            return scores[:, :3], scores

    choice = chosen(tmp_path, WithGroups(ToyNet()))
    assert choice.scorer.manner.output == "1" and not choice.is_ambiguous
    assert choice.others[0].clean_accuracy is None


@pytest.mark.parametrize("labels", [LABELS, None])
@pytest.mark.parametrize("wrap", [WithShares, SharesOnly])
def test_a_softmax_and_what_it_is_taken_of_are_one_output(
    tmp_path: Path, wrap: Callable[[nn.Module], nn.Module], labels: Tensor | None
) -> None:
    choice = chosen(tmp_path, wrap(ToyNet()), labels_N=labels)
    assert choice.scorer.manner.output == ("logits" if wrap is WithShares else "0") and not choice.is_ambiguous
    assert all(other.same_as_chosen for other in choice.others)


@pytest.mark.parametrize("net", [Decoy(), DecoyOnCleanImages()])
def test_two_outputs_that_agree_with_the_labels_leave_open_which_is_used(tmp_path: Path, net: nn.Module) -> None:
    choice = chosen(tmp_path, net)
    assert choice.is_ambiguous and choice.others[0].clean_accuracy == 1 and not choice.others[0].same_as_chosen


def test_without_labels_two_that_could_be_scores_leave_it_open(tmp_path: Path) -> None:
    assert chosen(tmp_path, WithFeatures(ToyNet()), labels_N=None).is_ambiguous


@pytest.mark.parametrize("labels", [LABELS, None])
@pytest.mark.parametrize("name", ["aux", "logits"])
def test_the_output_that_was_said_is_taken(tmp_path: Path, name: str, labels: Tensor | None) -> None:
    choice = chosen(tmp_path, Decoy(), labels_N=labels, said=name)
    assert choice.scorer.manner.output == name and not choice.is_ambiguous
    assert [other.name for other in choice.others] == [{"aux": "logits", "logits": "aux"}[name]]


@pytest.mark.parametrize(
    ("net", "said", "code"),
    [
        (Decoy(), "scores", "output_not_found"),
        (ToyNet(), "logits", "output_not_found"),
        (WithLoss(ToyNet()), "loss", "output_not_scores"),
    ],
)
def test_an_output_that_is_not_there_or_no_scores_is_refused(
    tmp_path: Path, net: nn.Module, said: str, code: str
) -> None:
    with pytest.raises(Refusal) as caught:
        chosen(tmp_path, net, said=said)
    assert caught.value.problem.code == code
