"""From the findings of all labels to a verdict. NumPy only: deciding needs no network.

A label's norm is evidence only together with the attack success it was reached at, so a search in which hardly any
label was reached decides nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from app.core.config import ScanConfig
from app.core.findings import Caveat, Decision, FamilyFinding, LabelFinding, Preparation, Reason, Verdict
from worker.detection.outliers import anomaly_indices, flagged

FEWEST_LABELS = 5  # with four norms the median absolute deviation says nothing (K = 2: the index is always 0.67)
REACHED = 0.5  # a flagged label's trigger must carry at least half of the images


def decide_verdict(preparation: Preparation, findings: Sequence[LabelFinding], config: ScanConfig) -> Decision:
    """Anomaly indices, flags and the verdict, in label order, over the labels that were searched.

    Whatever blocks a verdict is a reason; the figures are given all the same.
    """
    findings = sorted(findings, key=lambda finding: finding.label)
    searched = _judge([finding for finding in findings if finding.families], config.anomaly_threshold)
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
    if verdict is Verdict.BACKDOORED:
        caveats.append(Caveat.UNCONFIRMED)
    indices = [f.anomaly_index for finding in judged for f in finding.families if f.anomaly_index is not None]
    return Decision(verdict, tuple(judged), max(indices, default=None), tuple(reasons), tuple(caveats))


def _judge(findings: Sequence[LabelFinding], threshold: float) -> list[LabelFinding]:
    """The findings with each family's anomaly indices and flags, computed over all labels."""
    families = [finding.families for finding in findings]
    judged_by_family: list[list[FamilyFinding]] = []
    for column in zip(*families, strict=True):
        norms_K = np.array([finding.norm for finding in column])
        indices_K, flags_K = anomaly_indices(norms_K), flagged(norms_K, threshold)
        judged_by_family.append(
            [
                replace(f, anomaly_index=float(index) if np.isfinite(index) else None, flagged=bool(flag))
                for f, index, flag in zip(column, indices_K, flags_K, strict=True)
            ]
        )
    rows = zip(*judged_by_family, strict=True)
    return [replace(finding, families=tuple(row)) for finding, row in zip(findings, rows, strict=True)]


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
    elif any(f.anomaly_index is None for f in found):
        reasons.append(Reason.ZERO_MAD)
    elif any(f.flagged and f.attack_success_rate < REACHED for f in found) or _median_success(found) == 0.0:
        reasons.append(Reason.INVERSION_DID_NOT_CONVERGE)
    return reasons


def _median_success(found: Sequence[FamilyFinding]) -> float:
    return float(np.median([f.attack_success_rate for f in found])) if found else 0.0
