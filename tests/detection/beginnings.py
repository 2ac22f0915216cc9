"""What searches on toys begin with."""

from collections.abc import Sequence

import torch

from app.core.config import SearchConfig
from models.generator import TriggerGenerator
from models.perceptual import PACKAGED, load_perceptual
from tests.toys import SIDE
from worker.detection.clean import random_numbers
from worker.detection.families.base import Beginning, Triggers, triggers_of

SHAPE = torch.Size((1, SIDE, SIDE))


def each(labels: Sequence[int]) -> list[torch.Generator]:
    """Random numbers for each of these labels."""
    return [random_numbers(0, label) for label in labels]


def begun(family: str, labels: Sequence[int]) -> Triggers:
    """Triggers of a family that needs no generator, as a search of these labels begins with them."""
    beginning = Beginning(SHAPE, TriggerGenerator(1, 4, 1), load_perceptual(PACKAGED), SearchConfig())
    return triggers_of(family).begin(beginning, each(labels))
