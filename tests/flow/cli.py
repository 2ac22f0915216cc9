"""The command line as people run it, in a process of its own or in that of the tests; with a shorter search where a
test needs no more."""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app.cli import main
from app.core.config import InversionConfig
from app.core.presets import PRESETS
from tests.shared_process import sharing_process
from tests.toys import LABELS_PER_BLOCK
from tests.waiting import PATIENCE_SECONDS
from worker import launch

# Only figures are changed, those of the presets and how long a slow engine is waited for once its time is over;
# everything that runs is what `triggerlens` runs.
SHORTENED = """
import sys, json
from dataclasses import replace
from app.core.config import InversionConfig
from app.core.presets import PRESETS
inversion, labels_per_block = InversionConfig.from_json(json.loads(sys.argv.pop(1))), int(sys.argv.pop(1))
short = replace(PRESETS["paper"], inversion=inversion, labels_per_block=labels_per_block)
PRESETS.update({name: replace(short, preset=name) for name in PRESETS})
from worker import launch
launch.GRACE_SECONDS = 900
from app.cli import main
main()
"""


def command(
    arguments: Sequence[object],
    search: InversionConfig | None,
    beforehand: str = "",
    labels_per_block: int = LABELS_PER_BLOCK,
) -> list[str]:
    """The command line, with the preset's own search or a shorter one, for which code may be run beforehand."""
    said = list(map(str, arguments))
    if search is None:
        return [str(Path(sys.executable).with_name("triggerlens")), *said]
    return [sys.executable, "-c", beforehand + SHORTENED, json.dumps(asdict(search)), str(labels_per_block), *said]


def triggerlens(
    *arguments: object, cwd: Path, search: InversionConfig | None = None, labels_per_block: int = LABELS_PER_BLOCK
) -> subprocess.CompletedProcess[str]:
    asked = command(arguments, search, labels_per_block=labels_per_block)
    return subprocess.run(asked, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


def triggerlens_here(
    *arguments: object, cwd: Path, search: InversionConfig | None = None, labels_per_block: int = LABELS_PER_BLOCK
) -> subprocess.CompletedProcess[str]:
    """The same in this process, and its engines, too: what is said and left there does not need another one."""
    said = list(map(str, arguments))
    with chdir(cwd), sharing_process(), pytest.MonkeyPatch.context() as patch:
        if search is not None:
            short = replace(PRESETS["paper"], inversion=search, labels_per_block=labels_per_block)
            patch.setattr(launch, "GRACE_SECONDS", 900)
            for name in PRESETS:
                patch.setitem(PRESETS, name, replace(short, preset=name))
        done = CliRunner().invoke(main, said, prog_name="triggerlens")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(said, done.exit_code, done.stdout, done.stderr)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
