"""The first pass over many labels: a coarse look at each of one block, so that the full search can be kept for some."""

from collections.abc import Sequence

import torch

from app.core.findings import FirstPass, finite
from app.core.plan import blocks_of
from models.classifier import is_out_of_memory
from worker.detection.images import at_once
from worker.engine.effort import after_looking, looking_through
from worker.engine.trying import try_searches
from worker.engine.workbench import Workbench

Scores = dict[str, tuple[float | None, ...]]


def look_through(bench: Workbench, labels: Sequence[int]) -> None:
    """Leave the scores of a block of labels in every family; out of time, nothing."""
    if bench.directory.first_pass(labels[0]).exists():
        return
    bench.begin("first_pass")
    _plan(bench, len(labels))
    scores: Scores = {}
    families = bench.job.config.searches
    for done, family in enumerate(families, 1):
        if bench.out_of_time():
            return
        bench.telling.turn()
        scores[family] = tuple(_scores(bench, family, labels))
        bench.emit("step", labels=[], done=done, of=len(families))
    bench.directory.write_first_pass(FirstPass(tuple(labels), scores))


def _plan(bench: Workbench, labels: int) -> None:
    """Say what is left of this task, and what comes after all blocks of it."""
    job, preparation, sizes = bench.job, bench.preparation, bench.sizes(len(bench.students))
    cut = blocks_of(preparation, range(preparation.num_labels), job.config)
    try_searches(bench, sizes, len(cut[0]))
    later = after_looking(job, sizes, preparation.num_labels, len(cut[0]))
    bench.telling.plan(looking_through(job.config, sizes, labels), later)


def _scores(bench: Workbench, family: str, labels: Sequence[int]) -> list[float | None]:
    """Of each label: as many together as a search takes, each half by itself where that is too much for the memory
    still, and none of one that is too much alone."""
    most = min(bench.preparation.labels_at_once or len(labels), at_once(bench.clean.images))
    if len(labels) > most:
        parts = [labels[begin : begin + most] for begin in range(0, len(labels), most)]
        return [score for part in parts for score in _scores(bench, family, part)]
    try:
        return [finite(score) for score in bench.look_through(family, labels)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # The error holds the search's tensors, so nothing can be freed before it is forgotten.
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(labels) == 1:
        return [None]
    middle = len(labels) // 2
    return [*_scores(bench, family, labels[:middle]), *_scores(bench, family, labels[middle:])]
