"""Scratch folders: the living keep theirs, the dead do not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from worker.sandbox.removal import remove_tree
from worker.scratch import Scratch

pytestmark = pytest.mark.real


def test_what_a_killed_process_left_is_removed_and_what_the_living_hold_is_not(tmp_path: Path) -> None:
    hold = f"""
import time
from pathlib import Path
from worker.scratch import Scratch
scratch = Scratch(Path({str(tmp_path)!r}), "other")
(scratch.path / "job").mkdir()
print("held", flush=True)
time.sleep(3600)
"""
    mine = Scratch(tmp_path, "mine")
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        Scratch(tmp_path, "second").remove()
        assert (tmp_path / "other" / "job").exists()
        other.kill()
    third = Scratch(tmp_path, "third")
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "mine.lock", "third", "third.lock"}
    mine.remove()
    third.remove()
    assert list(tmp_path.iterdir()) == []


def test_folders_within_folders_without_end_are_removed_and_nothing_beside_them(tmp_path: Path) -> None:
    beside, folder = tmp_path / "beside", tmp_path / "folder"
    beside.mkdir()
    (beside / "kept").write_text("mine")
    folder.mkdir()
    (folder / "link").symlink_to(beside)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    (folder / "shut").mkdir(mode=0)
    with pytest.raises(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    remove_tree(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["beside"] and (beside / "kept").exists()
