"""How a suspect wants its images: whatever people export is asked in its own way, or refused with what would help."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from app.core.errors import Refusal
from app.core.findings import Takes
from benchmarks.victims.export import Form
from models.classifier import Classifier, has_input_gradient, match_channels, probe_scores
from models.inputs import manner_of
from models.scorer import Manner, Scorer
from models.suspect import load_suspect
from tests.toys import AsProbabilities, Demanding, OneScore, ToyNet, TwoInputs, plain_spec, save_toy, toy_images

IMAGES = toy_images(2)
Wrap = Callable[[nn.Module], nn.Module]


class Conv(nn.Module):
    """Takes images of any size above 20 pixels, in the usual order only."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).mean((2, 3))


class ChannelsLast(AsProbabilities):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.permute(0, 3, 1, 2))


class Single(AsProbabilities):
    def forward(self, image: Tensor) -> Tensor:
        return self.net(image.unsqueeze(0))


class SingleScores(AsProbabilities):
    """One image, and its scores without a batch."""

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image.unsqueeze(0))[0]


class SingleChannelsLast(AsProbabilities):
    def forward(self, image: Tensor) -> Tensor:
        return self.net(image.permute(2, 0, 1).unsqueeze(0)).squeeze(0)


class Listed(AsProbabilities):
    def forward(self, images: list[Tensor]) -> Tensor:
        return self.net(torch.stack(images))


class InADict(AsProbabilities):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["pixel_values"]) + batch["bias"].sum()


class Bytes(AsProbabilities):
    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8, "bytes, please"
        return self.net(images.float() / 255)


class SingleBytes(AsProbabilities):
    def forward(self, image: Tensor) -> Tensor:
        assert image.dtype == torch.uint8 and image.dim() == 3, "one image of bytes, please"
        return self.net(image.unsqueeze(0).float() / 255)


class Rows(nn.Module):
    """Leaves it to its caller to flatten the images."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16 * 16, 6)

    def forward(self, rows: Tensor) -> Tensor:
        return self.fc(rows)


class WithoutChannels(AsProbabilities):
    """Takes grey images [N, H, W]: one of [1, H, W] is a batch of one."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.unsqueeze(1))


class Film(AsProbabilities):
    def forward(self, films: Tensor) -> Tensor:
        return self.net(films[:, 0])


class Flattening(nn.Module):
    """Made for 28x28 and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(28 * 28, 6)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.flatten(1))


class FlatteningChannelsLast(Flattening):
    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[3] == 1
        return self.fc(images.flatten(1))


class Viewing(nn.Module):
    """Flattens by a view, which only works where a convolution answers in the usual order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 16 * 16, 6)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return self.fc(maps.view(maps.size(0), -1))


class ViewingAtOnce(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, 6)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.view(images.size(0), -1))


def saved(tmp_path: Path, net: nn.Module) -> nn.Module:
    return load_suspect(save_scripted(tmp_path / "net.pt", net)).module


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("wrap", "takes"),
    [
        (ChannelsLast, Takes.CHANNELS_LAST),
        (Listed, Takes.LIST),
        (Single, Takes.SINGLE),
        (SingleScores, Takes.SINGLE),
        (SingleChannelsLast, Takes.SINGLE_CHANNELS_LAST),
        (WithoutChannels, Takes.SINGLE),
    ],
)
def test_images_are_handed_over_as_the_model_takes_them(
    tmp_path: Path, wrap: Wrap, takes: Takes, precision: torch.dtype
) -> None:
    net = Conv().to(precision)
    module = load_suspect(save_scripted(tmp_path / "net.pt", wrap(net))).module
    manner, channels = manner_of(module, IMAGES, [1, 3])
    assert (manner, channels) == (Manner(takes), 1)
    classifier = Classifier(Scorer(module, manner), plain_spec())
    torch.testing.assert_close(classifier(IMAGES), net(IMAGES.to(precision)).float(), atol=1e-5, rtol=1e-5)
    assert has_input_gradient(classifier, IMAGES)


def save_scripted(path: Path, net: nn.Module) -> Path:
    torch.jit.script(net.eval()).save(str(path))
    return path


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("wrap", [ChannelsLast, nn.Sequential])
def test_a_batch_size_that_tracing_baked_in_is_found_and_fed(tmp_path: Path, size: int, wrap: Wrap) -> None:
    net = Conv().eval()
    example = IMAGES[:size].movedim(1, -1) if wrap is ChannelsLast else IMAGES[:size]
    torch.jit.trace(Reshaped(wrap(net), size), example, check_trace=False).save(str(tmp_path / "net.pt"))
    module = load_suspect(tmp_path / "net.pt").module
    manner, _ = manner_of(module, IMAGES, [1])
    assert manner.batch == size
    scorer = Scorer(module, manner)
    torch.testing.assert_close(scorer(IMAGES[:7]), net(IMAGES[:7]))
    assert has_input_gradient(Classifier(scorer, plain_spec()), IMAGES)


