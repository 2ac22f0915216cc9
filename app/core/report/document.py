"""The report as one JSON document, `report.json`: what was found, how it was found, and what was not looked at.

The document is the source of every other form of the report. It repeats findings, it does not judge; the one rule it
holds is that no verdict stands on a search that was not done: where a reason blocks, or a label was not searched to
the end, the verdict is inconclusive. It knows no files, no clock and no network.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from app.core.config import ScanConfig
from app.core.families import FAMILIES
from app.core.findings import (
    Caveat,
    Decision,
    FamilyFinding,
    LabelFinding,
    OtherOutput,
    Preparation,
    Reason,
    RepairReport,
    Selection,
    Verdict,
    most_suspicious_family,
)
from app.core.text import printable

SCHEMA_VERSION = "1.7"
LONGEST_TEXT = 1000  # characters; more is not a name but an attempt
LISTED_LABELS = 12  # more of them are given as a count and a range
MOST_PICTURES = 12  # of triggers, in one report

FACTS = (  # of a preparation: what the scan took for true
    "form", "output", "chosen_output", "other_outputs", "takes", "input", "input_source", "convention", "conventions",
    "close_conventions", "clean_accuracy", "accuracy_interval", "images_judged", "confidence", "expected_accuracy",
    "shift", "label_source", "class_order_cause", "suggested_classes", "images", "images_per_label", "notes", "doubts",
)  # fmt: skip

# MITRE ATLAS 5.6, "Manipulate AI Model: Poison AI Model"; CWE, "Embedded Malicious Code".
BACKDOOR_IDENTIFIERS = ("AML.T0018.000", "CWE-506")


def report_document(
    structure: Mapping[str, Any] | None,
    preparation: Preparation,
    decision: Decision,
    repair: RepairReport | None,
    inputs: Mapping[str, Any],
    config: ScanConfig,
    timings: Mapping[str, float],
) -> dict[str, Any]:
    """The report of a scan, or of the part of it that was done before time ran out.

    `structure` is the gate's manifest with the findings about the code, or {"problem": ...} where it stopped at an
    operator. `inputs` names the two files: {"model": {"name", "bytes", "sha256"}, "bundle": {...}};
    `timings` are seconds.
    """
    findings = {finding.label: finding for finding in decision.labels if finding.families}
    too_large = [finding.label for finding in decision.labels if not finding.families]
    searched = _to_be_searched(preparation, decision)
    finished = findings.keys() == searched and not any(f.truncated for f in findings.values())
    reasons = {*preparation.reasons, *decision.reasons}
    if not finished and not reasons:
        reasons.add(Reason.SEARCH_TRUNCATED)
    verdict = Verdict.INCONCLUSIVE if reasons else decision.verdict
    family = most_suspicious_family(findings.values())
    caveats = {*preparation.caveats, *decision.caveats}
    document = {
        "schema_version": SCHEMA_VERSION,
        "finished": finished,
        "verdict": verdict,
        "reasons": [reason for reason in Reason if reason in reasons],
        "caveats": [caveat for caveat in Caveat if caveat in caveats],
        "identifiers": BACKDOOR_IDENTIFIERS if verdict is Verdict.BACKDOORED else (),
        "flagged_labels": decision.flagged_labels,
        "model_anomaly_index": decision.model_anomaly_index,
        "labels": [
            _label_row(label, preparation, findings.get(label), family, decision.selection)
            for label in range(preparation.num_labels)
        ],
        "structure": structure,
        "coverage": _coverage(preparation, findings, too_large, caveats, decision.selection),
        "repair": None if repair is None else asdict(repair),
        "inputs": _inputs(preparation, inputs),
        "config": config.to_json(),
        "versions": preparation.versions,
        "environment": {
            "device": preparation.device,
            "threads": preparation.threads,
            "perceptual": preparation.perceptual,
            "perceptual_sha256": preparation.perceptual_sha256,
        },
        "timings": dict(timings),
    }
    plain: dict[str, Any] = _plain(document)
    return plain


def _to_be_searched(preparation: Preparation, decision: Decision) -> set[int]:
    """The labels of which a scan wants to know in full: all, or those that were chosen after a look at all."""
    selection = decision.selection
    wanted = range(preparation.num_labels) if selection is None else (*selection.labels, *selection.left_out)
    return set(wanted)


def pictured_labels(document: Mapping[str, Any]) -> dict[int, str]:
    """The labels whose triggers a report shows in `figures/label_<label>.png`, and of which family: those flagged, and,
    for comparison, the one with the smallest norm that is not."""
    rows = sorted((row for row in document["labels"] if row["norm"] is not None), key=lambda row: row["norm"])
    flagged = [row for row in rows if row["flagged"]][: MOST_PICTURES - 1]
    others = [row for row in rows if not row["flagged"]]
    return {row["label"]: row["family"] for row in [*flagged, *others[:1]]}


def report_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that every report document satisfies."""
    schema: dict[str, Any] = json.loads(files(__package__).joinpath("report.schema.json").read_text("utf-8"))
    return schema


