"""What is tried twice, what is not, and what is said of it: by pytest itself, over small suites."""

from pathlib import Path

import pytest

from tests import suite

CONFTEST = 'pytest_plugins = ["tests.outcomes"]\n'
SETTINGS = "[pytest]\nmarkers =\n    real\n    slow\n    threads\n"
PASSES_SECOND = """
import pytest
from pathlib import Path

@pytest.mark.real
def test_of_the_world():
    been_here = Path("been-here").exists()
    Path("been-here").touch()
    assert been_here
"""
FAILS = "def test_of_ours():\n    assert False\n"
CRASHES = "import os\nimport pytest\n\n@pytest.mark.real\ndef test_that_ends_all():\n    os._exit(3)\n"
NEVER_PASSES = "import pytest\n\n@pytest.mark.real\ndef test_in_vain():\n    assert False\n"
SIDE_BY_SIDE = suite.SIDE_BY_SIDE
CANNOT_BE_READ = "import nothing_of_this_name\n"


@pytest.fixture
def small_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the settings of a suite, which pytest is run in."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    monkeypatch.setenv("PYTHONPATH", str(Path(suite.__file__).parents[1]))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # others' plugins take seconds to import
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist.plugin")
    monkeypatch.setattr(suite, "SIDE_BY_SIDE", ())  # to start others would take longer than these tests
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tried(folder: Path, *contents: str, how: tuple[str, ...] = ()) -> int:
    for number, content in enumerate(contents):
        (folder / f"test_{number}.py").write_text(content)
    return suite.with_second_try("-m", "not slow", *how)


def test_a_real_test_that_passes_when_tried_again_is_said(small_suite: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert tried(small_suite, PASSES_SECOND, "def test_of_ours():\n    pass\n", how=SIDE_BY_SIDE) == 0
    last = capfd.readouterr().out.splitlines()[-1]
    assert last == "needed a second try, and passed: test_0.py::test_of_the_world"


def test_a_real_test_that_fails_twice_fails(small_suite: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert tried(small_suite, NEVER_PASSES) == 1
    assert "failed again: test_0.py::test_in_vain" in capfd.readouterr().out


@pytest.mark.parametrize("other", [FAILS, CRASHES, CANNOT_BE_READ], ids=["unmarked", "crash", "collection"])
def test_nothing_else_gets_a_second_try(small_suite: Path, other: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert tried(small_suite, PASSES_SECOND, other, how=SIDE_BY_SIDE) == 1
    assert "second try" not in capfd.readouterr().out


def test_all_green_is_run_once(small_suite: Path) -> None:
    assert tried(small_suite, "def test_of_ours():\n    pass\n") == 0


def test_running_often_goes_on_where_it_was_and_names_what_failed(
    small_suite: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "DELICATE_TIMES", 1)
    monkeypatch.setattr(suite, "OTHERS", 0)
    (small_suite / "test_0.py").write_text(PASSES_SECOND)
    (small_suite / "test_1.py").write_text("import pytest\n\n@pytest.mark.slow\ndef test_of_patience():\n    pass\n")
    log = small_suite / "log"
    assert suite.run_often(1, log) == 0
    table = capfd.readouterr().out
    assert "3 runs of a part" in table and "   1 times: test_0.py::test_of_the_world" in table
    assert suite.run_often(1, log) == 0 and len(log.read_text().splitlines()) == 3

    (small_suite / "test_2.py").write_text(FAILS)
    assert suite.run_often(2, log) == 1
    assert "2 times, 2 of them for good: test_2.py::test_of_ours" not in (said := capfd.readouterr().out)
    assert "   1 times, 1 of them for good: test_2.py::test_of_ours" in said
