"""The task of a further round: search again, from a fresh seed and on other images, what is in doubt.

A label can have a small norm because its first search was lucky. One that was planted has it in every search.
"""

from collections.abc import Sequence
from itertools import count

from app.core.findings import Confirmation, finite
from worker.engine.effort import AGAIN, after_deciding, searching_alone
from worker.engine.trying import try_searches
from worker.engine.workbench import Workbench

FRESH_SEED = 500_009  # added to the scan's in every round


def confirm(bench: Workbench, labels: Sequence[int], round: int) -> None:
    """Search these labels again in the families that the last decision doubts each in, and leave what was found.

    One after the other: what fitted into memory beside other labels fits alone. Out of time it leaves the rest undone.
    """
    left = _left_to_search(bench, labels, round)
    steps, done = sum(bench.job.config.searches[family].steps for _, family in left), count(1)

    def tell(step: int) -> None:
        bench.emit("step", labels=list(labels), done=next(done), of=steps)

    bench.begin("confirm")
    sizes = bench.sizes(len(bench.students))
    try_searches(bench, sizes, 1)
    families = [family for _, family in left]
    bench.telling.plan(searching_alone(bench.job.config, sizes, families, AGAIN), after_deciding(bench.job, sizes))
    for label, family in left:
        if bench.out_of_time():
            return
        seed = bench.job.config.seed + round * FRESH_SEED
        [found] = bench.search(bench.classifier, family, [label], seed, tell, round)
        if not found.truncated:
            again = Confirmation(finite(found.norm), found.attack_success_rate, found.out_of_reach)
            bench.directory.write_confirmation(label, family, again)


def _left_to_search(bench: Workbench, labels: Sequence[int], round: int) -> list[tuple[int, str]]:
    """Each label with each family that it is in doubt in, but for what an interrupted engine has done."""
    decision = bench.directory.read_decision(round - 1)
    assert decision is not None, "a decision names what is in doubt"
    return [
        (finding.label, family)
        for family in bench.job.config.searches
        for finding in decision.labels
        if finding.label in labels and family in finding.families_in_doubt
        if not bench.directory.confirmation(finding.label, family).exists()
    ]
