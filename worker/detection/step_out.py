"""Which labels are easier to reach than chance allows: a step-out test on log norms, as an honest p-value.

    K labels   R simulations   S steps

One-sided generalised extreme studentised deviate (Rosner 1983, "Percentage points for a generalized ESD many-outlier
procedure"): remove the lowest label, then the lowest of the rest, up to a third of them, and ask of every step how
often chance alone puts the lowest of as many labels that far out. (Rosner asks how often chance removes one that far
out in that step: of labels beside a true target that accuses too many, as the lowest of nine is no second lowest of
ten.) Steps are calibrated jointly, so two or three targets do not mask each other (a leave-one-out test with a
correction for many labels is blind to them). Where norms of reference networks are given, what they explain is taken
out first: an easy label is easy for them, too.

Ten labels say little about how far labels scatter by nature, so that is drawn towards what clean networks show, and so
is the slope on the references (Smyth 2004, "Linear models and empirical Bayes methods", sec. 3). The null hypothesis is
a clean network drawn from this prior, with normal errors; it is simulated, for any K and any reference. NumPy only.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from app.core.families import Prior

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

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


def step_out_test(log_norms_K: Floats, prior: Prior, reference_K: Floats | None = None) -> StepOut:
    """Test log norms for low outliers, about the log norms of references where these are given.

    Raises ValueError for fewer than five labels: of so few, none can be an outlier.
    """
    labels = len(log_norms_K)
    if labels < 5:
        raise ValueError(f"{labels} labels are too few for a test: at least 5 are needed")
    steps = min(labels // 3, MOST_STEPS)
    reference = np.zeros(labels) if reference_K is None else reference_K
    lowest_SR, smallest_R = _null(tuple(reference.tolist()), prior, steps)
    seen_1S, removed_1S = step_out((log_norms_K - reference)[None], reference, prior, steps)
    seen_S, removed_S = seen_1S[0], removed_1S[0]

    alone_S = _shares_at_least(lowest_SR, seen_1S)[0]
    joint_S = (np.searchsorted(smallest_R, alone_S, side="right") + 1) / (len(smallest_R) + 1)
    outer_S = np.minimum.accumulate(joint_S[::-1])[::-1]  # a label stands out with every label removed after it

    p_values_K, deviates_K = np.ones(labels), np.zeros(labels)
    p_values_K[removed_S], deviates_K[removed_S] = np.minimum(outer_S, 1.0), seen_S
    return StepOut(float(p_values_K.min()), p_values_K, deviates_K)


@lru_cache(maxsize=8)
def _null(reference: tuple[float, ...], prior: Prior, steps: int) -> tuple[Floats, Floats]:
    """What chance alone does: how far out the lowest label is once as many others are removed as before each step,
    sorted, [S, R]; and the smallest share that any step of a test comes to, sorted, [R].
    """
    reference_K = np.array(reference)
    labels = len(reference_K)
    simulations = int(np.clip(SIMULATED // labels, FEWEST_SIMULATIONS, MOST_SIMULATIONS))
    random = np.random.default_rng(SEED)
    scale_R1, slopes_R1 = drawn_from(prior, simulations, random)
    errors_RK = prior.deviation * random.standard_normal((simulations, labels))
    chance_RK = scale_R1 * (errors_RK + slopes_R1 * reference_K)
    place_RK = random.permuted(np.tile(np.arange(labels), (simulations, 1)), axis=1)
    lowest_SR = np.stack(
        [_deletion_deviates(chance_RK, place_RK >= step, reference_K, prior).max(axis=1) for step in range(steps)]
    )
    lowest_SR.sort(axis=1)
    null_RS, _ = step_out(chance_RK, reference_K, prior, steps)
    return lowest_SR, np.sort(_shares_at_least(lowest_SR, null_RS).min(axis=1))


def _shares_at_least(lowest_SR: Floats, deviates_NS: Floats) -> Floats:
    """Of each deviate, the share of chance's in the same step that are at least as large, itself among them: [N, S]."""
    simulations = lowest_SR.shape[1]
    below_SN = [np.searchsorted(chance_R, seen_N) for chance_R, seen_N in zip(lowest_SR, deviates_NS.T, strict=True)]
    return (simulations - np.stack(below_SN, axis=1) + 1) / (simulations + 1)  # type: ignore[no-any-return]


def drawn_from(prior: Prior, simulations: int, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Of clean networks, by what errors are larger than usual, and their slopes on the references; each [R, 1]."""
    scale_R1 = np.ones((simulations, 1))
    if prior.weight:
        scale_R1 = np.sqrt(prior.weight / random.chisquare(prior.weight, (simulations, 1)))
    return scale_R1, prior.slope_deviation * random.standard_normal((simulations, 1))


def step_out(
    excess_RK: Floats, reference_K: Floats, prior: Prior, steps: int, sample_K: Mask | None = None
) -> tuple[Floats, NDArray[np.intp]]:
    """Per row and step, how far out the label was that was removed, and which it was; each [R, S].

    `excess_RK` are log norms less those of the references, and `sample_K` the labels that are like all others; None:
    each is.
    """
    kept_RK = np.ones(excess_RK.shape, dtype=bool)
    rows = np.arange(len(excess_RK))
    deviates, removed = [], []
    for _ in range(steps):
        deviates_RK = _deletion_deviates(excess_RK, kept_RK, reference_K, prior, sample_K)
        lowest_R = deviates_RK.argmax(axis=1)
        deviates.append(deviates_RK[rows, lowest_R])
        removed.append(lowest_R)
        kept_RK[rows, lowest_R] = False
    return np.stack(deviates, axis=1), np.stack(removed, axis=1)


def _deletion_deviates(
    excess_RK: Floats, kept_RK: Mask, reference_K: Floats, prior: Prior, sample_K: Mask | None = None
) -> Floats:
    """Externally studentised residuals of the labels that are kept, positive where a value is low; -inf for others.

    Each is a label's distance from what all other kept labels of the sample and the prior predict for it (Cook &
    Weisberg 1982, "Residuals and Influence in Regression", sec. 2.2.1; the prior of the slope is one more observation
    of it).
    """
    weights_RK = (kept_RK if sample_K is None else kept_RK & sample_K).astype(np.float64)
    count_R1 = weights_RK.sum(1, keepdims=True)
    residuals_RK = excess_RK - (weights_RK * excess_RK).sum(1, keepdims=True) / count_R1
    centred_RK = reference_K - (weights_RK * reference_K).sum(1, keepdims=True) / count_R1
    known = (prior.deviation / prior.slope_deviation) ** 2
    square_R1 = (weights_RK * centred_RK**2).sum(1, keepdims=True) + known
    slope_R1 = (weights_RK * centred_RK * residuals_RK).sum(1, keepdims=True) / square_R1
    residuals_RK = residuals_RK - slope_R1 * centred_RK
    within_RK = 1 - 2 * weights_RK  # -1 of a label that the others' prediction has to do without, 1 of one beside them
    free_RK = 1 + within_RK * (1 / count_R1) + within_RK * (centred_RK**2 / square_R1)
    error_R1 = (weights_RK * residuals_RK**2).sum(1, keepdims=True) + known * slope_R1**2
    error_RK = prior.weight * prior.deviation**2 + error_R1 - weights_RK * residuals_RK**2 / free_RK
    variance_RK = np.maximum(error_RK / (prior.weight + count_R1 - 1 - weights_RK), np.finfo(np.float64).tiny)
    return np.where(kept_RK, -residuals_RK / np.sqrt(variance_RK * free_RK), -np.inf)
