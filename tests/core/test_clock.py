"""The clock that whatever waits is given, and the one that tests give it."""

import threading

from app.core.clock import MACHINE, Clock
from tests.clocks import PretendClock
from tests.waiting import PATIENCE_SECONDS


def test_a_wait_ends_with_its_time_or_with_the_event() -> None:
    over, began = threading.Event(), MACHINE.now()
    assert not MACHINE.wait(0.01) and not MACHINE.wait(0.01, over)
    assert MACHINE.now() - began >= 0.02
    over.set()
    assert MACHINE.wait(PATIENCE_SECONDS, over)


def test_pretended_time_goes_on_from_one_wait_to_the_next_and_nobody_is_late() -> None:
    clock, over, woken = PretendClock("slow", "fast"), threading.Event(), list[tuple[str, float]]()
    began = clock.now()

    def watch(own: Clock, seconds: float) -> None:
        while not own.wait(seconds, over):
            woken.append((threading.current_thread().name, own.now() - began))

    threads = [
        threading.Thread(target=watch, args=(clock, each), name=name) for name, each in (("slow", 3), ("fast", 2))
    ]
    for thread in threads:
        thread.start()
    clock.let_pass(7)
    over.set()
    for thread in threads:
        thread.join()
    assert sorted(woken, key=lambda waking: waking[1])[:3] == [("fast", 2), ("slow", 3), ("fast", 4)]
    assert sorted(woken[3:]) == [("fast", 6), ("slow", 6)] and clock.now() - began == 7


def test_whoever_lets_time_pass_does_so_by_waiting() -> None:
    clock, began = PretendClock(), MACHINE.now()
    now = clock.now()
    assert not clock.wait(1e6) and clock.now() - now == 1e6 and MACHINE.now() - began < 1e6
