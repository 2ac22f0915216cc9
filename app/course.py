"""How far a scan on this machine is: what its engines say, heard one at a time, in the words of a service.

What a task is at and how long it still takes (`work`) becomes how far the whole scan is (`progress`); everything else
is passed on as it comes.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from app.core.clock import Clock
from app.core.jobs import ScanJob
from app.core.lifecycle import JobState
from app.core.plan import Task
from app.core.progress import JobProgress, Work, at, outlook, told
from worker.launch import ScanSession
from worker.sandbox.events import Event


class Course:
    """The tasks of a scan as they go on, in lanes side by side."""

    def __init__(self, on_event: Callable[[Event], None], clock: Clock, job: ScanJob) -> None:
        self._on_event, self._clock, self._job = on_event, clock, job
        self._turn = threading.Lock()
        self._jobs: dict[Task, JobProgress] = {}
        self._began: dict[Task, float] = {}
        self._at: dict[int, Task] = {}
        self._lanes: Sequence[ScanSession] = ()

    def begin(self, tasks: Sequence[Task], lanes: Sequence[ScanSession]) -> None:
        """These tasks are next, side by side in these lanes; all that were before are done."""
        with self._turn:
            for task in self._jobs:
                self._end(task)
            self._lanes = lanes
            self._jobs |= {task: JobProgress(task.kind, JobState.READY, "", len(task.labels)) for task in tasks}

    def listener(self, lane: int) -> Callable[[Event], None]:
        """Of what is said in a lane."""

        def hear(event: Event) -> None:
            with self._turn:
                self._hear(lane, event)

        return hear

    def _hear(self, lane: int, event: Event) -> None:
        task = self._lanes[lane].task
        assert task is not None, "only who does something says something"
        if self._at.get(lane) != task:
            if lane in self._at:
                self._end(self._at[lane])
            self._at[lane], self._began[task] = task, self._clock.now()
            self._jobs[task] = replace(self._jobs[task], state=JobState.RUNNING)
        if event["event"] != "work":
            self._on_event(event)
            return
        self._jobs[task] = replace(self._jobs[task], work=Work.from_json(event))
        jobs = [self._now(task, job) for task, job in self._jobs.items()]
        far = told(outlook(jobs, self._job.repair, len(self._lanes)), at(jobs))
        self._on_event({"event": "progress", "stage": task.kind.value, **far})

    def _now(self, task: Task, job: JobProgress) -> JobProgress:
        if job.state is not JobState.RUNNING:
            return job
        return replace(job, seconds=self._clock.now() - self._began[task])

    def _end(self, task: Task) -> None:
        self._jobs[task] = replace(self._now(task, self._jobs[task]), state=JobState.DONE)
