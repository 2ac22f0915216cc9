"""What is installed beside the base package, found out without importing it: torch takes seconds."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from app.core.errors import Refusal

ENGINE = ("torch", "torchvision", "lpips", "safetensors")  # the extra `engine` of pyproject.toml


def demand_engine(find: Callable[[str], Any] = find_spec) -> None:
    """Raises Refusal engine_not_installed where scans cannot be computed."""
    missing = [name for name in ENGINE if find(name) is None]
    if missing:
        raise Refusal(
            "engine_not_installed",
            f"To compute a scan on this machine, {' and '.join(missing)} must be installed.",
            "Run `pip install 'triggerlens[engine]'`, or let a service compute it: `triggerlens scan --server URL`.",
        )
