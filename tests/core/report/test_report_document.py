"""The document says what was found, in the shape of its schema, and stands on no search that was not done."""

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from report_samples import (
    BACKDOORED,
    CLEAN,
    NOTHING_SEARCHED,
    PARTIAL,
    PREPARATION,
    REPAIR,
    TOO_LARGE,
    WATCHING,
    document,
    document_of_a_model_that_was_not_loaded,
    documents,
    label_findings,
)

from app.core.config import ScanConfig
from app.core.findings import (
    Caveat,
    Decision,
    FamilyFinding,
    Reason,
    RepairReport,
    RepairStatus,
    Selection,
    Verdict,
)
from app.core.report.document import report_schema

SCHEMA = report_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

ALIKE: dict[str, tuple[float | None, ...]] = {"dynamic": (1.0,) * 10}  # scores of ten labels


@pytest.mark.parametrize("decision", [CLEAN, BACKDOORED, PARTIAL, TOO_LARGE, NOTHING_SEARCHED])
@pytest.mark.parametrize("repair", [None, REPAIR, RepairReport(RepairStatus.NOT_NEEDED, "No label was flagged.")])
def test_a_document_satisfies_the_published_schema(decision: Decision, repair: RepairReport | None) -> None:
    VALIDATOR.validate(document(decision, repair=repair))


def test_a_document_without_a_loaded_model_satisfies_the_schema_and_blocks_the_verdict() -> None:
    report = document_of_a_model_that_was_not_loaded()
    VALIDATOR.validate(report)
    assert report["verdict"] == "inconclusive" and report["reasons"] == ["unsupported_operator"]
    assert report["labels"] == [] and report["structure"]["problem"]["line"] == 12


@settings(max_examples=30, deadline=None)
@given(documents())
def test_whatever_was_found_the_document_is_strict_json_that_satisfies_the_schema(report: dict[str, Any]) -> None:
    written = json.dumps(report, allow_nan=False, ensure_ascii=False).encode("utf-8")
    assert json.loads(written) == report
    VALIDATOR.validate(report)


@settings(max_examples=30, deadline=None)
@given(documents())
def test_there_is_one_row_per_class_index_and_no_verdict_on_a_search_not_done(report: dict[str, Any]) -> None:
    assert [row["label"] for row in report["labels"]] == list(range(report["coverage"]["labels_total"]))
    assert report["flagged_labels"] == [row["label"] for row in report["labels"] if row["flagged"]]
    unfinished = [row for row in report["labels"] if not row["families"] or row["families"][0]["truncated"]]
    assert report["verdict"] == "inconclusive" or not unfinished


