"""How a test waits for what a real process does: until it comes, and with one patience for all.

The patience says when to give up, not how fast anything has to be: no machine, however busy, takes so long.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 900.0


def eventually(
    condition: Callable[[], T | None],
    seconds: float = PATIENCE_SECONDS,
    unavailable: type[Exception] | tuple[type[Exception], ...] = (),
    pause: float = 0.02,
) -> T:
    """What the condition answers once that is true; an error that is expected counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if answer := condition():
                return answer
        except unavailable:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, f"this did not come about within {seconds} seconds"
        time.sleep(pause)
