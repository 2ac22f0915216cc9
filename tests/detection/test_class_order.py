"""Which output each class is, read off tables of answers that are made by hand or drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.detection.class_order import (
    FROM_ONE,
    IGNORING_CASE,
    NATURAL,
    READ_OFF,
    TEXT,
    Answers,
    Order,
    accuracy_under,
    answers_of,
    explain,
    is_contradicted,
)

TWELVE = tuple(f"class_{number}" for number in range(1, 13))
SORTED = tuple(sorted(TWELVE))


def table(order: Order, labels: int, each: int = 20, right: float = 0.9) -> Answers:
    """What a suspect answers that knows the classes in this order: a few images of each get the next label."""
    answers = np.zeros((len(order), labels), dtype=np.int64)
    for row, label in enumerate(order):
        answers[row, label] = round(right * each)
        answers[row, (label + 1) % labels] += each - round(right * each)
    return answers


def natural(names: tuple[str, ...]) -> Order:
    return tuple(TWELVE.index(name) for name in names)


def test_a_table_counts_each_class_of_the_bundle_against_each_label_of_the_suspect() -> None:
    answers = answers_of(np.array([0, 0, 1, 2]), np.array([3, 3, 0, 2]), 4)
    assert answers.tolist() == [[0, 0, 0, 2], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert accuracy_under(answers, (3, 0, 1)) == 0.75


def test_text_order_of_twelve_classes_is_contradicted_and_natural_order_is_the_cause() -> None:
    answers, text = table(natural(SORTED), 12), tuple(range(12))
    assert accuracy_under(answers, text) < 0.3, "above twice chance all the same"
    assert is_contradicted(answers, text)
    reading = explain(answers, SORTED, text)
    assert reading is not None and (reading.cause, reading.order) == (NATURAL, natural(SORTED))
    assert reading.accuracy == pytest.approx(0.9)


def test_indices_of_folders_that_imagefolder_sorted_as_text_are_named_so() -> None:
    names = tuple(map(str, range(101)))
    as_text = tuple(sorted(names).index(name) for name in names)
    reading = explain(table(as_text, 101), names, tuple(range(101)))
    assert reading is not None and (reading.cause, reading.order) == (TEXT, as_text)


def test_some_of_the_folders_are_enough_to_name_text_order() -> None:
    names = ("0", "7", "10", "25", "99")
    everything = sorted(map(str, range(100)))
    as_text = tuple(everything.index(name) for name in names)
    reading = explain(table(as_text, 100), names, tuple(map(int, names)))
    assert reading is not None and (reading.cause, reading.order) == (TEXT, as_text)


@pytest.mark.parametrize(("said", "meant"), [(range(1, 10), range(9)), (range(9), range(1, 10))])
def test_labels_that_are_off_by_one_are_named(said: range, meant: range) -> None:
    answers = table(tuple(meant), 10)
    assert is_contradicted(answers, tuple(said))
    reading = explain(answers, tuple(map(str, said)), tuple(said))
    assert reading is not None and reading.order == tuple(meant) and reading.cause != READ_OFF
    assert (reading.cause == FROM_ONE) == (said[0] == 1)


def test_names_in_capitals_have_an_order_of_their_own() -> None:
    names = ("Zebra", "ant", "bee", "cow", "dog")  # as bytes sort
    ignoring_case = (4, 0, 1, 2, 3)
    reading = explain(table(ignoring_case, 5), names, tuple(range(5)))
    assert reading is not None and (reading.cause, reading.order) == (IGNORING_CASE, ignoring_case)


@given(st.permutations(range(8)), st.integers(5, 40), st.floats(0.8, 1.0))
def test_any_permutation_is_read_off_plain_answers(order: list[int], each: int, right: float) -> None:
    names = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen")
    answers = table(tuple(order), 8, each, right)
    said = tuple(range(8))
    reading = explain(answers, names, said)
    if tuple(order) == said:
        assert not is_contradicted(answers, said) and reading is None
    else:
        assert reading is not None and reading.order == tuple(order)


@given(st.lists(st.integers(0, 19), unique=True, min_size=2, max_size=19))
def test_some_classes_of_a_larger_model_are_read_off_without_any_order(order: list[int]) -> None:
    names = tuple(f"class {chr(97 + place)}" for place in range(len(order)))
    reading = explain(table(tuple(order), 20), names)
    assert reading is not None and (reading.order, reading.cause) == (tuple(order), READ_OFF)


def test_a_hard_class_that_is_taken_for_another_one_does_not_contradict_its_number() -> None:
    answers = table(tuple(range(6)), 6)
    answers[3] = [0, 0, 0, 6, 14, 0]  # cats taken for dogs; dogs are recognised
    assert not is_contradicted(answers, tuple(range(6)))


def test_one_class_whose_images_clearly_get_a_label_that_nobody_else_has_contradicts_its_number() -> None:
    answers = table((0, 1, 2, 3, 7), 10)
    assert is_contradicted(answers, (0, 1, 2, 3, 4))


def test_answers_that_say_the_same_of_every_class_name_no_order() -> None:
    answers = np.zeros((10, 10), dtype=np.int64)
    answers[:, 4] = 20
    assert explain(answers, tuple("abcdefghij"), tuple(range(10))) is None


def test_classes_of_two_images_each_are_too_few_to_read_an_order_off() -> None:
    assert explain(table((2, 0, 1), 5, each=2, right=1.0), ("a", "b", "c")) is None


@given(st.integers(0, 2**32 - 1))
def test_a_suspect_that_guesses_is_given_no_order(seed: int) -> None:
    answers = np.random.default_rng(seed).multinomial(20, [0.1] * 10, size=10)
    assert explain(answers, tuple("abcdefghij"), tuple(range(10))) is None
