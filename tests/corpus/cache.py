"""Made files, kept outside git: made at the first use, found again later.

The folder is named after the versions of torch and torchvision and after the code that makes the files, so a change of
any of them makes them anew. Deleting `runs/corpus` is always safe. Nothing here knows what the files hold.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torchvision

from benchmarks.datasets import REPOSITORY

FOLDER = REPOSITORY / "runs" / "corpus"
RECIPES = (*sorted(Path(__file__).parent.glob("*.py")), REPOSITORY / "benchmarks" / "victims" / "nets.py")


@cache
def version() -> str:
    """The name of the folder that holds what this code makes with these libraries."""
    recipes = b"".join(path.read_bytes() for path in RECIPES if not path.name.startswith("test_"))
    return f"torch-{torch.__version__}-torchvision-{torchvision.__version__}-{hashlib.sha256(recipes).hexdigest()[:10]}"


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` as `make` fills it; when two processes make it at once, one of the two equal ones stays."""
    wanted = FOLDER / version() / name
    if wanted.is_dir():
        return wanted
    wanted.parent.mkdir(parents=True, exist_ok=True)
    begun = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=wanted.parent))
    try:
        make(begun)
        begun.rename(wanted)
    except OSError:
        if not wanted.is_dir():
            raise
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return wanted
