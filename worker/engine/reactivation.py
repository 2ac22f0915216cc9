"""The end of a repair: try to bring the unlearned triggers back, in the repaired model and in the students beside it.

What the weights are handed out for stands by then; this only says more of them, as far as time allows.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import islice
from statistics import fmean

from torch import Tensor, nn

from app.core.findings import Reactivation
from worker.detection import reactivation
from worker.detection.families.base import Triggers
from worker.detection.metrics import predictions
from worker.detection.reactivation import Known, Returned, comes_back, success_on_the_line, tried
from worker.detection.repairing.base import Case, is_too_costly, nothing_afresh
from worker.detection.repairing.choosing import recipe_of
from worker.engine.effort import reactivating
from worker.engine.workbench import Workbench


def reactivations(
    bench: Workbench,
    case: Case,
    copy: Callable[[], nn.Module],
    triggers: Mapping[tuple[int, str], Triggers],
    judges: Known,
) -> tuple[Reactivation, ...]:
    """What it takes to bring each of the triggers back in the repaired model, of which `copy` gives another one."""
    seen, found = Known(case.images, case.labels_N), []
    can_be_tried = {
        (label, family): trigger
        for (label, family), trigger in triggers.items()
        if all(bool((of.labels_N != label).any()) for of in (seen, judges))
    }
    if not can_be_tried:
        return ()
    bench.begin("reactivate")
    bench.telling.plan(reactivating(bench.job.config, bench.sizes(len(bench.students)), len(can_be_tried)))
    students, seed = _repaired_students(bench, case, judges), case.seed
    for (label, family), trigger in islice(can_be_tried.items(), reactivation.MOST_TRIED):
        if bench.out_of_time():
            break
        bench.telling.turn()
        came = tried(copy, trigger.on, label, seen, judges, seed)
        line = success_on_the_line(copy(), case.suspect, trigger.on, label, judges)
        if students:
            bench.telling.turn()
        references = [
            tried(partial(deepcopy, student), trigger.on, label, seen, judges, seed)
            for number, student in enumerate(students)
            if bench.learned(number, label)
        ]
        found.append(
            Reactivation(
                label,
                family,
                comes_back(came.retuned, _mean(references, "retuned")),
                poisoned=min(reactivation.POISONED, int((seen.labels_N != label).sum())),
                images=min(len(seen.images), reactivation.MOST_IMAGES),
                retuned=came.retuned,
                retuned_reference=_mean(references, "retuned"),
                retuned_accuracy=came.retuned_accuracy,
                noise=reactivation.NOISE,
                with_noise=came.with_noise,
                with_noise_reference=_mean(references, "with_noise"),
                line=tuple(line),
            )
        )
    return tuple(found)


def _mean(references: Sequence[Returned], figure: str) -> float | None:
    return fmean(getattr(found, figure) for found in references) if references else None


def _repaired_students(bench: Workbench, case: Case, judges: Known) -> list[nn.Module]:
    """The students after the same repair as the suspect's: they have met its triggers, and never had the backdoor."""
    repaired: list[nn.Module] = []
    for student in bench.students:
        if bench.out_of_time():
            return []
        bench.telling.turn()
        repaired.append(_repaired(student, case, judges))
    return repaired


def _repaired(student: nn.Module, case: Case, judges: Known) -> nn.Module:
    def right(network: nn.Module) -> Tensor:
        return predictions(network, judges.images) == judges.labels_N

    before_N = right(student)
    own = replace(
        case,
        suspect=student,
        copy=partial(deepcopy, student),
        is_too_costly=lambda network: is_too_costly(before_N, right(network), case.config),
        search_afresh=nothing_afresh,
        on_round=lambda done: None,
        on_step=lambda done: None,
        on_epoch=lambda done, of: None,
    )
    return recipe_of(case.config)(own).repaired
