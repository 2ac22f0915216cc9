"""The test of some labels among many: chance passes, whatever the first pass is worth, and what stands out is named."""

from collections.abc import Iterator

import numpy as np
import pytest

from app.core.families import Prior
from worker.detection import selected
from worker.detection.selected import selected_test
from worker.detection.step_out import Floats, Mask

LEVEL = 0.05
PRIOR = Prior(deviation=0.1, weight=8.0)
CONTROLS, LOWEST = 10, 5


@pytest.fixture(autouse=True, scope="module")
def few_simulations() -> Iterator[None]:
    """As many as it takes to tell p-values of a hundredth apart."""
    selected._null.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selected, "MOST_SIMULATIONS", selected.FEWEST_SIMULATIONS)
        yield
    selected._null.cache_clear()


def searched(
    seed: int, labels: int = 200, told: float = 0.8, lowered: dict[int, float] | None = None, drawn: int | None = None
) -> tuple[list[int], Floats, Floats, Mask]:
    """Of a network with so many labels, some of them lowered by so many deviations, those that are searched in full:
    which they are, log norms, scores and controls. A first pass tells norms so well; `drawn` is among the controls."""
    random = np.random.default_rng(seed)
    scale = np.sqrt(PRIOR.weight / random.chisquare(PRIOR.weight))
    norms_K, noise_K = random.standard_normal((2, labels))
    for target, by in (lowered or {}).items():
        norms_K[target] -= by / scale
    scores_K = told * norms_K + np.sqrt(1 - told**2) * noise_K
    controls = random.permutation(labels)[:CONTROLS]
    if drawn is not None:
        controls[0] = drawn
    chosen = sorted({*controls.tolist(), *np.argsort(scores_K)[:LOWEST].tolist()})
    return chosen, PRIOR.deviation * scale * norms_K[chosen], scores_K[chosen], np.isin(chosen, controls)


def accused(seed: int, labels: int = 200, **how: object) -> list[int]:
    chosen, norms_n, scores_n, controls_n = searched(seed, labels, **how)  # type: ignore[arg-type]
    p_values_n = selected_test(norms_n, scores_n, controls_n, labels, PRIOR)
    return [label for label, p_value in zip(chosen, p_values_n, strict=True) if p_value <= LEVEL]


@pytest.mark.parametrize("told", [0.0, 0.6, 0.98])
def test_chance_alone_is_accused_no_more_often_than_the_level_says(told: float) -> None:
    assert np.mean([bool(accused(seed, labels=100, told=told)) for seed in range(300)]) <= 0.09


def test_a_target_is_named_alone() -> None:
    named = [accused(seed, lowered={17: 12.0}) for seed in range(30)]
    assert named.count([17]) >= 27


def test_a_target_among_the_controls_hides_no_other_one() -> None:
    named = [accused(seed, lowered={17: 12.0, 60: 12.0}, drawn=60) for seed in range(30)]
    assert named.count([17, 60]) >= 27


def test_the_selection_counts_against_the_labels_that_it_chose() -> None:
    """The lowest of five that chance drew is not as low as the lowest five of a thousand."""
    _, norms_n, scores_n, controls_n = searched(3, lowered={17: 4.0})
    of_few, of_many = (
        selected_test(norms_n, scores_n, controls_n, labels, PRIOR).min() for labels in (len(norms_n), 1000)
    )
    assert of_few < of_many


def test_scores_that_tell_nothing_make_the_selection_a_draw() -> None:
    _, norms_n, scores_n, controls_n = searched(3, lowered={17: 4.0})
    unrelated = np.where(controls_n, -norms_n, scores_n)  # of the controls
    told, untold = (selected_test(norms_n, of, controls_n, 1000, PRIOR).min() for of in (norms_n, unrelated))
    assert untold < told


def test_the_order_of_labels_changes_nothing() -> None:
    _, norms_n, scores_n, controls_n = searched(5, lowered={17: 6.0})
    turned = np.random.default_rng(0).permutation(len(norms_n))
    straight = selected_test(norms_n, scores_n, controls_n, 200, PRIOR)
    assert selected_test(norms_n[turned], scores_n[turned], controls_n[turned], 200, PRIOR) == pytest.approx(
        straight[turned]
    )


def test_an_easy_label_is_no_target_where_references_say_so() -> None:
    with_them, without = [], []
    for seed in range(20):
        _, norms_n, scores_n, controls_n = searched(seed)
        reference_n = 0.1 * np.random.default_rng(seed).standard_normal(len(norms_n))
        reference_n[np.flatnonzero(~controls_n)[0]] -= 1.0
        known = norms_n + reference_n, scores_n, controls_n, 200, PRIOR
        with_them.append(selected_test(*known, reference_n).min() <= LEVEL)
        without.append(selected_test(*known).min() <= LEVEL)
    assert sum(with_them) <= 3 and sum(without) >= 18


def test_a_first_pass_that_failed_on_the_controls_is_taken_to_tell_all() -> None:
    _, norms_n, _, controls_n = searched(3)
    silent_n = np.full(len(norms_n), np.nan)
    of_nothing = selected_test(norms_n, silent_n, controls_n, 200, PRIOR)
    assert of_nothing == pytest.approx(selected_test(norms_n, norms_n, controls_n, 200, PRIOR))


def test_four_controls_are_too_few() -> None:
    _, norms_n, scores_n, _ = searched(3)
    with pytest.raises(ValueError, match="at least 5"):
        selected_test(norms_n, scores_n, np.arange(len(norms_n)) < 4, 200, PRIOR)
