"""What the gate found in a model, as a SARIF 2.1.0 log: the form that code scanning services take.

The log names every rule of the gate, with the weakness (CWE) and the technique (MITRE ATLAS) it belongs to. A severity
says which result to look at first; it is no measurement. What the scan of a network's weights finds is not told here.
"""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from app.core.errors import Problem
from app.core.intake.torchscript.archive import names, walk
from app.core.intake.torchscript.code import rules
from app.core.intake.torchscript.pickles import opcodes, storages
from app.core.intake.torchscript.rules import Rule
from app.core.report.gate_rules import RULES, Words

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
TRAVERSAL, BOMB, PICKLE, CODE = "CWE-22", "CWE-409", "CWE-502", "CWE-506"
EMBED_MALWARE = "AML.T0018.002"

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


def sarif_log(uri: str, sha256: str | None, problems: Sequence[Problem]) -> dict[str, Any]:
    """A log of one run over the file at `uri`, which is relative to where the run took place."""
    descriptors = [_descriptor_of_rule(rule, words) for rule, words in RULES.items()]
    named = {descriptor["id"] for descriptor in descriptors}
    descriptors += [_descriptor_of_problem(problem) for problem in problems if _rule_id(problem) not in named]
    uri = quote(uri, errors="surrogateescape")  # a file's name may be any bytes
    artifact: dict[str, Any] = {"location": {"uri": uri}}
    if sha256:
        artifact["hashes"] = {"sha-256": sha256}
    driver = {"name": "triggerlens", "version": version("triggerlens"), "rules": descriptors}
    results = [_result(problem, uri, sha256) for problem in problems]
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
    place: dict[str, Any] = {"artifactLocation": {"uri": uri, "index": 0}}
    if problem.line:
        place["region"] = {"startLine": problem.line}
    location: dict[str, Any] = {"physicalLocation": place}
    if problem.member:
        location["logicalLocations"] = [{"fullyQualifiedName": problem.member, "kind": "resource"}]
    result = {
        "ruleId": _rule_id(problem),
        "level": _level(problem.code),
        "message": {"text": f"{problem.detail} {problem.advice}"},
        "locations": [location],
    }
    if sha256:
        seen = f"{sha256} {_rule_id(problem)} {problem.member or ''}"
        result["partialFingerprints"] = {"modelRuleMember/v1": hashlib.sha256(seen.encode()).hexdigest()}
    return result
