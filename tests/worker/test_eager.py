"""An engine does not load torch's compiler, and whoever wants it gets it."""

import subprocess
import sys
from pathlib import Path

SCAN = """
import sys
from pathlib import Path
import torch
from worker.engine.eager import COMPILER, run_eagerly
from tests.shared_process import run_job_here
from tests.toys import ToyNet, place_job

run_eagerly()
directory = place_job(Path(sys.argv[1]), ToyNet(planted=2), repair=True, repair_label=2)
run_job_here(directory)
assert directory.read_repair() is not None
assert not [name for name in sys.modules if name.startswith(f"{COMPILER}.")], "it was searched, judged and repaired"
"""

COMPILE = """
import torch
from worker.engine.eager import run_eagerly

run_eagerly()
weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.SGD([weight], 0.5)
weight.sum().backward()
optimizer.step()
doubled = torch.compile(lambda numbers: 2 * numbers, backend="eager", fullgraph=True)
assert doubled(weight).tolist() == [1.0, 1.0, 1.0]
import torch._dynamo.config
optimizer.step()
assert weight.tolist() == [0.0, 0.0, 0.0]
"""


def run(code: str, *arguments: object) -> None:
    words = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_scan_and_a_repair_load_no_compiler(tmp_path: Path) -> None:
    run(SCAN, tmp_path / "job")


def test_what_is_to_be_compiled_is_compiled() -> None:
    run(COMPILE)
