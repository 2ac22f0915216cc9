"""The clock of whatever waits: it is handed in, so that a test can let pretended time pass. Standard library only.

The database has a clock of its own, `now()` in `tables.py`.
"""

import threading
import time


class Clock:
    """This machine's: seconds since some moment, never backwards."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float, over: threading.Event | None = None) -> bool:
        """Return after so many seconds, or once the event has happened; whether it has."""
        return (over or threading.Event()).wait(seconds)


MACHINE = Clock()
