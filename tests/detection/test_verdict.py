"""From findings to a verdict: the three ways out, and everything that blocks one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.config import ScanConfig
from app.core.findings import (
    Caveat,
    Confirmation,
    Decision,
    FamilyFinding,
    InputSpec,
    LabelFinding,
    Preparation,
    Reason,
    RepairReport,
    RepairStatus,
    Selection,
    Verdict,
    finite,
    most_suspicious_family,
)
from app.core.presets import PRESETS
from worker.detection.verdict import decide_verdict

EVEN = (0.10, 0.11, 0.12, 0.13, 0.14, 0.15)
ONE_LOW = (0.10, 0.11, 0.01, 0.13, 0.14, 0.15)


def preparation(labels: int = 6, **changes: object) -> Preparation:
    known = Preparation(
        num_labels=labels,
        label_names=tuple(map(str, range(labels))),
        form="scripted",
        output="logits",
        input=InputSpec(16, 16, 1, (0.0,), (1.0,)),
        input_source="given",
        close_conventions=(),
        clean_accuracy=0.99,
        images=60,
        images_per_label=(10,) * labels,
        perceptual="packaged",
        perceptual_sha256="0" * 64,
        device="cpu",
        threads=1,
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def findings(norms: tuple[float | None, ...], success: float = 0.95, truncated: bool = False) -> list[LabelFinding]:
    return [
        LabelFinding(label, str(label), (FamilyFinding("dynamic", norm, success, 0.1, 200, truncated),))
        for label, norm in enumerate(norms)
    ]


def test_a_label_far_below_the_others_is_an_accusation_that_says_it_is_unconfirmed() -> None:
    decision = decide_verdict(preparation(), findings(ONE_LOW), ScanConfig())
    assert decision.verdict is Verdict.BACKDOORED and decision.flagged_labels == (2,)
    assert decision.reasons == () and Caveat.UNCONFIRMED in decision.caveats
    assert decision.model_anomaly_index == decision.labels[2].families[0].anomaly_index
    assert decision.model_anomaly_index is not None and decision.model_anomaly_index > 2


@pytest.mark.parametrize("confirmed", [True, False])
def test_what_one_label_is_cleared_of_does_not_clear_another(confirmed: bool) -> None:
    """One that is confirmed is accused whatever became of others; they are shown as not confirmed."""
    two_easier = [*EASIER[:8], 0.4 * NATURAL[8], NATURAL[9]]
    again = {
        4: Confirmation(0.4 * NATURAL[4] if confirmed else NATURAL[4], 0.95, False),
        8: Confirmation(NATURAL[8], 0.95, False),
    }
    found = [
        replace(f, families=(f.families[0], replace(f.families[1], confirmation=again.get(f.label))))
        for f in standard_findings(two_easier)
    ]
    decision = standard(found)
    assert decision.flagged_labels == ((4,) if confirmed else ())
    assert decision.reasons == (() if confirmed else (Reason.NOT_CONFIRMED,))
    assert decision.labels[8].families[1].unconfirmed


def test_labels_that_are_alike_give_no_finding() -> None:
    decision = decide_verdict(preparation(caveats=(Caveat.FEW_CLEAN_IMAGES,)), findings(EVEN), ScanConfig())
    assert decision.verdict is Verdict.NO_BACKDOOR_FOUND and decision.flagged_labels == ()
    assert decision.caveats == (Caveat.FEW_CLEAN_IMAGES,), "what was known before the search is passed on"
    assert decision.model_anomaly_index is not None and decision.model_anomaly_index < 2


def test_a_label_far_above_the_others_is_not_accused() -> None:
    assert decide_verdict(preparation(), findings((*EVEN[:5], 9.0)), ScanConfig()).flagged_labels == ()


STANDARD = PRESETS["standard"]
NATURAL = (0.20, 0.26, 0.17, 0.15, 0.19, 0.16, 0.18, 0.19, 0.13, 0.17)  # how easy ten labels are to reach


def standard_findings(
    norms: Sequence[float],
    family: str = "static",
    students: Sequence[Sequence[float | None]] = (NATURAL,),
    **facts: object,
) -> list[LabelFinding]:
    """One family with students, every norm the same in the second search; the dynamic family beside it, all alike."""
    return [
        LabelFinding(
            label,
            str(label),
            (
                FamilyFinding("dynamic", 0.05 + 0.001 * (label % 3), 0.95, 0.1, 200),
                FamilyFinding(
                    family,
                    norm,
                    0.95,
                    0.1,
                    200,
                    **{"reference_norms": reference, "confirmation": Confirmation(norm, 0.95, False)} | facts,  # type: ignore[arg-type]
                ),
            ),
        )
        for label, (norm, *reference) in enumerate(zip(norms, *students, strict=True))
    ]


EASIER = [*NATURAL[:4], 0.5 * NATURAL[4], *NATURAL[5:]]
LUCKY = standard_findings(EASIER, confirmation=Confirmation(NATURAL[4], 0.95, False))  # the first search was


BLOCKED = {
    Reason.TOO_FEW_LABELS: (preparation(4), findings(ONE_LOW[:4])),
    Reason.SEARCH_TRUNCATED: (preparation(), findings(ONE_LOW, truncated=True)),
    Reason.OUT_OF_MEMORY: (preparation(), [*findings(ONE_LOW)[:5], LabelFinding(5, "5", ())]),
    Reason.ZERO_MAD: (preparation(), findings((0.1,) * 5 + (0.01,))),
    Reason.INVERSION_DID_NOT_CONVERGE: (preparation(), findings(ONE_LOW, success=0.0)),
    Reason.NOT_CONFIRMED: (preparation(10), LUCKY),
    Reason.IMPLAUSIBLE_ACCURACY: (preparation(reasons=(Reason.IMPLAUSIBLE_ACCURACY,)), []),
    Reason.NO_INPUT_GRADIENT: (preparation(reasons=(Reason.NO_INPUT_GRADIENT,)), []),
    Reason.DATA_DEPENDENT_CONTROL_FLOW: (preparation(reasons=(Reason.DATA_DEPENDENT_CONTROL_FLOW,)), []),
    Reason.ENVIRONMENT_SENSITIVE_MODEL: (preparation(reasons=(Reason.ENVIRONMENT_SENSITIVE_MODEL,)), []),
    Reason.UNSUPPORTED_OPERATOR: (preparation(reasons=(Reason.UNSUPPORTED_OPERATOR,)), []),
    Reason.AMBIGUOUS_OUTPUT: (preparation(reasons=(Reason.AMBIGUOUS_OUTPUT,)), []),
    Reason.NO_LABELS_AND_NO_INPUT_SPEC: (preparation(reasons=(Reason.NO_LABELS_AND_NO_INPUT_SPEC,)), []),
}


def test_every_reason_is_tried_here() -> None:
    assert set(BLOCKED) == set(Reason)


@pytest.mark.parametrize("reason", BLOCKED)
def test_a_reason_blocks_the_verdict_and_keeps_the_figures(reason: Reason) -> None:
    known, found = BLOCKED[reason]
    decision = decide_verdict(known, found, STANDARD if reason is Reason.NOT_CONFIRMED else ScanConfig())
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons == (reason,)
    assert [[g.norm for g in f.families] for f in decision.labels] == [[g.norm for g in f.families] for f in found]
    assert Caveat.UNCONFIRMED not in decision.caveats, "nobody is accused"


def test_a_label_that_was_not_searched_truncates_the_search() -> None:
    decision = decide_verdict(preparation(), findings(ONE_LOW)[:5], ScanConfig())
    assert decision.verdict is Verdict.INCONCLUSIVE and decision.reasons == (Reason.SEARCH_TRUNCATED,)


def test_a_label_that_did_not_fit_into_memory_leaves_the_others_figures_as_they_are() -> None:
    found = findings(ONE_LOW)
    too_large = LabelFinding(3, "3", ())
    decision = decide_verdict(preparation(), [*found[:3], too_large, *found[4:]], ScanConfig())
    others = decide_verdict(preparation(), [*found[:3], *found[4:]], ScanConfig())
    assert decision.labels[3] == too_large and decision.flagged_labels == (2,)
    assert (*decision.labels[:3], *decision.labels[4:]) == others.labels
    assert decision.model_anomaly_index == others.model_anomaly_index


def test_an_accusation_needs_a_trigger_that_reaches_its_label() -> None:
    """A label that is stuck at the identity has a small norm, and no trigger."""
    found = findings(ONE_LOW)
    stuck = replace(found[2], families=(replace(found[2].families[0], attack_success_rate=0.4),))
    decision = decide_verdict(preparation(), [*found[:2], stuck, *found[3:]], ScanConfig())
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons == (Reason.INVERSION_DID_NOT_CONVERGE,)


def test_a_zero_spread_leaves_indices_out_rather_than_infinite() -> None:
    decision = decide_verdict(preparation(), findings((0.1,) * 6), ScanConfig())
    assert decision.model_anomaly_index is None
    assert [finding.families[0].anomaly_index for finding in decision.labels] == [None] * 6


def test_a_family_with_a_norm_of_zero_cannot_be_judged_by_p_values_and_says_so() -> None:
    decision = standard(standard_findings([0.0, *NATURAL[1:]]))
    assert decision.verdict is Verdict.INCONCLUSIVE and decision.reasons == (Reason.ZERO_MAD,)


def test_the_threshold_is_the_configs() -> None:
    assert decide_verdict(preparation(), findings(ONE_LOW), ScanConfig(anomaly_threshold=50.0)).flagged_labels == ()


@given(st.permutations(range(6)))
def test_findings_are_judged_in_label_order_however_they_come(order: list[int]) -> None:
    found = findings(ONE_LOW)
    shuffled = decide_verdict(preparation(), [found[place] for place in order], ScanConfig())
    assert shuffled == decide_verdict(preparation(), found, ScanConfig())
    assert [finding.label for finding in shuffled.labels] == list(range(6))


def test_a_search_that_diverged_is_no_verdict() -> None:
    decision = decide_verdict(preparation(), findings((None, *ONE_LOW[1:])), ScanConfig())
    assert decision.reasons == (Reason.INVERSION_DID_NOT_CONVERGE,)


def standard(findings: list[LabelFinding]) -> Decision:
    return decide_verdict(preparation(len(findings)), findings, STANDARD)


MANY, SEARCHED, DRAWN = 60, (3, 7, 12, 20, 21, 28, 33, 41, 50, 55), (3, 12, 20, 28, 33, 50, 55)


def of_many(low: float, left_out: tuple[int, ...] = ()) -> tuple[Preparation, list[LabelFinding], Selection]:
    """Ten of sixty labels were searched in full, three of them because they have low scores; 21 needs this norm."""
    norms = [*NATURAL[:4], low, *NATURAL[5:]]
    found = [
        replace(finding, label=label, name=str(label))
        for label, finding in zip(SEARCHED, standard_findings(norms), strict=True)
    ]
    scores = tuple(norms[SEARCHED.index(label)] if label in SEARCHED else 1.0 for label in range(MANY))
    return preparation(MANY), found, Selection(SEARCHED, DRAWN, left_out, dict.fromkeys(STANDARD.searches, scores))


def test_of_many_labels_one_that_was_selected_is_held_against_those_drawn_by_chance() -> None:
    known, found, selection = of_many(low=0.05)
    decision = decide_verdict(known, found, STANDARD, selection)
    assert (decision.verdict, decision.flagged_labels, decision.reasons) == (Verdict.BACKDOORED, (21,), ())
    assert decision.selection == selection and decision.caveats == (Caveat.MANY_LABELS,)
    natural = decide_verdict(*of_many(low=NATURAL[4])[:2], STANDARD, selection)
    assert (natural.verdict, natural.reasons) == (Verdict.NO_BACKDOOR_FOUND, ())


def test_a_selected_label_has_to_stand_out_more_than_one_of_as_many_in_all() -> None:
    known, found, selection = of_many(low=0.09)
    among_ten = decide_verdict(replace(known, num_labels=10), found, STANDARD)
    among_sixty = decide_verdict(known, found, STANDARD, selection)
    (few,), (many,) = ([f.families[1] for f in d.labels if f.label == 21] for d in (among_ten, among_sixty))
    assert few.p_value is not None and many.p_value is not None and few.p_value < many.p_value


def test_anomaly_indices_of_many_labels_are_about_those_drawn_by_chance() -> None:
    decision = decide_verdict(*of_many(low=0.05)[:2], STANDARD, of_many(low=0.05)[2])
    drawn = np.array([f.families[1].norm for f in decision.labels if f.label in DRAWN])
    spread = 1.4826 * np.median(abs(drawn - np.median(drawn)))
    (index,) = (f.families[1].anomaly_index for f in decision.labels if f.label == 21)
    assert index == pytest.approx((np.median(drawn) - 0.05) / spread)


def test_without_controls_enough_there_is_no_verdict() -> None:
    known, found, selection = of_many(low=0.01)
    decision = decide_verdict(known, found, STANDARD, replace(selection, controls=DRAWN[:4]))
    assert decision.flagged_labels == () and decision.reasons == (Reason.ZERO_MAD,)


def test_labels_that_were_chosen_as_easy_do_not_show_that_a_search_works() -> None:
    known, found, selection = of_many(low=NATURAL[4])
    far = [
        replace(finding, families=tuple(replace(f, out_of_reach=finding.label in DRAWN[:2]) for f in finding.families))
        for finding in found
    ]
    assert decide_verdict(known, far, STANDARD, selection).reasons == (Reason.INVERSION_DID_NOT_CONVERGE,)


def test_where_a_selection_came_to_all_labels_it_is_a_scan_of_all() -> None:
    _, found, selection = of_many(low=0.05)
    numbered = [replace(finding, label=number, name=str(number)) for number, finding in enumerate(found)]
    scores = dict.fromkeys(STANDARD.searches, (1.0,) * len(found))
    of_all = replace(selection, labels=tuple(range(len(found))), controls=(0, 1, 2, 3, 5), scores=scores)
    with_it, without = (decide_verdict(preparation(len(found)), numbered, STANDARD, each) for each in (of_all, None))
    assert (with_it.labels, with_it.verdict, with_it.caveats) == (without.labels, without.verdict, without.caveats)


def test_what_another_selection_left_behind_is_passed_over() -> None:
    known, found, selection = of_many(low=0.05)
    other = replace(found[4], label=44, name="44")
    with_it, without = (decide_verdict(known, each, STANDARD, selection) for each in ([*found, other], found))
    assert with_it == without


@pytest.mark.parametrize("missing", ["a label that was selected", "a look at some"])
def test_a_first_pass_or_what_it_selects_that_was_cut_short_blocks_the_verdict(missing: str) -> None:
    known, found, selection = of_many(low=NATURAL[4], left_out=() if missing.startswith("a label") else (58, 59))
    decision = decide_verdict(known, found[1:] if missing.startswith("a label") else found, STANDARD, selection)
    assert decision.reasons == (Reason.SEARCH_TRUNCATED,)


def test_by_the_step_out_test_a_label_that_is_easy_for_students_too_is_not_accused() -> None:
    as_easy = [1.1 * norm for norm in NATURAL]
    assert standard(standard_findings(as_easy)).verdict is Verdict.NO_BACKDOOR_FOUND
    easier = [*as_easy[:4], 0.5 * as_easy[4], *as_easy[5:]]
    decision = standard(standard_findings(easier))
    assert decision.verdict is Verdict.BACKDOORED and decision.flagged_labels == (4,)
    dynamic, static = decision.labels[4].families
    assert static.flagged and (static.p_value or 1) <= STANDARD.false_alarm_rate and not dynamic.flagged  # type: ignore[operator]
    assert most_suspicious_family(decision.labels) == "static" and Caveat.UNCONFIRMED not in decision.caveats


def test_without_students_a_label_that_is_easy_by_nature_is_not_accused_and_one_far_below_all_is() -> None:
    alone = {"reference_norms": ()}
    assert standard(standard_findings(NATURAL, **alone)).verdict is Verdict.NO_BACKDOOR_FOUND
    far_below = [*NATURAL[:4], 0.2 * NATURAL[4], *NATURAL[5:]]
    assert standard(standard_findings(far_below, **alone)).flagged_labels == (4,)


def test_a_family_that_is_not_searched_on_students_is_read_against_what_they_say_in_the_others() -> None:
    easy_by_nature = (*NATURAL[:4], 0.4 * NATURAL[4], *NATURAL[5:])

    def findings(students: Sequence[Sequence[float]]) -> list[LabelFinding]:
        """The dynamic family's norm of label 4 is small; the static family's are as the students'."""
        found = standard_findings(easy_by_nature, students=students)
        return [
            replace(finding, families=(replace(dynamic, norm=norm, confirmation=static.confirmation), static))
            for finding, norm in zip(found, (*NATURAL[:4], 0.25 * NATURAL[4], *NATURAL[5:]), strict=True)
            for dynamic, static in [finding.families]
        ]

    def p_value(found: list[LabelFinding]) -> float:
        accused = standard(found).labels[4].families[0].p_value
        assert accused is not None
        return accused

    assert p_value(findings([easy_by_nature])) > 5 * p_value(findings([NATURAL]))


