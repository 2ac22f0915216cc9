"""Which labels are easier to reach than chance allows: a step-out test on log norms, as an honest p-value.

    K labels   R simulations   S steps

One-sided generalised extreme studentised deviate (Rosner 1983, "Percentage points for a generalized ESD many-outlier
procedure"): remove the lowest label, then the lowest of the rest, up to a third of them, and ask of every step how
often chance alone removes one that far out. Steps are calibrated jointly, so two or three targets do not mask each
other (a leave-one-out test with a correction for many labels is blind to them). Where norms of reference networks are
given, what they explain is regressed out first: an easy label is easy for them, too.

The null hypothesis is normal errors of equal spread; by simulation it holds for any K and any reference. NumPy only.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_STEPS = 12  # outliers looked for; a third of the labels where these are fewer
SIMULATED = 200_000  # labels in all simulations together
FEWEST_SIMULATIONS, MOST_SIMULATIONS = 2_000, 20_000
SEED = 1


@dataclass(frozen=True)
class StepOut:
    """The outcome of the test; a p-value is never below one over the number of simulations."""

    p_value: float  # that chance alone makes any label stand out as much
    p_values_K: Floats  # of each label and all that are at least as far out; 1 for a label that was not removed
    deviates_K: Floats  # the studentised residual at which a label was removed, low norms positive; 0 for others


def step_out_test(log_norms_K: Floats, reference_K: Floats | None = None) -> StepOut:
    """Test log norms for low outliers, after regression on the log norms of references where these are given.

    Raises ValueError for fewer than five labels: of so few, none can be an outlier.
    """
    labels = len(log_norms_K)
    if labels < 5:
        raise ValueError(f"{labels} labels are too few for a test: at least 5 are needed")
    steps = min(labels // 3, MOST_STEPS)
    null_RS, smallest_R = _null(None if reference_K is None else tuple(reference_K.tolist()), labels, steps)
    simulations = len(null_RS)
    seen_1S, removed_1S = _step_out(log_norms_K[None], reference_K, steps)
    seen_S, removed_S = seen_1S[0], removed_1S[0]

    alone_S = (np.count_nonzero(null_RS >= seen_S, axis=0) + 1) / (simulations + 1)
    joint_S = (np.searchsorted(smallest_R, alone_S, side="right") + 1) / (simulations + 1)
    outer_S = np.minimum.accumulate(joint_S[::-1])[::-1]  # a label stands out with every label removed after it

    p_values_K, deviates_K = np.ones(labels), np.zeros(labels)
    p_values_K[removed_S], deviates_K[removed_S] = np.minimum(outer_S, 1.0), seen_S
    return StepOut(float(p_values_K.min()), p_values_K, deviates_K)


@lru_cache(maxsize=8)
def _null(reference: tuple[float, ...] | None, labels: int, steps: int) -> tuple[Floats, Floats]:
    """How far out chance alone removes labels, [R, S]; and the smallest share of its steps, sorted, [R]."""
    simulations = int(np.clip(SIMULATED // labels, FEWEST_SIMULATIONS, MOST_SIMULATIONS))
    chance_RK = np.random.default_rng(SEED).standard_normal((simulations, labels))
    null_RS, _ = _step_out(chance_RK, None if reference is None else np.array(reference), steps)
    ranks_RS = (-null_RS).argsort(axis=0).argsort(axis=0) + 1
    return null_RS, np.sort(ranks_RS.min(axis=1) / simulations)


def _step_out(values_RK: Floats, reference_K: Floats | None, steps: int) -> tuple[Floats, NDArray[np.intp]]:
    """Per row and step, how far out the label was that was removed, and which it was; each [R, S]."""
    kept_RK = np.ones(values_RK.shape, dtype=bool)
    rows = np.arange(len(values_RK))
    deviates, removed = [], []
    for _ in range(steps):
        deviates_RK = _deletion_deviates(values_RK, kept_RK, reference_K)
        lowest_R = deviates_RK.argmax(axis=1)
        deviates.append(deviates_RK[rows, lowest_R])
        removed.append(lowest_R)
        kept_RK[rows, lowest_R] = False
    return np.stack(deviates, axis=1), np.stack(removed, axis=1)


def _deletion_deviates(values_RK: Floats, kept_RK: NDArray[np.bool_], reference_K: Floats | None) -> Floats:
    """Externally studentised residuals of the labels that are kept, positive where a value is low; -inf for others.

    Each is t-distributed under the null: a label's distance from what all other kept labels predict for it
    (Cook & Weisberg 1982, "Residuals and Influence in Regression", sec. 2.2.1).
    """
    weights_RK = kept_RK.astype(np.float64)
    count_R1 = weights_RK.sum(1, keepdims=True)
    residuals_RK = values_RK - (weights_RK * values_RK).sum(1, keepdims=True) / count_R1
    leverage_RK = 1 / count_R1
    estimated = 1
    if reference_K is not None:
        centred_RK = reference_K - (weights_RK * reference_K).sum(1, keepdims=True) / count_R1
        square_R1 = (weights_RK * centred_RK**2).sum(1, keepdims=True)
        slope_R1 = (weights_RK * centred_RK * residuals_RK).sum(1, keepdims=True) / square_R1
        residuals_RK = residuals_RK - slope_R1 * centred_RK
        leverage_RK = leverage_RK + centred_RK**2 / square_R1
        estimated = 2
    free_RK = np.where(kept_RK, 1 - leverage_RK, 1.0)
    error_R1 = (weights_RK * residuals_RK**2).sum(1, keepdims=True)
    variance_RK = (error_R1 - residuals_RK**2 / free_RK) / (count_R1 - estimated - 1)
    deviates_RK = -residuals_RK / np.sqrt(np.maximum(variance_RK, np.finfo(np.float64).tiny) * free_RK)
    return np.where(kept_RK, deviates_RK, -np.inf)
