"""The circumstances in which behaviour.py shows images to a suspect: each a function, named after what is different.

    n probed images   N images   K labels

Every one asks a fresh copy and returns logits [..., n, K], of all probed images or of the first of them; it raises what
the module raises where that does not answer. What the answers should be is not known here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from app.core.findings import InputSpec
from models.classifier import Classifier
from models.rebuilt import RebuiltModule
from models.rebuilt.devices import as_if_on
from models.rebuilt.modes import EvaluatingLayers
from models.scorer import Manner, Scorer
from models.scores import Output
from worker.detection.images import Images

PROBED = 8  # images
CALLS = 40
LEAPS = (100, 10_000, 1_000_000)


def _as_it_is(module: nn.Module) -> nn.Module:
    return module


@dataclass(frozen=True)
class Watched:
    """A suspect as it came from the file, never called, with what is known of it, and the images it is shown."""

    module: nn.Module
    spec: InputSpec
    output: Output
    manner: Manner
    images: Images
    most_at_once: int  # images, in any part of a scan

    def fresh(self, changed: Callable[[nn.Module], nn.Module] = _as_it_is) -> Classifier:
        """A classifier around a copy of the suspect, which may be changed first."""
        scorer = Scorer(changed(deepcopy(self.module)), self.manner)
        return Classifier(scorer, self.spec, self.output).to(self.images.device)

    def answer(self, images_NCHW: Tensor, changed: Callable[[nn.Module], nn.Module] = _as_it_is) -> Tensor:
        """What a fresh copy says of these images."""
        return asked(self.fresh(changed), images_NCHW)

    @cached_property
    def shown_nCHW(self) -> Tensor:
        """The probed images, from everywhere in the bundle, which may be sorted by label."""
        return self.images[torch.linspace(0, len(self.images) - 1, PROBED).round().long().unique()]


def asked(classifier: Classifier, images_NCHW: Tensor) -> Tensor:
    logits_NK: Tensor = classifier(images_NCHW)
    return logits_NK


Circumstance = Callable[[Watched], Tensor]


# How many images come together, and which


def one_by_one(watched: Watched) -> Tensor:
    classifier = watched.fresh()
    return torch.cat([asked(classifier, image) for image in watched.shown_nCHW.split(1)])


def three_at_once(watched: Watched) -> Tensor:
    return watched.answer(watched.shown_nCHW[:3])


def as_many_as_ever(watched: Watched) -> Tensor:
    """As many images as any part of a scan shows at once, some of them again and again where there are fewer."""
    shown, others = watched.shown_nCHW, watched.images
    filling = torch.arange(max(0, watched.most_at_once - len(shown))) % len(others)
    return watched.answer(torch.cat([shown, others[filling]]))[: len(shown)]


def in_reverse(watched: Watched) -> Tensor:
    return watched.answer(watched.shown_nCHW.flip(0)).flip(0)


def beside_black_ones(watched: Watched) -> Tensor:
    """The first half of the images, the others of the batch all black."""
    half = (len(watched.shown_nCHW) + 1) // 2
    shown = watched.shown_nCHW
    return watched.answer(torch.cat([shown[:half], torch.zeros_like(shown[half:])]))[:half]


def beside_copies(watched: Watched) -> Tensor:
    """Each image in a batch that it fills by itself."""
    size, classifier = len(watched.shown_nCHW), watched.fresh()
    return torch.cat([asked(classifier, image.expand(size, -1, -1, -1))[:1] for image in watched.shown_nCHW.split(1)])


# What the module is told of the purpose


def with_every_training_flag(watched: Watched) -> Tensor:
    classifier = watched.fresh().train()
    with EvaluatingLayers():
        return asked(classifier, watched.shown_nCHW)


def with_the_training_flags_of_the_file(watched: Watched) -> Tensor:
    classifier = watched.fresh(_as_saved)
    with EvaluatingLayers():
        return asked(classifier, watched.shown_nCHW)


def _as_saved(module: nn.Module) -> nn.Module:
    """In training mode what was so in the file; of the jit's own modules that is not known."""
    for path in module.was_training if isinstance(module, RebuiltModule) else ():
        module.get_submodule(path).training = True
    return module


