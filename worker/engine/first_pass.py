"""The first pass over many labels: a coarse look at each of one block, so that the full search can be kept for some."""

from collections.abc import Sequence

import torch

from app.core.findings import FirstPass, finite
from worker.engine.workbench import Workbench

Scores = dict[str, tuple[float | None, ...]]


def look_through(bench: Workbench, labels: Sequence[int]) -> None:
    """Leave the scores of a block of labels in every family; out of time, nothing."""
    if bench.directory.first_pass(labels[0]).exists():
        return
    bench.begin("first_pass")
    scores: Scores = {}
    families = bench.job.config.searches
    for done, family in enumerate(families, 1):
        if bench.out_of_time():
            return
        scores[family] = tuple(_scores(bench, family, labels))
        bench.emit("step", labels=[], done=done, of=len(families))
    bench.directory.write_first_pass(FirstPass(tuple(labels), scores))


def _scores(bench: Workbench, family: str, labels: Sequence[int]) -> list[float | None]:
    """Of each label; each half by itself where that takes too much memory, and none of one that takes it alone."""
    try:
        return [finite(score) for score in bench.look_through(family, labels)]
    except torch.OutOfMemoryError:
        pass  # the error holds the search's tensors, so nothing can be freed before it is forgotten
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(labels) == 1:
        return [None]
    middle = len(labels) // 2
    return [*_scores(bench, family, labels[:middle]), *_scores(bench, family, labels[middle:])]
