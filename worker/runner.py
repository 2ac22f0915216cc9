"""Claims jobs, has an engine work on them, hands in what came of it: the only place that knows leases. No torch.

A job on the queue `gpu` needs CUDA, and so does any that runs torch where TRIGGERLENS_DEVICE=cuda. A worker that has
none, or loses it, leaves such queues to others: that is no fault of a scan.

`Runner.work_until_idle` is what a ring starts, from Celery or from the pipe of the embedded service. Whatever does not
end well goes back to the others, on a cleared desk; what may be the job's own fault counts, and the third time ends it.
"""

import os
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from subprocess import SubprocessError

import structlog
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.core import scheduling
from app.core.clock import MACHINE, Clock
from app.core.errors import Problem, Refusal
from app.core.jobs import ScanJob
from app.core.lifecycle import JobState
from app.core.progress import Work
from app.core.repository import access, jobs, scans
from app.core.repository.jobs import Lease
from app.core.service import Service
from app.core.storage import StorageError
from app.core.tables import Job, Scan, Worker, new_id
from app.core.versions import engine_version
from worker.desk import Desk
from worker.launch import EngineCrashError
from worker.recorder import LostLeaseError, Recorder
from worker.sandbox import fence, gpus
from worker.sandbox.events import Event
from worker.scratch import Scratch
from worker.supervisor import Ended, Supervisor

log = structlog.get_logger()


