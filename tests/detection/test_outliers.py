"""Laws of the anomaly index: what may change the accused labels, and what must not."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from worker.detection.outliers import CONSISTENCY, anomaly_indices, flagged

Norms = NDArray[np.float64]


def spread(norms_K: Norms) -> float:
    return float(np.median(np.abs(norms_K - np.median(norms_K))))


# Norms on a grid of sixteenths: sums and differences are exact, so a law holds to the last bit or is broken.
norms = arrays(np.float64, st.integers(3, 43), elements=st.integers(1, 4096).map(lambda n: n / 16))
norms_with_spread = norms.filter(lambda norms_K: spread(norms_K) > 0)


def test_indices_are_those_of_a_computation_by_hand() -> None:
    # median 5; deviations -4, -1, 0, 1, 2; of their sizes 0, 1, 1, 2, 4 the median is 1
    indices_K = anomaly_indices(np.array([1.0, 4.0, 5.0, 6.0, 7.0]))
    assert indices_K == pytest.approx([4 / 1.4826, 1 / 1.4826, 0, 0, 0])
    assert flagged(np.array([1.0, 4.0, 5.0, 6.0, 7.0]), threshold=2.0).tolist() == [True, False, False, False, False]


def test_the_median_of_an_even_number_of_labels_lies_between_the_middle_two() -> None:
    # median 3.5 (not 3, torch's lower median); deviations of sizes 0.5, 0.5, 1.5, 2.5, so their median is 1
    assert anomaly_indices(np.array([1.0, 3.0, 4.0, 5.0])) == pytest.approx([2.5 / 1.4826, 0.5 / 1.4826, 0, 0])


@given(norms_with_spread, st.randoms(use_true_random=False))
def test_anomaly_index_is_unchanged_when_labels_are_renamed(norms_K: Norms, random: object) -> None:
    order = np.arange(len(norms_K))
    random.shuffle(order)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(anomaly_indices(norms_K[order]), anomaly_indices(norms_K)[order])


@given(norms_with_spread, st.integers(-4096, 4096), st.integers(-6, 6))
def test_anomaly_index_is_unchanged_when_norms_are_shifted_or_scaled(norms_K: Norms, shift: int, power: int) -> None:
    moved_K = (norms_K + shift / 16) * 2.0**power
    np.testing.assert_allclose(anomaly_indices(moved_K), anomaly_indices(norms_K), rtol=1e-12)


@given(norms_with_spread)
def test_only_norms_below_the_median_are_suspicious(norms_K: Norms) -> None:
    indices_K = anomaly_indices(norms_K)
    np.testing.assert_array_equal(indices_K > 0, norms_K < np.median(norms_K))
    assert flagged(norms_K, threshold=0.0).sum() <= len(norms_K) / 2


@given(norms_with_spread)
def test_a_smaller_norm_is_never_less_suspicious(norms_K: Norms) -> None:
    assert (np.diff(anomaly_indices(np.sort(norms_K))) <= 0).all()


@given(norms_with_spread)
def test_index_one_is_one_standard_deviation_of_normal_data(norms_K: Norms) -> None:
    indices_K = anomaly_indices(norms_K)
    below = norms_K < np.median(norms_K)
    expected = (np.median(norms_K) - norms_K[below]) / (CONSISTENCY * spread(norms_K))
    np.testing.assert_allclose(indices_K[below], expected, rtol=1e-12)


@given(norms, st.floats(0.0625, 256))
def test_where_half_the_norms_are_equal_the_index_is_undefined_and_nobody_is_accused(
    others_K: Norms, common: float
) -> None:
    norms_K = np.concatenate([others_K, np.full(len(others_K) + 1, common)])
    assert np.isnan(anomaly_indices(norms_K)).all()
    assert not flagged(norms_K, threshold=2.0).any()


@given(norms_with_spread, st.floats(0, 10), st.floats(0, 10))
def test_a_higher_threshold_accuses_no_further_label(norms_K: Norms, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert not (flagged(norms_K, high) & ~flagged(norms_K, low)).any()


@given(norms_with_spread)
def test_the_norms_themselves_are_left_alone(norms_K: Norms) -> None:
    assume(len(norms_K) > 4)
    before = norms_K.copy()
    anomaly_indices(norms_K)
    np.testing.assert_array_equal(norms_K, before)
