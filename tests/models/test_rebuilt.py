"""The rebuilt module against torch.jit: the same scores, gradients and names; but it can be trained and moved."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.rebuilt import RebuiltError
from tests.models.rebuilt_nets import EXPORTS, FORMS, LABELS, Blind, Form, Head, export, images, make, rebuilt

Saved = Callable[[str, Form], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The archive of a net in a form, exported once."""
    folder = tmp_path_factory.mktemp("archives")
    return cache(lambda name, form: export(make(name), form, folder / f"{name}-{form}.pt"))


def scores_of(output: Any) -> Tensor:
    if isinstance(output, dict):
        return output["out"]
    return output if isinstance(output, Tensor) else output[0]


def gradient(module: Callable[[Tensor], Any], inputs: Tensor) -> Tensor:
    inputs = inputs.clone().requires_grad_(True)
    (answer,) = torch.autograd.grad((scores_of(module(inputs)) ** 2).sum(), inputs)
    return answer


@pytest.mark.parametrize(("name", "form"), EXPORTS)
def test_scores_and_input_gradients_are_those_of_the_jit(saved: Saved, name: str, form: Form) -> None:
    path = saved(name, form)
    ours, theirs = rebuilt(path), torch.jit.load(path).eval()
    with torch.jit.optimized_execution(False):  # optimised, the jit loses the gradient of some frozen nets
        theirs_out, expected = theirs(images()), gradient(theirs, images())
    ours_out, actual = ours(images()), gradient(ours, images())
    assert type(ours_out).__name__ == type(theirs_out).__name__
    torch.testing.assert_close(scores_of(ours_out), scores_of(theirs_out), rtol=1e-5, atol=1e-6)
    assert expected.abs().max() > 0
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["scripted", "frozen"])
def test_a_network_cannot_hide_its_gradient_behind_no_grad(tmp_path: Path, form: Form) -> None:
    torch.manual_seed(3)
    net = Blind().eval()
    path = export(net, form, tmp_path / "net.pt")
    ours, theirs = rebuilt(path), torch.jit.load(path)
    with torch.jit.optimized_execution(False):  # optimised, the jit finds some of it
        assert not theirs(images().requires_grad_()).requires_grad
    torch.testing.assert_close(ours(images()), theirs(images()), rtol=1e-5, atol=1e-6)

    def seen(x: Tensor) -> Tensor:
        return net.head(x - x.mean())

    torch.testing.assert_close(gradient(ours, images()), gradient(seen, images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "form"), EXPORTS)
def test_the_state_has_the_names_and_values_of_the_jit(saved: Saved, name: str, form: Form) -> None:
    path = saved(name, form)
    ours, theirs = rebuilt(path).state_dict(), torch.jit.load(path).state_dict()
    assert [key for key in ours if not key.startswith("constants.")] == list(theirs)
    for key, value in theirs.items():
        assert torch.equal(ours[key], value)


def test_a_tensor_that_is_neither_parameter_nor_buffer_is_in_no_state_dict(tmp_path: Path) -> None:
    class Shifted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.arange(3.0)
            self.head = Head()

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(x + self.shift.sum())
            return scores

    path = export(Shifted(), "scripted", tmp_path / "net.pt")
    module, theirs = rebuilt(path), torch.jit.load(path)
    assert list(module.state_dict()) == list(theirs.state_dict())
    assert "shift" in dict(module.named_buffers()) and "shift" in module.origins  # it moves along
    torch.testing.assert_close(module(images()), theirs(images()))


@pytest.mark.parametrize("form", FORMS)
def test_a_net_saved_in_training_mode_runs_in_evaluation_mode_and_says_so(tmp_path: Path, form: Form) -> None:
    net = make("Convolutions").train(form != "frozen")
    module = rebuilt(export(net, form, tmp_path / "net.pt"))
    torch.testing.assert_close(module(images()), net.eval()(images()), rtol=1e-5, atol=1e-6)
    assert not any(part.training for part in module.modules())
    assert module.was_training == (("bn1", "drop") if form == "scripted" else ())
    assert len(module.baked_training) == (2 if form == "traced" else 0)  # batch norm and dropout
    assert all(member.startswith("code/__torch__/") and line > 0 for member, line in module.baked_training)


def test_a_scripted_net_can_be_put_into_training_mode(tmp_path: Path) -> None:
    module = rebuilt(export(make("Convolutions"), "scripted", tmp_path / "net.pt"))
    before = module.state_dict()["bn1.running_mean"].clone()
    module.train()
    assert not torch.equal(module(images()), module(images()))  # dropout
    assert not torch.equal(module.state_dict()["bn1.running_mean"], before)
    assert module.state_dict()["bn1.num_batches_tracked"] == 2


