"""Which browser the tests take, where some are none."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.web import chromium as module
from tests.web.chromium import chromium

STUB = """echo "Command '$0' requires the chromium snap to be installed." >&2; exit 1"""  # as Ubuntu's
SNAP = "echo 'Chromium 142.0.7444.59 snap'"
REAL = "echo 'Chromium 142.0.7444.59 built on Debian GNU/Linux 12 (bookworm)'"


def put_on_path(folder: Path, name: str, script: str) -> str:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return str(folder / name)


@pytest.fixture(autouse=True)
def _only_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("script", [STUB, SNAP])
def test_a_stub_and_a_snap_are_no_browser_and_it_is_said_what_to_install(tmp_path: Path, script: str) -> None:
    put_on_path(tmp_path, "chromium-browser", script)
    assert chromium() is None
    told = subprocess.run([sys.executable, module.__file__], capture_output=True, text=True)
    assert told.returncode == 1 and module.ADVICE in told.stderr and "google-chrome-stable" in told.stderr


def test_a_browser_behind_a_stub_is_found(tmp_path: Path) -> None:
    put_on_path(tmp_path, "chromium", STUB)
    real = put_on_path(tmp_path, "google-chrome", REAL)
    assert chromium() == real
    assert subprocess.run([sys.executable, module.__file__]).returncode == 0