class Reshaped(nn.Module):
    """Written by somebody who wrote down the batch size."""

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).view(self.size, 6)


@pytest.mark.parametrize("takes", [1, 3])
@pytest.mark.parametrize("given", [1, 3])
def test_the_number_of_channels_is_the_images_or_else_the_one_the_model_takes(takes: int, given: int) -> None:
    assert manner_of(Conv(takes), toy_images(1, channels=given), [given, 4 - given]) == (Manner(), takes)


@pytest.mark.parametrize("form", ["scripted", "traced", "frozen"])
def test_a_grey_net_that_flattens_by_a_view_takes_the_images_of_a_bundle(tmp_path: Path, form: Form) -> None:
    net = Viewing().eval()
    module = load_suspect(save_toy(tmp_path / "net.pt", net, form)).module
    torch.testing.assert_close(module(IMAGES), net(IMAGES))


def test_a_colour_net_that_views_its_images_takes_grey_ones(tmp_path: Path) -> None:
    net = ViewingAtOnce().eval()
    scorer = Scorer(saved(tmp_path, net), manner_of(saved(tmp_path, net), IMAGES, [1, 3])[0])
    torch.testing.assert_close(probe_scores(scorer, match_channels(IMAGES, 3)), net(IMAGES.repeat(1, 3, 1, 1)))


# What is refused


@pytest.mark.parametrize(
    ("net", "code", "words"),
    [
        (TwoInputs(ToyNet()), "several_inputs", "more than one input: images, temperature.* one batch of images"),
        (InADict(Conv()), "input_not_accepted", "a dict with the entry `pixel_values`, `bias`.*Inputs of another kind"),
        (Bytes(Conv()), "input_not_accepted", "uint8.* no gradient .*Inputs of another kind"),
        (SingleBytes(Conv()), "input_not_accepted", "uint8.* no gradient .*Inputs of another kind"),
        (Rows(), "input_not_accepted", r"rows of 256 numbers \[N, C\*H\*W\].*Inputs of another kind"),
        (Film(Conv()), "input_not_accepted", r"sequences of images \[N, T, C, H, W\].*Inputs of another kind"),
        (Demanding(ToyNet()), "input_not_accepted", "own code raised: .*I take 224x224 only.* --size H,W"),
        (Flattening(), "input_not_accepted", "images of 16x16; it takes 28x28.* --size 28,28"),
        (FlatteningChannelsLast(), "input_not_accepted", "images of 16x16; it takes 28x28.* --size 28,28"),
        (Conv(4), "input_not_accepted", "made for 4 channels and got 1.* other than 1 or 3 channels"),
        (OneScore(ToyNet()), "single_output", "K = 1.* two outputs, one per class"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_would_help(
    tmp_path: Path, net: nn.Module, code: str, words: str
) -> None:
    module = load_suspect(save_scripted(tmp_path / "net.pt", net)).module
    with pytest.raises(Refusal, match=f"(?s){words}") as caught:
        manner_of(module, IMAGES, [1, 3])
    assert caught.value.problem.code == code
    assert "aten" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_an_input_of_another_size_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(
        Refusal, match=r"20x23 with 1 channel: its layers were made for images of another size.*--size H,W"
    ):
        manner_of(saved(tmp_path, ToyNet(side=20)), toy_images(1)[:, :, :1, :1].expand(-1, -1, 20, 23), [1, 3])


def test_what_is_wrong_with_the_answer_is_said_whichever_channels_were_tried(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        manner_of(saved(tmp_path, OneScore(ToyNet(channels=3))), IMAGES, [1, 3])
    assert caught.value.problem.code == "single_output"


class OrderOf(nn.Module):
    """A convolution over colours, which remembers in which order of memory its images came."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.then, self.came_last = nn.Conv2d(3, 6, 7, stride=5), then, False

    def forward(self, images: Tensor) -> Tensor:
        self.came_last = images.is_contiguous(memory_format=torch.channels_last)
        return self.then(self.conv(images))


def mean(features: Tensor) -> Tensor:
    return features.mean((2, 3))


@pytest.mark.parametrize(
    ("side", "then", "last"),
    [
        (96, mean, True),
        (95, mean, False),
        (96, lambda features: features.view(len(features), -1)[:, :6], False),
        (96, lambda features: mean(features) * (1 + features.is_contiguous()), False),
        (96, lambda features: mean(features) * float("nan"), False),
    ],
    ids=["large", "small", "viewed", "told apart", "no numbers"],
)
def test_large_images_have_their_channels_last_in_memory_where_that_changes_no_answer(
    side: int, then: Callable[[Tensor], Tensor], last: bool
) -> None:
    images, net = torch.rand(2, 3, side, side), OrderOf(then).eval()
    manner, _ = manner_of(net, images, [3])
    assert manner == Manner(channels_last=last)
    Scorer(net, manner)(images)
    assert net.came_last == last
