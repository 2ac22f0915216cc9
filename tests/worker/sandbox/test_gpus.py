"""GPUs are asked for in a process of their own; here its torch is one that knows some."""

import os
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from worker.sandbox import gpus

TORCH = """
class cuda:
    device_count = staticmethod(lambda: {count})
    get_device_name = staticmethod(lambda gpu: f"GPU {{gpu}}")
"""


@pytest.mark.parametrize(("count", "names"), [(0, ""), (2, "GPU 0, GPU 1")])
def test_the_gpus_that_torch_finds_are_named(tmp_path: Path, count: int, names: str) -> None:
    (tmp_path / "torch.py").write_text(TORCH.format(count=count))
    assert gpus.visible("none", {**os.environ, "PYTHONPATH": str(tmp_path)}) == names


def test_a_torch_that_fails_has_no_answer(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError")
    with pytest.raises(CalledProcessError):
        gpus.visible("none", {**os.environ, "PYTHONPATH": str(tmp_path)})