def _label_row(
    label: int,
    preparation: Preparation,
    finding: LabelFinding | None,
    family: str | None,
    selection: Selection | None,
) -> dict[str, Any]:
    passed_over = selection is not None and label in selection.passed_over
    headline = finding.headline(family) if finding and family else None
    return {
        "label": label,
        "name": preparation.label_names[label],
        "family": headline.family if headline else None,
        "norm": headline.norm if headline else None,
        "anomaly_index": headline.anomaly_index if headline else None,
        "p_value": headline.p_value if headline else None,
        "attack_success_rate": headline.attack_success_rate if headline else None,
        "flagged": finding.flagged if finding else False,
        "searched": "in_full" if finding else "first_pass" if passed_over else "no",
        "families": [asdict(family) for family in finding.families] if finding else [],
    }


def _coverage(
    preparation: Preparation,
    findings: Mapping[int, LabelFinding],
    too_large: list[int],
    caveats: set[Caveat],
    selection: Selection | None,
) -> dict[str, Any]:
    families: list[FamilyFinding] = [family for finding in findings.values() for family in finding.families]
    return {
        "labels_total": preparation.num_labels,
        "labels_searched": len(findings),
        "labels_in_first_pass_only": len(selection.passed_over) if selection else 0,
        "labels_truncated": sum(finding.truncated for finding in findings.values()),
        "labels_out_of_memory": len(too_large),
        "labels_in_halved_blocks": sum(finding.halved for finding in findings.values()),
        "labels_out_of_reach": sum(finding.out_of_reach for finding in findings.values()),
        "labels_read_alone": sum(finding.read_alone for finding in findings.values()),
        "images": preparation.images,
        "students_agreement": preparation.students_agreement,
        "families": sorted({family.family for family in families}),
        "probes": [asdict(probe) for probe in preparation.probes],
        "not_searched": _not_searched(preparation, findings, too_large, caveats, selection),
    }


