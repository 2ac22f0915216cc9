"""Made files are made once, and a race or a failure leaves no half of one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus import cache
from tests.corpus.cache import kept


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "FOLDER", tmp_path)
    return tmp_path / cache.version()


def writes(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "made").write_text(text)

    return make


def test_a_file_is_made_once(folder: Path) -> None:
    assert (kept("net", writes("first")) / "made").read_text() == "first"
    assert (kept("net", writes("second")) / "made").read_text() == "first"


def test_whoever_finishes_second_takes_what_is_there(folder: Path) -> None:
    def slowly(begun: Path) -> None:
        kept("net", writes("the other's"))
        writes("mine")(begun)

    assert (kept("net", slowly) / "made").read_text() == "the other's"
    assert [path.name for path in folder.iterdir()] == ["net"]


def test_a_failure_leaves_nothing(folder: Path) -> None:
    def fails(begun: Path) -> None:
        writes("half")(begun)
        raise RuntimeError("no net")

    with pytest.raises(RuntimeError, match="no net"):
        kept("net", fails)
    assert list(folder.iterdir()) == []
