"""What became of each test, for whoever runs pytest: `--outcomes FILE` leaves it as JSON, one line a test.

    {"test": "tests/a.py::test_b", "passed": false, "real": true, "seconds": 1.5}

A test that took its process with it has no marks any more, so it is never a `real` one. What could not even be
collected is a line of its own.
"""

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, metavar="FILE", help="leave what became of each test in this file")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--outcomes")
    if path is not None and not hasattr(config, "workerinput"):  # xdist's workers report to the one that writes
        config.pluginmanager.register(_Outcomes(path))


class _Outcomes:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = self._known.setdefault(
            report.nodeid, {"test": report.nodeid, "passed": True, "real": True, "seconds": 0.0}
        )
        known["passed"] &= not report.failed
        known["real"] &= "real" in report.keywords
        known["seconds"] = round(known["seconds"] + getattr(report, "duration", 0.0), 3)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._known[report.nodeid] = {"test": report.nodeid, "passed": False, "real": False, "seconds": 0.0}

    def pytest_sessionfinish(self) -> None:
        self._path.write_text("".join(f"{json.dumps(known)}\n" for known in self._known.values()))
