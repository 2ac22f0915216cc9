"""Small worlds for the tests of the API: services, scans in every state, and a client that checks the contract."""

import hashlib
import io
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.api.problems import CATALOGUE, MEDIA_TYPE
from app.core.config import ScanConfig
from app.core.database import Database
from app.core.errors import Problem
from app.core.findings import FamilyFinding, LabelFinding
from app.core.intake.declaration import DeclaredInput
from app.core.jobs import STATEMENT, ScanJob
from app.core.lifecycle import JobState, ScanStatus
from app.core.plan import JobKind, Task
from app.core.progress import Doing, Work
from app.core.queue import RecordingQueue
from app.core.repository import access, artifacts, jobs, scans
from app.core.service import Service
from app.core.settings import Settings
from app.core.storage import ArtifactStore, artifact_key, scan_prefix
from app.core.tables import DEFAULT_TENANT, Artifact, Job, Scan, new_id, now
from app.core.versions import engine_version
from app.main import create_app
from app.serving import configuration
from tests.waiting import PATIENCE_SECONDS

BASE_URL = "http://127.0.0.1:8360"
REPORT = b'{"verdict": "backdoored"}'
PAGE = b"<!doctype html><title>report</title>"
FIGURE = b"\x89PNG figure"
WEIGHTS = b"weights" * 1000
WORK = Work(Doing.SEARCH_STUDENTS, "static", 2, 3, 60.0, seconds_worked=60.0)  # of a block of a running scan
STATED = b'{"payload": ""}' * 10


def make_service(database: Database, folder: Path, **settings: Any) -> Service:
    """A service over a migrated database, with a folder for a store."""
    made = Settings(data_dir=folder, **settings)
    return Service(made, database, ArtifactStore.open(made), RecordingQueue())


@contextmanager
def client_of(service: Service, **headers: str) -> Iterator[TestClient]:
    """A client that fails its test when an answer is not what /openapi.json promises."""
    with TestClient(create_app(service.settings, service), base_url=BASE_URL, headers=headers) as client:
        client.event_hooks = {"response": [check_contract]}
        yield client


