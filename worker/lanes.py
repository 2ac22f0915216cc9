"""Lanes: tasks of a scan that do not wait for each other, run side by side by an engine each.

On a processor a block of labels is searched on one thread. Two blocks on two cores take half the time, while one on two
threads takes nearly as long as on one: a step of a small network is too short to be shared. What a task computes does
not depend on what runs beside it, so numbers depend on the blocks alone.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from queue import SimpleQueue

from app.core.findings import Preparation
from app.core.plan import Task
from worker.launch import EngineOverdueError, ScanSession
from worker.sandbox.usage import memory_left

ENGINE_BYTES = 2**30  # of memory that an engine takes besides a search, and so many times its model
ENGINE_MODELS = 3


def cores() -> int:
    """Those that this process may use: as many engines can work side by side."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lanes_that_fit(model_bytes: int, search_bytes: int) -> int:
    """As many as there is memory for, beside the engine that is there already, each with a search of so many bytes."""
    engine = ENGINE_BYTES + ENGINE_MODELS * model_bytes + search_bytes
    return 1 + max(0, int(min((memory_left() - search_bytes) / engine, 1e6)))


def lanes_for(preparation: Preparation, model_bytes: int) -> int:
    """How many engines there is room for in the search of a scan; a GPU takes one."""
    return lanes_that_fit(model_bytes, preparation.search_bytes) if preparation.device == "cpu" else 1


def run_side_by_side(pool: ThreadPoolExecutor, sessions: Sequence[ScanSession], tasks: Sequence[Task]) -> None:
    """Each task in a session that is free; what the time limit leaves undone is passed over.

    The pool has to outlive the engines: a fence dies with the thread that it was started by. Raises what one of the
    tasks raises, after all of the sessions were ended.
    """
    free: SimpleQueue[ScanSession] = SimpleQueue()
    for session in sessions:
        free.put(session)

    def run(task: Task) -> None:
        session = free.get()
        try:
            with suppress(EngineOverdueError):
                session.run(task)
        finally:
            free.put(session)

    try:
        for done in as_completed([pool.submit(run, task) for task in tasks]):
            done.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for session in sessions:
            session.kill()
        raise
