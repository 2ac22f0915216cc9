"""One JSON file per experiment: `results/<case>_<device>_<yyyy-mm>.json`, with the commit and the machine it is of."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_result(case: str, result: Mapping[str, Any], device: str = "cpu") -> Path:
    """Write what was measured; a later measurement of the same case in the same month takes its place."""
    now = datetime.now(UTC)
    where = {"commit": commit(), "date": f"{now:%Y-%m-%d}", "device": device, "torch": version("torch")}
    where |= {"machine": platform.machine(), "cores": os.cpu_count()}
    path = RESULTS / f"{case}_{device}_{now:%Y-%m}.json"
    path.write_text(json.dumps({**result, **where}, indent=1) + "\n")
    return path


def kept(path: Path, work: Callable[[], dict[str, Any]], config: object = None) -> dict[str, Any]:
    """What the work gave an earlier run, or gives now, with the commit it was done on.

    The config is what the work depends on and the path doesn't name: another one, and the work is done again.
    """
    if not is_kept(path, config):
        path.write_text(json.dumps({**work(), "commit": commit(), "config": _digest(config)}) + "\n")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def is_kept(path: Path, config: object = None) -> bool:
    """Whether an earlier run left this, made with the same config."""
    return path.exists() and json.loads(path.read_text()).get("config") == _digest(config)


def _digest(config: object) -> str:
    return hashlib.sha256(repr(config).encode()).hexdigest()[:16]


def read_results(kind: str) -> list[dict[str, Any]]:
    """The newest result of each case that begins like this, in the order of their names."""
    newest: dict[str, Path] = {}
    for path in sorted(RESULTS.glob(f"{kind}*.json")):  # the month is the end of the name
        newest[path.stem.rpartition("_")[0]] = path
    return [json.loads(path.read_text()) for path in newest.values()]


def commit() -> str:
    """The commit that is checked out, marked where files differ from it; of a copy without git, what it is told."""
    if told := os.environ.get("TRIGGERLENS_COMMIT"):
        return told
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=RESULTS, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"
