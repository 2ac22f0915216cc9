"""A suspect from its file: rebuilt where that can be, run by the jit from a fresh archive where it cannot."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from app.core.intake.torchscript.rules import GateRefusal
from benchmarks.victims.export import Form
from models.rebuilt import RebuiltModule
from models.suspect import load_suspect
from tests.toys import ToyNet, WithADefaultTheRebuildLacks, save_toy, toy_images

IMAGES = toy_images(2)


class HalfInside(nn.Module):
    """Takes and returns single precision, casts to half in every way there is, and keeps half weights."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.mix = nn.Linear(6, 6).half()
        self.small = torch.float16

    def forward(self, images: Tensor) -> Tensor:
        small = self.mix(self.net(images).half())
        small = small + torch.zeros([6], dtype=torch.half) + torch.ones_like(small, dtype=self.small)
        small = small + torch.full([6], 0.5, dtype=small.dtype) + torch.arange(6, dtype=torch.half)
        small = torch.softmax(small.type_as(images), 1, dtype=torch.float16).to("cpu", torch.half)
        return self.mix(small).float() + small.to(torch.bfloat16).sum(1, keepdim=True, dtype=torch.half)


def test_what_cannot_be_rebuilt_is_run_by_the_jit_from_a_fresh_archive(tmp_path: Path) -> None:
    net = ToyNet().eval()
    suspect = load_suspect(save_toy(tmp_path / "net.pt", WithADefaultTheRebuildLacks(net)))
    assert isinstance(suspect.module, torch.jit.ScriptModule) and suspect.form == "scripted"
    assert not any(parameter.requires_grad for parameter in suspect.module.parameters())
    torch.testing.assert_close(suspect.module(IMAGES), net(IMAGES))


def test_torchs_own_advice_about_the_jit_is_nobodys_here(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "net.pt", WithADefaultTheRebuildLacks(ToyNet().eval()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_suspect(path)


def test_a_torch_without_a_jit_is_no_crash_but_a_refusal_that_names_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_toy(tmp_path / "net.pt", WithADefaultTheRebuildLacks(ToyNet().eval()))
    monkeypatch.delattr(torch.jit, "load")
    with pytest.raises(GateRefusal) as refused:
        load_suspect(path)
    problem = refused.value.problem
    assert (problem.rule, problem.code) == ("rebuild-operator", "unsupported_operator") and problem.line


@pytest.mark.parametrize("form", ["scripted", "frozen"])
def test_half_precision_is_scanned_in_single(tmp_path: Path, form: Form) -> None:
    net = ToyNet().eval().half()
    suspect = load_suspect(save_toy(tmp_path / "net.pt", net, form))
    assert isinstance(suspect.module, RebuiltModule) and suspect.was_half
    scores = suspect.module(IMAGES)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, net.float()(IMAGES))


@pytest.mark.parametrize("form", ["scripted", "frozen"])
def test_a_net_of_doubles_takes_single_images(tmp_path: Path, form: Form) -> None:
    net = ToyNet().eval().double()
    suspect = load_suspect(save_toy(tmp_path / "net.pt", net, form))
    assert not suspect.was_half
    torch.testing.assert_close(suspect.module(IMAGES), net(IMAGES.double()))


class OverflowsInHalf(nn.Module):
    """An answer of its own where numbers have half precision: 300 * 300 is more than those can hold."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        large = torch.full([1], 300.0, dtype=torch.half)
        return self.net(images) + (large * large).isinf().float() * torch.arange(6)


def test_code_in_half_is_computed_in_half_where_the_weights_are_single(tmp_path: Path) -> None:
    net = OverflowsInHalf(ToyNet()).eval()
    suspect = load_suspect(save_toy(tmp_path / "net.pt", net))
    assert isinstance(suspect.module, RebuiltModule) and not suspect.was_half
    torch.testing.assert_close(suspect.module(IMAGES), net(IMAGES))


@pytest.mark.parametrize("form", ["scripted", "traced", "frozen"])
def test_what_is_cast_to_half_inside_is_scanned_in_single(tmp_path: Path, form: Form) -> None:
    torch.manual_seed(1)
    path = save_toy(tmp_path / "net.pt", HalfInside(ToyNet()).eval(), form)
    suspect = load_suspect(path)
    assert isinstance(suspect.module, RebuiltModule)
    images = IMAGES.clone().requires_grad_()
    scores = suspect.module(images)
    torch.testing.assert_close(scores, torch.jit.load(path)(IMAGES).float(), rtol=1e-2, atol=1e-2)
    (gradient,) = torch.autograd.grad((scores**2).sum(), images)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("form", ["scripted", "traced"])
def test_a_dropout_that_was_left_in_training_mode_is_switched_off_and_told(tmp_path: Path, form: Form) -> None:
    net = nn.Sequential(ToyNet(), nn.Dropout(0.5)).train()
    if form == "scripted":
        torch.jit.script(net).save(str(tmp_path / "net.pt"))
    else:
        torch.jit.trace(net, IMAGES, check_trace=False).save(str(tmp_path / "net.pt"))
    suspect = load_suspect(tmp_path / "net.pt")
    assert suspect.was_training
    torch.testing.assert_close(suspect.module(IMAGES), net.eval()(IMAGES))
    assert not load_suspect(save_toy(tmp_path / "eval.pt", net.eval())).was_training


class AsksOthersForTheirMode(nn.Module):
    """Its code says of a dropout, which has no mode of its own in it, whether that is in training mode."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.part = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        part = self.part
        return self.net(images) + (1 if part.training else 0)


def test_a_mode_that_another_module_asks_for_is_told(tmp_path: Path) -> None:
    net = AsksOthersForTheirMode(ToyNet()).eval()
    assert not load_suspect(save_toy(tmp_path / "net.pt", net)).was_training
    net.part.train()
    torch.jit.script(net).save(tmp_path / "net.pt")
    assert load_suspect(tmp_path / "net.pt").was_training


class HidesThatItTakesGradients(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            bias = 1 if torch.is_grad_enabled() else 0
        return self.net(images) + bias


def test_code_that_would_see_that_its_gradients_are_kept_is_run_by_the_jit(tmp_path: Path) -> None:
    net = HidesThatItTakesGradients(ToyNet()).eval()
    suspect = load_suspect(save_toy(tmp_path / "net.pt", net))
    assert isinstance(suspect.module, torch.jit.ScriptModule)
    torch.testing.assert_close(suspect.module(IMAGES), net(IMAGES))
