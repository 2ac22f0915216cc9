"""The victims' architectures: their published sizes, their outputs, and the files they become."""

from pathlib import Path

import pytest
import torch
import torchvision

from benchmarks.victims.deep_nets import mobilenet_v2, preact_resnet18
from benchmarks.victims.export import FORMS, Form, save_torchscript
from benchmarks.victims.recipes import NETS

PUBLISHED = {"preact_resnet18": 11_172_170, "resnet56": 855_770, "vgg16_bn": 14_724_042}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("channels", "num_classes"), [(1, 10), (3, 43)])
def test_a_net_answers_one_number_per_class(name: str, channels: int, num_classes: int) -> None:
    net = NETS[name](channels, num_classes, 0.125).eval()
    assert net(torch.rand(2, channels, 32, 32)).shape == (2, num_classes)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("form", FORMS)
def test_a_net_survives_being_saved(name: str, form: Form, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = NETS[name](3, 10, 0.125).eval()
    images = torch.rand(4, 3, 32, 32)
    save_torchscript(net, images[:1], form, tmp_path / "net.pt")
    with torch.inference_mode():
        torch.testing.assert_close(torch.jit.load(str(tmp_path / "net.pt"))(images), net(images))


@pytest.mark.parametrize("name", PUBLISHED)
def test_at_full_width_a_net_has_its_published_size(name: str) -> None:
    assert sum(weight.numel() for weight in NETS[name](3, 10, 1.0).parameters()) == PUBLISHED[name]


def test_the_mobile_net_has_the_weights_of_torchvisions() -> None:
    ours, theirs = mobilenet_v2(3, 10), torchvision.models.mobilenet_v2(num_classes=10)
    assert [weight.shape for weight in ours.parameters()] == [weight.shape for weight in theirs.parameters()]


def test_a_quarter_of_the_width_begins_with_sixteen_channels() -> None:
    assert preact_resnet18(width=0.25)[0].out_channels == 16