class Runner:
    """One worker: at most one scan on its desk, one job at a time."""

    def __init__(
        self,
        service: Service,
        queues: Sequence[str],
        environment: Mapping[str, str] | None = None,
        ask_gpus: Callable[[], str] | None = None,
        clock: Clock = MACHINE,
    ) -> None:
        self.service, self._heard_queues, self.clock = service, tuple(queues), clock
        self.environment = dict(environment or {})
        self.sandbox = fence.choose(service.settings.sandbox)
        self.signer = service.settings.signer()
        self._ask_gpus = ask_gpus or (lambda: gpus.visible(self.sandbox, os.environ | self.environment))
        self._asking = threading.Lock()
        self._cuda: bool | None = None
        self.id = new_id()
        self.scratch = Scratch(service.settings.scratch, self.id)
        self.recorder = Recorder(service)
        self.desk: Desk | None = None
        self.supervisor: Supervisor | None = None
        self.stopping = False

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues whose jobs this worker takes, of those it hears the rings of. The first look may take seconds."""
        demanding: set[str] = set()
        if (device := self.service.settings.device) != "cpu":
            demanding = {"gpu", self.service.settings.compute_queue} if device == "cuda" else {"gpu"}
        if demanding.isdisjoint(self._heard_queues) or self._has_cuda():
            return self._heard_queues
        return tuple(queue for queue in self._heard_queues if queue not in demanding)

    def _has_cuda(self, again: bool = False) -> bool:
        """Whether an engine would find a GPU; asked for once, or again."""
        with self._asking:
            if self._cuda is None or again:
                try:
                    self._cuda = bool(self._ask_gpus())
                except (SubprocessError, OSError) as error:
                    log.error("gpus_unknown", error=str(error))
                    self._cuda = False
                if not self._cuda:
                    log.error("no_cuda", advice="It takes no job that needs CUDA: see `triggerlens doctor`.")
            return self._cuda

    def work_until_idle(self, only: str | None = None) -> None:
        """Take job after job, of one scan only or of any, until none is ready."""
        try:
            while not self.stopping:
                looked_at = self.clock.now()
                if (job := self._claim(only)) is None:
                    break
                self._work(job, looked_at)
        except OperationalError as error:
            log.warning("database_away", error=type(error).__name__)
        finally:
            self._clear_desk()

    def stop(self) -> None:
        """End the work at hand and take no more; the job goes back to the others. Callable from a signal handler."""
        self.stopping = True
        if (supervisor := self.supervisor) is not None:
            supervisor.end(Ended.STOPPED)

    def be_seen(self) -> None:
        """Say that this worker is alive."""
        worker = Worker(
            id=self.id,
            queues=",".join(self.queues),
            host=platform.node(),
            process=os.getpid(),
            device=self.service.settings.device,
            version=engine_version(),
        )
        try:
            with self.service.database.writing() as session:
                access.see_worker(session, worker)
        except SQLAlchemyError as error:
            log.warning("not_seen", error=type(error).__name__)

    def leave(self) -> None:
        with suppress(OperationalError), self.service.database.writing() as session:
            access.forget_worker(session, self.id)
        self.scratch.remove()

    def _claim(self, only: str | None = None) -> Job | None:
        """The best ready job. While others wait behind it the ring is passed on, to the next worker that is idle."""
        settings, queues = self.service.settings, self.queues
        mine = set(queues)
        with self.service.database.reading() as session:
            if not mine & set(jobs.ready_queues(session)):
                return None  # most looks find nothing, and need no write lock
            if self.sandbox == "none" and access.count_tenants(session) > 1:
                log.error("no_sandbox_for_many_tenants", advice="`triggerlens doctor` says what the sandbox lacks")
                return None
        with self.service.database.writing() as session:
            prefer = self.desk.scan_id if self.desk else None
            job = jobs.claim(session, queues, self.id, settings.lease_seconds, prefer, only)
            goes_on = job is None or scheduling.claimed(session, job)
            waiting = mine & set(jobs.ready_queues(session))
        if job is not None:
            self._ring(waiting)
        return job if goes_on else self._claim(only)

    def _work(self, job: Job, claimed_at: float) -> None:
        """Do one job and record how it ended."""
        lease = Lease(job.id, job.lease_token)
        scan, finished = self._read(job)
        desk = self._desk_for(scan)
        settings, database = self.service.settings, self.service.database
        with Supervisor(settings, database, lease, claimed_at, scan.id, desk.session, self.clock) as supervisor:
            self.supervisor = supervisor
            try:
                if self.stopping:  # since the claim
                    supervisor.end(Ended.STOPPED)
                ended_well = self._attempt(job, lease, desk, finished, supervisor)
            finally:
                self.supervisor = None
        if supervisor.ended or not ended_well:
            self._clear_desk()

    def _attempt(self, job: Job, lease: Lease, desk: Desk, finished: Sequence[Job], supervisor: Supervisor) -> bool:
        """Bring what a job needs, do it, hand in its results; False where it did not come to that."""
        task, started = jobs.task_of(job), self.clock.now()
        bound = log.bind(scan=job.scan_id, job=job.id, kind=job.kind, labels=job.labels or None, round=job.round)
        try:
            supervisor.patiently(lambda: desk.fetch(task, finished), StorageError)
            with supervisor.expecting_events():
                desk.session.run(task)
            outputs = supervisor.patiently(lambda: desk.hand_in(lease, finished), StorageError)
            queues = supervisor.patiently(
                lambda: self.recorder.done(lease, desk, task, outputs), OperationalError, StorageError
            )
        except LostLeaseError:
            bound.warning("lease_lost")
            return False
        except Refusal as refusal:
            problem = refusal.problem
            if problem.code == "no_cuda":
                bound.warning("job_given_up", why=problem.detail)
                self._has_cuda(again=True)  # a suspect may say so, too
                self._give_back(lease, supervisor.ended, None if job.queue not in self.queues else problem)
                return False
            bound.info("job_refused", code=problem.code)
            supervisor.patiently(lambda: self.recorder.refused(lease, problem), OperationalError)
            return False
        except (EngineCrashError, StorageError, OperationalError) as error:
            bound.warning("job_given_up", why=supervisor.ended or str(error), engine=getattr(error, "log", None))
            self._give_back(lease, supervisor.ended, _fault(supervisor.ended, error))
            return False
        except Exception as error:  # a defect, or an engine that left nonsense: not worth this worker's life
            bound.exception("job_failed")
            self._give_back(lease, supervisor.ended, _fault(supervisor.ended, error))
            return False
        bound.info("job_done", seconds=round(self.clock.now() - started, 2))
        self._ring(set(queues))
        return True

    def _give_back(self, lease: Lease, ended: Ended | None, fault: Problem | None) -> None:
        """The job was not done: it goes back, and counts as a loss where it may be the job's own fault."""
        if ended is Ended.LOST:
            return  # it is back already
        try:
            self._ring(set(self.recorder.given_back(lease, fault)))
        except OperationalError:
            log.warning("not_given_back", job=lease.job_id)  # the lease will run out

    def _ring(self, queues: set[str]) -> None:
        for queue in queues:
            self.service.queue.ring(queue)

    def _read(self, job: Job) -> tuple[Scan, Sequence[Job]]:
        """The job's scan, and its finished jobs."""
        with self.service.database.reading() as session:
            scan = scans.find(session, job.tenant_id, job.scan_id)
            assert scan is not None, "an open scan is not deleted"
            return scan, jobs.of_scan(session, job.scan_id, JobState.DONE)

    def _desk_for(self, scan: Scan) -> Desk:
        """The desk, cleared of any other scan."""
        if self.desk is not None and self.desk.scan_id != scan.id:
            self._clear_desk()
        if self.desk is None:
            settings = self.service.settings
            job = replace(
                ScanJob.from_json(scan.request),
                device=settings.device,
                threads=settings.threads,
                perceptual=settings.perceptual,
            )
            root, store = self.scratch.path / scan.id, self.service.store
            self.desk = Desk(
                root, scan, store, self._listen, job, self.environment, self.sandbox, self.clock, self.signer
            )
        return self.desk

    def _clear_desk(self) -> None:
        if self.desk is not None:
            self.desk.close()
            self.desk = None

    def _listen(self, event: Event) -> None:
        """What the engine says while it works: what it is at is written down now and then, a finding at once."""
        supervisor, desk = self.supervisor, self.desk
        assert supervisor is not None and desk is not None
        if event["event"] == "work":
            worked = self.clock.now() - supervisor.claimed_at
            supervisor.work = replace(Work.from_json(event), seconds_worked=worked)
        elif event["event"] == "label":
            finding = desk.directory.read_finding(event["label"])
            assert finding is not None, "a label is told when its finding lies there"
            supervisor.patiently(lambda: self.recorder.finding(supervisor.lease, finding), OperationalError)


def _fault(ended: Ended | None, error: Exception) -> Problem | None:
    """What to hold against a job that was not done; None where it had no part in it."""
    if ended in (Ended.CANCELLED, Ended.STOPPED) or isinstance(error, StorageError | OperationalError):
        return None
    if ended is Ended.STALLED:
        return Problem(
            "engine_stalled",
            "The engine reported no progress for too long and was ended.",
            "A very large model may need a higher TRIGGERLENS_STALL_SECONDS.",
            title="The scan failed",
        )
    if ended is Ended.OVERDUE:
        return Problem(
            "engine_overdue",
            "The engine worked for too long on one part of the scan and was ended.",
            "A very large model may need a higher TRIGGERLENS_JOB_SECONDS, or fewer labels in a block.",
            title="The scan failed",
        )
    if isinstance(error, EngineCrashError):
        return Problem(
            "engine_crashed",
            f"The engine ended unexpectedly ({error}).",
            f"{error.advice} The worker's log has the engine's last words.",
            title="The scan failed",
        )
    return Problem(
        "internal_error",
        "The worker failed on this scan, several times over.",
        "This is a defect: please report it with what the worker's log says under job_failed.",
        title="The scan failed",
    )
