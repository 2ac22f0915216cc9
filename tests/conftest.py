import os
import signal
import sys

import pytest
from hypothesis import settings

# Tests run side by side, and two torches of several threads each would slow each other down many times over.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell lets what it runs in the background ignore interrupts, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A change is judged by what it breaks, not by what a law happens to be tried on today,
# nor by how long the machine stood still.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

pytest_plugins = ["tests.servers", "tests.processes", "tests.outcomes"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What draws from torch's own random numbers draws the same, whatever ran before it in this process."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes a minute by itself begins first: begun last, it would keep one process busy and leave one idle."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
