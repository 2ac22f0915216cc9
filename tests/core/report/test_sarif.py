"""The log for code scanning: as the standard has it, with every rule, and with results that are known again."""

from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from sarif_kit.validate import validation_errors

from app.core.errors import Problem, Refusal
from app.core.intake.torchscript.archive import names, walk
from app.core.intake.torchscript.code.rules import FORBIDDEN_OPERATOR, UNKNOWN_OPERATOR
from app.core.intake.torchscript.pickles import machine, opcodes
from app.core.intake.torchscript.structure.rules import BRANCH, Finding
from app.core.report.gate_rules import RULES
from app.core.report.sarif import sarif_log
from app.core.report.structure_rules import STRUCTURE_RULES

SHA256 = "3f" * 32
SAVES = FORBIDDEN_OPERATOR.refusal("The operator `aten::save` reaches out.", "code/__torch__.py", 8).problem
PROBLEMS: dict[str, Problem] = {
    "a line of a member": SAVES,
    "a member": names.NAME.refusal("It leads out.", "../evil").problem,
    "the whole archive": walk.BYTE_ORDER.refusal("Big-endian.").problem,
    "an unknown operator": UNKNOWN_OPERATOR.refusal("`aten::bincount`.", "code/__torch__.py", 3).problem,
    "no archive at all": Refusal("model_is_pickle", "It is a pickle.", "Export it.").problem,
}


def driver(log: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = log["runs"][0]["tool"]["driver"]
    return found


def result(problem: Problem, sha256: str | None = SHA256) -> dict[str, Any]:
    (found,) = sarif_log("model.pt", sha256, [problem])["runs"][0]["results"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("sha256", [SHA256, None])
def test_a_log_is_as_the_standard_has_it(problem: Problem, sha256: str | None) -> None:
    assert validation_errors(sarif_log("folder/model.pt", sha256, [problem])) == []


def test_a_log_without_results_is_as_the_standard_has_it() -> None:
    log = sarif_log("model.pt", SHA256, [])
    assert validation_errors(log) == [] and log["runs"][0]["results"] == []


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_a_result_belongs_to_a_rule_that_is_described(problem: Problem) -> None:
    log = sarif_log("model.pt", SHA256, [problem])
    ids = [rule["id"] for rule in driver(log)["rules"]]
    assert ids.count(result(problem)["ruleId"]) == 1


def test_every_rule_is_described_with_its_advice_and_its_place_in_the_documentation() -> None:
    described = {rule["id"]: rule["help"]["text"] for rule in driver(sarif_log("model.pt", SHA256, []))["rules"]}
    pages = dict.fromkeys(RULES, "gate") | dict.fromkeys(STRUCTURE_RULES, "structure")
    assert described.keys() == {rule.id for rule in pages}
    assert all(rule.advice in described[rule.id] for rule in pages)
    assert all(described[rule.id].endswith(f"docs/{page}.md#{rule.id}.") for rule, page in pages.items())


def test_a_finding_about_the_structure_is_a_result_with_its_line() -> None:
    found = Finding(BRANCH, "It branches.", "code/__torch__.py", 8, text="if bool(_0):")
    log = sarif_log("model.pt", SHA256, [], [found.to_json()])
    (told,) = log["runs"][0]["results"]
    assert validation_errors(log) == []
    assert (told["ruleId"], told["level"]) == ("structure-branch", "error")
    region = {"startLine": 8, "snippet": {"text": "if bool(_0):"}}
    assert told["locations"][0]["physicalLocation"]["region"] == region


def test_a_result_says_what_where_and_what_to_do() -> None:
    told = result(SAVES)
    assert (told["ruleId"], told["level"]) == ("code-forbidden-operator", "error")
    assert told["message"]["text"] == f"{SAVES.detail} {SAVES.advice}"
    (place,) = told["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "model.pt"
    assert place["physicalLocation"]["region"] == {"startLine": 8}
    assert place["logicalLocations"][0]["fullyQualifiedName"] == "code/__torch__.py"


def test_what_may_be_harmless_is_a_warning() -> None:
    assert result(PROBLEMS["an unknown operator"])["level"] == "warning"


@pytest.mark.parametrize(
    ("rule", "weakness", "technique"),
    [
        (names.NAME, "CWE-22", None),
        (walk.INFLATE, "CWE-409", None),
        (opcodes.BOMB, "CWE-409", "AML.T0018.002"),
        (machine.BUILD, "CWE-502", "AML.T0018.002"),
        (FORBIDDEN_OPERATOR, "CWE-506", "AML.T0018.002"),
        (UNKNOWN_OPERATOR, None, None),
    ],
)
def test_a_rule_names_its_weakness_and_its_technique(rule: Any, weakness: str | None, technique: str | None) -> None:
    rules = {one["id"]: one["properties"] for one in driver(sarif_log("model.pt", SHA256, []))["rules"]}
    properties = rules[rule.id]
    assert (properties.get("cwe"), properties.get("atlas")) == (weakness, technique)
    assert [f"external/cwe/{weakness.lower()}"] == properties["tags"][1:] if weakness else properties["tags"][1:] == []
    assert 0 < float(properties["security-severity"]) <= 10


def test_a_result_is_known_again_by_model_rule_and_member_alone() -> None:
    def fingerprint(problem: Problem, sha256: str = SHA256) -> str:
        (found,) = result(problem, sha256)["partialFingerprints"].values()
        return str(found)

    assert fingerprint(SAVES) == fingerprint(replace(SAVES, detail="Said otherwise.", line=9))
    others = [
        fingerprint(SAVES, "4f" * 32),
        fingerprint(replace(SAVES, rule="code-hook")),
        fingerprint(replace(SAVES, member="code/other.py")),
    ]
    assert len({fingerprint(SAVES), *others}) == 4


@pytest.mark.parametrize("name", ["c:evil.pt", "a b#c?d.pt", "\u202enet.pt", "%2e.pt", "\udcff.pt"])
def test_a_file_of_any_name_stays_where_it_is(name: str) -> None:
    log = sarif_log(name, SHA256, [SAVES])
    assert validation_errors(log) == []
    address = urlsplit(log["runs"][0]["artifacts"][0]["location"]["uri"])
    assert (address.scheme, address.netloc, address.query, address.fragment) == ("", "", "", "")
