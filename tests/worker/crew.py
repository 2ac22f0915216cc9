"""Workers for tests: a service without servers, scans asked of it, and engines that need no torch."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from app import actions
from app.actions import ScanRequest
from app.core.clock import MACHINE, Clock
from app.core.config import ScanConfig
from app.core.database import Database
from app.core.findings import Confirmation, FirstPass
from app.core.intake.declaration import DeclaredInput
from app.core.jobs import JobDirectory
from app.core.plan import JobKind, Task
from app.core.queue import RecordingQueue
from app.core.repository import scans
from app.core.service import Service
from app.core.settings import Settings
from app.core.storage import ArtifactStore, StorageError, artifact_key
from app.core.tables import DEFAULT_TENANT, Artifact, Job, Scan, new_id
from tests import factories
from tests.clocks import PretendClock
from tests.toys import LABELS_PER_BLOCK, QUICK, ToyNet, save_toy, save_toy_bundle
from tests.waiting import PATIENCE_SECONDS
from worker import steps
from worker.launch import EngineCrashError
from worker.runner import Runner
from worker.sandbox.events import Event
from worker.sandbox.fence import Sandbox

# A hurry in all but the lease: no machine stands still for so long that one runs out by chance.
QUICKLY = {"lease_seconds": 600.0, "heartbeat_seconds": 0.1, "poll_seconds": 0.02, "sweep_seconds": 0.05}


def supervisors_clock() -> PretendClock:
    """A clock for workers of this thread, with whom their supervisors keep pace."""
    return PretendClock("_watch_clock", "_watch_database")


def service_on(database: Database, folder: Path, **settings: Any) -> Service:
    """A service in a hurry, with its blobs in memory."""
    usual = {"storage_url": "memory://", "device": "cpu", "threads": 1, **QUICKLY}
    made = Settings(data_dir=folder, **usual | settings)
    return Service(made, database, ArtifactStore.open(made), RecordingQueue())


def requested(service: Service, folder: Path, real: bool = False, **options: Any) -> str:
    """The id of a scan that was asked for; of a toy, or for engines that do not look of a few bytes."""
    name = new_id()
    model, bundle = folder / f"{name}.pt", folder / f"{name}.npz"
    if real:
        save_toy(model, ToyNet(planted=2))
        save_toy_bundle(bundle)
    else:
        model.write_bytes(name.encode())
        bundle.write_bytes(name.encode() * 2)
    hashes = {kind: _keep(service, path, kind) for kind, path in (("model", model), ("bundle", bundle))}
    request = ScanRequest(
        model_sha256=hashes["model"],
        bundle_sha256=hashes["bundle"],
        bundle_name="bundle.npz",
        **{
            "config": ScanConfig(inversion=QUICK, labels_per_block=LABELS_PER_BLOCK),
            "input": DeclaredInput(mean=(0.0,), std=(1.0,)),
            **options,
        },
    )
    scan, _ = actions.request_scan(service, DEFAULT_TENANT, request)
    return scan.id


def _keep(service: Service, path: Path, kind: str) -> str:
    key = f"incoming/{path.name}"
    stored = service.store.put_file(key, path)
    service.store.copy(key, artifact_key(DEFAULT_TENANT, stored.sha256))
    service.store.delete(key)
    with service.database.writing() as session:
        session.merge(Artifact(tenant_id=DEFAULT_TENANT, sha256=stored.sha256, kind=kind, size=stored.size))
    return stored.sha256


def scan_of(service: Service, scan_id: str) -> Scan:
    with service.database.reading() as session:
        scan = scans.find(session, DEFAULT_TENANT, scan_id)
    assert scan is not None
    return scan


def jobs_of(service: Service, scan_id: str) -> dict[str, Job]:
    """A scan's jobs by kind, of several blocks with their first label, in a further round with that:
    invert 0, decide, confirm 3 in round 1."""
    with service.database.reading() as session:
        found = session.scalars(select(Job).where(Job.scan_id == scan_id).order_by(Job.id)).all()
    return {f"{job.kind} {job.key}".strip() + f" in round {job.round}" * (job.round > 0): job for job in found}


def events_of(service: Service, scan_id: str) -> list[tuple[str, dict[str, Any]]]:
    with service.database.reading() as session:
        scan = scans.find(session, DEFAULT_TENANT, scan_id)
        assert scan is not None
        return [(event.name, event.data) for event in scans.events_after(session, scan, 0)]


def labels_found(service: Service, scan_id: str) -> list[int]:
    with service.database.reading() as session:
        scan = scans.find(session, DEFAULT_TENANT, scan_id)
        assert scan is not None
        return [row.label for row in scans.findings(session, scan)]


@contextmanager
def at_work(runner: Runner) -> Iterator[threading.Thread]:
    """A runner beside the test; at the end of the block its work has ended too."""
    thread = threading.Thread(target=runner.work_until_idle)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), "it is still at work"


class Workshop:
    """Opens sessions, and knows what was done in all of them. `meanwhile` holds what happens during a kind of job,
    `doubted` which labels are searched again, in vain."""

    def __init__(self) -> None:
        self.sessions: list[SwiftSession] = []
        self.done: list[Task] = []
        self.meanwhile: dict[JobKind, Callable[[SwiftSession], None]] = {}
        self.doubted: tuple[int, ...] = ()
        self.after_label: Callable[[int], None] = lambda label: None

    def __call__(
        self,
        directory: JobDirectory,
        on_event: Callable[[Event], None],
        *,
        sandbox: Sandbox = "none",
        environment: Mapping[str, str] | None = None,
        clock: Clock = MACHINE,
        signer: object = None,
    ) -> "SwiftSession":
        session = SwiftSession(self, directory, on_event, dict(environment or {}), clock)
        self.sessions.append(session)
        return session


class SwiftSession:
    """A ScanSession that does every task at once, without an engine, and leaves what an engine would leave."""

    def __init__(
        self,
        workshop: Workshop,
        directory: JobDirectory,
        on_event: Callable[[Event], None],
        environment: dict[str, str],
        clock: Clock,
    ) -> None:
        self.workshop, self.directory, self.environment = workshop, directory, environment
        self.clock, self.last_event_at = clock, clock.now()
        self.killed = threading.Event()
        self._on_event = on_event

    def __enter__(self) -> "SwiftSession":
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def kill(self) -> None:
        self.killed.set()

    def tell(self, **event: Any) -> None:
        self.last_event_at = self.clock.now()
        self._on_event(event)

    def work_on(self) -> None:
        """Until somebody kills it."""
        assert self.clock.wait(PATIENCE_SECONDS, self.killed), "nobody ended it"
        raise EngineCrashError(-9, "its last words")

    def run(self, task: Task) -> None:
        if self.killed.is_set():
            raise EngineCrashError(-9, "")
        self.last_event_at = self.clock.now()
        self.workshop.meanwhile.get(task.kind, lambda session: None)(self)
        match task.kind:
            case JobKind.PREPARE:
                self.directory.write_preparation(factories.preparation(6))
                self.directory.start.write_bytes(b"start")
            case JobKind.FIRST_PASS:
                searches = self.directory.read_job().config.searches
                scores = dict.fromkeys(searches, tuple(map(float, task.labels)))
                self.directory.write_first_pass(FirstPass(task.labels, scores))
            case JobKind.SELECT:
                steps.select(self.directory)
            case JobKind.INVERT:
                for label in task.labels:
                    self._search(label)
            case JobKind.DECIDE:
                doubted = () if task.round else self.workshop.doubted
                self.directory.write_decision(factories.decision(doubted=doubted), task.round)
            case JobKind.CONFIRM:
                decision = self.directory.read_decision(task.round - 1)
                assert decision is not None and set(task.labels) <= set(decision.doubted_labels)
                for label in task.labels:
                    self.directory.write_confirmation(label, "dynamic", Confirmation(0.5, 0.95, False))
                    self.tell(event="step", done=1, of=1, labels=[label])
            case JobKind.REPORT:
                self.directory.page.write_text("a page")
                self.directory.write_report(
                    {
                        "verdict": "no_backdoor_found",
                        "flagged_labels": [],
                        "model_anomaly_index": 1.0,
                        "reasons": [],
                        "caveats": [],
                        "repair": None,
                        "labels": [],
                        "inputs": {"input": None, "doubts": []},
                    }
                )
        self.workshop.done.append(task)

    def _search(self, label: int) -> None:
        for path in (self.directory.trigger(label, "dynamic"), self.directory.strip(label, "dynamic")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(path.name.encode())
        self.directory.write_finding(factories.finding(label))
        self.tell(event="step", done=1, of=1, labels=[label])
        self.tell(event="label", label=label)
        self.workshop.after_label(label)


class Unplugged(Database):
    """A database that is away while `plug` is pulled, or until it was missed so often; with a clock to hang by it
    answers nothing then."""

    def __init__(self, url: str, hangs_by: Clock | None = None, back_after: float = float("inf")) -> None:
        super().__init__(url)
        self.plug = threading.Event()
        self.plug.set()
        self._hangs_by, self._back_after = hangs_by, back_after

    def _wait_or_fail(self) -> None:
        if self._hangs_by is not None:
            self._hangs_by.wait(float("inf"), self.plug)
        elif not self.plug.is_set():
            self._back_after -= 1
            if self._back_after <= 0:
                self.plug.set()
            raise OperationalError("SELECT 1", {}, ConnectionError("away"))

    @contextmanager
    def reading(self) -> Iterator[Any]:
        self._wait_or_fail()
        with super().reading() as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Any]:
        self._wait_or_fail()
        with super().writing() as session:
            yield session


class FailingStore:
    """A store that fails so many times before it works, at one method."""

    def __init__(self, store: ArtifactStore, method: str, times: int) -> None:
        self._store, self._method, self.left = store, method, times

    def __getattr__(self, name: str) -> Any:
        if name == self._method and self.left > 0:
            self.left -= 1
            raise StorageError("away")
        return getattr(self._store, name)
