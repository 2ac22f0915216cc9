"""The Dockerfile by a linter and by what we promise of its images; only the wheel that goes into them is built."""

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.deploy.compose import ROOT, services, variables

TEXT = (ROOT / "Dockerfile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGES = ("app", "worker", "models", "migrations")


def stages() -> dict[str, tuple[str, list[str]]]:
    """What each stage is made from, and its instructions, one string each."""
    found: dict[str, tuple[str, list[str]]] = {}
    code = re.sub(r"^#.*\n", "", TEXT, flags=re.M).replace("\\\n", " ")
    for line in filter(None, code.splitlines()):
        if start := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            instructions: list[str] = []
            found[start[2]] = (start[1], instructions)
        else:
            instructions.append(" ".join(line.split()))
    return found


STAGES = stages()


def whole(name: str) -> list[str]:
    """A stage's instructions with those of the stages it is made from."""
    origin, instructions = STAGES[name]
    return [*(whole(origin) if origin in STAGES else []), *instructions]


each_image = pytest.mark.parametrize("image", ["api", "worker"])


def test_linter_has_nothing_to_say():
    linted = subprocess.run(
        [Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert linted.returncode == 0 and not linted.stdout, linted.stdout + linted.stderr


def test_everything_starts_from_one_python():
    outside = {origin for origin, _ in STAGES.values() if origin not in STAGES}
    assert outside == {"python:3.11-slim-bookworm"}


def test_compose_builds_stages_that_are_there():
    targets = {
        service.facts["build"]["target"] for service in services(variables()).values() if "build" in service.facts
    }
    assert targets == {"api", "worker"} <= STAGES.keys()


@each_image
def test_image_runs_as_a_fixed_user_who_owns_only_data(image: str):
    assert [line for line in whole(image) if line.startswith("USER")] == ["USER 10001:10001"]
    assert any("useradd --uid 10001" in line for line in whole(image))
    assert any("install --directory --owner triggerlens" in line and line.endswith("/data") for line in whole(image))
    assert not any("--chown" in line for line in whole(image))


@each_image
def test_image_installs_nothing_but_what_was_built(image: str):
    ours = whole(image)
    packages = [re.findall(r"--no-install-recommends ([\w ]+) &&", line) for line in ours if "apt-get" in line]
    assert packages == {"api": [], "worker": [["bubblewrap"]]}[image]
    installs = [line for line in ours if "pip install" in line]
    assert len(installs) == 1 and "--no-deps --no-index" in installs[0]
    copies = [shlex.split(line)[1:] for line in ours if line.startswith("COPY")]
    dependencies = {"api": "dependencies", "worker": "engine-dependencies"}[image]
    assert copies == [[f"--from={dependencies}", "/opt/triggerlens", "/opt/triggerlens"]]


def test_only_the_worker_gets_the_engine():
    assert not any("engine" in line for line in whole("dependencies"))
    assert any("['engine']" in line for line in STAGES["engine-dependencies"][1])
    assert "engine" in PROJECT["optional-dependencies"]


def test_dependencies_are_constrained_and_no_index_is_named():
    installs = [
        line for name in ("dependencies", "engine-dependencies") for line in STAGES[name][1] if "install" in line
    ]
    assert len(installs) == 2 and all("--constraint constraints.txt" in line for line in installs)
    assert not re.search(r"index-url|https?://(?!127\.0\.0\.1)", TEXT)


@pytest.mark.parametrize(("stage", "names"), [("dependencies", "dependencies"), ("engine-dependencies", "engine")])
def test_requirements_are_read_from_the_project(stage: str, names: str):
    (code,) = (re.search(r'python -c "([^"]+)"', line)[1] for line in STAGES[stage][1] if "python -c" in line)
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    expected = PROJECT["dependencies"] if names == "dependencies" else PROJECT["optional-dependencies"]["engine"]
    assert printed.splitlines() == expected


@each_image
def test_image_tells_what_it_is(image: str):
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', " ".join(whole(image))))
    assert labels.keys() == {"title", "description", "licenses", "version", "revision"}
    assert labels["version"] == PROJECT["version"] and labels["licenses"] == PROJECT["license"]


def test_context_holds_the_sources_and_nothing_else():
    lines = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and line[0] != "#"]
    assert lines[0] == "*", "what is not named stays out: .env, .git, data"
    named = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert named == {*PACKAGES, "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    assert all((ROOT / name).exists() for name in named)


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_packages(tmp_path: Path):
    """Templates, styles and weights too: an image has nothing but the wheel."""
    source = tmp_path / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        tmp_path,
        source,
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {
        str(path.relative_to(source)) for name in PACKAGES for path in (source / name).rglob("*") if path.is_file()
    }
    missing = {name for name in files - held if not fnmatch.fnmatch(name, "*/README.md")}
    assert not missing
