"""Folders for work under way, each held by a living process: what the dead have left behind is removed.

A folder is held by a lock on a file beside it, which the system lets go of however its process ends. (Process ids would
not do: in a container that is started again the same numbers live.)
"""

import fcntl
from contextlib import suppress
from pathlib import Path

from worker.sandbox.removal import remove_tree


class Scratch:
    """A folder of this process, from here until `remove` or the end of the process."""

    def __init__(self, root: Path, name: str) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.path, self._lock = root / name, root / f"{name}.lock"
        self._held = self._lock.open("w")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        self.path.mkdir()
        _remove_what_nobody_holds(root)

    def remove(self) -> None:
        remove_tree(self.path)
        self._lock.unlink(missing_ok=True)
        self._held.close()


def _remove_what_nobody_holds(root: Path) -> None:
    for lock in root.glob("*.lock"):
        with suppress(BlockingIOError, FileNotFoundError), lock.open("r+") as file:  # held, or removed by another
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(lock.with_suffix(""))
            lock.unlink(missing_ok=True)