def test_the_schema_is_itself_a_valid_schema_and_knows_every_word() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    properties = SCHEMA["properties"]
    assert properties["verdict"]["enum"] == list(Verdict)
    assert properties["reasons"]["items"]["enum"] == list(Reason)
    assert properties["caveats"]["items"]["enum"] == list(Caveat)
    assert SCHEMA["$defs"]["repair"]["properties"]["status"]["enum"] == list(RepairStatus)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "clean"},
        {"verdict": "inconclusive"},  # without a reason
        {"verdict": "backdoored"},  # without a label
        {"flagged_labels": [7]},
        {"finished": False},
        {"surprise": 1},
    ],
)
def test_the_schema_refuses_documents_that_contradict_themselves(change: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(document(CLEAN) | change)


def test_a_row_shows_the_most_suspicious_family_and_keeps_the_others_below() -> None:
    finding = label_findings((0.06, 0.05, 0.07))[1]
    static = FamilyFinding("static", 0.01, 0.99, 0.1, 400, anomaly_index=5.0, p_value=0.001, flagged=True)
    both = replace(finding, families=(*finding.families, static))
    row = document(replace(BACKDOORED, labels=(CLEAN.labels[0], both, *CLEAN.labels[2:])))["labels"][1]
    assert (row["family"], row["norm"], row["anomaly_index"], row["p_value"]) == ("static", 0.01, 5.0, 0.001)
    assert [family["family"] for family in row["families"]] == ["dynamic", "static"]


def test_a_label_that_was_not_searched_has_a_row_without_figures() -> None:
    report = document(PARTIAL)
    assert not report["finished"]
    row = report["labels"][9]
    assert (row["name"], row["norm"], row["flagged"], row["families"]) == ("truck", None, False, [])
    assert report["coverage"]["labels_searched"] == 4
    assert any("labels 4, 5, 6, 7, 8, 9" in sentence for sentence in report["coverage"]["not_searched"])


def test_of_many_labels_the_report_says_which_were_only_looked_at() -> None:
    selection = Selection(
        labels=(0, 1, 2, 3, 4, 7), controls=(0, 1, 2, 3, 4), left_out=(), scores={"dynamic": (1.0,) * 10}
    )
    searched = tuple(CLEAN.labels[label] for label in selection.labels)
    report = document(replace(CLEAN, labels=searched, selection=selection))
    VALIDATOR.validate(report)
    assert (report["finished"], report["verdict"]) == (True, "no_backdoor_found")
    assert [row["label"] for row in report["labels"] if row["searched"] == "first_pass"] == [5, 6, 8, 9]
    coverage = report["coverage"]
    assert (coverage["labels_searched"], coverage["labels_in_first_pass_only"]) == (6, 4)
    assert coverage["not_searched"][0] == (
        "Looked at in a first pass only, which found other labels easier to reach: labels 5, 6, 8, 9."
    )


def test_labels_that_a_first_pass_did_not_come_to_leave_a_scan_unfinished() -> None:
    selection = Selection(
        labels=(0, 1, 2, 3, 4, 7), controls=(0, 1, 2, 3, 4), left_out=(8, 9), scores={"dynamic": (1.0,) * 10}
    )
    searched = tuple(CLEAN.labels[label] for label in selection.labels)
    report = document(replace(CLEAN, labels=searched, selection=selection))
    assert (report["finished"], report["reasons"]) == (False, ["search_truncated"])
    assert [row["label"] for row in report["labels"] if row["searched"] == "no"] == [8, 9]
    assert "Not searched at all: labels 8, 9; the model has 10." in report["coverage"]["not_searched"]


def test_a_verdict_on_a_partial_search_becomes_inconclusive() -> None:
    report = document(replace(CLEAN, labels=CLEAN.labels[:9]))
    assert (report["verdict"], report["reasons"]) == ("inconclusive", ["search_truncated"])


def test_a_search_that_ran_out_of_time_is_not_a_finished_one() -> None:
    last = CLEAN.labels[9]
    cut = replace(last, families=(replace(last.families[0], truncated=True),))
    report = document(replace(CLEAN, labels=(*CLEAN.labels[:9], cut)))
    assert (report["finished"], report["reasons"]) == (False, ["search_truncated"])
    assert report["coverage"]["labels_truncated"] == 1


def test_the_coverage_says_what_did_not_fit_into_memory_and_which_blocks_were_halved() -> None:
    report = document(TOO_LARGE)
    assert (report["finished"], report["reasons"]) == (False, ["out_of_memory"])
    coverage = report["coverage"]
    assert (coverage["labels_searched"], coverage["labels_out_of_memory"]) == (9, 1)
    assert coverage["labels_in_halved_blocks"] == 4
    assert coverage["not_searched"][0] == "Not searched for lack of memory: label 4."
    assert not any("Not searched at all" in sentence for sentence in coverage["not_searched"])
    assert [row["families"][0]["halved"] for row in report["labels"] if row["families"]] == [True] * 4 + [False] * 5


def test_reasons_and_caveats_of_the_preparation_are_not_lost() -> None:
    preparation = replace(PREPARATION, reasons=(Reason.IMPLAUSIBLE_ACCURACY,))
    report = document(BACKDOORED, preparation)
    assert (report["verdict"], report["reasons"]) == ("inconclusive", ["implausible_accuracy"])
    assert report["caveats"] == ["unsandboxed", "unconfirmed"]
    assert report["identifiers"] == []


def test_probes_that_disagree_stand_in_the_coverage_and_leave_no_verdict() -> None:
    report = document(CLEAN, WATCHING)
    assert (report["verdict"], report["reasons"]) == ("inconclusive", ["environment_sensitive_model"])
    found = {"probe": "batch_size", "difference": 3.21, "relabelled": 5, "disagrees": True}
    assert report["coverage"]["probes"][0] == found
    assert report["coverage"]["probes"][2]["difference"] is None
    jsonschema.validate(report, report_schema())


def test_only_an_accusation_carries_identifiers() -> None:
    assert document(BACKDOORED)["identifiers"] == ["AML.T0018.000", "CWE-506"]
    assert document(CLEAN)["identifiers"] == []


def test_the_coverage_owns_up_to_structure_sandbox_and_missing_classes() -> None:
    preparation = replace(PREPARATION, images_per_label=(50,) * 8 + (0, 0))
    words = " ".join(document(CLEAN, preparation)["coverage"]["not_searched"])
    for owned in ("smooth arithmetic", "no sandbox", "labels 8, 9", "all-to-all", "source-specific", "Static patches"):
        assert owned in words


def test_the_config_in_a_report_can_be_read_back() -> None:
    assert ScanConfig.from_json(document(CLEAN)["config"]) == ScanConfig()


def test_control_and_direction_characters_of_a_class_name_do_not_reach_the_document() -> None:
    preparation = replace(PREPARATION, label_names=("\x1b[31mred\u202e\ud800\nline", *PREPARATION.label_names[1:]))
    assert document(CLEAN, preparation)["labels"][0]["name"] == "\ufffd[31mred\ufffd\ufffd line"
