"""What was found in a model's file, as a SARIF 2.1.0 log: the form that code scanning services take.

The log names every rule of the gate and of the structure, with the weakness (CWE) and the technique (MITRE ATLAS) it
belongs to. A severity says which result to look at first; it is no measurement. What the scan of a network's weights
finds is not told here.
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from app.core.errors import Problem
from app.core.intake.torchscript.archive import names, walk
from app.core.intake.torchscript.code import rules
from app.core.intake.torchscript.pickles import opcodes, storages
from app.core.intake.torchscript.rules import Rule
from app.core.intake.torchscript.structure.rules import StructureRule
from app.core.report.gate_rules import RULES, Words
from app.core.report.structure_rules import STRUCTURE_RULES

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
TRAVERSAL, BOMB, PICKLE, CODE = "CWE-22", "CWE-409", "CWE-502", "CWE-506"
EMBED_MALWARE = "AML.T0018.002"
MODIFY_ARCHITECTURE = "AML.T0018.001"

_WEAKNESSES = {  # of rules that have another than their problem
    names.NAME: TRAVERSAL,
    walk.CODE_SIZE: BOMB,
    walk.INFLATE: BOMB,
    opcodes.BOMB: BOMB,
    storages.TENSOR: BOMB,
    rules.LIMIT: BOMB,
}
_WEAKNESSES_OF_PROBLEMS = {"model_is_pickle": PICKLE, "unsafe_pickle": PICKLE, "unsafe_code": CODE}
_TECHNIQUES = {"unsafe_pickle": EMBED_MALWARE, "unsafe_code": EMBED_MALWARE}
_SEVERITIES = {"unsafe_pickle": "9.0", "unsafe_code": "9.0", "model_is_pickle": "7.0", "malformed_archive": "7.0"}
_LEAST_SEVERITY = "4.0"
_STRUCTURE_SEVERITY = "7.0"  # of a finding that blocks a verdict


def sarif_log(
    uri: str, sha256: str | None, problems: Sequence[Problem], findings: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """A log of one run over the file at `uri`, which is relative to where the run took place.

    `findings` are those about the structure, as a report has them.
    """
    descriptors = [_descriptor_of_rule(rule, words) for rule, words in RULES.items()]
    descriptors += [_descriptor_of_structure(rule, words) for rule, words in STRUCTURE_RULES.items()]
    named = {descriptor["id"] for descriptor in descriptors}
    descriptors += [_descriptor_of_problem(problem) for problem in problems if _rule_id(problem) not in named]
    uri = quote(uri, errors="surrogateescape")  # a file's name may be any bytes
    artifact: dict[str, Any] = {"location": {"uri": uri}}
    if sha256:
        artifact["hashes"] = {"sha-256": sha256}
    driver = {"name": "triggerlens", "version": version("triggerlens"), "rules": descriptors}
    results = [_result(problem, uri, sha256) for problem in problems]
    results += [_result_of_finding(found, uri, sha256) for found in findings]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "artifacts": [artifact], "results": results}],
    }


def _rule_id(problem: Problem) -> str:
    """The rule of the gate; a file that is no archive at all was refused before it, for what the problem says."""
    return problem.rule or problem.code


def _descriptor_of_rule(rule: Rule, words: Words) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": words.broken_if},
        "fullDescription": {"text": f"{words.broken_if} {words.because}"},
        "help": {"text": f"{words.because} {rule.advice} See docs/gate.md#{rule.id}."},
        "defaultConfiguration": {"level": _level(rule.code)},
        "properties": _properties(rule.code, _WEAKNESSES.get(rule)),
    }


def _descriptor_of_structure(rule: StructureRule, words: Words) -> dict[str, Any]:
    tags = ["security", f"external/cwe/{CODE.lower()}"]
    return {
        "id": rule.id,
        "shortDescription": {"text": words.broken_if},
        "fullDescription": {"text": f"{words.broken_if} {words.because}"},
        "help": {"text": f"{words.because} {rule.advice} See docs/structure.md#{rule.id}."},
        "defaultConfiguration": {"level": "error" if rule.blocks else "note"},
        "properties": {
            "security-severity": _STRUCTURE_SEVERITY,
            "tags": tags,
            "cwe": CODE,
            "atlas": MODIFY_ARCHITECTURE,
        }
        if rule.blocks
        else {"tags": ["security"]},
    }


def _descriptor_of_problem(problem: Problem) -> dict[str, Any]:
    return {
        "id": _rule_id(problem),
        "shortDescription": {"text": f"{problem.code.replace('_', ' ').capitalize()}."},
        "help": {"text": problem.advice},
        "defaultConfiguration": {"level": _level(problem.code)},
        "properties": _properties(problem.code),
    }


def _properties(code: str, weakness: str | None = None) -> dict[str, Any]:
    weakness = weakness or _WEAKNESSES_OF_PROBLEMS.get(code)
    properties: dict[str, Any] = {"security-severity": _SEVERITIES.get(code, _LEAST_SEVERITY), "tags": ["security"]}
    if weakness:
        properties["tags"].append(f"external/cwe/{weakness.lower()}")
        properties["cwe"] = weakness
    if code in _TECHNIQUES:
        properties["atlas"] = _TECHNIQUES[code]
    return properties


def _level(code: str) -> str:
    return "warning" if code == "unsupported_operator" else "error"


def _result(problem: Problem, uri: str, sha256: str | None) -> dict[str, Any]:
    rule, words = _rule_id(problem), f"{problem.detail} {problem.advice}"
    result = _result_at(rule, _level(problem.code), words, uri, problem.member, problem.line)
    if sha256:
        result["partialFingerprints"] = {"modelRuleMember/v1": _digest(sha256, rule, problem.member or "")}
    return result


def _result_of_finding(found: Mapping[str, Any], uri: str, sha256: str | None) -> dict[str, Any]:
    level, words = "error" if found["blocks"] else "note", f"{found['detail']} {found['advice']}"
    result = _result_at(found["rule"], level, words, uri, found["member"], found["line"])
    if found["text"]:
        result["locations"][0]["physicalLocation"]["region"]["snippet"] = {"text": found["text"]}
    if sha256:
        seen = _digest(sha256, found["rule"], found["member"] or "", str(found["line"]))
        result["partialFingerprints"] = {"modelRuleMemberLine/v1": seen}
    return result


def _result_at(rule: str, level: str, words: str, uri: str, member: str | None, line: int | None) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": uri, "index": 0}}
    if line:
        place["region"] = {"startLine": line}
    location: dict[str, Any] = {"physicalLocation": place}
    if member:
        location["logicalLocations"] = [{"fullyQualifiedName": member, "kind": "resource"}]
    return {"ruleId": rule, "level": level, "message": {"text": words}, "locations": [location]}


def _digest(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
