"""One classifier for every form a suspect comes in: the same logits whatever the export, and plain refusals."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from app.core.findings import InputSpec
from benchmarks.victims.export import FORMS, Form
from models.classifier import Classifier, has_input_gradient, in_rows, match_channels, probe_scores
from models.scores import Output, recognise_output
from models.suspect import load_suspect
from tests.toys import (
    Argmax,
    AsLogProbabilities,
    AsProbabilities,
    AsTuple,
    Detached,
    ToyNet,
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


def test_a_module_that_takes_blue_first_gets_it_first_with_mean_and_deviation_in_its_own_order() -> None:
    spec = InputSpec(1, 1, 3, (0.3, 0.4, 0.5), (0.1, 0.2, 0.5), bgr=True)
    pixel = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    inputs = Classifier(nn.Identity(), spec).normalised(pixel)
    torch.testing.assert_close(inputs.flatten(), torch.tensor([0.7 / 0.1, 0.1 / 0.2, -0.5 / 0.5]))


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


def test_grey_images_lie_in_memory_as_people_have_them() -> None:
    packed = torch.rand(4, 8, 8, 1).permute(0, 3, 1, 2).contiguous()
    assert packed.is_contiguous(memory_format=torch.channels_last), "which is how a bundle comes"
    rows = in_rows(packed)
    assert torch.equal(rows, packed) and rows.stride() == (64, 64, 8, 1)
    colour = torch.rand(4, 3, 8, 8)
    assert in_rows(colour) is colour