def check_contract(response: httpx.Response) -> None:
    """A problem has the right form and is documented for its route; every answer has a request id."""
    assert response.headers["x-request-id"]
    assert response.headers["x-content-type-options"] == "nosniff"
    if response.headers.get("content-type") != MEDIA_TYPE or response.request.method == "HEAD":
        assert response.status_code < 400 or response.request.method == "HEAD"
        return
    response.read()
    problem = response.json()
    kind = CATALOGUE[problem["code"]]
    assert (problem["status"], response.status_code) == (kind.status, kind.status)
    assert (problem["title"], problem["retryable"]) == (kind.title, kind.retryable)
    assert problem["retryable"] == ("retry-after" in response.headers)
    assert problem["detail"] and problem["advice"] and problem["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    operation = operation_of(description(), response.request.method, response.request.url.path)
    if operation is not None:
        documented = operation["responses"].get(str(kind.status), {"content": {MEDIA_TYPE: {"examples": {}}}})
        assert problem["code"] in documented["content"][MEDIA_TYPE]["examples"], (response.request, problem)


@cache
def description() -> dict[str, Any]:
    """What each application says of itself, whatever it was made for; put together once, as that takes its time."""
    return create_app().openapi()


def operation_of(openapi: dict[str, Any], method: str, path: str) -> dict[str, Any] | None:
    for template, operations in openapi["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            return operations.get(method.lower())
    return None


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_key(service: Service, tenant_id: str) -> dict[str, str]:
    """The header with a new key of a tenant."""
    with service.database.writing() as session:
        _, secret = access.create_key(session, tenant_id, "test")
    return {"Authorization": f"Bearer {secret}"}


def put(client: TestClient, content: bytes, kind: str) -> str:
    """Upload, and answer the hash."""
    response = client.put("/v1/artifacts", params={"kind": kind}, content=content)
    assert response.status_code in (200, 201), response.text
    return str(response.json()["sha256"])


def store_artifact(service: Service, tenant_id: str, content: bytes, kind: str = "model") -> str:
    """An artifact as if it had been uploaded."""
    sha256 = sha256_of(content)
    _store(service, artifact_key(tenant_id, sha256), content)
    with service.database.writing() as session:
        access.ensure_tenant(session, tenant_id)
        artifacts.add(session, Artifact(tenant_id=tenant_id, sha256=sha256, kind=kind, size=len(content)))
    return sha256


def scan_row(tenant_id: str = DEFAULT_TENANT, repair: bool = True, **columns: Any) -> Scan:
    model, bundle = sha256_of(b"model"), sha256_of(b"bundle")
    request = ScanJob(
        model={"name": "model.pt", "bytes": 5, "sha256": model},
        bundle={"name": "bundle.zip", "bytes": 6, "sha256": bundle},
        config=ScanConfig(),
        input=DeclaredInput(),
        repair=repair,
    )
    row = {
        "id": new_id(),
        "tenant_id": tenant_id,
        "model_sha256": model,
        "bundle_sha256": bundle,
        "request": request.to_json(),
        "request_digest": sha256_of(b"request"),
        "engine_version": engine_version(),
    }
    return Scan(**(row | columns))


def queued_scan(service: Service, tenant_id: str = DEFAULT_TENANT, **columns: Any) -> str:
    """A scan that waits for a worker, with its first job."""
    scan = scan_row(tenant_id, **columns)
    with service.database.writing() as session:
        access.ensure_tenant(session, tenant_id)
        session.add(scan)
        session.flush()
        scans.tell(session, scan.id, "queued")
        jobs.add(session, scan, Task(JobKind.INSPECT), "cpu")
    return scan.id


def running_scan(service: Service, tenant_id: str = DEFAULT_TENANT) -> str:
    """A scan that began a hundred seconds ago: one of two blocks is half done, three of ten labels were found."""
    scan_id = queued_scan(service, tenant_id)
    with service.database.writing() as session:
        scan = scans.lock(session, scan_id)
        assert scan is not None
        scans.move(session, scan, ScanStatus.RUNNING, stage=JobKind.INVERT, labels_total=10)
        scan.started_at -= 100  # type: ignore[operator]
        jobs.add(session, scan, Task(JobKind.PREPARE), "cpu")
        done = {"state": JobState.DONE, "started_at": now() - 100, "finished_at": now() - 60}
        session.execute(update(Job).where(Job.scan_id == scan_id, Job.kind == JobKind.PREPARE).values(**done))
        at_once = done | {"finished_at": now() - 100}
        session.execute(update(Job).where(Job.scan_id == scan_id, Job.kind == JobKind.INSPECT).values(**at_once))
        for first in (0, 5):
            jobs.add(session, scan, Task(JobKind.INVERT, tuple(range(first, first + 5))), "cpu")
        half = {"state": JobState.RUNNING, "lease_expires_at": now() + 60, "started_at": now() - 60}
        half |= {"work": WORK.to_json()}
        session.execute(update(Job).where(Job.scan_id == scan_id, Job.key == "0").values(**half))
    for label in range(3):
        find_label(service, scan_id, label)
    return scan_id


def find_label(service: Service, scan_id: str, label: int, **facts: Any) -> None:
    """One more label of a running scan was searched."""
    with service.database.writing() as session:
        scan = scans.lock(session, scan_id)
        assert scan is not None
        scans.record_finding(session, scan, finding(label, **facts))
        scans.tell(session, scan_id, "label", label=label)


def ended_scan(
    service: Service,
    tenant_id: str = DEFAULT_TENANT,
    status: ScanStatus = ScanStatus.FINISHED,
    repair_status: str | None = "repaired",
    **columns: Any,
) -> str:
    """An ended scan with everything that it leaves."""
    scan_id = running_scan(service, tenant_id)
    summary = {
        "flagged_labels": [1],
        "model_anomaly_index": 5.0,
        "reasons": [],
        "caveats": [],
        "repair_status": repair_status,
    }
    with service.database.writing() as session:
        scan = scans.lock(session, scan_id)
        assert scan is not None
        facts: dict[str, Any] = {"verdict": "backdoored", "summary": summary}
        if status is not ScanStatus.FINISHED:
            facts = {"problem": Problem("bundle_empty", "Nothing inside.", "Fill it.").to_json()}
        scans.move(session, scan, status, **facts)
        for name, value in columns.items():
            setattr(scan, name, value)
        jobs.add(session, scan, Task(JobKind.REPAIR, (1,)), "cpu")
        jobs.add(session, scan, Task(JobKind.REPORT), "cpu")
        session.execute(update(Job).where(Job.scan_id == scan_id).values(state=JobState.DONE))
        for kind, files in (
            (JobKind.REPORT, {"report.json": REPORT, "report.html": PAGE, "figures/label_1.png": FIGURE}),
            (JobKind.REPAIR, {"repaired.pt": WEIGHTS, "repaired.safetensors": WEIGHTS[:70], STATEMENT: STATED}),
        ):
            outputs = {name: _stored(service, tenant_id, scan_id, name, content) for name, content in files.items()}
            session.execute(update(Job).where(Job.scan_id == scan_id, Job.kind == kind).values(outputs=outputs))
    return scan_id


def finding(label: int, **facts: Any) -> LabelFinding:
    family = FamilyFinding("dynamic", 0.05, 0.98, 0.1, 200, **facts)
    return LabelFinding(label, str(label), (family,))


def _stored(service: Service, tenant_id: str, scan_id: str, name: str, content: bytes) -> dict[str, Any]:
    key = f"{scan_prefix(tenant_id, scan_id)}job-1/{name}"
    _store(service, key, content)
    return {"key": key, "sha256": sha256_of(content), "size": len(content)}


def _store(service: Service, key: str, content: bytes) -> None:
    service.store._store.put(key, io.BytesIO(content))


class _Server(uvicorn.Server):
    """Says that it listens, or that it never will."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_known = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_known.set()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            super().run(sockets)
        finally:
            self.is_known.set()


@contextmanager
def served(service: Service) -> Iterator[str]:
    """The address of a real server, in a thread; whoever still listens at the end is hung up on."""
    config = configuration(service)
    config.port, config.timeout_graceful_shutdown = 0, 0
    server = _Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server.is_known.wait(PATIENCE_SECONDS) and server.started, "the server did not start"
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
