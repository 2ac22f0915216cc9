"""Every word that a report can use is explained, and the documentation says the same."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import pytest

from app.core.findings import Caveat, Reason, Verdict
from app.core.report.explanations import CAVEATS, REASONS, VERDICTS, Explanation, documentation_pages

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(("words", "entries"), [(Verdict, VERDICTS), (Reason, REASONS), (Caveat, CAVEATS)])
def test_every_entry_is_explained_in_whole_sentences(
    words: type[StrEnum], entries: Mapping[StrEnum, Explanation]
) -> None:
    assert list(entries) == list(words)
    for entry in entries.values():
        for sentence in (entry.raised_if, entry.means, entry.what_to_do):
            assert sentence[0].isupper() and sentence.endswith(".") and sentence.count("`") % 2 == 0


@pytest.mark.parametrize("name", documentation_pages())
def test_the_documentation_page_is_up_to_date(name: str) -> None:
    written = (DOCS / name).read_text("utf-8")
    assert written == documentation_pages()[name], "run python -m app.core.report.explanations"
