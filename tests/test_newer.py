"""What is known of newer releases: how an environment differs from the pins, and that what is dropped next is told."""

import warnings

import pytest

from tests.newer import CONSTRAINTS, pins, rows


def test_what_differs_from_its_pin_has_a_row_and_a_torch_that_is_no_newer_was_not_run() -> None:
    pinned = {"rich": "15.0.0", "six": "1.17.0", "torch": "2.14.1", "torchvision": "0.29.1", "tzlocal": "5.4.5"}
    here = {"rich": "15.0.0", "six": "1.18.0", "torch": "2.14.1", "torchvision": "0.30.0", "tzlocal": None}
    assert [*rows(pinned, here)] == [
        ("six", "1.17.0", "1.18.0"),
        ("torch", "2.14.1", "not run"),
        ("torchvision", "0.29.1", "0.30.0"),
        ("tzlocal", "5.4.5", "none"),
    ]


def test_every_pin_is_read() -> None:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    assert [f"{name}=={pin}" for name, pin in pins(CONSTRAINTS.read_text()).items()] == lines


def test_a_call_of_ours_that_is_about_to_be_dropped_fails_the_test_that_makes_it() -> None:
    with pytest.raises(DeprecationWarning, match="use another"):
        warnings.warn("use another", DeprecationWarning, stacklevel=1)
