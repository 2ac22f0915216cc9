"""Time that a test lets pass."""

import threading
import time
from collections.abc import Callable

from app.core.clock import Clock
from tests.waiting import eventually


class PretendClock(Clock):
    """Stands still until the test's own thread waits on it or lets time pass.

    `others` are the names of threads that live by it. Time goes on from one moment that somebody waits for to the next,
    and only while all of these threads wait: nobody is ever late, however slow the machine.
    """

    def __init__(self, *others: str) -> None:
        self._others = others
        self._owner = threading.current_thread()
        self._now = 1000.0
        self._waiting: dict[threading.Thread, tuple[float, threading.Event | None]] = {}

    def now(self) -> float:
        return self._now

    def wait(self, seconds: float, over: threading.Event | None = None) -> bool:
        end, has_happened = self._now + seconds, over.is_set if over is not None else lambda: False
        if threading.current_thread() is self._owner:
            self.let_pass(seconds, until=has_happened)
        else:
            self._waiting[threading.current_thread()] = end, over
            while self._now < end and not has_happened():
                time.sleep(0.001)
            del self._waiting[threading.current_thread()]
        return has_happened()

    def let_pass(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let so much time pass, or less: until something has come about."""
        end = self._now + seconds
        while not until() and self._now < end:
            eventually(self._all_wait, pause=0.001)
            self._now = min([end, *(due for due, _ in list(self._waiting.values()) if due > self._now)])
            eventually(self._all_wait, pause=0.001)

    def _all_wait(self) -> bool:
        return all(self._waits(thread) for thread in threading.enumerate() if thread.name in self._others)

    def _waits(self, thread: threading.Thread) -> bool:
        due, over = self._waiting.get(thread, (0.0, None))
        return due > self._now and not (over is not None and over.is_set())