def with_gradients_on(watched: Watched) -> Tensor:
    with torch.enable_grad():
        return watched.answer(watched.shown_nCHW)


def with_gradients_of_the_images(watched: Watched) -> Tensor:
    with torch.enable_grad():
        return watched.answer(watched.shown_nCHW.clone().requires_grad_())


def with_gradients_of_the_weights(watched: Watched) -> Tensor:
    classifier = watched.fresh()
    for parameter in classifier.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with torch.enable_grad():
        return asked(classifier, watched.shown_nCHW)


def in_inference_mode(watched: Watched) -> Tensor:
    classifier = watched.fresh()
    with torch.inference_mode():
        return asked(classifier, watched.shown_nCHW).clone()


def under_autocast(watched: Watched) -> Tensor:
    with _autocasting_to_single():
        return watched.answer(watched.shown_nCHW)


@contextmanager
def _autocasting_to_single() -> Iterator[None]:
    """Autocast as far as code can ask for it, while every number stays what it is."""
    before = {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")}
    try:
        for kind in before:
            torch.set_autocast_dtype(kind, torch.float32)
            torch.set_autocast_enabled(kind, True)
        yield
    finally:
        for kind, (enabled, dtype) in before.items():
            torch.set_autocast_dtype(kind, dtype)
            torch.set_autocast_enabled(kind, enabled)
        torch.clear_autocast_cache()


# How and how often it is called


def by_forward(watched: Watched) -> Tensor:
    return watched.answer(watched.shown_nCHW, _ByForward)


class _ByForward(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs_NCHW: Tensor) -> Any:
        return self.module.forward(inputs_NCHW)


def again_and_again(watched: Watched) -> Tensor:
    classifier = watched.fresh()
    return torch.stack([asked(classifier, watched.shown_nCHW) for _ in range(CALLS)])


def after_leaps(watched: Watched) -> Tensor:
    """After whatever changes from call to call was changed on, as if by many more calls."""
    return torch.stack([_after_leap(watched.fresh(), watched.shown_nCHW, leap) for leap in LEAPS])


def _after_leap(classifier: Classifier, images_nCHW: Tensor, leap: int) -> Tensor:
    before = _numbers_of(classifier)
    asked(classifier, images_nCHW)
    for (module, kept, name), now in _numbers_of(classifier).items():
        was = before.get((module, kept, name))
        if isinstance(now, Tensor):
            if isinstance(was, Tensor) and was.shape == now.shape and was.dtype == now.dtype != torch.bool:
                kept_there: Tensor = getattr(module, kept)[name]
                kept_there.data.copy_(now + leap * (now - was))
        elif isinstance(was, int | float):
            assert isinstance(module, RebuiltModule)
            module.plain[name] = now + leap * (now - was)
    return asked(classifier, images_nCHW)


Numbers = dict[tuple[nn.Module, str, str], Tensor | int | float]


def _numbers_of(classifier: Classifier) -> Numbers:
    """Copies of all numbers that a module keeps and its code can change, by where they are."""
    found: Numbers = {}
    for module in classifier.modules():
        for kept in ("_parameters", "_buffers", *(["plain"] if isinstance(module, RebuiltModule) else [])):
            for name, value in getattr(module, kept).items():
                if isinstance(value, Tensor):
                    found[module, kept, name] = value.detach().clone()
                elif type(value) in (int, float):
                    found[module, kept, name] = value
    return found


# Where the numbers lie


def on_another_device(watched: Watched) -> Tensor:
    """Of a scan on a GPU: on the CPU. Else the code is told that it is on a GPU, which the jit's own cannot be."""
    if watched.images.device.type == "cuda":
        return asked(watched.fresh().cpu(), watched.shown_nCHW.cpu()).to(watched.images.device)
    with as_if_on("cuda"):
        return watched.answer(watched.shown_nCHW)


def channels_last(watched: Watched) -> Tensor:
    return watched.answer(watched.shown_nCHW.contiguous(memory_format=torch.channels_last))


def columns_first(watched: Watched) -> Tensor:
    return watched.answer(watched.shown_nCHW.mT.contiguous().mT)
