"""What a search takes, tried before it begins: a step of each family on a few images, on the suspect and a student.

It tells the paces that a scan goes by until they are measured, and the memory that a block of labels needs. Nothing of
it is kept, and no random number is drawn from those of the scan.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.families import FAMILIES
from app.core.findings import Preparation
from models.classifier import is_out_of_memory
from models.generator import TriggerGenerator
from models.student import random_student
from worker.detection.clean import random_numbers
from worker.detection.families.base import Beginning, Triggers, triggers_of
from worker.detection.inversion import of_each_at_once
from worker.detection.memory import Footprint, fitting, footprint
from worker.engine.effort import FORWARD, Kind, Sizes
from worker.engine.workbench import Workbench
from worker.sandbox.usage import memory_left

T = TypeVar("T")

ROOM = 0.7  # of the memory that is left, a block may take
LONG_SECONDS = 0.3  # that a try may take; of what takes longer, fewer images are tried
MOVED = 1.3  # times as long as a step that searches, one that trains a student takes


def fitted_into_memory(bench: Workbench, preparation: Preparation, labels: int) -> Preparation:
    """How much the search of so many labels together takes and, where that is more than is left, how many fit.

    Small networks on small images never come near it, so that they are always searched alike.
    """
    left, searches = ROOM * _memory_left(bench.device), bench.job.config.searches
    at_once, shown_at_once, peak = labels, None, 0
    for family, search in searches.items():
        images = labels * min(search.batch_size, of_each_at_once(bench.images, labels))
        for network in _networks(bench, family, bench.job.config.students):
            if (takes := _or_none(partial(_footprint, bench, network, family))) is None:
                fitted = shown = 1
                peak = max(peak, int(left))
            else:
                fitted, shown = fitting(takes, labels, images, left)
                peak = max(peak, takes.of(fitted, shown))
            if (fitted, shown) != (labels, images):
                at_once, shown_at_once = min(at_once, fitted), min(shown_at_once or shown, shown)
    fewer = at_once if at_once < labels else None
    return replace(preparation, search_bytes=peak, labels_at_once=fewer, images_at_once=shown_at_once)


def _footprint(bench: Workbench, network: nn.Module, family: str) -> Footprint:
    takes_at_once = bench.classifier.module.manner.at_once if network is bench.classifier else None
    with torch.random.fork_rng():
        return footprint(
            lambda labels, images: _loss(bench, network, _triggers(bench, family, labels), labels, images),
            takes_at_once or 1,
        )


def _or_none(compute: Callable[[], T]) -> T | None:
    """What is computed, or nothing where not even that fits into memory."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


def _networks(bench: Workbench, family: str, students: int) -> list[nn.Module]:
    """The suspect and, where students are asked, one that has learned nothing."""
    if not students or not FAMILIES[family].asks_students:
        return [bench.classifier]
    student = random_student(bench.images.shape[0], bench.preparation.num_labels, 0).to(bench.device).eval()
    return [bench.classifier, student.requires_grad_(False)]


def _memory_left(device: torch.device) -> float:
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else memory_left()


def try_searches(bench: Workbench, sizes: Sizes, labels: int) -> None:
    """Let the paces of this engine expect what it takes to search so many labels together; once in an engine."""
    paces, searches = bench.telling.paces, bench.job.config.searches
    if paces.of(Kind("judge")) is not None:
        return
    suspect = []
    with torch.random.fork_rng():
        for family, search in searches.items():
            size = min(search.batch_size, sizes.searched_on, of_each_at_once(bench.clean.images, labels))
            for network in _networks(bench, family, sizes.students):
                on_student = network is not bench.classifier
                step = partial(_step, bench, network, family, labels)
                tried = _or_none(partial(_seconds, step, size, partial(_finish, bench.device)))
                if tried is None:
                    return  # what comes of it is told when it is known
                seconds, images = tried
                units = sizes.units(labels * images)
                paces.expect(Kind("search", family, on_student), seconds, units)
                paces.expect(Kind("read", family, on_student), FORWARD * seconds, units)
                paces.expect(Kind("try", family, True), FORWARD * seconds, units)
                if on_student:
                    paces.expect(Kind("train", on_student=True), MOVED * seconds, units)
                else:
                    suspect.append((seconds / units, seconds, units))
    _, seconds, units = min(suspect)  # of the family that has the least to compute itself
    paces.expect(Kind("unlearn"), seconds, units)
    paces.expect(Kind("judge"), FORWARD * seconds, units)
    paces.expect(Kind("pretrain"), suspect[0][1], suspect[0][2])


def _seconds(step: Callable[[int], None], images: int, finish: Callable[[], None]) -> tuple[float, int]:
    """How long a step takes, and on how many images of each label: the second of two, as the first has more to do."""

    def taken(images: int) -> float:
        began = time.monotonic()
        step(images)
        finish()
        return time.monotonic() - began

    taken(1)
    if (one := taken(1)) * images > LONG_SECONDS:
        fewer = max(1, min(images, int(LONG_SECONDS / max(one, 1e-6))))
        return (one, 1) if fewer == 1 else (taken(fewer), fewer)
    taken(images)
    return taken(images), images


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _step(bench: Workbench, network: nn.Module, family: str, labels: int, images: int) -> None:
    """What a search does with so many images of each label, as far as it takes time."""
    triggers = _triggers(bench, family, labels)
    _loss(bench, network, triggers, labels, images).backward()
    torch.optim.Adam(triggers.parameters()).step()


def _loss(bench: Workbench, network: nn.Module, triggers: Triggers, labels: int, images: int) -> Tensor:
    picked = torch.arange(labels * images).remainder(len(bench.images)).view(labels, images)
    shown = bench.images[picked]
    triggered = triggers(shown)
    logits = network(triggered.flatten(0, 1))
    features = partial(_features, bench, shown.flatten(0, 1))
    targets = torch.zeros(len(logits), dtype=torch.long, device=bench.device)
    return functional.cross_entropy(logits, targets) + triggers.cost(shown, triggered, features).sum()


@torch.no_grad()
def _features(bench: Workbench, images: Tensor) -> list[Tensor]:
    return bench.perceptual.features(images)


def _triggers(bench: Workbench, family: str, labels: int) -> Triggers:
    config, search = bench.job.config.inversion, bench.job.config.searches[family]
    drawn = config.generator_width, config.generator_levels, config.identity_start
    generator = TriggerGenerator(bench.images.shape[0], *drawn).to(bench.device)
    beginning = Beginning(bench.images.shape, generator, bench.perceptual, search)
    triggers = triggers_of(family).begin(beginning, [random_numbers(0, label) for label in range(labels)])
    return triggers.to(bench.device).requires_grad_(True)
