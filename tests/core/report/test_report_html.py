"""The page says the verdict and what to do, needs nothing from elsewhere, and gives strangers' words no power."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from report_samples import (
    BACKDOORED,
    CLEAN,
    NAMES,
    NOTHING_SEARCHED,
    PARTIAL,
    PREPARATION,
    REPAIR,
    TOO_LARGE,
    WATCHING,
    document,
    document_of_a_model_that_was_not_loaded,
    documents,
)
from report_samples import strip_png as strip

from app.core.findings import Confirmation, Decision, Reason, RepairStatus, Selection, TensorChange
from app.core.presets import PRESETS
from app.core.report.explanations import CAVEATS, REASONS
from app.core.report.html import report_html

VOID = {"meta", "img", "br", "line", "rect", "path", "circle"}
HOSTILE = "<script>alert(1)</script>\" onload='x' {{ 7*7 }} \u202egnp.exe\x1b[31m\x00\u2066"

ALIKE: dict[str, tuple[float | None, ...]] = {"dynamic": (1.0,) * 10}  # scores of ten labels


class Page(HTMLParser):
    """Collects tags, attributes and words, and checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words += data


def words_of(html: str) -> str:
    return re.sub(r"\s+", " ", Page(html).words)


def test_of_many_labels_the_page_says_how_many_were_searched_in_full_and_why() -> None:
    selection = Selection(
        labels=(0, 1, 2, 3, 4, 7), controls=(0, 1, 2, 3, 4), left_out=(), scores={"dynamic": (1.0,) * 10}
    )
    searched = tuple(CLEAN.labels[label] for label in selection.labels)
    words = words_of(report_html(document(replace(CLEAN, labels=searched, selection=selection)), {}))
    assert "median of those searched in full" in words
    assert "Labels searched in full6 of 10: those that a first pass over all found easiest to reach" in words
    assert words.count("first pass only") == 1 + 4 and "Looked at in a first pass only" in words  # and of each label
    assert "Labels searched in full" not in words_of(report_html(document(CLEAN), {}))


def test_a_backdoored_page_names_the_label_first_and_shows_its_trigger() -> None:
    html = report_html(document(BACKDOORED, repair=REPAIR), {7: strip()})
    words = words_of(html)
    assert "Signs of a backdoor: label 7 (horse)" in words
    assert "What to do now." in words
    assert "data:image/png;base64," + base64.b64encode(strip()).decode() in html
    assert "the residual amplified 100.0 times" in words
    sections = ["Why, and how sure", "How easy each label", "Labels", "What the inverted trigger", "Repair"]
    sections += ["What was scanned", "What was not looked at", "Configuration, versions and timings"]
    places = [words.index(section) for section in sections]
    assert places == sorted(places)


def test_a_page_without_a_finding_never_says_clean() -> None:
    words = words_of(report_html(document(CLEAN), {}))
    assert "No backdoor found" in words and "not a proof" in words
    assert "label 3 (cat)" in words, "the most suspicious label is named all the same"


@pytest.mark.parametrize("decision", [PARTIAL, TOO_LARGE, NOTHING_SEARCHED])
def test_a_partial_page_says_so_and_explains_its_reason(decision: Decision) -> None:
    words = words_of(report_html(document(decision), {}))
    assert "No verdict" in words and "This is a partial report" in words
    assert REASONS[decision.reasons[0]].title in words
    assert "not searched" in words


def test_a_page_says_which_probe_disagreed_and_by_how_much_and_which_did_not() -> None:
    html = report_html(document(CLEAN, WATCHING), {})
    words = words_of(html)
    assert "Answers depend on the batch size: a score moved by 3.2 times the lead of the best label" in words
    assert "5 of the probed images got another label" in words
    assert "do not depend on</dt><dd>neighbours in the batch</dd>" in html, "and nothing of what was not compared"
    assert "Answers depend" not in words_of(report_html(document(CLEAN), {}))


def test_a_model_that_was_not_loaded_has_a_page_that_names_the_operator() -> None:
    words = words_of(report_html(document_of_a_model_that_was_not_loaded(), {}))
    for said in ("aten::fft_rfft2", "line 12", REASONS[Reason.UNSUPPORTED_OPERATOR].title, "never loaded"):
        assert said in words
    assert "Anomaly index per label" not in words


def test_halved_blocks_are_owned_up_to_where_there_were_any() -> None:
    assert "4 labels were searched in smaller blocks than planned" in words_of(report_html(document(TOO_LARGE), {}))
    assert "Blocks halved" not in words_of(report_html(document(CLEAN), {}))


def test_every_caveat_of_the_document_is_explained() -> None:
    report = document(BACKDOORED)
    words = words_of(report_html(report, {}))
    for caveat in report["caveats"]:
        assert CAVEATS[caveat].title in words


def test_a_repair_claims_no_more_than_it_showed() -> None:
    words = words_of(report_html(document(BACKDOORED, repair=REPAIR), {}))
    assert "The inverted trigger no longer works" in words
    assert all(figure in words for figure in ("99.5 %", "1.2 %", "92.8 %"))
    assert not re.search(r"backdoor (is|was) (gone|removed)", words)
    refused = replace(REPAIR, status=RepairStatus.REFUSED, detail="It cost 6.1 % of accuracy.", files={})
    words = words_of(report_html(document(BACKDOORED, repair=refused), {}))
    assert "It cost 6.1 % of accuracy." in words and "no longer works" not in words


