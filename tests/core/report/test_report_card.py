"""What the card of a repair does not show is said, and said only where it is so."""

from dataclasses import replace

import pytest
from report_samples import REPAIR

from app.core.findings import RepairReport, RepairStatus
from app.core.report.card import NOT_SEARCHED_AFRESH, RETUNING, not_shown


def test_a_repair_that_was_judged_says_what_was_not_tried() -> None:
    sentences = not_shown(REPAIR)
    assert RETUNING in sentences and NOT_SEARCHED_AFRESH not in sentences
    assert any("200 images judge the whole, and 20 the class" in sentence for sentence in sentences)
    assert NOT_SEARCHED_AFRESH in not_shown(replace(REPAIR, reinversion_p_value=None))


@pytest.mark.parametrize(("unjudged", "words"), [((4,), "on 1 class of which"), ((4, 5), "on 2 classes of which")])
def test_classes_without_an_image_are_counted(unjudged: tuple[int, ...], words: str) -> None:
    assert not any(words in sentence for sentence in not_shown(REPAIR))
    assert any(words in sentence for sentence in not_shown(replace(REPAIR, unjudged_labels=unjudged)))


def test_a_repair_that_was_not_judged_claims_nothing_and_needs_no_limits() -> None:
    assert not_shown(RepairReport(RepairStatus.REFUSED, "Nothing to train.")) == ()
