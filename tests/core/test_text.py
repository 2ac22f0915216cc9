"""Words of strangers lose what steers a terminal or turns a line, and nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from app.core.text import ELLIPSIS, JOINERS, REPLACEMENT, printable


@given(st.text(), st.integers(1, 100))
def test_a_printed_name_has_no_control_characters_and_is_short(name: str, longest: int) -> None:
    shown = printable(name, longest)
    assert len(shown) <= longest
    assert all(char.isprintable() or char.isspace() or char in JOINERS for char in shown)
    assert not set(shown) & set("\x1b\r\n\t\u2028\u2029\u202e\u2066")


@given(st.text(), st.integers(1, 100))
def test_a_printed_name_stays_as_it_is_when_printed_again(name: str, longest: int) -> None:
    assert printable(printable(name, longest), longest) == printable(name, longest)


def test_ordinary_words_of_any_script_stay_as_they_are() -> None:
    assert printable("Straße 12, 猫 \u200d می\u200cخواهم") == "Straße 12, 猫 \u200d می\u200cخواهم"


def test_what_steers_a_terminal_becomes_a_visible_mark_and_a_line_break_a_space() -> None:
    assert printable("\x1b[31mcat\x07") == f"{REPLACEMENT}[31mcat{REPLACEMENT}"
    assert printable("cat\u202egnp.exe") == f"cat{REPLACEMENT}gnp.exe"
    assert printable("two\nlines\u2028or three") == "two lines or three"
    assert printable("\udcff") == REPLACEMENT, "a file name that is no UTF-8 reaches Python as a surrogate"


def test_a_long_text_is_cut_with_an_ellipsis() -> None:
    assert printable("x" * 80) == "x" * 80
    assert printable("x" * 81) == "x" * 79 + ELLIPSIS
    assert printable("x" * 10_000, longest=1000) == "x" * 999 + ELLIPSIS
