"""Which of many labels stand out where only some were searched in full: those that were, among all that there are.

    K labels of the suspect   n searched in full, the controls first   c controls   R simulations   S steps

Some were chosen for being low by a first pass and some, the controls, by chance (worker/detection/selection.py). Each
one's log norm is held against what the controls, and references where there are any, predict for it. The lowest is
removed, and the next is looked at, so that a target among the controls hides no other one.

Chance alone does the same to a clean network drawn from the prior, and the selection is simulated with it: of K labels
those with the lowest scores are searched. How well scores tell norms is known from the controls, too, as well as so
many can say it. If they tell nothing, the lowest are as good as drawn by chance; if all, they are the lowest of K, and
the p-value that of a test of all K. NumPy only.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from app.core.families import Prior
from worker.detection.step_out import Floats, Mask, drawn_from, step_out

MOST_STEPS = 12  # outliers looked for; a third of the searched labels where these are fewer
SIMULATED = 4_000_000  # labels in all simulations together
FEWEST_SIMULATIONS, MOST_SIMULATIONS = 2_000, 20_000
AT_ONCE = 1_000_000  # labels in the simulations that are computed together
FINENESS = 10  # correlations between 0 and 1 that are told apart
FEWEST_KNOWN, MOSTLY = 5, 2 / 3  # controls that can tell a correlation, and the share whose scores have to differ
SEED = 1


def selected_test(
    log_norms_n: Floats,
    scores_n: Floats,
    controls_n: Mask,
    labels: int,
    prior: Prior,
    reference_n: Floats | None = None,
) -> Floats:
    """The p-value of each searched label and all that are at least as far out, among all labels of the suspect.

    It is never below one over the number of simulations, and 1 for a label that was not removed. Raises ValueError for
    fewer than five controls.
    """
    if controls_n.sum() < 5:
        raise ValueError(f"{controls_n.sum()} controls are too few for a test: at least 5 are needed")
    controls, order_n = int(controls_n.sum()), np.argsort(~controls_n, kind="stable")
    reference = (np.zeros(len(log_norms_n)) if reference_n is None else reference_n)[order_n]
    excess_n, steps = log_norms_n[order_n] - reference, min(len(log_norms_n) // 3, controls - 2, MOST_STEPS)
    sample_n = np.arange(len(reference)) < controls
    seen_1S, removed_1S = step_out(excess_n[None], reference, prior, steps, sample_n)
    told = _told(scores_n[order_n][:controls], excess_n[:controls])
    null_R = _null(told, controls, labels, tuple(reference.tolist()), prior, steps)

    outer_S = np.maximum.accumulate(seen_1S[0][::-1])[::-1]  # a label stands out with every label removed after it
    p_values_n = np.ones(len(log_norms_n))
    p_values_n[order_n[removed_1S[0]]] = (len(null_R) - np.searchsorted(null_R, outer_S) + 1) / (len(null_R) + 1)
    return p_values_n


class _Told(NamedTuple):
    """How well scores tell norms: a correlation from 0 to 1, and of how many controls it is known."""

    correlation: float
    controls: int


WHOLLY = _Told(1.0, 0)  # where nothing else is known: it accuses least


def _told(scores_c: Floats, excess_c: Floats) -> _Told:
    """What the controls say of it, rounded up.

    One of them may be a target that the first pass did not see, so it is the largest correlation that is left without
    one. Scores that are mostly alike tell nothing of how they order others.
    """
    known_c = np.isfinite(scores_c)
    scores_c, excess_c = scores_c[known_c], excess_c[known_c]
    if len(scores_c) < FEWEST_KNOWN or len(np.unique(scores_c)) < MOSTLY * len(scores_c):
        return WHOLLY
    without = [np.ones(len(scores_c), dtype=bool), *~np.eye(len(scores_c), dtype=bool)]
    pairs = [(scores_c[kept], excess_c[kept]) for kept in without]
    found = [float(np.corrcoef(*pair)[0, 1]) for pair in pairs if min(map(np.ptp, pair)) > 0]
    if not found:
        return WHOLLY
    return _Told(float(np.clip(np.ceil(FINENESS * max(found)) / FINENESS, 0.0, 1.0)), len(scores_c))


@lru_cache(maxsize=64)
def _null(told: _Told, controls: int, labels: int, reference: tuple[float, ...], prior: Prior, steps: int) -> Floats:
    """How far out the farthest label of a clean network is, in any step, sorted, [R]."""
    reference_n = np.array(reference)
    simulations = int(np.clip(SIMULATED // labels, FEWEST_SIMULATIONS, MOST_SIMULATIONS))
    random = np.random.default_rng(SEED)
    farthest, size = [], max(1, AT_ONCE // labels)
    for begun in range(0, simulations, size):
        excess_Rn = _clean(min(size, simulations - begun), told, controls, labels, reference_n, prior, random)
        seen_RS, _ = step_out(excess_Rn, reference_n, prior, steps, np.arange(len(reference_n)) < controls)
        farthest.append(seen_RS.max(axis=1))
    return np.sort(np.concatenate(farthest))


def _clean(
    simulations: int,
    told: _Told,
    controls: int,
    labels: int,
    reference_n: Floats,
    prior: Prior,
    random: np.random.Generator,
) -> Floats:
    """Log norms, less those of references, of the labels that are searched of clean networks, [R, n].

    The correlation is drawn from what so many controls say of it (Fisher 1921, the variance-stabilising transform).
    """
    spread = 1 / np.sqrt(max(told.controls - 3, 1))
    about_R1 = np.arctanh(min(told.correlation, 0.999)) + spread * random.standard_normal((simulations, 1))
    told_R1 = np.ones_like(about_R1) if told.correlation == 1.0 else np.tanh(about_R1)
    errors_RK, noise_RK = random.standard_normal((2, simulations, labels))
    chosen_Rn = errors_RK[:, :controls]  # labels are alike here: the first ones are as good as drawn by chance
    if low := len(reference_n) - controls:
        scores_Rk = (told_R1 * errors_RK + np.sqrt(1 - told_R1**2) * noise_RK)[:, controls:]
        lowest_Rl = controls + np.argpartition(scores_Rk, low - 1, axis=1)[:, :low]
        lowest = random.permuted(np.take_along_axis(errors_RK, lowest_Rl, axis=1), axis=1)
        chosen_Rn = np.concatenate([chosen_Rn, lowest], axis=1)
    scale_R1, slopes_R1 = drawn_from(prior, simulations, random)
    chance_Rn: Floats = scale_R1 * (prior.deviation * chosen_Rn + slopes_R1 * reference_n)
    return chance_Rn
