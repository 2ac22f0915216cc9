"""Two who want the same file at the same time: whatever the order, a row has its bytes and an open scan its inputs.

Each test stops the one at its most delicate moment and lets the other come. The other is impatient: where it would have
to wait for a lock it gives up, and comes again afterwards. So nothing here depends on who is quicker.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.exc import OperationalError

from app import actions
from app.actions import ScanRequest
from app.core import scheduling
from app.core.clock import MACHINE
from app.core.config import ScanConfig
from app.core.database import Database
from app.core.errors import Refusal
from app.core.intake.declaration import DeclaredInput
from app.core.lifecycle import ScanStatus
from app.core.plan import JobKind, Task
from app.core.repository import artifacts, scans
from app.core.repository.jobs import Lease
from app.core.service import Service
from app.core.storage import ArtifactStore, artifact_key
from app.core.tables import DEFAULT_TENANT, Artifact, Scan
from tests import factories
from tests.worker import crew
from worker.desk import Desk
from worker.recorder import Recorder

MODEL, BUNDLE, REPAIRED = b"a model", b"a bundle", b"repaired weights"


@pytest.fixture
def service(database: Database, tmp_path: Path) -> Service:
    return crew.service_on(database, tmp_path)


@pytest.fixture
def impatient(service: Service) -> Iterator[Service]:
    """The same service for somebody who waits for no lock."""
    url = service.database.url.render_as_string(hide_password=False)
    database = Database(url)

    def wait_for_nothing(connection: Any, record: Any) -> None:
        hurry = "PRAGMA busy_timeout=0" if database.is_sqlite else "SET lock_timeout = '50ms'"
        connection.execute(hurry)
        if not database.is_sqlite:
            connection.commit()

    event.listen(database.engine, "connect", wait_for_nothing)
    yield replace(service, database=database)
    database.close()


class Stopped:
    """A store that lets something happen just before, or just after, one of its methods does its work."""

    def __init__(self, store: ArtifactStore, method: str, before: Any = None, after: Any = None) -> None:
        self._store, self._method, self._before, self._after = store, method, before, after

    def __getattr__(self, name: str) -> Any:
        works = getattr(self._store, name)
        if name != self._method:
            return works

        def stopped(*arguments: Any) -> Any:
            for happens, when in ((self._before, "before"), (self._after, "after")):
                if when == "after":
                    answer = works(*arguments)
                if happens is not None:
                    happens()
            return answer

        return stopped


class Meanwhile:
    """Something that happens once, in the middle or, where it would have had to wait, as soon as it may."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens = happens
        self.came, self.is_over = False, False

    def __call__(self) -> None:
        if not self.came:
            self.came = True
            self._try()

    def at_last(self) -> None:
        """It comes again, if it had to wait."""
        assert self.came, "it never came to the delicate moment"
        if not self.is_over:
            self._try()
            assert self.is_over, "nobody is in the way any more"

    def _try(self) -> None:
        try:
            self._happens()
        except OperationalError:
            return
        except Refusal:
            pass
        self.is_over = True


def stopped_at(service: Service, method: str, **when: Meanwhile) -> Service:
    store: Any = Stopped(service.store, method, **when)
    return replace(service, store=store)


def upload(service: Service, content: bytes, kind: Any = "model") -> str:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    artifact, _ = asyncio.run(actions.register_artifact(service, DEFAULT_TENANT, kind, chunks()))
    return artifact.sha256


def request(service: Service, model: str, bundle: str) -> str:
    asked = ScanRequest(model, bundle, ScanConfig(), DeclaredInput())
    return actions.request_scan(service, DEFAULT_TENANT, asked)[0].id


def repaired(service: Service) -> tuple[str, str]:
    """A finished scan with the weights that it made."""
    sha256 = upload(service, REPAIRED)
    with service.database.writing() as session:
        scan = factories.scan(session, status=ScanStatus.FINISHED)
        artifact = artifacts.find(session, DEFAULT_TENANT, sha256)
        assert artifact is not None
        artifact.scan_id = scan.id
    return scan.id, sha256


def assert_nothing_is_amiss(service: Service) -> None:
    with service.database.reading() as session:
        rows = {row.sha256 for row in session.scalars(select(Artifact))}
        open_scans = session.scalars(select(Scan).where(Scan.status == ScanStatus.QUEUED)).all()
    blobs = {key.rpartition("/")[2] for key in service.store.list_prefix(f"tenants/{DEFAULT_TENANT}/artifacts/")}
    assert rows == blobs
    assert {sha256 for scan in open_scans for sha256 in (scan.model_sha256, scan.bundle_sha256)} <= rows


BEFORE_AND_AFTER = pytest.mark.parametrize("when", ["before", "after"])


@BEFORE_AND_AFTER
def test_an_artifact_is_deleted_while_the_same_file_comes(service: Service, impatient: Service, when: str) -> None:
    sha256 = upload(service, MODEL)
    comes = Meanwhile(lambda: upload(impatient, MODEL))
    actions.delete_artifact(stopped_at(service, "delete", **{when: comes}), DEFAULT_TENANT, sha256)
    comes.at_last()
    assert_nothing_is_amiss(service)


