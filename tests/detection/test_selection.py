"""Which labels are searched in full: the lowest of every family, the controls, and those that nothing is known of."""

from dataclasses import replace

from app.core.config import FirstPassConfig, ScanConfig, SearchConfig
from app.core.findings import FirstPass, Selection
from worker.detection.selection import select_labels

LABELS = 40
CONFIG = ScanConfig(families={"static": SearchConfig()}, first_pass=FirstPassConfig(all_up_to=20, lowest=2, controls=5))


def passes(dynamic: dict[int, float | None], static: dict[int, float | None]) -> list[FirstPass]:
    """In two blocks; what is not given has a high score."""
    return [
        FirstPass(
            tuple(block),
            {
                family: tuple(low.get(label, 9.0 + label) for label in block)
                for family, low in (("dynamic", dynamic), ("static", static))
            },
        )
        for block in (range(25), range(25, LABELS))
    ]


def selected(found: list[FirstPass], config: ScanConfig = CONFIG, model: str = "0a") -> Selection:
    return select_labels(LABELS, found, config, model)


def test_the_lowest_of_every_family_are_chosen_and_the_controls() -> None:
    selection = selected(passes({3: 0.1, 30: 0.2, 8: 0.3}, {8: -1.0, 31: -2.0}))
    assert len(selection.controls) == 5 and {3, 30, 8, 31} <= set(selection.labels)
    assert set(selection.labels) == {3, 30, 8, 31, *selection.controls} and not selection.left_out
    assert selection.scores["static"][31] == -2.0 and selection.scores["dynamic"][8] == 0.3


def test_seed_and_model_decide_the_controls_and_the_scores_do_not() -> None:
    first, other = (selected(passes({label: 0.0}, {})).controls for label in (1, 2))
    assert first == other
    assert selected(passes({}, {}), replace(CONFIG, seed=1)).controls != first
    assert selected(passes({}, {}), model="0b").controls != first


def test_a_label_without_a_score_is_searched_in_full_beside_the_lowest() -> None:
    selection = selected(passes({3: 0.1, 30: 0.2, 7: None, 9: None, 10: None}, {}))
    assert {3, 30, 7, 9, 10} <= set(selection.labels)


def test_of_labels_that_the_first_pass_did_not_come_to_none_is_chosen() -> None:
    selection = selected(passes({}, {})[:1])
    assert selection.left_out == tuple(range(25, LABELS)) and max(selection.labels) < 25
    assert selected([]).labels == () and len(selected([]).left_out) == LABELS


def test_of_few_labels_all_may_be_drawn() -> None:
    config = replace(CONFIG, first_pass=FirstPassConfig(controls=100))
    assert selected(passes({}, {}), config).labels == tuple(range(LABELS))
