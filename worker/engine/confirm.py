"""The task after the search: look again, from a fresh seed, at what stands out.

A label can have a small norm because its first search was lucky. One that was planted has it in every search.
"""

from functools import partial

from app.core.findings import Confirmation, finite
from worker.detection.verdict import in_doubt
from worker.engine.workbench import Workbench

FRESH_SEED = 500_009  # added to the scan's


def confirm(bench: Workbench) -> None:
    """Search every label that stands out once more, in the families that it does so in, and leave what was found.

    One after the other: what fitted into memory beside other labels fits alone. Out of time it leaves the rest undone.
    """
    with bench.timed("confirm"):
        doubted = in_doubt(bench.directory.read_findings(), bench.job.config)
        for family in bench.job.config.searches:
            for label in [label for label, accusing in doubted if accusing == family]:
                if not bench.directory.confirmation(label, family).exists():
                    _search_again(bench, label, family)


def _search_again(bench: Workbench, label: int, family: str) -> None:
    tell = partial(bench.emit, "step", labels=[label], of=bench.job.config.searches[family].steps)
    seed = bench.job.config.seed + FRESH_SEED
    [found] = bench.search(bench.classifier, family, [label], seed, lambda step: tell(done=step))
    if not found.truncated:
        again = Confirmation(finite(found.norm), found.attack_success_rate, found.out_of_reach)
        bench.directory.write_confirmation(label, family, again)