def _not_searched(
    preparation: Preparation,
    findings: Mapping[int, LabelFinding],
    too_large: list[int],
    caveats: set[Caveat],
    selection: Selection | None,
) -> list[str]:
    """What this scan did not look at, as sentences; most particular to the scan first."""
    sentences = []
    passed_over = list(selection.passed_over) if selection else []
    known = {*findings, *too_large, *passed_over}
    unsearched = [label for label in range(preparation.num_labels) if label not in known]
    if passed_over:
        easier = "Looked at in a first pass only, which found other labels easier to reach"
        sentences.append(f"{easier}: {_labels(passed_over)}.")
    if unsearched:
        sentences.append(f"Not searched at all: {_labels(unsearched)}; the model has {preparation.num_labels}.")
    if too_large:
        sentences.append(f"Not searched for lack of memory: {_labels(too_large)}.")
    truncated = [label for label in sorted(findings) if findings[label].truncated]
    if truncated:
        sentences.append(f"Out of time before the search was done: {_labels(truncated)}.")
    out_of_reach = [label for label in sorted(findings) if findings[label].out_of_reach]
    if out_of_reach:
        sentences.append(f"No trigger of any family led enough images to {_labels(out_of_reach)} to be compared.")
    alone = [label for label in sorted(findings) if findings[label].read_alone]
    if alone:
        held = "Held against the other labels alone, as no reference network knows how easy it is to reach by nature"
        sentences.append(f"{held}: {_labels(alone)}.")
    sentences += map(_not_scanned, (other for other in preparation.other_outputs if not other.same_as_chosen))
    missing = [label for label, images in enumerate(preparation.images_per_label) if images == 0]
    if missing:
        sentences.append(f"No trigger was tried on images of {_labels(missing)}: the bundle has none.")
    searched = {found.family for finding in findings.values() for found in finding.families}
    sentences += [
        family.not_searched for name, family in FAMILIES.items() if family.not_searched and name not in searched
    ]
    sentences.append("Triggers that work on images of some classes only (source-specific) were not searched for.")
    sentences.append("Attacks that move every class to another one (all-to-all) were not searched for.")
    sentences.append(
        "Triggers made of natural content, such as a certain object in the scene, lie outside the trigger families."
    )
    sentences.append(
        "The model's code was followed for branches, steps and switches that no gradient sees; a step that is made of "
        "smooth arithmetic, such as a very large factor, can escape this."
    )
    if Caveat.UNSANDBOXED in caveats:
        sentences.append("Nothing watched or limited what the model did to this computer while it ran: no sandbox.")
    return sentences


def _not_scanned(other: OtherOutput) -> str:
    """What is said of an output that was left out."""
    accuracy = other.clean_accuracy
    right = "" if accuracy is None else f", right about {accuracy:.0%} of the clean images"
    could_be = f"could be scores, too{right}" if other.could_be_scores else "is no scores"
    return f"The output `{other.name}` ({other.shape}) was not scanned: it {could_be}."


def _labels(labels: list[int]) -> str:
    """`label 3`, `labels 3, 7` or, where a list would be long, `31 labels (12 to 42)`."""
    if len(labels) > LISTED_LABELS:
        return f"{len(labels)} labels ({labels[0]} to {labels[-1]})"
    return f"label{'s' if len(labels) > 1 else ''} {', '.join(map(str, labels))}"


def check_document(
    structure: Mapping[str, Any] | None,
    preparation: Preparation,
    inputs: Mapping[str, Any],
    timings: Mapping[str, float],
) -> dict[str, Any]:
    """What a scan would take for true, without a search: the facts of a report, and whether anything is in doubt."""
    blocking = [found for found in (structure or {}).get("findings", []) if found["blocks"]]
    document = {
        "schema_version": SCHEMA_VERSION,
        "ready": not (preparation.reasons or preparation.doubts),
        "reasons": [reason for reason in Reason if reason in preparation.reasons],
        "caveats": [caveat for caveat in Caveat if caveat in preparation.caveats],
        "labels": [{"label": label, "name": name} for label, name in enumerate(preparation.label_names)],
        "inputs": _inputs(preparation, inputs),
        "findings": blocking,
        "stopped": (structure or {}).get("problem"),
        "versions": preparation.versions,
        "timings": dict(timings),
    }
    plain: dict[str, Any] = _plain(document)
    return plain


def _inputs(preparation: Preparation, inputs: Mapping[str, Any]) -> dict[str, Any]:
    known = asdict(preparation)
    return {"model": inputs["model"], "bundle": inputs["bundle"], **{name: known[name] for name in FACTS}}


def _plain(value: Any) -> Any:
    """The value as JSON can say it: lists, finite numbers or null, and text without control characters."""
    match value:
        case str():
            return printable(value, LONGEST_TEXT)
        case float():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {_plain(key): _plain(part) for key, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
    return value
