"""What decides a scan's numbers, as one name: equal requests get equal answers only from equal engines.

The name is a digest over the files that compute and judge, the weights and tables that they ship, and the packages that
they stand on. Nobody has to remember to change it, and where the same release is installed it is the same, from a wheel
or from a folder, on every machine. Reads files and imports nothing: the API, which never imports torch, has a name too.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

# Folders with everything in them, and single files. A test compares them with what an engine imports.
DECIDING = (
    "app/core/config.py",
    "app/core/families.py",
    "app/core/findings.py",
    "app/core/intake",
    "app/core/jobs.py",
    "app/core/plan.py",
    "app/core/presets.py",
    "app/core/report/document.py",
    "models",
    "worker/detection",
    "worker/engine",
    "worker/steps.py",
)
KINDS = (".json", ".npy", ".npz", ".py", ".safetensors", ".txt")  # of files that can decide something
PACKAGES = ("lpips", "numpy", "pillow", "torch")

MIXED = "mixed"  # of a scan that was computed by engines that differ


@cache
def engine_version() -> str:
    """The name of the engine that is installed here: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, path in sorted(deciding_files().items()):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for package in PACKAGES:
        digest.update(f"{package} {version_of(package)}\n".encode())
    return digest.hexdigest()[:16]


def deciding_files() -> dict[str, Path]:
    """Where each file that decides is installed, by its name below the source tree."""
    return {name: path for place in DECIDING for name, path in _files(place)}


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _files(place: str) -> Iterator[tuple[str, Path]]:
    package, _, below = place.partition("/")
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations, f"{package} is part of what is installed"
    root = Path(next(iter(spec.submodule_search_locations)))
    found = root / below
    for path in [found] if found.is_file() else found.rglob("*"):
        if path.suffix in KINDS and path.is_file():
            yield f"{package}/{path.relative_to(root).as_posix()}", path
