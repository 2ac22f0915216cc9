"""Imports flow one way, as drawn in the README's tree: app never runs torch, models know nobody."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("app", "worker", "models", "migrations", "benchmarks", "examples", "tests")
TORCH = ("torch", "torchvision", "lpips", "safetensors")

# Package -> what of ours it may import, beside itself. The first entry that matches a module counts.
ALLOWED = {
    "app.core": (),
    "app.actions": ("app.core",),
    "app.api": ("app.actions", "app.core"),
    "app.client": ("app.core",),
    "app": ("worker.lanes", "worker.launch", "worker.sandbox"),
    "migrations": ("app.core",),
    "models": ("app.core.errors", "app.core.findings", "app.core.intake.torchscript", "app.core.text"),
    "worker.detection": (*(f"app.core.{part}" for part in ("config", "errors", "families", "findings")), "models"),
    "worker.engine": ("app.core", "worker.detection", "worker.sandbox.limits", "worker.sandbox.usage", "models"),
    "worker.sandbox": ("app.core",),
    "worker.steps": (
        "app.core",
        *(f"worker.detection.{part}" for part in ("selection", "verdict")),
        "worker.sandbox.fence",
    ),
    "worker.launch": ("app.core", "worker.steps", "worker.sandbox"),
    "worker.lanes": ("app.core", "worker.launch", "worker.sandbox"),
    "worker.scratch": ("worker.sandbox.removal",),
    "worker.supervisor": ("app.core", "worker.launch"),
    "worker.desk": ("app.core", "worker.lanes", "worker.launch", "worker.sandbox"),
    "worker.recorder": ("app.core", "worker.desk"),
    "worker.runner": (
        "app.core",
        *(f"worker.{part}" for part in ("desk", "launch", "recorder", "sandbox", "scratch", "supervisor")),
    ),
    "worker.sweeper": ("app.core", "app.actions"),
    "worker.celery": ("app.core",),
    "worker.tasks": ("app.core", "worker.celery", "worker.runner"),
    "worker.embedded": ("app.core", "worker.lanes", "worker.runner", "worker.sweeper"),
    "worker": (),
}
WITHOUT_TORCH = (
    "app",
    "migrations",
    *(f"worker.{part}" for part in ("celery", "desk", "embedded", "lanes", "launch", "recorder", "runner")),
    *(f"worker.{part}" for part in ("sandbox", "scratch", "steps", "supervisor", "sweeper", "tasks")),
    "worker.detection.outliers",
    "worker.detection.verdict",
)


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("app", "worker", "models", "migrations")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it the import stands; `from a import b` counts as a.b too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: imports are absolute"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name for name in submodules if _is_module(name)] or [node.module]


def _is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").exists()


def below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    home = next(package for package in ALLOWED if below(module, package))
    allowed = (home, *ALLOWED[home])
    ours = [name for name in imports(MODULES[module]) if name.split(".")[0] in OURS]
    assert [name for name in ours if not any(below(name, package) for package in allowed)] == []


@pytest.mark.parametrize("module", MODULES)
def test_what_talks_to_people_or_only_decides_imports_no_torch(module: str) -> None:
    if any(below(module, package) for package in WITHOUT_TORCH):
        assert [name for name in imports(MODULES[module]) if name.split(".")[0] in TORCH] == []


def test_the_vocabulary_needs_only_the_standard_library() -> None:
    for name in ("findings", "errors", "config", "jobs", "text"):
        theirs = {imported.split(".")[0] for imported in imports(ROOT / f"app/core/{name}.py")}
        assert theirs <= {*sys.stdlib_module_names, "app"}, name


def test_the_command_line_starts_without_torch() -> None:
    code = f"import sys, app.cli; print(sorted({{*sys.modules}} & {{*{TORCH!r}}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
