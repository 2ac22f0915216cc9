"""Scratch folders: the living keep theirs, the dead do not."""

import subprocess
import sys
from pathlib import Path

from worker.scratch import Scratch


def test_what_a_killed_process_left_is_removed_and_what_the_living_hold_is_not(tmp_path: Path) -> None:
    hold = f"""
import time
from pathlib import Path
from worker.scratch import Scratch
scratch = Scratch(Path({str(tmp_path)!r}), "other")
(scratch.path / "job").mkdir()
print("held", flush=True)
time.sleep(60)
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
