"""The benign corpus: honest archives in every form that people export, made on demand and kept by cache.py.

A case is a net, a form and what is special about it. Its archive is kept only if torch's own jit, given that archive,
computes what the net computes; so a test that disagrees with a case has found something. Nobody trained these nets:
their batch norms are calibrated on random images, and their last layers are drawn so that scores have deviation one.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.victims.nets import conv_net
from tests.corpus import code_nets, nets
from tests.corpus.architectures import ARCHITECTURES
from tests.corpus.cache import kept
from tests.corpus.saved_on_cuda import as_if_saved_on_cuda
from tests.corpus.truth import Truth, load, truth_of

Form = Literal["scripted", "traced", "frozen", "traced_frozen"]
Shape = tuple[int, int, int, int]
BOTH: tuple[Form, ...] = ("scripted", "traced")
ALL: tuple[Form, ...] = ("scripted", "traced", "frozen", "traced_frozen")

GREY: Shape = (2, 1, 28, 28)
COLOUR: Shape = (2, 3, 32, 32)
BATCH_STATISTICS = "norms"  # has a batch norm without running statistics: what it answers does depend on the batch
TRACED_BATCH = 3  # not the example's batch, so that a trace which baked its batch cannot pass for one which did not


@dataclass(frozen=True)
class BenignCase:
    """One archive, and how it is made."""

    family: str
    form: Form
    input_shape: Shape
    builder: Callable[[], nn.Module]
    small: bool = True
    dtype: torch.dtype = torch.float32
    traced_batch: int = TRACED_BATCH
    left_training: type[nn.Module] | None = None  # layers of this class are exported in train mode
    jit_agrees: bool = True  # not where a trace kept the train mode, or asks for a GPU
    extra_files: tuple[str, ...] = ()
    saved_on_cuda: bool = False

    @property
    def name(self) -> str:
        return f"{self.family}-{self.form}"

    @property
    def tolerance(self) -> float:
        """How far two ways to compute the scores may lie apart in this precision: 1e-4 in float32."""
        return max(1e-4, 10 * torch.finfo(self.dtype).eps)

    def path(self) -> Path:
        """The archive; made at the first call."""
        return kept(self.name, self._make) / f"{self.name}.pt"

    def truth(self) -> Truth:
        """What the net that the archive was made of computes for the example, in evaluation mode."""
        return Truth.load(kept(self.name, self._make) / "truth.npz")

    def truth_of_jit(self) -> Truth:
        """What torch's own jit computes for the example from the archive; once for all tests, as it takes its time."""
        return Truth.load(kept(self.name, self._make) / "jit.npz")

    def example(self) -> Tensor:
        """A batch of random images NCHW in [0, 1], always the same."""
        return torch.rand(self.input_shape, generator=torch.Generator().manual_seed(1)).to(self.dtype)

    def _make(self, folder: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = settled(self.builder(), self.input_shape)
        if self.dtype is not torch.float32:
            net.to(self.dtype)
        path = folder / f"{self.name}.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer warns of the very habits that are wanted here
            torch.jit.save(self._export(net), str(path), _extra_files=dict.fromkeys(self.extra_files, "an extra file"))
        if self.saved_on_cuda:
            as_if_saved_on_cuda(path)
        truth = truth_of(net.eval(), self.example())
        if self.jit_agrees:
            again = truth_of(load(path).eval(), self.example())
            torch.testing.assert_close(again.scores, truth.scores, rtol=0, atol=self.tolerance)
            again.save(folder / "jit.npz")
        truth.save(folder / "truth.npz")

    def _export(self, net: nn.Module) -> torch.jit.ScriptModule:
        if self.left_training is not None:
            for module in net.modules():
                module.train(isinstance(module, self.left_training))
        if self.form in ("scripted", "frozen"):
            module = torch.jit.script(net)
        else:
            seen = torch.Generator().manual_seed(2)
            images = torch.rand((self.traced_batch, *self.input_shape[1:]), generator=seen).to(self.dtype)
            module = torch.jit.trace(net, images, check_trace=False, strict=False)
        return torch.jit.freeze(module.eval()) if self.form in ("frozen", "traced_frozen") else module


def settled(net: nn.Module, input_shape: Shape) -> nn.Module:
    """The net in evaluation mode, with statistics and a last layer that let its scores depend on the image."""
    images = torch.rand(8, *input_shape[1:])
    norms = [module for module in net.eval().modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        net(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval().momentum = momentum
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= 0.8 + 0.4 * torch.rand_like(norm.running_var)
        last = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        nn.init.normal_(last.weight)
        answers: list[Tensor] = []
        with last.register_forward_hook(lambda module, inputs, output: answers.append(output)):
            net(images)
        deviation = answers[0].std(0).mean()  # not that of all scores: it is images that they shall tell apart
        last.weight /= deviation
        if last.bias is not None:
            last.bias.sub_(answers[0].transpose(0, 1).flatten(1).mean(1)).div_(deviation)
    return net


def _of(
    family: str,
    builder: Callable[[], nn.Module],
    forms: tuple[Form, ...] = BOTH,
    input_shape: Shape = COLOUR,
    **special: Any,
) -> list[BenignCase]:
    return [BenignCase(family, form, input_shape, builder, **special) for form in forms]


def _torchvision() -> list[BenignCase]:
    cases = []
    for name, architecture in ARCHITECTURES.items():
        forms = ALL if name in ("resnet18", "mobilenet_v2") else BOTH
        shape = (2, 3, architecture.side, architecture.side)
        cases += _of(name, architecture.build, forms, shape, small=False)
        if name in ("resnet18", "mobilenet_v2"):
            cases += _of(f"{name}_half", architecture.build, BOTH, shape, small=False, dtype=torch.float16)
    return cases


def _ours() -> list[BenignCase]:
    small_conv_net = partial(conv_net, width=0.25)
    return [
        *_of("conv_net", small_conv_net, ALL, GREY),
        *_of("conv_net_half", small_conv_net, ALL, GREY, dtype=torch.float16),
        *_of("conv_net_bfloat16", small_conv_net, BOTH, GREY, dtype=torch.bfloat16),
        *_of("half_inside", nets.HalfInside),
        *_of("digit_net", nets.DigitNet, ALL, GREY),
        *_of("probabilities", lambda: nn.Sequential(*nets.plain(), nn.Softmax(dim=1)), ALL),
        *_of("tuple", nets.ReturnsTuple, ALL),
        *_of("named_tuple", nets.ReturnsNamedTuple),
        *_of("list", nets.ReturnsList),
        *_of("dict", nets.ReturnsDict),
        *_of("dynamic_batch", nets.DynamicBatch),
        *_of("baked_batch", nets.BakedBatch, traced_batch=COLOUR[0]),
        *_of("dropout_training", nets.DigitNet, ("scripted",), GREY, left_training=nn.Dropout),
        *_of("dropout_training", nets.DigitNet, ("traced",), GREY, left_training=nn.Dropout, jit_agrees=False),
        *_of("batch_norm_training", nets.plain, ("scripted",), left_training=nn.BatchNorm2d),
        *_of("batch_norm_training", nets.plain, ("traced",), left_training=nn.BatchNorm2d, jit_agrees=False),
        *_of("device_literals", nets.DeviceLiterals),
        *_of("device_attribute", nets.DeviceAttribute),
        *_of("saved_on_cuda", nets.plain, ALL, saved_on_cuda=True),
        *_of("cuda_literals", nets.DeviceLiterals, saved_on_cuda=True, jit_agrees=False),
        *_of("normalises", nets.Normalises, ALL),
        *_of("resizes", nets.Resizes),
        *_of("tied", nets.Tied, ALL),
        *_of("one_storage", lambda: nets.on_one_storage(nets.plain())),
        *_of("channels_last", lambda: nets.plain().to(memory_format=torch.channels_last)),
        *_of("pre_activation", code_nets.PreActivationNet),
        *_of("padded_shortcut", code_nets.PaddedShortcut),
        *_of("branches", code_nets.Branches, ("scripted", "frozen")),
        *_of("exported_method", code_nets.ExportsMethod, ("scripted",)),
        *_of("extra_file", nets.plain, ("scripted",), extra_files=("labels.json",)),
        *_of("activations", code_nets.Activations),
        *_of(BATCH_STATISTICS, code_nets.Norms, ALL),
        *_of("pools", code_nets.Pools),
        *_of("attends", code_nets.Attends, ALL),
    ]


CASES = (*_ours(), *_torchvision())


def benign_archives() -> list[BenignCase]:
    """The whole corpus: minutes to make, a gigabyte to keep."""
    return list(CASES)


def small() -> list[BenignCase]:
    """The part of the corpus that is made in seconds."""
    return [case for case in CASES if case.small]


def large() -> list[BenignCase]:
    """The other part."""
    return [case for case in CASES if not case.small]


def large_scripts() -> list[BenignCase]:
    """Of the large nets the scripts, and every form of one: for tests to which a trace of each shows nothing new."""
    return [case for case in large() if case.form == "scripted" or case.family == "resnet18"]
