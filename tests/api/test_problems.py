"""Every problem of the catalogue, caused once: each has its code, its status and its place in docs/problems.md."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app import actions
from app.api.problems import CATALOGUE
from app.core import database as databases
from app.core.database import Database
from app.core.errors import disk_full
from app.core.lifecycle import ScanStatus
from app.core.service import Service
from app.core.storage import StorageError, artifact_key
from app.core.tables import DEFAULT_TENANT
from tests.api.world import (
    BASE_URL,
    client_of,
    ended_scan,
    make_service,
    put,
    queued_scan,
    running_scan,
    sha256_of,
    store_artifact,
)

ROOT = Path(__file__).parents[2]
Cause = Callable[["World"], httpx.Response]


class World:
    """What a cause may break."""

    def __init__(self, client: TestClient, service: Service, patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.client, self.service, self.patch, self.tmp_path = client, service, patch, tmp_path
        self.get = client.get

    def inputs(self) -> dict[str, str]:
        return {kind: put(self.client, kind.encode(), kind) for kind in ("model", "bundle")}

    def with_settings(self, **settings: Any) -> TestClient:
        return client_of(make_service(self.service.database, self.tmp_path, **settings)).__enter__()

    def failing(self, owner: object, name: str, error: Exception) -> TestClient:
        def fail(*_: object, **__: object) -> None:
            raise error

        self.patch.setattr(owner, name, fail)
        return self.client


def _reused_key(world: World) -> httpx.Response:
    inputs, key = world.inputs(), {"Idempotency-Key": "k"}
    world.client.post("/v1/scans", json=inputs, headers=key)
    return world.client.post("/v1/scans", json=inputs | {"seed": 1}, headers=key)


def _lost(world: World) -> httpx.Response:
    sha256 = put(world.client, b"x", "model")
    world.service.store.delete(artifact_key(DEFAULT_TENANT, sha256))
    return world.get(f"/v1/artifacts/{sha256}")


def _in_use(world: World) -> httpx.Response:
    sha256 = store_artifact(world.service, DEFAULT_TENANT, b"model")
    queued_scan(world.service)
    return world.client.delete(f"/v1/artifacts/{sha256}")


def _mismatch(world: World) -> httpx.Response:
    put(world.client, b"x", "model")
    return world.client.put("/v1/artifacts?kind=bundle", content=b"x")


def _migrated_otherwise(world: World, statement: str) -> httpx.Response:
    with world.service.database.writing() as session:
        session.execute(text(statement))
    return world.get("/v1/scans")


def _stalled(world: World) -> httpx.Response:
    world.patch.setattr("starlette.requests.Request.stream", lambda _: _Stalled())
    return world.client.put("/v1/artifacts?kind=model", content=b"x")


class _Stalled:
    async def __anext__(self) -> bytes:
        raise TimeoutError


def _no_storage(world: World) -> httpx.Response:
    sha256 = put(world.client, b"x", "model")
    return world.failing(world.service.store, "read", StorageError("secret:9000 is away")).get(
        f"/v1/artifacts/{sha256}"
    )


def _disk_full(world: World) -> httpx.Response:
    failing = world.failing(world.service.store, "receive", disk_full(Path("/secret")))
    return failing.put("/v1/artifacts?kind=model", content=b"x")


CAUSES: dict[str, Cause] = {
    "invalid_request": lambda world: world.client.post("/v1/scans", json={}),
    "invalid_cursor": lambda world: world.get("/v1/scans?cursor=x"),
    "empty_upload": lambda world: world.client.put("/v1/artifacts?kind=model", content=iter([])),
    "unknown_artifact": lambda world: world.client.post("/v1/scans", json={"model": "0" * 64, "bundle": "0" * 64}),
    "wrong_artifact_kind": lambda world: world.client.post(
        "/v1/scans", json=dict(zip(("bundle", "model"), world.inputs().values(), strict=True))
    ),
    "idempotency_key_reused": _reused_key,
    "unauthenticated": lambda world: world.get("/v1/scans", headers={"Authorization": "Bearer tl_x"}),
    "origin_not_allowed": lambda world: world.client.post("/v1/scans", headers={"Origin": "http://evil.example"}),
    "host_not_allowed": lambda world: world.get("/v1/scans", headers={"Host": "evil.example"}),
    "not_found": lambda world: world.get("/v1/nothing"),
    "artifact_not_found": lambda world: world.get(f"/v1/artifacts/{sha256_of(b'unknown')}"),
    "scan_not_found": lambda world: world.get("/v1/scans/%00"),
    "no_report": lambda world: world.get(f"/v1/scans/{ended_scan(world.service, status=ScanStatus.CANCELLED)}/report"),
    "figure_not_found": lambda world: world.get(f"/v1/scans/{ended_scan(world.service)}/figures/x.png"),
    "no_repair": lambda world: world.get(f"/v1/scans/{ended_scan(world.service, repair_status=None)}/repaired"),
    "repair_refused": lambda world: world.get(
        f"/v1/scans/{ended_scan(world.service, repair_status='refused')}/repaired"
    ),
    "method_not_allowed": lambda world: world.client.delete("/v1/scans"),
    "not_acceptable": lambda world: world.get(
        f"/v1/scans/{ended_scan(world.service)}/report", headers={"Accept": "image/png"}
    ),
    "upload_stalled": _stalled,
    "artifact_kind_mismatch": _mismatch,
    "artifact_in_use": _in_use,
    "scan_ended": lambda world: world.client.post(f"/v1/scans/{ended_scan(world.service)}/cancel"),
    "scan_open": lambda world: world.client.delete(f"/v1/scans/{running_scan(world.service)}"),
    "report_not_ready": lambda world: world.get(f"/v1/scans/{running_scan(world.service)}/report"),
    "too_large": lambda world: world.client.post("/v1/scans", json={"model": "x" * 70_000}),
    "range_not_satisfiable": lambda world: world.get(
        f"/v1/artifacts/{put(world.client, b'x', 'model')}", headers={"Range": "bytes=5-"}
    ),
    "internal_error": lambda world: world.failing(actions, "get_scan", KeyError("a secret")).get(
        f"/v1/scans/{'0' * 32}"
    ),
    "content_lost": _lost,
    "database_unavailable": lambda world: world.failing(
        world.service.database, "reading", OperationalError("SELECT a secret", {}, Exception("gone"))
    ).get("/v1/scans"),
    "database_behind": lambda world: _migrated_otherwise(world, "DELETE FROM alembic_version"),
    "database_ahead": lambda world: _migrated_otherwise(world, "UPDATE alembic_version SET version_num = '9999'"),
    "storage_unavailable": _no_storage,
    "not_ready": lambda world: world.failing(world.service.store, "check", StorageError("secret")).get("/readyz"),
    "storage_full": lambda world: world.with_settings(max_disk_bytes=0).put("/v1/artifacts?kind=model", content=b"x"),
    "disk_full": _disk_full,
}


@pytest.fixture
def world(client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return World(client, service, monkeypatch, tmp_path)


def test_every_problem_has_a_cause() -> None:
    assert CAUSES.keys() == CATALOGUE.keys()


@pytest.mark.parametrize("code", CAUSES)
def test_a_problem_is_answered_as_the_catalogue_says(world: World, code: str) -> None:
    answer = CAUSES[code](world)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["code"], answer.status_code) == (code, CATALOGUE[code].status)
    assert answer.json()["type"] == f"urn:triggerlens:problem:{code}"
    assert "secret" not in answer.text


def test_every_problem_is_explained_with_its_status() -> None:
    page = (ROOT / "docs" / "problems.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+ \| (?:yes|no)) \|", page, re.MULTILINE))
    assert rows == {code: f"{kind.status} | {'yes' if kind.retryable else 'no'}" for code, kind in CATALOGUE.items()}


def test_a_database_that_is_locked_is_unavailable_for_the_moment(
    migrated_sqlite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "BUSY_SECONDS", 0)
    path = tmp_path / "locked.sqlite3"
    path.write_bytes(migrated_sqlite.read_bytes())
    service = make_service(Database(f"sqlite:///{path}"), tmp_path)
    scan_id = queued_scan(service)
    with client_of(service) as client:
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        refused = client.post(f"/v1/scans/{scan_id}/cancel")
        assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        assert client.get(f"/v1/scans/{scan_id}").status_code == 200  # readers wait for nobody
        other.close()
        assert client.post(f"/v1/scans/{scan_id}/cancel").status_code == 200


def test_a_database_whose_disk_is_full_says_so(world: World) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorname = "SQLITE_FULL"
    refused = world.failing(world.service.database, "writing", OperationalError("", {}, full)).delete(
        f"/v1/artifacts/{'0' * 64}"
    )
    assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")


def test_a_database_that_is_gone_is_unavailable(service: Service, tmp_path: Path) -> None:
    gone = make_service(Database("postgresql+psycopg://nobody@127.0.0.1:1/none"), tmp_path)
    with client_of(gone) as client:
        assert client.get("/v1/scans").json()["code"] == "database_unavailable"
        unready = client.get("/readyz")
        assert (unready.status_code, unready.json()["parts"]["database"]["ok"]) == (503, False)
        assert client.get("/healthz").status_code == 200


def test_a_database_that_was_never_migrated_is_behind(empty_database: Database, tmp_path: Path) -> None:
    with client_of(make_service(empty_database, tmp_path)) as client:
        assert client.get("/v1/scans").json()["code"] == "database_behind"


def test_storage_that_breaks_in_the_middle_breaks_the_answer(client: TestClient, service: Service) -> None:
    sha256 = put(client, bytes(5_000_000), "model")

    def half(*_: object) -> Any:
        yield b"x" * 1000
        raise StorageError("gone")

    service.store.read = half  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="already started"):  # so a server breaks the connection
        client.get(f"/v1/artifacts/{sha256}")


def test_methods_that_are_not_there_name_those_that_are(client: TestClient) -> None:
    refused = client.put("/v1/scans", headers={"Origin": BASE_URL})
    assert refused.status_code == 405 and refused.headers["allow"]