@BEFORE_AND_AFTER
def test_a_file_is_uploaded_while_the_same_artifact_is_deleted(service: Service, impatient: Service, when: str) -> None:
    sha256 = upload(service, MODEL)
    comes = Meanwhile(lambda: actions.delete_artifact(impatient, DEFAULT_TENANT, sha256))
    upload(stopped_at(service, "publish", **{when: comes}), MODEL)
    comes.at_last()
    assert_nothing_is_amiss(service)


@pytest.mark.parametrize("method", ["delete", "delete_prefix"])
@pytest.mark.parametrize("wanted", ["uploaded by hand", "to be scanned"])
@BEFORE_AND_AFTER
def test_a_scan_is_deleted_while_the_weights_it_made_are_wanted(
    service: Service, impatient: Service, method: str, wanted: str, when: str
) -> None:
    (scan_id, sha256), bundle = repaired(service), upload(service, BUNDLE, "bundle")
    by_hand = wanted == "uploaded by hand"
    comes = Meanwhile(lambda: upload(impatient, REPAIRED) if by_hand else request(impatient, sha256, bundle))
    actions.delete_scan(stopped_at(service, method, **{when: comes}), DEFAULT_TENANT, scan_id)
    comes.at_last()
    assert_nothing_is_amiss(service)


def test_a_scan_whose_weights_another_open_scan_needs_is_not_deleted(service: Service) -> None:
    (scan_id, sha256), bundle = repaired(service), upload(service, BUNDLE, "bundle")
    user = request(service, sha256, bundle)
    with pytest.raises(Refusal, match=user) as refused:
        actions.delete_scan(service, DEFAULT_TENANT, scan_id)
    assert refused.value.problem.code == "artifact_in_use"
    with service.database.reading() as session:
        assert scans.find(session, DEFAULT_TENANT, scan_id) is not None
    assert_nothing_is_amiss(service)
    actions.cancel_scan(service, DEFAULT_TENANT, user)
    actions.delete_scan(service, DEFAULT_TENANT, scan_id)
    assert service.store.size(artifact_key(DEFAULT_TENANT, sha256)) is None


@pytest.mark.parametrize("kind", ["model", "bundle"])
def test_a_scan_is_requested_while_one_of_its_inputs_is_deleted(
    service: Service, impatient: Service, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    inputs = {"model": upload(service, MODEL), "bundle": upload(service, BUNDLE, "bundle")}
    comes, begin = Meanwhile(lambda: actions.delete_artifact(impatient, DEFAULT_TENANT, inputs[kind])), scheduling.begin

    def begin_slowly(*arguments: Any) -> None:
        comes()
        begin(*arguments)

    monkeypatch.setattr(scheduling, "begin", begin_slowly)
    request(service, **inputs)
    comes.at_last()
    assert_nothing_is_amiss(service)
    with service.database.reading() as session:
        assert artifacts.find(session, DEFAULT_TENANT, inputs[kind]) is not None, "it came too late"


@BEFORE_AND_AFTER
def test_repaired_weights_are_recorded_while_the_same_artifact_is_deleted(
    service: Service, impatient: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str
) -> None:
    monkeypatch.setattr("worker.desk.ScanSession", crew.Workshop())
    sha256, task, weights = upload(service, REPAIRED), Task(JobKind.REPAIR, (1,)), tmp_path / "repaired.pt"
    with service.database.writing() as session:
        scan = factories.scan(session)
        factories.job(session, scan, task)
        job = factories.taken(session, scan)
    weights.write_bytes(REPAIRED)
    service.store.put_file(key := f"tenants/{DEFAULT_TENANT}/scans/{scan.id}/{job.id}-1/repaired.pt", weights)
    outputs = {"repaired.pt": {"key": key, "sha256": sha256, "size": len(REPAIRED)}}
    desk = Desk(tmp_path / "desk", scan, service.store, lambda event: None, factories.request(), {}, "none", MACHINE)
    comes = Meanwhile(lambda: actions.delete_artifact(impatient, DEFAULT_TENANT, sha256))
    Recorder(stopped_at(service, "copy", **{when: comes})).done(Lease(job.id, 1), desk, task, outputs)
    comes.at_last()
    with service.database.writing() as session:
        session.execute(update(Scan).values(status=ScanStatus.FINISHED))
    assert_nothing_is_amiss(service)


def test_two_files_come_at_the_same_time_where_there_is_room_for_one(
    database: Database, impatient: Service, tmp_path: Path
) -> None:
    """To two processes of the API, neither of which knows what the other is receiving."""
    service = crew.service_on(database, tmp_path, max_disk_bytes=1000)
    store = ArtifactStore(service.store._store)
    elsewhere = Service(service.settings, impatient.database, store, service.queue)
    comes = Meanwhile(lambda: upload(elsewhere, b"b" * 600))
    upload(stopped_at(service, "publish", before=comes), b"a" * 600)
    comes.at_last()
    with service.database.reading() as session:
        assert [row.size for row in session.scalars(select(Artifact))] == [600]
    assert_nothing_is_amiss(service)