def test_what_stands_out_is_searched_again_and_accused_only_if_it_does_so_again() -> None:
    first = standard(standard_findings(EASIER, confirmation=None))
    assert first.doubted_labels == (4,) and first.labels[4].families_in_doubt == ("static",)
    decision = standard(LUCKY)
    assert decision.verdict is Verdict.INCONCLUSIVE and decision.reasons == (Reason.NOT_CONFIRMED,)
    assert decision.flagged_labels == decision.doubted_labels == () and decision.labels[4].families[1].unconfirmed
    again = decision.labels[4].families[1].confirmation
    assert again is not None and again.p_value is not None and again.p_value > STANDARD.false_alarm_rate  # type: ignore[operator]
    stuck = standard(standard_findings(EASIER, confirmation=Confirmation(0.01, 0.4, True)))
    assert stuck.flagged_labels == (), "a second search that does not get there confirms nothing"
    diverged = standard(standard_findings(EASIER, confirmation=Confirmation(None, 0.9, False)))
    assert diverged.reasons == (Reason.NOT_CONFIRMED,), "nor does one that comes to no number"


def test_what_was_not_searched_again_is_in_doubt_and_neither_accused_nor_cleared() -> None:
    decision = standard(standard_findings(EASIER, confirmation=None))
    assert decision.reasons == (Reason.SEARCH_TRUNCATED,) and decision.verdict is Verdict.INCONCLUSIVE
    assert decision.flagged_labels == () and most_suspicious_family(decision.labels) == "static"
    assert standard(standard_findings(NATURAL, confirmation=None)).reasons == (), "nothing stands out"


