"""One classifier for every form a suspect comes in: the same logits whatever the export, and plain refusals."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from app.core.errors import Refusal
from app.core.findings import InputSpec
from benchmarks.victims.export import FORMS, Form
from models.classifier import (
    Classifier,
    FixedBatch,
    Output,
    as_logits,
    baked_batch,
    has_input_gradient,
    match_channels,
    probe_scores,
    recognise_output,
)
from models.suspect import load_suspect
from tests.toys import (
    Argmax,
    AsDict,
    AsLogProbabilities,
    AsProbabilities,
    AsTuple,
    Demanding,
    Detached,
    Maps,
    NotANumber,
    OneScore,
    ToyNet,
    TwoInputs,
    Words,
    plain_spec,
    save_toy,
    toy_images,
    toy_labels,
)

IMAGES = toy_images(2)
Wrap = Callable[[nn.Module], nn.Module]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_export_gives_the_same_logits_and_is_named(tmp_path: Path, form: Form) -> None:
    net = ToyNet().eval()
    module = load_suspect(save_toy(tmp_path / "net.pt", net, form)).module
    classifier = Classifier(module, plain_spec())
    torch.testing.assert_close(classifier(IMAGES), net(IMAGES))
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert has_input_gradient(classifier, IMAGES)


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_convolutional_net_is_told_from_its_graph(tmp_path: Path, form: Form) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    assert load_suspect(save_toy(tmp_path / "net.pt", net, form)).form == form


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (AsLogProbabilities, Output.LOG_PROBABILITIES),
        (AsProbabilities, Output.PROBABILITIES),
        (AsTuple, Output.LOGITS),
    ],
)
def test_what_a_net_answers_is_recognised_and_becomes_logits(
    tmp_path: Path, form: Form, wrap: Wrap, output: Output
) -> None:
    net = ToyNet()
    module = load_suspect(save_toy(tmp_path / "net.pt", wrap(net), form)).module
    assert recognise_output(probe_scores(module, IMAGES)) is output
    classifier = Classifier(module, plain_spec(), output)
    torch.testing.assert_close(classifier(IMAGES).softmax(1), net(IMAGES).softmax(1))
    assert has_input_gradient(classifier, IMAGES)


def test_the_scores_of_a_dict_are_its_first_tensor(tmp_path: Path) -> None:
    net = ToyNet()
    classifier = Classifier(load_suspect(save_toy(tmp_path / "net.pt", AsDict(net))).module, plain_spec())
    torch.testing.assert_close(classifier(IMAGES), net(IMAGES))


def test_logits_that_happen_to_be_positive_are_no_probabilities() -> None:
    assert recognise_output(torch.rand(20, 6)) is Output.LOGITS
    assert recognise_output(torch.full((20, 4), 0.25)) is Output.PROBABILITIES


def test_a_certain_probability_of_zero_is_a_finite_logit() -> None:
    class Certain(nn.Module):
        def forward(self, images_NCHW: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0]]).expand(len(images_NCHW), -1)

    assert Classifier(Certain(), plain_spec(), Output.PROBABILITIES)(IMAGES).isfinite().all()


def test_images_become_the_modules_own_input() -> None:
    spec = InputSpec(1, 1, 3, (0.5, 0.4, 0.3), (0.5, 0.2, 0.1), (-1.0, 1.0))
    pixel = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    inputs = Classifier(nn.Identity(), spec).normalised(pixel)
    torch.testing.assert_close(inputs.flatten(), torch.tensor([-1.5 / 0.5, -0.4 / 0.2, 0.7 / 0.1]))


def test_grey_images_are_repeated_and_colour_becomes_luminance() -> None:
    grey, colour = torch.rand(2, 1, 4, 4), torch.rand(2, 3, 4, 4)
    assert torch.equal(match_channels(grey, 3), grey.repeat(1, 3, 1, 1))
    luminance = 0.299 * colour[:, 0] + 0.587 * colour[:, 1] + 0.114 * colour[:, 2]
    torch.testing.assert_close(match_channels(colour, 1), luminance[:, None])
    assert match_channels(grey, 1) is grey and match_channels(colour, 3) is colour


@pytest.mark.parametrize("takes", [1, 3])
@pytest.mark.parametrize("given", [1, 3])
def test_a_net_is_as_accurate_on_grey_images_as_on_colour(takes: int, given: int) -> None:
    classifier = Classifier(ToyNet(channels=takes), plain_spec(takes))
    assert torch.equal(classifier(toy_images(2, channels=given)).argmax(1), toy_labels(2))


@pytest.mark.parametrize("wrap", [Detached, Argmax])
def test_a_net_whose_gradient_does_not_reach_the_pixels_is_noticed(tmp_path: Path, wrap: Wrap) -> None:
    module = load_suspect(save_toy(tmp_path / "net.pt", wrap(ToyNet()))).module
    probe_scores(module, IMAGES)  # its answers are all right
    assert not has_input_gradient(Classifier(module, plain_spec()), IMAGES)


# What is refused


@pytest.mark.parametrize(
    ("wrap", "code", "words"),
    [
        (TwoInputs, "several_inputs", "more than one input.* Wrap it so that forward takes one batch of images"),
        (Maps, "output_not_scores", r"shape \[12, 6, 16, 16\].*\[N, K\].* segmentation .* cannot be scanned"),
        (OneScore, "single_output", r"K = 1.* two outputs, one per class"),
        (NotANumber, "non_finite_output", "NaN or infinite scores.* Check --range"),
        (Words, "unsupported_output", "returns str, not a tensor.* Wrap the model"),
        (Demanding, "input_not_accepted", r"cannot take images of shape \[12, 1, 16, 16\].*--size H,W"),
    ],
)
def test_what_is_no_image_classifier_is_refused_with_advice(tmp_path: Path, wrap: Wrap, code: str, words: str) -> None:
    module = load_suspect(save_toy(tmp_path / "net.pt", wrap(ToyNet()))).module
    with pytest.raises(Refusal, match=f"(?s){words}") as caught:
        probe_scores(module, IMAGES)
    assert caught.value.problem.code == code


def test_a_net_with_too_few_or_too_many_answers_is_refused() -> None:
    with pytest.raises(Refusal, match=r"answers 12 images with shape \[6, 6\]"):
        probe_scores(nn.Sequential(ToyNet(), HalfOfThem()), IMAGES)


class HalfOfThem(nn.Module):
    def forward(self, scores_NK: Tensor) -> Tensor:
        return scores_NK[: len(scores_NK) // 2]


# One batch size only


@pytest.mark.parametrize("size", [1, 4])
def test_a_batch_size_that_tracing_baked_in_is_found_and_fed(tmp_path: Path, size: int) -> None:
    net = ToyNet().eval()
    traced = torch.jit.trace(Reshaped(net, size), IMAGES[:size], check_trace=False)
    traced.save(str(tmp_path / "net.pt"))
    module = load_suspect(tmp_path / "net.pt").module
    assert baked_batch(module, IMAGES) == size
    fed = FixedBatch(module, size)
    torch.testing.assert_close(fed(IMAGES[:7]), net(IMAGES[:7]))
    assert has_input_gradient(Classifier(fed, plain_spec()), IMAGES)


def test_a_net_that_takes_any_batch_has_none_baked_in() -> None:
    assert baked_batch(ToyNet(), IMAGES) is None


def test_a_net_that_takes_no_image_of_this_size_has_no_batch_baked_in(tmp_path: Path) -> None:
    module = load_suspect(save_toy(tmp_path / "net.pt", Demanding(ToyNet()))).module
    assert baked_batch(module, IMAGES) is None


class Reshaped(nn.Module):
    """Written by somebody who wrote down the batch size."""

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.net(images_NCHW.view(self.size, 1, 16, 16))


def test_a_small_probability_has_the_gradient_of_its_logit() -> None:
    scores = torch.tensor([[40.0, 0.0, -3.0]], requires_grad=True)
    losses = [
        nn.functional.cross_entropy(logits, torch.tensor([2]))
        for logits in (scores, as_logits(scores.softmax(1), Output.PROBABILITIES))
    ]
    of_logits, of_shares = (torch.autograd.grad(loss, scores, retain_graph=True)[0] for loss in losses)
    assert torch.allclose(of_logits, of_shares) and of_logits[0, 2] == -1
