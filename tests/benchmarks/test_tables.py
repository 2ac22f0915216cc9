"""What the pages say is what was measured: tables are made from result files, and a page that differs is found out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.core.presets import PRESETS
from benchmarks import recording, tables
from benchmarks.recording import commit, kept, read_results, write_result
from benchmarks.tables import PAGES, filled

SCANS = {
    "dataset": "mnist",
    "preset": "standard",
    "use": "reporting",
    "images": 600,
    "attacks": {
        "wanet": {"victims": 10, "target_named": 10, "target_alone_named": 9, "accused": 10},
        "wanet_all_to_all": {"victims": 3, "target_named": 0, "target_alone_named": 0, "accused": 3},
    },
    "clean": 20,
    "clean_accused": 1,
    "inconclusive": 0,
    "scans": [{}] * 30,
}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_holds_the_tables_of_the_results(page: Path) -> None:
    assert filled(page.read_text()) == page.read_text(), "run `make tables`"


def test_a_table_is_made_from_the_results_and_the_rest_of_a_page_stays(results: Path) -> None:
    write_result("detection-mnist-standard", SCANS)
    page = "Above.\n<!-- begin detection -->\nwhat was here\n<!-- end detection -->\nBelow."
    made = filled(page)
    assert made.startswith("Above.\n<!-- begin detection -->\n| data |") and made.endswith(
        "<!-- end detection -->\nBelow."
    )
    assert "| MNIST | `standard` | 600 | WaNet | 10 of 10 (0.69 to 1.00) | 9 of 10 (0.55 to 1.00) |" in made
    assert "| WaNet, all-to-all |  |  | 3 of 3 (0.29 to 1.00) |" in made, "there is no label to name"
    assert "1 of 20 (0.00 to 0.25)" in made and "what was here" not in made
    assert filled(made) == made


def test_a_result_says_where_it_was_measured_and_the_newest_month_counts(results: Path) -> None:
    path = write_result("speed-mnist", {"seconds": 2})
    written = json.loads(path.read_text())
    assert written["seconds"] == 2 and {"commit", "date", "device", "torch", "machine", "cores"} <= written.keys()
    for month, seconds in (("1999-12", 8), ("1999-02", 9)):
        (results / f"speed-old_cpu_{month}.json").write_text(json.dumps({"seconds": seconds}))
    assert [result["seconds"] for result in read_results("speed-")] == [2, 8]


def test_work_is_kept_with_its_commit_until_its_config_changes(tmp_path: Path) -> None:
    path, done = tmp_path / "row.json", iter(range(9))

    def work() -> dict[str, Any]:
        return {"done": next(done)}

    first = kept(path, work, PRESETS["paper"])
    assert first["done"] == 0 and first["commit"] == commit()
    assert kept(path, work, PRESETS["paper"]) == first
    assert kept(path, work, replace(PRESETS["paper"], seed=1))["done"] == 1


def test_repairs_are_shown_by_their_median_and_their_worst(results: Path) -> None:
    def row(success: float, accuracy: float) -> dict[str, Any]:
        after = {"true_asr": success, "accuracy": accuracy}
        return {"attack": "wanet", "method": "nad", "before": {"true_asr": 1.0, "accuracy": 0.99}, "after": after}

    rows = [row(0.02, 0.985), row(0.01, 0.98), row(0.5, 0.99)]
    write_result("repair-mnist-600", {"dataset": "mnist", "use": "reporting", "images": 600, "repairs": rows})
    assert "| MNIST | 600 | WaNet | NAD | 3 | 2.00 | 50.00 | 0.50 | 1.00 |" in tables.repair()