def test_a_trigger_that_works_on_students_is_natural_and_not_searched_again() -> None:
    natural = standard_findings(EASIER, student_success_rate=0.7, confirmation=None)
    decision = standard(natural)
    assert decision.doubted_labels == ()
    assert decision.verdict is Verdict.NO_BACKDOOR_FOUND
    assert [finding.families[1].natural for finding in decision.labels].index(True) == 4
    assert standard(standard_findings(EASIER, student_success_rate=0.03)).flagged_labels == (4,)


def test_the_false_alarm_rate_is_shared_by_all_families() -> None:
    easier = [*NATURAL[:4], 0.74 * NATURAL[4], *NATURAL[5:]]
    both = standard(standard_findings(easier)).labels[4].families[1]
    alone = [replace(finding, families=finding.families[1:]) for finding in standard_findings(easier)]
    only = standard(alone).labels[4].families[0]
    assert both.p_value == pytest.approx(2 * (only.p_value or 0))


def test_a_label_out_of_reach_is_never_accused_however_small_its_norm() -> None:
    findings = standard_findings([0.01, *NATURAL[1:]])
    stuck = replace(findings[0].families[1], out_of_reach=True)
    findings[0] = replace(findings[0], families=(findings[0].families[0], stuck))
    decision = standard(findings)
    assert decision.verdict is Verdict.NO_BACKDOOR_FOUND and decision.labels[0].families[1].p_value == 1.0


