"""Which recipe a config asks for."""

from app.core.config import RepairConfig
from worker.detection.repairing import paper, standard
from worker.detection.repairing.base import Recipe


def recipe_of(config: RepairConfig) -> Recipe:
    return paper.repair if config.matching is None else standard.repair
