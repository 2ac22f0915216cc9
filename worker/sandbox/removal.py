"""Removes what an engine has left: it may have made folders so deep that no path reaches the last one, and shut some.

`shutil.rmtree` would fail on those. So each folder is opened, moved up and then emptied.
"""

import os
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, as far as it can be."""
    with suppress(OSError), tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as place:
        numbers, full = count(), [folder.rename(Path(place, "all"))]
        while full:
            emptied = full.pop()
            for entry in list(os.scandir(emptied)):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)
                    full.append(Path(entry.path).rename(Path(place, str(next(numbers)))))
                else:
                    os.unlink(entry.path)
            emptied.rmdir()