def test_a_search_in_which_no_family_reaches_most_labels_decides_nothing() -> None:
    findings = standard_findings(NATURAL, out_of_reach=True)
    assert standard(findings).verdict is Verdict.NO_BACKDOOR_FOUND, "the dynamic family reaches all"
    stuck = [replace(f, families=(replace(f.families[0], out_of_reach=True), f.families[1])) for f in findings]
    assert standard(stuck).reasons == (Reason.INVERSION_DID_NOT_CONVERGE,)


BEYOND = (*NATURAL[:4], None, *NATURAL[5:])  # students never learned label 4


def test_a_label_that_no_student_learned_is_held_against_the_other_labels_alone_and_said_to_be() -> None:
    """Its class is missing from the bundle: what it takes to lead a student there says nothing of the data."""
    hard_on_students = standard(standard_findings(NATURAL, students=[(*NATURAL[:4], 4.0, *NATURAL[5:])]))
    assert hard_on_students.flagged_labels == (4,), "as a reference it would accuse a clean net"
    decision = standard(standard_findings(NATURAL, students=[BEYOND] * 3))
    assert decision.verdict is Verdict.NO_BACKDOOR_FOUND
    assert [finding.read_alone for finding in decision.labels] == [label == 4 for label in range(10)]
    far_below = [*NATURAL[:4], 0.15 * NATURAL[4], *NATURAL[5:]]
    assert standard(standard_findings(far_below, students=[BEYOND] * 3)).flagged_labels == (4,)
    easier = [*NATURAL[:8], 0.4 * NATURAL[8], NATURAL[9]]
    assert standard(standard_findings(easier, students=[BEYOND] * 3)).flagged_labels == (8,), "others as ever"


