"""The worker of the embedded service: `python -m worker.embedded`, runners and a sweeper in one process, no broker.

One runner takes every job. As many more as there are cores help it with the blocks of labels of the scan that is on its
desk, as far as there is memory for their engines; each sleeps until then.

The API that started it holds the other end of stdin: a byte is a ring, the end of the pipe is the end, however the API
died. Between rings it looks for work by itself.
"""

import os
import signal
import sys
import threading

from app.core.clock import MACHINE
from app.core.logs import configure_logs
from app.core.service import Service
from app.core.settings import Settings
from worker.lanes import cores
from worker.runner import Runner
from worker.sweeper import sweep_until


class Bells:
    """The doorbells of the runners in this process."""

    def __init__(self, runners: int) -> None:
        self.bells = [threading.Event() for _ in range(runners)]

    def ring(self, queue: str = "") -> None:
        for bell in self.bells:
            bell.set()

    def is_reachable(self) -> bool:
        return True


def main() -> None:
    configure_logs()
    settings, over = Settings(), threading.Event()
    door = Bells(settings.lanes or cores())
    service, queues = Service.open(settings, door), sorted({"cpu", settings.compute_queue})
    runners = [Runner(service, queues) for _ in door.bells]

    def end(*_: object) -> None:
        over.set()
        door.ring()
        for runner in runners:
            runner.stop()

    def listen() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            door.ring()
        end()

    def stay_seen() -> None:
        while not over.is_set():
            for runner in runners:
                runner.be_seen()
            MACHINE.wait(settings.heartbeat_seconds, over)

    def work(lane: int) -> None:
        """In a thread that outlives its engines: a fence dies with the one that it was started by."""
        runner, bell = runners[lane], door.bells[lane]
        try:
            while not over.is_set():
                bell.clear()
                if lane == 0:
                    runner.work_until_idle()
                elif (desk := runners[0].desk) is not None and lane < desk.lanes:
                    runner.work_until_idle(only=desk.scan_id)
                MACHINE.wait(settings.poll_seconds, bell)
            runner.leave()
        finally:
            end()  # all of them, if one fails: the API starts them again

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, end)
    for task in (listen, stay_seen, lambda: sweep_until(service, over)):
        threading.Thread(target=task, daemon=True).start()
    # This thread waits only: a signal finds it holding no lock that `end` takes.
    lanes = [threading.Thread(target=work, args=(lane,)) for lane in range(len(runners))]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()


if __name__ == "__main__":
    main()
