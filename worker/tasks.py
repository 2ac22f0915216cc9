"""Thin tasks: a ring comes in ("there is work on this queue"), nothing goes out.

Each process of Celery's pool is one worker with a runner of its own, made after the fork; it says every few seconds
that it is alive, rings or not. It gives its work back when Celery shuts down or is no more: a pipe tells, of which the
parent alone holds the other end. (A lock or an event that is shared would be left broken by a process that is killed.)
"""

import os
import select
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from billiard.process import current_process
from celery.signals import worker_process_init, worker_process_shutdown, worker_shutting_down

from app.core.logs import configure_logs
from app.core.queue import RING_TASK, CeleryQueue
from app.core.service import Service
from app.core.settings import Settings
from worker.celery import app
from worker.runner import Runner

_ends_with_parent, _held_by_parent = os.pipe()
_runner: Runner | None = None


@app.task(name=RING_TASK)  # type: ignore[untyped-decorator]
def ring() -> None:
    """Take job after job until none is ready. A second ring finds nothing to claim."""
    assert _runner is not None, "rings are heard in the processes of a pool"
    _runner.work_until_idle()


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _begin(**_: Any) -> None:
    global _runner
    os.close(_held_by_parent)
    configure_logs()
    queues = sorted(app.amqp.queues.consume_from)
    _runner = Runner(Service.open(Settings(), CeleryQueue(app)), queues, own_gpu(os.environ, current_process().index))
    threading.Thread(target=_stay_seen, args=(_runner,), name="seen", daemon=True).start()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _end(**_: Any) -> None:
    if _runner is not None:
        _runner.leave()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _tell_the_pool(**_: Any) -> None:
    with suppress(OSError):  # it was told already
        os.close(_held_by_parent)


def _stay_seen(runner: Runner) -> None:
    over = False
    while not over:
        runner.be_seen()
        over = bool(select.select([_ends_with_parent], [], [], runner.service.settings.heartbeat_seconds)[0])
    runner.stop()


def own_gpu(environment: Mapping[str, str], index: int) -> dict[str, str]:
    """The environment by which the engines of a pool's process see one GPU: the one of its place in the pool."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return {"CUDA_VISIBLE_DEVICES": str(index)}
    gpus = visible.split(",")
    return {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]}