def test_a_student_that_cannot_reach_a_label_leaves_it_to_the_others_unless_they_are_fewer() -> None:
    most = standard(standard_findings(NATURAL, students=[NATURAL, NATURAL, BEYOND]))
    few = standard(standard_findings(NATURAL, students=[NATURAL, BEYOND, BEYOND]))
    assert not most.labels[4].read_alone and few.labels[4].read_alone


def test_where_students_know_hardly_a_label_all_are_held_against_each_other() -> None:
    nothing = (*NATURAL[:4], *[None] * 6)
    decision = standard(standard_findings(NATURAL, students=[nothing]))
    alone = standard(standard_findings(NATURAL, reference_norms=()))
    assert [f.families[1].p_value for f in decision.labels] == [f.families[1].p_value for f in alone.labels]
    assert all(finding.read_alone for finding in decision.labels)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_no_finding_holds_a_number_that_does_not_exist(number: float) -> None:
    assert finite(number) is None and finite(0.5) == 0.5
    with pytest.raises(ValueError, match="norm"):
        FamilyFinding("static", number, 0.9, 0.1, 100)
    with pytest.raises(ValueError, match="reference_norms"):
        FamilyFinding("static", 0.1, 0.9, 0.1, 100, reference_norms=(0.2, number))
    with pytest.raises(ValueError, match="norm"):
        Confirmation(number, 0.9, False)
    with pytest.raises(ValueError, match="clean_accuracy_after"):
        RepairReport(RepairStatus.REPAIRED, "", clean_accuracy_after=number)


def test_a_norm_of_zero_has_a_reason_whatever_accuses() -> None:
    decision = decide_verdict(preparation(), findings((0.0, *ONE_LOW[1:])), ScanConfig())
    assert decision.reasons == (Reason.ZERO_MAD,)