def test_the_card_of_a_repair_has_its_figures_and_says_what_they_do_not_show() -> None:
    words = words_of(report_html(document(BACKDOORED, repair=REPAIR), {})).replace("\u00a0", " ")
    for said in (
        "label 7 (horse), dynamic99.5 %1.2 %",
        "label 7 (horse), dynamic0.00500.06540.00010.8100",
        "Does it come back? It partly comes back:",
        "trained on 400 images, 5 of them poisoned31.0 %4.2 %partly",
        "with noise of 5.0 % over it22.0 %17.0 %",
        "half-way to the weights that came in40.0 %",
        "41 of 62 tensors are other ones",
        "layer4.1.bn2.bias (from zero), fc.weight (3.12%).",
        "label 3 (cat)2095.0 %90.0 %17.0 %",
        "What this does not show What nobody looked at.",
        "Seed3",
    ):
        assert said in words, said
    assert words.count("sha256 " + "3f" * 32) == 2


def test_names_of_tensors_are_only_words() -> None:
    hostile = replace(REPAIR, largest_changes=(TensorChange("<b>w</b>\u202e", 0.1),))
    html = report_html(document(BACKDOORED, repair=hostile), {})
    assert "&lt;b&gt;w&lt;/b&gt;\ufffd" in html and "<b>w" not in html


def test_a_card_of_labels_that_a_report_does_not_have_is_shown_without_their_names() -> None:
    other = replace(REPAIR, triggers=(replace(REPAIR.triggers[0], label=99),))
    assert "label 99, dynamic" in words_of(report_html(document(BACKDOORED, repair=other), {}))


def test_a_repair_says_which_classes_it_was_not_judged_on() -> None:
    partly = replace(REPAIR, status=RepairStatus.PARTLY_JUDGED, unjudged_labels=(2, 5))
    words = words_of(report_html(document(BACKDOORED, repair=partly), {}))
    assert "Not judged, for lack of images: labels 2, 5." in words and "no longer works" in words
    assert "Not judged" not in words_of(report_html(document(BACKDOORED, repair=REPAIR), {}))


def test_words_of_strangers_have_no_power_over_the_page() -> None:
    preparation = replace(PREPARATION, label_names=(*NAMES[:7], HOSTILE, *NAMES[8:]), versions={HOSTILE: HOSTILE})
    report = document(BACKDOORED, preparation, replace(REPAIR, detail=HOSTILE, files={HOSTILE: "9c" * 32}))
    report["inputs"]["model"]["name"] = HOSTILE  # an older document may hold words as they came
    html = report_html(report, {7: strip()})
    page = Page(html)
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "{{ 7*7 }}" in page.words, "a template in a name stays a name"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html)


@settings(max_examples=20, deadline=None)
@given(documents())
def test_every_document_makes_a_well_formed_page(report: dict[str, Any]) -> None:
    html = report_html(report, {})
    html.encode("utf-8")
    assert "script" not in Page(html).tags
    assert not re.search(r"\b(nan|inf|None)\b", words_of(html).split("What was scanned")[0].split("Labels")[0])


def test_a_page_needs_nothing_from_elsewhere_and_its_policy_forbids_it() -> None:
    html = report_html(document(BACKDOORED), {7: strip()})
    for name, value in Page(html).attributes:
        assert name not in ("href", "style") and (name != "src" or str(value).startswith("data:image/png;base64,"))
    assert "url(" not in html and "@import" not in html
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in html


def test_a_strip_that_does_not_say_its_amplification_is_shown_without_a_factor() -> None:
    words = words_of(report_html(document(BACKDOORED), {7: b"\x89PNG"}))
    assert "the residual amplified, so that" in words


def test_a_table_of_two_families_shows_both() -> None:
    family = CLEAN.labels[2].families[0]
    both = replace(
        CLEAN.labels[2], families=(family, replace(family, family="static", anomaly_index=1.9, p_value=0.00001))
    )
    words = words_of(report_html(document(replace(CLEAN, labels=(*CLEAN.labels[:2], both, *CLEAN.labels[3:]))), {}))
    assert "dynamic" in words and "static" in words and "< 0.0001" in words


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (
            {"confirmation": Confirmation(0.4, 0.95, False, 0.7), "unconfirmed": True},
            "a second search, from a fresh seed and on other images, did not",
        ),
        ({"in_doubt": True}, "time was over before it was searched again"),
        ({"natural": True}, "leads 62.0 % of the images in networks that learned from"),
    ],
)
def test_what_stood_out_and_is_not_accused_is_said_with_its_reason(facts: dict[str, Any], why: str) -> None:
    family = replace(CLEAN.labels[2].families[0], p_value=0.03, student_success_rate=0.62, **facts)
    spared = replace(CLEAN, labels=(*CLEAN.labels[:2], replace(CLEAN.labels[2], families=(family,)), *CLEAN.labels[3:]))
    words = words_of(report_html(document(spared), {}))
    assert "stood out" in words and "is not accused" in words and why in " ".join(words.split())
    assert "No label stands out" not in words


def test_a_flagged_label_is_shown_with_what_students_and_the_second_search_say() -> None:
    accused = BACKDOORED.flagged_labels[0]
    family = replace(
        BACKDOORED.labels[accused].families[0],
        p_value=0.001,
        reference_norms=(0.2,),
        student_success_rate=0.02,
        confirmation=Confirmation(0.03, 0.95, False, 0.002),
    )
    labels = [replace(f, families=(family,)) if f.label == accused else f for f in BACKDOORED.labels]
    page = report_html(
        {**document(replace(BACKDOORED, labels=tuple(labels))), "config": PRESETS["standard"].to_json()}, {}
    )
    words = words_of(page)
    assert "this trigger leads 2.0 % of the images there" in words
    assert "Searched again from a fresh seed and on other images it needs" in words
    assert "(p-value 0.0020)" in words
