"""Which GPUs an engine would find: asked by a process of its own behind the same fence, so nobody else loads torch."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from worker.sandbox import fence
from worker.sandbox.fence import Fence, Sandbox

ASK_SECONDS = 60.0  # importing torch takes a few, and many where nothing of it has been read yet
ASK = """
import torch
print(*(torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count())), sep=", ")
"""


def visible(sandbox: Sandbox, environment: Mapping[str, str]) -> str:
    """Their names; none is an empty text. Raises SubprocessError or OSError where torch has no answer."""
    command = [sys.executable, "-c", ASK]
    if sandbox == "bwrap":
        with tempfile.TemporaryDirectory() as folder:
            asked = fence.run(Fence({}, (Path(folder), "/out"), gpus=True), command, environment, ASK_SECONDS)
        asked.check_returncode()
    else:
        asked = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=ASK_SECONDS
        )
    return asked.stdout.strip()
