"""The worker of the embedded service: `python -m worker.embedded`, a runner and a sweeper in one process, no broker.

The API that started it holds the other end of stdin: a byte is a ring, the end of the pipe is the end, however the API
died. Between rings it looks for work by itself.
"""

import os
import signal
import sys
import threading

from app.core.clock import MACHINE
from app.core.logs import configure_logs
from app.core.queue import LocalQueue
from app.core.service import Service
from app.core.settings import Settings
from worker.runner import Runner
from worker.sweeper import sweep_until


def main() -> None:
    configure_logs()
    settings = Settings()
    service = Service.open(settings, LocalQueue())  # that rings for nobody: the loop below looks again anyway
    runner, bell, over = Runner(service, sorted({"cpu", settings.compute_queue})), threading.Event(), threading.Event()

    def end(*_: object) -> None:
        over.set()
        bell.set()
        runner.stop()

    def listen() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            bell.set()
        end()

    def stay_seen() -> None:
        while not over.is_set():
            runner.be_seen()
            MACHINE.wait(settings.heartbeat_seconds, over)

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, end)
    for task in (listen, stay_seen, lambda: sweep_until(service, over)):
        threading.Thread(target=task, daemon=True).start()
    while not over.is_set():
        bell.clear()
        runner.work_until_idle()
        MACHINE.wait(settings.poll_seconds, bell)
    runner.leave()


if __name__ == "__main__":
    main()
