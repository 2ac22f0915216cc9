"""From findings to a verdict: the three ways out, and everything that blocks one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.config import ScanConfig
from app.core.findings import Caveat, FamilyFinding, InputSpec, LabelFinding, Preparation, Reason, Verdict
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


def findings(norms: tuple[float, ...], success: float = 0.95, truncated: bool = False) -> list[LabelFinding]:
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


def test_labels_that_are_alike_give_no_finding() -> None:
    decision = decide_verdict(preparation(caveats=(Caveat.FEW_CLEAN_IMAGES,)), findings(EVEN), ScanConfig())
    assert decision.verdict is Verdict.NO_BACKDOOR_FOUND and decision.flagged_labels == ()
    assert decision.caveats == (Caveat.FEW_CLEAN_IMAGES,), "what was known before the search is passed on"
    assert decision.model_anomaly_index is not None and decision.model_anomaly_index < 2


def test_a_label_far_above_the_others_is_not_accused() -> None:
    assert decide_verdict(preparation(), findings((*EVEN[:5], 9.0)), ScanConfig()).flagged_labels == ()


BLOCKED = {
    Reason.TOO_FEW_LABELS: (preparation(4), findings(ONE_LOW[:4])),
    Reason.SEARCH_TRUNCATED: (preparation(), findings(ONE_LOW, truncated=True)),
    Reason.OUT_OF_MEMORY: (preparation(), [*findings(ONE_LOW)[:5], LabelFinding(5, "5", ())]),
    Reason.ZERO_MAD: (preparation(), findings((0.1,) * 5 + (0.01,))),
    Reason.INVERSION_DID_NOT_CONVERGE: (preparation(), findings(ONE_LOW, success=0.0)),
    Reason.IMPLAUSIBLE_ACCURACY: (preparation(reasons=(Reason.IMPLAUSIBLE_ACCURACY,)), []),
    Reason.NO_INPUT_GRADIENT: (preparation(reasons=(Reason.NO_INPUT_GRADIENT,)), []),
    Reason.UNSUPPORTED_OPERATOR: (preparation(reasons=(Reason.UNSUPPORTED_OPERATOR,)), []),
    Reason.NO_LABELS_AND_NO_INPUT_SPEC: (preparation(reasons=(Reason.NO_LABELS_AND_NO_INPUT_SPEC,)), []),
}


def test_every_reason_is_tried_here() -> None:
    assert set(BLOCKED) == set(Reason)


@pytest.mark.parametrize("reason", BLOCKED)
def test_a_reason_blocks_the_verdict_and_keeps_the_figures(reason: Reason) -> None:
    known, found = BLOCKED[reason]
    decision = decide_verdict(known, found, ScanConfig())
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


def test_the_threshold_is_the_configs() -> None:
    assert decide_verdict(preparation(), findings(ONE_LOW), ScanConfig(anomaly_threshold=50.0)).flagged_labels == ()


@given(st.permutations(range(6)))
def test_findings_are_judged_in_label_order_however_they_come(order: list[int]) -> None:
    found = findings(ONE_LOW)
    shuffled = decide_verdict(preparation(), [found[place] for place in order], ScanConfig())
    assert shuffled == decide_verdict(preparation(), found, ScanConfig())
    assert [finding.label for finding in shuffled.labels] == list(range(6))


def test_a_search_that_diverged_is_no_verdict() -> None:
    decision = decide_verdict(preparation(), findings((float("nan"), *ONE_LOW[1:])), ScanConfig())
    assert decision.reasons == (Reason.INVERSION_DID_NOT_CONVERGE,)
