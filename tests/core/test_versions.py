"""The name of an engine: it covers all that decides numbers, and differs where any of it does."""

import os
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from app.core.versions import deciding_files, engine_version
from tests.test_architecture import MODULES, ROOT, below, imports

# What an engine imports beside: words for people and how far it is, files and fences, no numbers.
DECIDES_NOTHING = (
    *(f"app.core.{name}" for name in ("errors", "lifecycle", "progress", "report", "statement", "text", "versions")),
    "worker.sandbox",
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What is installed, at another place."""
    for package in ("app", "models", "worker"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def named(place: Path) -> str:
    """The engine there, by a process that has loaded no torch."""
    code = "import sys; from app.core.versions import engine_version as name; print(name(), 'torch' in sys.modules)"
    known = {"PYTHONPATH": str(place), "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=known, capture_output=True, text=True, check=True
    )
    name, has_torch = done.stdout.split()
    assert has_torch == "False"
    return name


def test_the_same_engine_has_the_same_name_wherever_it_lies(copy: Path) -> None:
    (copy / "models" / "weights" / "README.md").write_text("other words")
    (copy / "models" / "__pycache__").mkdir()
    (copy / "models" / "__pycache__" / "student.pyc").write_bytes(b"compiled")
    assert named(copy) == engine_version()


@pytest.mark.parametrize(
    "changed",
    ["app/core/config.py", "worker/detection/step_out.py", "worker/engine/search.py", "models/student.py",
     "models/weights/perceptual.safetensors", "app/core/intake/torchscript/code/allowlist.txt"],
)  # fmt: skip
def test_whatever_decides_numbers_is_in_the_name(copy: Path, changed: str) -> None:
    with (copy / changed).open("ab") as file:
        file.write(b"\n")
    assert named(copy) != engine_version()


def test_a_package_of_another_version_is_another_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.core.versions.version", lambda package: "0.0")
    assert engine_version.__wrapped__() != engine_version()


def test_all_that_an_engine_imports_is_in_the_name() -> None:
    reached, left = set(), ["worker.engine.__main__", "worker.steps"]
    while left:
        if (module := left.pop()) in MODULES and module not in reached:
            reached.add(module)
            left += imports(MODULES[module])
    deciding = {module for module in reached if not any(below(module, name) for name in DECIDES_NOTHING)}
    files = {MODULES[module].relative_to(ROOT).as_posix() for module in deciding}
    assert len(files) > 50 and {file for file in files if not file.endswith("__init__.py")} <= deciding_files().keys()


def test_what_is_in_the_name_is_in_the_wheel() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    shipped = {f"{package.replace('.', '/')}/{pattern}" for package, found in patterns.items() for pattern in found}
    data = [name for name in deciding_files() if not name.endswith(".py")]
    assert data and all(any(fnmatch(name, pattern) for pattern in shipped) for name in data)
