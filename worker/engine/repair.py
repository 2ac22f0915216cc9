"""The task after a verdict: unlearn the triggers of the flagged labels, package the weights, load them afresh.

The accept images are kept from the fine-tuning and judge what it came to, as it is loaded from the packaged file; a
repair that costs more accuracy on them than the budget, or that leaves the inverted trigger working, is not handed out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from app.core.findings import (
    Confirmation,
    Decision,
    Likeness,
    RepairReport,
    RepairStatus,
    UnlearnedTrigger,
    Unrepaired,
    finite,
)
from app.core.jobs import WEIGHTS
from app.core.progress import Doing
from models.classifier import Classifier
from models.rebuilt import RebuiltModule
from models.rebuilt.records import UnwritableError
from worker.detection.families.base import Triggers
from worker.detection.metrics import accuracy_drop_bound, attack_success_rate, predictions, under
from worker.detection.reactivation import Known, soonest
from worker.detection.repairing.base import Afresh, Attempt, Case, is_too_costly
from worker.detection.repairing.choosing import recipe_of
from worker.detection.verdict import p_value_again
from worker.engine.card import MOST_TENSORS, class_accuracies, tensor_changes
from worker.engine.confirm import FRESH_SEED
from worker.engine.effort import USUAL_ROUNDS, packaging, unlearning
from worker.engine.packing import pack, state_of
from worker.engine.reactivation import reactivations
from worker.engine.trying import try_searches
from worker.engine.workbench import Workbench

STILL_WORKS = 0.5  # an inverted trigger that still carries half of the images was not unlearned
WORDS = {
    Unrepaired.NOTHING_TO_TRAIN: "The model has no weights that could be trained: its code computes with fixed numbers "
    "only.",
    Unrepaired.NOT_REBUILT: "The model could be run but not be rebuilt, so its weights cannot be written back. Export "
    "it by torch.jit.trace.",
    Unrepaired.FEW_IMAGES: "No image is left to fine-tune on after one was kept to judge the repair. Bring more clean "
    "images.",
    Unrepaired.IMAGES_FROM_ELSEWHERE: "The images are from elsewhere than those that the model was trained on: "
    "what they would show of a repair says little of its accuracy where the model is used. Bring images like those of "
    "the training, or declare by `--expected-accuracy` how often the model is right on these.",
    Unrepaired.NO_TRIGGER: "There is no trigger to unlearn: the search for it did not fit into memory.",
}


@dataclass(frozen=True)
class Judgement:
    """What the accept images say of a classifier."""

    right_N: Tensor
    success: Mapping[tuple[int, str], float]  # of the inverted triggers, by label and family

    @property
    def attack_success_rate(self) -> float:
        """Of the trigger that works best."""
        return max(self.success.values())

    @property
    def clean_accuracy(self) -> float:
        return self.right_N.float().mean().item()


Found = Mapping[int, Mapping[str, Triggers]]  # the triggers to unlearn, by label and family


def repair(bench: Workbench, labels: Sequence[int], round: int = 0) -> None:
    """Repair the classifier against the triggers of these labels, which a round's decision accuses, if one was made;
    writes repair.json and, if accepted, the weights.

    Out of time it does nothing.
    """
    if not _is_done(bench) and not bench.out_of_time():
        bench.begin("repair")
        bench.directory.write_repair(_repair(bench, labels, bench.directory.read_decision(round)))


def _plan(bench: Workbench, triggers: Found, decision: Decision | None, done: int | None = None) -> None:
    """Say what is left to do: all of it, or what follows so many rounds."""
    config, sizes = bench.job.config, bench.sizes(len(bench.students))
    families = [family for found in triggers.values() for family in found]
    usual = 1 if config.repair.matching is None else USUAL_ROUNDS
    pieces = unlearning(config, sizes, families, max(usual, (done or 0) + 1), decision is not None)
    begins = [place for place, piece in enumerate(pieces) if piece.doing is Doing.UNLEARN]
    try_searches(bench, sizes, 1)
    bench.telling.plan(pieces if done is None else pieces[begins[done] :])


def _is_done(bench: Workbench) -> bool:
    """Whether there is a report, and the weights that it speaks of still lie beside it."""
    known = bench.directory.read_repair()
    return known is not None and all(
        (bench.directory.result / name).exists() for name in WEIGHTS if name in known.files
    )


def _repair(bench: Workbench, labels: Sequence[int], decision: Decision | None) -> RepairReport:
    if (reason := _stands_in_the_way(bench)) is not None:
        return RepairReport(RepairStatus.REFUSED, WORDS[reason], tuple(labels), reason)
    assert isinstance(bench.suspect.module, RebuiltModule)
    triggers = {label: _triggers(bench, label, decision) for label in labels}
    if not all(triggers.values()):
        return RepairReport(RepairStatus.REFUSED, WORDS[Unrepaired.NO_TRIGGER], tuple(labels), Unrepaired.NO_TRIGGER)
    _plan(bench, triggers, decision)
    config, before = bench.job.config.repair, _judge(bench, bench.classifier, triggers)
    case = _case(bench, triggers, decision, before)
    attempt = recipe_of(config)(case)
    bench.telling.plan(packaging(bench.job.config, bench.sizes(len(bench.students)), len(before.success)))
    bench.telling.turn()
    module = _module(attempt.repaired)
    state = state_of(module)
    changes = tensor_changes(state_of(bench.suspect.module), state)
    try:
        files = pack(bench, module, state, labels)
    except UnwritableError as error:
        return RepairReport(RepairStatus.REFUSED, str(error), tuple(labels), Unrepaired.UNWRITABLE)
    bench.begin("verify")
    after = _judge(bench, _loaded(bench, bench.directory.repaired), triggers)
    report = RepairReport(
        RepairStatus.REFUSED,
        "",
        labels=tuple(labels),
        clean_accuracy_before=before.clean_accuracy,
        clean_accuracy_after=after.clean_accuracy,
        attack_success_rate_before=before.attack_success_rate,
        attack_success_rate_after=after.attack_success_rate,
        accuracy_drop_bound=accuracy_drop_bound(before.right_N, after.right_N),
        reinversion_p_value=attempt.p_value,
        learning_rate=attempt.learning_rate,
        rounds=attempt.rounds,
        judged_on="clean images kept from the fine-tuning",
        judged_images=len(bench.roles.accept),
        unjudged_labels=_unjudged(bench),
        classes=class_accuracies(before.right_N, after.right_N, bench.labels_N[bench.roles.accept]),
        triggers=tuple(
            _unlearned(bench, label, family, decision, before, after, attempt) for label, family in before.success
        ),
        tensors=len(state),
        tensors_changed=len(changes),
        largest_changes=changes[:MOST_TENSORS],
    )
    if is_too_costly(before.right_N, after.right_N, config):
        cost = before.clean_accuracy - after.clean_accuracy
        budget = f"The repair costs {cost:.1%} of accuracy, more than the budget of {config.max_accuracy_drop:.1%}."
        return _withheld(bench, report, Unrepaired.TOO_COSTLY, f"{budget} Allow more, or bring more clean images.")
    if after.attack_success_rate >= STILL_WORKS:
        left = f"The inverted trigger still works on {after.attack_success_rate:.0%} of the images after the repair."
        return _withheld(bench, report, Unrepaired.STILL_WORKS, f"{left} More clean images may help.")
    rate = bench.job.config.false_alarm_rate
    if rate is not None and attempt.p_value is not None and attempt.p_value <= rate:
        left = f"A search in the repaired model still finds a trigger that stands out (p-value {attempt.p_value:.4f})."
        return _withheld(bench, report, Unrepaired.STANDS_OUT_AGAIN, f"{left} More clean images may help.")
    status = RepairStatus.PARTLY_JUDGED if report.unjudged_labels else RepairStatus.REPAIRED
    copy = partial(_loaded, bench, bench.directory.repaired)
    found = reactivations(bench, case, copy, _by_both(triggers), _accept(bench))
    detail = f"{_claim(attempt)}{_not_judged(bench, report)}"
    return replace(report, status=status, detail=detail, files=files, comes_back=soonest(found), reactivations=found)


def _loaded(bench: Workbench, path: Path) -> Classifier:
    """A copy of the suspect, or of what it was repaired to, from the file."""
    return bench.classifier_of(bench.load_suspect(path).module)


def _by_both(triggers: Found) -> dict[tuple[int, str], Triggers]:
    """By label and family."""
    return {(label, family): trigger for label, of in triggers.items() for family, trigger in of.items()}


def _unjudged(bench: Workbench) -> tuple[int, ...]:
    """The labels of which there is no image to judge a repair by."""
    judged = set(bench.labels_N[bench.roles.accept].tolist())
    return tuple(label for label in range(bench.preparation.num_labels) if label not in judged)


def _not_judged(bench: Workbench, report: RepairReport) -> str:
    """What the accuracy budget does not cover, in words."""
    if not report.unjudged_labels:
        return ""
    labels = bench.preparation.num_labels
    judged = labels - len(report.unjudged_labels)
    covered = f" Accuracy and budget cover {judged} of {labels} classes; of the others there was no image to judge by."
    if bench.job.config.repair.matching is not None:
        covered += " They were held to the model's own answers, as far as other images show them."
    return f"{covered} Measure them before you use the weights."


def _claim(attempt: Attempt) -> str:
    judged = "accuracy was measured on images that the repair did not see."
    if attempt.p_value is None:
        return f"The inverted trigger no longer works; {judged}"
    return f"The inverted trigger no longer works, and searched afresh the label does not stand out; {judged}"


def _case(bench: Workbench, triggers: Found, decision: Decision | None, before: Judgement) -> Case:
    """What the recipe is given: the suspect, and the images that do not judge it."""
    seen, config = _seen(bench), bench.job.config.repair
    return Case(
        bench.classifier,
        lambda: _loaded(bench, bench.directory.model),
        list(_by_both(triggers).values()),
        bench.shown(seen),
        bench.labels_N[seen],
        config,
        bench.job.config.seed,
        lambda repaired: is_too_costly(before.right_N, _right(bench, repaired), config),
        _held(bench, triggers),
        lambda repaired, seed: _search_afresh(bench, repaired, triggers, decision, seed + FRESH_SEED),
        on_round=lambda done: _begin_round(bench, triggers, decision, done),
        on_step=bench.telling.step,
        on_epoch=lambda done, of: bench.emit("epoch", done=done, of=of),
    )


def _begin_round(bench: Workbench, triggers: Found, decision: Decision | None, done: int) -> None:
    """Say that another round of unlearning begins after so many."""
    _plan(bench, triggers, decision, done)
    bench.telling.turn()


def _module(repaired: nn.Module) -> RebuiltModule:
    """What the classifier of a case has within."""
    assert isinstance(repaired, Classifier), "it is a copy of one"
    module = repaired.module.module
    assert isinstance(module, RebuiltModule), "the same file was rebuilt before"
    return module


def _search_afresh(
    bench: Workbench, classifier: nn.Module, triggers: Found, decision: Decision | None, seed: int
) -> list[Afresh]:
    """Every flagged label in its families once more, in the repaired classifier.

    Where nothing was decided there are no norms to hold new ones against, and nothing is searched.
    """
    if decision is None:
        return []
    afresh = []
    for label, of in triggers.items():
        for family in of:
            [found] = bench.search(classifier, family, [label], seed)
            norms = Confirmation(finite(found.norm), found.attack_success_rate, found.out_of_reach)
            p_value = p_value_again(decision, bench.job.config, label, family, norms)
            afresh.append(Afresh(label, family, found, None if found.truncated else p_value))
    return afresh


def _unlearned(
    bench: Workbench, label: int, family: str, decision: Decision | None, before: Judgement, after: Judgement,
    attempt: Attempt,
) -> UnlearnedTrigger:  # fmt: skip
    """What became of one inverted trigger, beside what accused its label."""
    findings = bench.directory.read_findings() if decision is None else decision.labels
    families = next(finding.families for finding in findings if finding.label == label)
    suspect = next(found for found in families if found.family == family)
    unlearned = UnlearnedTrigger(
        label,
        family,
        attack_success_rate_before=finite(before.success[label, family]),
        attack_success_rate_after=finite(after.success[label, family]),
        norm=suspect.norm,
        p_value=suspect.p_value,
    )
    for again in attempt.afresh:
        if (again.label, again.family) == (label, family) and not again.inversion.truncated:
            return replace(
                unlearned,
                norm_afresh=finite(again.inversion.norm),
                p_value_afresh=again.p_value,
                attack_success_rate_afresh=finite(again.inversion.attack_success_rate),
            )
    return unlearned


def _held(bench: Workbench, triggers: Found) -> list[Triggers]:
    """The triggers of labels that have no image and nothing to unlearn, as far as they were searched."""
    absent = [label for label, images in enumerate(bench.preparation.images_per_label) if not images]
    return [
        bench.load_trigger(label, family)
        for label in absent
        if label not in triggers
        for family in bench.job.config.searches
        if bench.directory.trigger(label, family).exists()
    ]


def _seen(bench: Workbench) -> Tensor:
    """Which images the repair sees, bool [N]."""
    seen = torch.ones(len(bench.labels_N), dtype=torch.bool, device=bench.device)
    seen[bench.roles.accept] = False
    return seen


def _triggers(bench: Workbench, label: int, decision: Decision | None) -> dict[str, Triggers]:
    """The triggers of the families that accuse the label; of all that were searched, where nothing was decided."""
    families = tuple(bench.job.config.searches)
    if decision is not None:
        found = next(finding for finding in decision.labels if finding.label == label)
        families = tuple(family for family in families if family in {f.family for f in found.families if f.flagged})
    there = [family for family in families if bench.directory.trigger(label, family).exists()]
    return {family: bench.load_trigger(label, family) for family in there}


def _stands_in_the_way(bench: Workbench) -> Unrepaired | None:
    """Why no repair can be tried, or none could be relied on."""
    if not any(True for _ in bench.suspect.module.parameters()):
        return Unrepaired.NOTHING_TO_TRAIN
    if not isinstance(bench.suspect.module, RebuiltModule):
        return Unrepaired.NOT_REBUILT
    if len(bench.roles.accept) == len(bench.labels_N):
        return Unrepaired.FEW_IMAGES
    shift = bench.preparation.shift
    if shift is not None and shift.likeness is Likeness.FROM_ELSEWHERE:
        return Unrepaired.IMAGES_FROM_ELSEWHERE
    return None


def _withheld(bench: Workbench, report: RepairReport, reason: Unrepaired, detail: str) -> RepairReport:
    """The report of a repair that is not handed out."""
    for path in (bench.directory.repaired, bench.directory.repaired_state):
        path.unlink()
    return replace(report, reason=reason, detail=detail)


def _judge(bench: Workbench, classifier: Classifier, triggers: Found) -> Judgement:
    """Accuracy and the attack success of the inverted triggers, on the accept images."""
    bench.telling.turn()
    images, true = _accept(bench)
    success = {
        (label, family): attack_success_rate(under(trigger.on, classifier), images, true, label)
        for (label, family), trigger in _by_both(triggers).items()
    }
    return Judgement(_right(bench, classifier), success)


def _right(bench: Workbench, classifier: nn.Module) -> Tensor:
    """Which accept images get their own label, bool [N]."""
    images, true = _accept(bench)
    return predictions(classifier, images) == true


def _accept(bench: Workbench) -> Known:
    """The images that judge a repair."""
    return Known(bench.shown(bench.roles.accept), bench.labels_N[bench.roles.accept])
