"""How a suspect wants its images: found out by trying, and where nothing works, said in words that fit what was seen.

    N image batch   C channels   H, W pixels

Whether the images mean anything to it in that form is not known here; its accuracy tells.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.errors import Refusal
from app.core.findings import Takes
from app.core.intake.torchscript.code.program import Type
from app.core.text import printable
from models.classifier import SIZE_ADVICE, match_channels
from models.outputs import EXPORT_ADVICE, candidates, scores_of
from models.rebuilt import RebuiltModule
from models.scorer import LONGEST_MESSAGE, MODULE_ERRORS, Manner, Scorer, filled, plain_reason

TRACED_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # that somebody may have traced with
SIDES = (16, 28, 32, 48, 64, 96, 112, 128, 160, 192, 224, 227, 240, 256, 288, 299, 320, 384, 448, 512)
LARGE = 96 * 96  # pixels of images, of which convolutions on a CPU are faster with their channels last in memory
ALIKE = 1e-3  # of the largest score, answers may differ where only the order of sums does
TRIED = 3  # images: no power of two, so nobody's habit
MOST_KEYS = 4

_TAKEN = {"Tensor": (Takes.BATCH, Takes.CHANNELS_LAST, Takes.SINGLE, Takes.SINGLE_CHANNELS_LAST), "List": (Takes.LIST,)}
_WRAP = 'Wrap it so that forward takes one batch of images, as "Inputs of another kind" in docs/export.md shows.'


def manner_of(module: nn.Module, images_NCHW: Tensor, channels: Sequence[int]) -> tuple[Manner, int]:
    """How a module is asked, and with how many channels; the first that works, of the usual before the rare.

    Where images are large and their order in memory changes no answer, it is the faster one. Raises Refusal: several
    inputs, an input it cannot take, or no output that could be scores.
    """
    if isinstance(module, RebuiltModule) and (refusal := _refusal_of_kind(module, images_NCHW)):
        raise refusal
    failures: list[tuple[Manner, Exception]] = []
    for takes in _taken(module):
        for manner, count in _manners(takes, channels):
            shown = match_channels(images_NCHW[:1], count)
            failure = _failure(Scorer(module, manner), shown)
            if failure is None:
                return _in_the_faster_order(module, manner, shown), count
            failures.append((manner, failure))
        for manner, failure in failures:
            if isinstance(failure, Refusal) and manner.at_once is None:
                raise failure  # it takes a batch, and answers with no scores: in a rarer form they would be no better
    for _, failure in failures:
        if isinstance(failure, Refusal):
            raise failure
    raise _refusal_of_images(module, images_NCHW, channels, failures[0][1])


def _taken(module: nn.Module) -> Sequence[Takes]:
    """The ways to try, by the type that the code declares; of the jit's own modules that is not known."""
    if isinstance(module, torch.jit.ScriptModule):
        return tuple(Takes)
    kind = _declared(module) if isinstance(module, RebuiltModule) else Type("Tensor")
    return _TAKEN.get(kind.name, ()) if kind else ()


def _declared(module: RebuiltModule) -> Type | None:
    """The type of the first input; None where there is none."""
    if not module.inputs:
        return None
    kind = module.inputs[0].type
    return kind.arguments[0] if kind.name == "Optional" else kind


def _manners(takes: Takes, channels: Sequence[int]) -> Iterator[tuple[Manner, int]]:
    """Any batch for each number of channels, then the batches that tracing may have baked in."""
    yield from ((Manner(takes), count) for count in channels)
    if Manner(takes).at_once is None:
        yield from ((Manner(takes, size), count) for count in channels for size in TRACED_BATCHES)


def _failure(scorer: Scorer, image_1CHW: Tensor) -> Exception | None:
    """Why a module has no answer for each of so many images; None where it has one, or several to choose from."""
    images = scorer.manner.at_once or TRIED
    try:
        with torch.no_grad():
            answer = scorer.answer(filled(image_1CHW, images))
        if not candidates(answer, images):
            scores_of(answer, images, None)
    except (*MODULE_ERRORS, Refusal) as error:
        return error
    return None


def _in_the_faster_order(module: nn.Module, manner: Manner, image_1CHW: Tensor) -> Manner:
    """The same manner, with channels last in memory where that is faster and the module answers alike."""
    channels, height, width = image_1CHW.shape[1:]
    if manner.takes is not Takes.BATCH or channels == 1 or height * width < LARGE or image_1CHW.device.type != "cpu":
        return manner
    other, images = replace(manner, channels_last=True), filled(image_1CHW, manner.at_once or 2)
    with torch.no_grad(), suppress(*MODULE_ERRORS):  # such as a view of what lies in another order
        answers = [candidates(Scorer(module, each).answer(images), len(images)) for each in (manner, other)]
        usual, last = answers
        if usual.keys() == last.keys() and all(_is_alike(usual[name], found) for name, found in last.items()):
            return other
    return manner


