"""What the card of a repair does not show is said, and said only where it is so."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from report_samples import REPAIR

from app import terminal
from app.core.findings import ComesBack, Likeness, OtherOutput, RepairReport, RepairStatus, Shift, Unrepaired
from app.core.report.card import (
    MAY_BE_UNLIKE,
    NO_REFERENCE,
    NOT_SEARCHED_AFRESH,
    RETUNED_OTHERWISE,
    RETUNING,
    UNLIKE,
    coming_back,
    not_shown,
)


def test_a_repair_that_was_judged_says_what_was_not_tried() -> None:
    sentences = not_shown(REPAIR)
    assert RETUNING not in sentences and NOT_SEARCHED_AFRESH not in sentences
    assert any("200 images judge the whole, and 20 the class" in sentence for sentence in sentences)
    assert NOT_SEARCHED_AFRESH in not_shown(replace(REPAIR, reinversion_p_value=None))


@pytest.mark.parametrize(("unjudged", "words"), [((4,), "on 1 class of which"), ((4, 5), "on 2 classes of which")])
def test_classes_without_an_image_are_counted(unjudged: tuple[int, ...], words: str) -> None:
    assert not any(words in sentence for sentence in not_shown(REPAIR))
    assert any(words in sentence for sentence in not_shown(replace(REPAIR, unjudged_labels=unjudged)))


def test_of_other_outputs_it_is_said_that_nobody_judged_them() -> None:
    others = [OtherOutput(name, "[N, 10]", True, same_as_chosen=name == "logits") for name in ("aux", "logits", "1")]
    assert any("other outputs (`aux`, `1`)" in sentence for sentence in not_shown(REPAIR, others))
    assert not_shown(REPAIR, others[1:2]) == not_shown(REPAIR)


def test_it_is_said_where_the_images_are_not_known_to_be_like_those_of_the_training() -> None:
    said = {likeness: not_shown(REPAIR, (), Shift(likeness, None, 0, 50)) for likeness in Likeness}
    assert UNLIKE in said[Likeness.SOMEWHAT_DIFFERENT] and MAY_BE_UNLIKE in said[Likeness.NOT_KNOWN]
    assert said[Likeness.AS_TRAINED] == not_shown(REPAIR)


def test_every_reason_for_which_no_weights_are_handed_out_is_explained() -> None:
    page = (Path(__file__).parents[3] / "docs" / "repair.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \| [A-Z].*\| [A-Z]", page, re.MULTILINE) == list(Unrepaired)


def test_a_repair_that_was_not_judged_claims_nothing_and_needs_no_limits() -> None:
    assert not_shown(RepairReport(RepairStatus.REFUSED, "Nothing to train.")) == ()


def test_what_the_tests_of_re_activation_leave_open_is_said() -> None:
    assert RETUNED_OTHERWISE in not_shown(REPAIR) and NO_REFERENCE not in not_shown(REPAIR)
    assert RETUNING in not_shown(replace(REPAIR, reactivations=()))
    alone = replace(REPAIR.reactivations[0], retuned_reference=None)
    assert NO_REFERENCE in not_shown(replace(REPAIR, reactivations=(alone,)))
    two = replace(REPAIR, triggers=REPAIR.triggers * 2)
    assert any("1 of 2 were tried" in sentence for sentence in not_shown(two))


@pytest.mark.parametrize("word", ComesBack)
def test_a_comparison_is_claimed_only_where_there_was_something_to_compare_with(word: ComesBack) -> None:
    for reference in (None, 0.042):
        found = replace(REPAIR.reactivations[0], comes_back=word, retuned_reference=reference)
        said = coming_back(asdict(replace(REPAIR, comes_back=word, reactivations=(found,))))
        assert said.startswith(f"It {word} comes back:")
        assert ("never had it" in said) == (reference is not None and word is not ComesBack.QUICKLY)


def test_the_terminal_says_how_soon_it_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_repair(REPAIR, Path("out"))
    said = " ".join(capsys.readouterr().err.split())
    assert "It partly comes back:" in said
    assert "5 poisoned images of 400, label 7 (dynamic): success 31.0%; a network that never had it: 4.2%" in said
    terminal.show_repair(replace(REPAIR, comes_back=None, reactivations=()), Path("out"))
    assert "comes back" not in capsys.readouterr().err


def test_the_terminal_names_the_reason_of_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    refused = RepairReport(RepairStatus.REFUSED, "It cost 3% of accuracy.", (7,), Unrepaired.TOO_COSTLY)
    terminal.show_repair(refused, Path("out"))
    assert "Repair: refused (too costly). It cost 3% of accuracy." in " ".join(capsys.readouterr().err.split())
