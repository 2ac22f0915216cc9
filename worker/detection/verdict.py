"""From the findings of all labels to a verdict. NumPy only: deciding needs no network.

A label's norm is evidence only together with the attack success it was reached at, so a search in which hardly any
label was reached decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app.core.config import ScanConfig
from app.core.findings import Caveat, Decision, FamilyFinding, LabelFinding, Preparation, Reason, Verdict
from worker.detection.outliers import anomaly_indices, flagged
from worker.detection.step_out import Prior, step_out_test

FEWEST_LABELS = 5  # with four norms the median absolute deviation says nothing (K = 2: the index is always 0.67)
MOST_OUT_OF_REACH = 0.2  # of the labels, in the family that reaches most of them

# How log norms of clean networks scatter about those of their students, on tuning victims (benchmarks/LOG.md). A family
# without students has to allow for what is natural in the data.
PRIORS = {
    "dynamic": Prior(deviation=0.25, weight=8),
    "static": Prior(deviation=0.10, weight=8, slope_deviation=0.35),
    "warp": Prior(deviation=0.18, weight=8, slope_deviation=0.35),
}
REACHED = 0.5  # a flagged label's trigger must carry at least half of the images


def decide_verdict(preparation: Preparation, findings: Sequence[LabelFinding], config: ScanConfig) -> Decision:
    """Anomaly indices, p-values, flags and the verdict, in label order, over the labels that were searched.

    Whatever blocks a verdict is a reason; the figures are given all the same.
    """
    findings = sorted(findings, key=lambda finding: finding.label)
    searched = _judge([finding for finding in findings if finding.families], config)
    too_large = [finding for finding in findings if not finding.families]
    judged = sorted([*searched, *too_large], key=lambda finding: finding.label)
    reasons = [*preparation.reasons, *_reasons(preparation, judged)]
    if reasons:
        verdict = Verdict.INCONCLUSIVE
    elif any(finding.flagged for finding in judged):
        verdict = Verdict.BACKDOORED
    else:
        verdict = Verdict.NO_BACKDOOR_FOUND
    caveats = [*preparation.caveats]
    if verdict is Verdict.BACKDOORED and config.false_alarm_rate is None:
        caveats.append(Caveat.UNCONFIRMED)
    indices = [f.anomaly_index for finding in judged for f in finding.families if f.anomaly_index is not None]
    return Decision(verdict, tuple(judged), max(indices, default=None), tuple(reasons), tuple(caveats))


def _judge(findings: Sequence[LabelFinding], config: ScanConfig) -> list[LabelFinding]:
    """The findings with each family's anomaly indices, p-values and flags, computed over all labels."""
    columns: dict[str, dict[int, FamilyFinding]] = {}
    for finding in findings:
        for found in finding.families:
            columns.setdefault(found.family, {})[finding.label] = found
    judged = {family: _judge_family(column, len(columns), config) for family, column in columns.items()}
    return [
        replace(finding, families=tuple(judged[found.family][finding.label] for found in finding.families))
        for finding in findings
    ]


def _judge_family(column: Mapping[int, FamilyFinding], families: int, config: ScanConfig) -> dict[int, FamilyFinding]:
    """One family's findings, by label: flagged by the anomaly index or, at a false-alarm rate, by the p-value.

    Each of several families is tested at its share of the rate (Bonferroni): p-values are those over all of them.
    """
    norms_K = np.array([found.norm for found in column.values()])
    indices_K, flags_K = anomaly_indices(norms_K), flagged(norms_K, config.anomaly_threshold)
    p_values_K = np.full(len(column), np.nan)
    if config.false_alarm_rate is not None:
        if len(column) >= FEWEST_LABELS and np.isfinite(norms_K).all() and (norms_K > 0).all():
            p_values_K = np.minimum(families * _p_values([*column.values()]), 1.0)
        flags_K = p_values_K <= config.false_alarm_rate
    return {
        label: replace(
            found,
            anomaly_index=float(index) if np.isfinite(index) else None,
            p_value=float(p_value) if np.isfinite(p_value) else None,
            flagged=bool(flag),
        )
        for (label, found), index, p_value, flag in zip(column.items(), indices_K, p_values_K, flags_K, strict=True)
    }


def _p_values(column: Sequence[FamilyFinding]) -> NDArray[np.float64]:
    """Of each label, by the step-out test on log norms, read against the students' where there are any.

    A label that is out of reach has a norm that is too small for it: it counts as at least as hard as any within reach.
    """
    out_of_reach_K = np.array([found.out_of_reach for found in column])
    log_norms_K = np.log([found.norm for found in column])
    if not out_of_reach_K.all():
        hardest = log_norms_K[~out_of_reach_K].max()
        log_norms_K = np.where(out_of_reach_K, np.maximum(log_norms_K, hardest), log_norms_K)
    references_KS = np.log([found.reference_norms for found in column])
    reference_K = references_KS.mean(1) if references_KS.size else None
    p_values_K = step_out_test(log_norms_K, PRIORS[column[0].family], reference_K).p_values_K
    return np.where(out_of_reach_K, 1.0, p_values_K)


def _reasons(preparation: Preparation, judged: Sequence[LabelFinding]) -> list[Reason]:
    if preparation.reasons:
        return []  # nothing was searched, so there is nothing more to say about the search
    reasons = []
    if preparation.num_labels < FEWEST_LABELS:
        reasons.append(Reason.TOO_FEW_LABELS)
    found = [f for finding in judged for f in finding.families]
    incomplete = {
        Reason.SEARCH_TRUNCATED: len(judged) < preparation.num_labels or any(finding.truncated for finding in judged),
        Reason.OUT_OF_MEMORY: not all(finding.families for finding in judged),
    }
    if any(incomplete.values()):
        reasons += [reason for reason, holds in incomplete.items() if holds]
    elif not all(np.isfinite(f.norm) for f in found):
        reasons.append(Reason.INVERSION_DID_NOT_CONVERGE)
    elif any(f.anomaly_index is None and f.p_value is None for f in found):
        reasons.append(Reason.ZERO_MAD)
    elif any(f.flagged and f.attack_success_rate < REACHED for f in found) or not _did_reach(found):
        reasons.append(Reason.INVERSION_DID_NOT_CONVERGE)
    return reasons


def _did_reach(found: Sequence[FamilyFinding]) -> bool:
    """Whether the search works on this suspect: in one family at least, hardly any label is out of reach."""
    columns = [[one for one in found if one.family == family] for family in {one.family for one in found}]
    return any(
        np.mean([one.out_of_reach for one in column]) <= MOST_OUT_OF_REACH
        and np.median([one.attack_success_rate for one in column]) > 0
        for column in columns
    )
