"""The step-out test: what chance gives it passes, what stands out it names, however many there are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.families import Prior
from worker.detection import step_out
from worker.detection.step_out import Floats, StepOut

LEVEL = 0.05
VAGUE = Prior(deviation=1.0, weight=0.0)  # nothing is known of how far labels scatter
KNOWN = Prior(deviation=0.1, weight=8.0)


def step_out_test(log_norms_K: Floats, reference_K: Floats | None = None, prior: Prior = VAGUE) -> StepOut:
    return step_out.step_out_test(log_norms_K, prior, reference_K)


def normal(seed: int, labels: int = 10) -> Floats:
    return np.random.default_rng(seed).standard_normal(labels)


def lowered(values_K: Floats, targets: list[int], by: float) -> Floats:
    changed = values_K.copy()
    changed[targets] -= by
    return changed


def power(targets: list[int], by: float, reference_K: Floats | None = None, models: int = 200) -> float:
    """How often the test names exactly these of ten labels, lowered by so many standard deviations."""
    named = 0
    for seed in range(models):
        values = lowered(normal(seed), targets, by) + (0 if reference_K is None else reference_K)
        found = step_out_test(values, reference_K)
        named += np.flatnonzero(found.p_values_K <= LEVEL).tolist() == targets
    return named / models


def test_the_first_step_is_the_t_test_of_a_label_against_all_others() -> None:
    values = lowered(normal(3), [4], 4.0)
    rest = np.delete(values, 4)
    expected = (rest.mean() - values[4]) / (rest.std(ddof=1) * np.sqrt(1 + 1 / 9))
    assert step_out_test(values).deviates_K[4] == pytest.approx(expected)


def test_with_a_reference_and_a_prior_it_is_the_test_against_the_line_that_both_predict() -> None:
    reference, values = 0.2 * normal(8), lowered(0.1 * normal(3), [4], 0.4) + 1.3 * 0.2 * normal(8)
    prior = Prior(deviation=0.1, weight=8.0, slope_deviation=0.4)
    x, y = np.delete(reference, 4), np.delete(values, 4)
    known = 0.1 / 0.4  # one more observation: the slope is 1
    rows = np.vstack([np.column_stack([np.ones(9), x]), [0, known]])
    line, error, *_ = np.linalg.lstsq(rows, np.append(y, known), rcond=None)
    spread = np.sqrt((8 * 0.1**2 + error[0]) / (8 + 8))
    here = np.array([1, reference[4]])
    leverage = here @ np.linalg.inv(rows.T @ rows) @ here
    expected = (here @ line - values[4]) / (spread * np.sqrt(1 + leverage))
    assert step_out_test(values, reference, prior).deviates_K[4] == pytest.approx(expected)


@pytest.mark.parametrize("labels", [5, 10, 43])
def test_chance_alone_is_found_significant_as_often_as_the_level_says(labels: int) -> None:
    found = [step_out_test(normal(seed, labels)).p_value <= LEVEL for seed in range(300)]
    assert 0.02 <= np.mean(found) <= 0.09  # three standard errors about .05


@pytest.mark.parametrize("weight", [2.0, 20.0])
def test_chance_as_the_prior_knows_it_is_found_significant_as_often_as_the_level_says(weight: float) -> None:
    reference, prior = 0.2 * normal(999), Prior(deviation=0.1, weight=weight, slope_deviation=0.3)
    found = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        scale = np.sqrt(weight / random.chisquare(weight))
        slope = 1 + 0.3 * scale * random.standard_normal()
        values = slope * reference + 0.1 * scale * random.standard_normal(10)
        found.append(step_out_test(values, reference, prior).p_value <= LEVEL)
    assert 0.02 <= np.mean(found) <= 0.09


def test_a_small_step_below_labels_that_hardly_differ_is_no_finding_where_more_is_natural() -> None:
    values = lowered(0.01 * normal(3), [4], 0.1)  # ten deviations of the others, one of the prior
    assert step_out_test(values).p_values_K[4] <= LEVEL
    assert step_out_test(values, prior=KNOWN).p_values_K[4] > LEVEL


@pytest.mark.parametrize(("targets", "least"), [([2], 0.6), ([2, 7], 0.7), ([0, 4, 9], 0.6)])
def test_several_targets_do_not_mask_each_other(targets: list[int], least: float) -> None:
    assert power(targets, by=6.0) >= least


@pytest.mark.parametrize(("labels", "targets"), [(10, 1), (10, 2), (43, 1), (43, 3)])
def test_beside_true_targets_no_more_labels_are_accused_than_the_level_says(labels: int, targets: int) -> None:
    models = 1000
    accused_too = 0
    for seed in range(models):
        found = step_out_test(lowered(normal(seed, labels), [*range(targets)], 12.0))
        accused_too += bool((found.p_values_K[targets:] <= LEVEL).any())
    assert accused_too <= LEVEL * models + 2 * np.sqrt(LEVEL * models)


def test_what_a_reference_explains_is_not_held_against_a_label() -> None:
    easy = lowered(normal(12), [8], 6.0)
    suspect = easy + 0.3 * normal(13)
    assert step_out_test(suspect).p_values_K[8] <= LEVEL
    assert step_out_test(suspect, easy).p_values_K[8] > LEVEL


def test_a_target_among_easy_labels_is_named_with_a_reference_only() -> None:
    data = 3 * normal(999)
    assert power([6], by=6.0, reference_K=data) >= 0.6
    hidden = [step_out_test(lowered(normal(seed), [6], 6.0) + data).p_values_K[6] <= LEVEL for seed in range(200)]
    assert np.mean(hidden) < 0.1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.01, 100), offset=st.floats(-100, 100))
def test_the_unit_of_the_norms_does_not_matter(seed: int, factor: float, offset: float) -> None:
    values, reference = lowered(0.1 * normal(seed), [3], 0.4), 0.2 * normal(seed + 1)
    once, again = step_out_test(values, reference, KNOWN), step_out_test(values + offset, reference - 1, KNOWN)
    assert again.deviates_K == pytest.approx(once.deviates_K, rel=1e-6, abs=1e-6)
    once, again = step_out_test(values), step_out_test(values * factor + offset)
    assert again.deviates_K == pytest.approx(once.deviates_K, rel=1e-6, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(10)))
def test_the_order_of_the_labels_does_not_matter(seed: int, order: list[int]) -> None:
    values = lowered(normal(seed), [3], 4.0)
    once, again = step_out_test(values), step_out_test(values[order])
    assert again.deviates_K == pytest.approx(once.deviates_K[order])
    assert again.p_values_K == pytest.approx(once.p_values_K[order])


def test_a_lower_norm_is_never_less_suspicious() -> None:
    p_values = [step_out_test(lowered(normal(5), [2], by)).p_values_K[2] for by in np.linspace(2, 12, 11)]
    assert p_values == sorted(p_values, reverse=True)


def test_four_labels_are_too_few() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        step_out_test(normal(0, 4))