def test_a_batch_norm_without_running_statistics_keeps_using_the_batch(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3, track_running_stats=False), Head()).eval()
    module = rebuilt(export(net, "traced", tmp_path / "net.pt"))
    assert module.baked_training == ()
    torch.testing.assert_close(module(images()), net(images()))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["Convolutions", "Attention", "Functional"])
def test_every_form_can_be_trained_and_a_copy_trains_alone(tmp_path: Path, name: str, form: Form) -> None:
    module = rebuilt(export(make(name), form, tmp_path / "net.pt"))
    assert not any(parameter.requires_grad for parameter in module.parameters())
    before = module(images())
    trained = deepcopy(module).requires_grad_(True)
    parameters = dict(trained.named_parameters())
    (trained(images()) ** 2).sum().backward()
    assert sum(parameter.grad is not None for parameter in parameters.values()) >= 2
    assert not torch.equal(parameters[next(iter(parameters))].grad, torch.tensor(0.0))
    torch.optim.SGD(parameters.values(), lr=0.1).step()
    assert not torch.allclose(trained(images()), before, atol=1e-4)
    assert torch.equal(module(images()), before)


def test_weights_of_a_frozen_net_are_parameters_and_an_image_mean_is_not(tmp_path: Path) -> None:
    net, module = make("Functional"), rebuilt(export(make("Functional"), "frozen", tmp_path / "net.pt"))
    weights = sorted(tuple(parameter.shape) for parameter in module.parameters())
    assert weights == sorted(tuple(parameter.shape) for parameter in net.parameters())
    assert any(torch.equal(buffer, net.mean) for buffer in module.buffers() if buffer.shape == net.mean.shape)


@pytest.mark.parametrize(("name", "form"), EXPORTS)
def test_every_entry_of_the_state_knows_the_record_it_came_from(saved: Saved, name: str, form: Form) -> None:
    module = rebuilt(saved(name, form))
    for entry, tensor in module.state_dict().items():
        value = module.origins[entry]
        assert value.shape == tensor.shape
        assert f"torch.{value.storage.dtype}" == str(tensor.dtype)


def test_what_was_shared_stays_shared(tmp_path: Path) -> None:
    module = rebuilt(export(make("Shared"), "scripted", tmp_path / "net.pt"))
    first = module.get_parameter("first.weight")
    for name in ("again.weight", "tied.weight"):
        assert module.get_parameter(name).data_ptr() == first.data_ptr()
        assert module.origins[name].storage is module.origins["first.weight"].storage


@pytest.mark.parametrize(("name", "form"), EXPORTS)
def test_a_moved_module_makes_its_tensors_where_it_is(saved: Saved, name: str, form: Form) -> None:
    """The device `meta` computes shapes only, and takes no tensor of another device: a baked one would show."""
    module = rebuilt(saved(name, form)).to("meta")
    scores = scores_of(module(images().to("meta")))
    assert scores.device.type == "meta"
    assert scores.shape == (3, LABELS)


@pytest.mark.parametrize("form", FORMS)
def test_a_half_precision_net_stays_half_and_can_be_made_float(tmp_path: Path, form: Form) -> None:
    net = make("Convolutions").half()
    export(net, form, tmp_path / "net.pt", torch.float16)
    ours, theirs = rebuilt(tmp_path / "net.pt"), torch.jit.load(tmp_path / "net.pt")
    half = ours(images().half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half, theirs(images().half()), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.float()(images()), net.float()(images()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "form"),
    [("Convolutions", "scripted"), ("ControlFlow", "scripted"), ("Attention", "traced"), ("AsDict", "frozen")],
)
def test_torch_compile_takes_the_module_as_one_graph(tmp_path: Path, name: str, form: Form) -> None:
    module = rebuilt(export(make(name), form, tmp_path / "net.pt"))
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(scores_of(compiled(images())), scores_of(module(images())))


def test_an_input_that_the_code_cannot_take_is_an_error_of_the_module(tmp_path: Path) -> None:
    module = rebuilt(export(make("ControlFlow"), "scripted", tmp_path / "net.pt"))
    with pytest.raises(RebuiltError, match=r"fails on this input: .* \(code/__torch__/.*rebuilt_nets\.py, line \d+\)"):
        module(torch.rand(3, 3))
    with pytest.raises(RebuiltError, match="missing value for argument 'x'"):
        module()
    module = rebuilt(export(make("Convolutions"), "scripted", tmp_path / "net.pt"))
    with pytest.raises(RebuiltError, match=r"own code raised: expected 4D input \(got 2D input\)"):
        module.get_submodule("bn1")(torch.rand(3, 3))
