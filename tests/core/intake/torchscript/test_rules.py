"""Every rule of the gate is told in people's words, and in no others than the pages have."""

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import app.core.intake.torchscript
import models
from app.core.intake.torchscript.rules import Rule
from app.core.report.gate_page import gate_page
from app.core.report.gate_rules import RULES

DOCS = Path(__file__).parents[4] / "docs"
PACKAGES: tuple[ModuleType, ...] = (app.core.intake.torchscript, models)


def rules_in_code() -> set[Rule]:
    """The rules that modules apply, wherever they lie."""
    modules = [one for package in PACKAGES for one in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    values = [value for module in modules for value in vars(importlib.import_module(module.name)).values()]
    return {value for value in values if isinstance(value, Rule)}


def test_every_rule_has_its_words_and_no_words_are_without_a_rule() -> None:
    assert {rule.id for rule in rules_in_code() ^ RULES.keys()} == set()


def test_no_two_rules_share_an_id() -> None:
    ids = [rule.id for rule in RULES]
    assert sorted(set(ids)) == sorted(ids)


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "gate.md").read_text("utf-8") == gate_page(), "run python -m app.core.report.gate_page"


def test_the_page_has_a_section_for_every_rule() -> None:
    sections = re.findall(r"^### `([a-z0-9-]+)`$", (DOCS / "gate.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(sections) == sorted(rule.id for rule in rules_in_code())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_is_told_in_whole_sentences_with_advice(rule: Rule) -> None:
    words = RULES[rule]
    for told in (words.broken_if, words.because, rule.advice):
        starts_well = told[0].isupper() or told.startswith(("torch", "`"))
        assert starts_well and told.endswith(".") and told.count("`") % 2 == 0


def test_every_problem_of_a_rule_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "problems.md").read_text("utf-8"), re.MULTILINE))
    assert {rule.code for rule in rules_in_code()} <= explained