def _is_alike(scores_NK: Tensor, others_NK: Tensor) -> bool:
    scores_NK, others_NK = scores_NK.float(), others_NK.float()
    return torch.allclose(scores_NK, others_NK, rtol=0.0, atol=ALIKE * float(scores_NK.abs().max()))


# Why not


def _refusal_of_kind(module: RebuiltModule, images_NCHW: Tensor) -> Refusal | None:
    """The refusal of a module that, by its code, takes something else than one batch of images."""
    needed = [parameter.name for parameter in module.inputs if not parameter.has_default]
    kind = _declared(module)
    if kind is None:
        return _not_accepted("The model's forward takes no input.", _WRAP)
    if len(needed) > 1:
        return Refusal(
            "several_inputs",
            f"The model's forward takes more than one input: {', '.join(map(printable, needed))}.",
            "Wrap it so that forward takes one batch of images. " + EXPORT_ADVICE,
        )
    if kind.name in _TAKEN:
        return None
    if kind.name == "Dict":
        keys = ", ".join(f"`{printable(key, LONGEST_MESSAGE)}`" for key in _keys_read(module, images_NCHW))
        return _not_accepted(f"The model takes a dict{f' with the entry {keys}' if keys else ''}, not images.", _WRAP)
    return _not_accepted(f"The model takes a {kind.name}, not a batch of images.", _WRAP)


def _keys_read(module: RebuiltModule, images_NCHW: Tensor) -> list[str]:
    """The entries of a dict that the code asks for, as far as it comes."""
    given: dict[str, Tensor] = {}
    for _ in range(MOST_KEYS):
        try:
            with torch.no_grad():
                module(given)
        except MODULE_ERRORS as error:
            if not isinstance(cause := error.__cause__, KeyError) or not isinstance(key := cause.args[0], str):
                break
            given[key] = images_NCHW[:1]
        else:
            break
    return list(given)


def _refusal_of_images(module: nn.Module, images_NCHW: Tensor, channels: Sequence[int], error: Exception) -> Refusal:
    if form := _form_taken(module, images_NCHW, channels):
        return _not_accepted(f"The model takes {form}, not a batch of images [N, C, H, W].", _WRAP)
    if sides := _sides_taken(module, images_NCHW, channels):
        height, width = images_NCHW.shape[-2:]
        return _not_accepted(
            f"The model cannot take images of {height}x{width}; it takes {' and '.join(f'{s}x{s}' for s in sides)}.",
            f"Give the size it was trained with: --size {sides[0]},{sides[0]}.",
        )
    if _takes_bytes(module, images_NCHW, channels):
        return _not_accepted(
            "The model takes images of whole numbers (uint8) only, through which no gradient passes.", _WRAP
        )
    reason = plain_reason(error)
    advice = SIZE_ADVICE
    if re.search(r"made for (?!1 |3 )\d+ channels", reason):
        advice = "A model of other than 1 or 3 channels cannot be scanned."
    given, height, width = images_NCHW.shape[1:]
    kind = f"{height}x{width} with {given} channel{'s' if given > 1 else ''}"
    return _not_accepted(f"The model cannot take images of {kind}: {reason}.", advice)


def _form_taken(module: nn.Module, images_NCHW: Tensor, channels: Sequence[int]) -> str:
    """What the module takes in place of a batch of images, of this very size; "" if nothing of that either."""
    for count in channels:
        image_NCHW = filled(match_channels(images_NCHW[:1], count), TRIED)
        forms = {
            f"rows of {image_NCHW[0].numel():,} numbers [N, C*H*W]": image_NCHW.flatten(1),
            "sequences of images [N, T, C, H, W]": image_NCHW[:, None],
            "sequences of images [N, C, T, H, W]": image_NCHW[:, :, None],
        }
        for form, given in forms.items():
            with suppress(*MODULE_ERRORS), torch.no_grad():
                if candidates(module(given), TRIED):
                    return form
    return ""


def _sides_taken(module: nn.Module, images_NCHW: Tensor, channels: Sequence[int]) -> list[int]:
    """The first of the usual sizes at which the module takes the images; another one may be the right one."""
    found = []
    for side in SIDES:
        sized = functional.interpolate(images_NCHW[:1], (side, side), mode="nearest")
        for takes in (Takes.BATCH, Takes.CHANNELS_LAST):
            tries = ((Scorer(module, Manner(takes, batch)), count) for batch in (None, 1) for count in channels)
            if any(_failure(scorer, match_channels(sized, count)) is None for scorer, count in tries):
                found.append(side)
                break
        if len(found) == 2:
            break
    return found


def _takes_bytes(module: nn.Module, images_NCHW: Tensor, channels: Sequence[int]) -> bool:
    image = (images_NCHW[:1] * 255).clamp(0, 255)
    tries = ((takes, count) for takes in _TAKEN["Tensor"] for count in channels)
    return any(
        _failure(Scorer(module, Manner(takes)), match_channels(image, count).byte()) is None for takes, count in tries
    )


def _not_accepted(detail: str, advice: str) -> Refusal:
    return Refusal("input_not_accepted", detail, advice)
