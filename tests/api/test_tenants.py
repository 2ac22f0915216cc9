"""Two tenants on every route: what is another's does not exist, and nothing tells it from what never was."""

from collections.abc import Iterator

import httpx
import pytest
from fastapi.testclient import TestClient

from app.api import artifacts, events, reports, scans
from app.core.repository import access
from app.core.service import Service
from app.core.tables import ApiKey
from tests.api.world import client_of, ended_scan, make_key, put, queued_scan, sha256_of, store_artifact

# Every route below /v1 that names something, with how it names it.
NAMING = [
    ("GET", "/v1/artifacts/{sha256}"),
    ("HEAD", "/v1/artifacts/{sha256}"),
    ("DELETE", "/v1/artifacts/{sha256}"),
    ("GET", "/v1/scans/{scan_id}"),
    ("DELETE", "/v1/scans/{scan_id}"),
    ("POST", "/v1/scans/{scan_id}/cancel"),
    ("GET", "/v1/scans/{scan_id}/events"),
    ("GET", "/v1/scans/{scan_id}/report"),
    ("GET", "/v1/scans/{scan_id}/figures/label_1.png"),
    ("GET", "/v1/scans/{scan_id}/repaired"),
]
OTHERS = [("PUT", "/v1/artifacts"), ("POST", "/v1/scans"), ("GET", "/v1/scans")]  # tested one by one below


@pytest.fixture
def alice(service: Service) -> Iterator[TestClient]:
    with client_of(service, **make_key(service, "alice")) as client:
        yield client


@pytest.fixture
def bob(service: Service) -> Iterator[TestClient]:
    with client_of(service, **make_key(service, "bob")) as client:
        yield client


def test_the_matrix_has_every_route() -> None:
    routes = {
        (method, route.path.replace("{name}", "label_1.png"))
        for module in (artifacts, scans, events, reports)
        for route in module.router.routes
        for method in route.methods  # type: ignore[attr-defined]
    }
    assert routes == {*NAMING, *OTHERS}


@pytest.mark.parametrize(("method", "path"), NAMING)
def test_what_is_anothers_cannot_be_told_from_what_never_was(
    service: Service, alice: TestClient, bob: TestClient, method: str, path: str
) -> None:
    hers = {"sha256": store_artifact(service, "alice", b"hers"), "scan_id": ended_scan(service, "alice")}
    unknown = {"sha256": sha256_of(b"nobody's"), "scan_id": "0" * 32}
    foreign_url, unknown_url = path.format(**hers), path.format(**unknown)
    foreign, missing = bob.request(method, foreign_url), bob.request(method, unknown_url)
    assert foreign.status_code == missing.status_code == 404
    assert _told(foreign, hers) == _told(missing, unknown)
    if method in ("GET", "HEAD"):  # and it is there, for her
        assert alice.request(method, foreign_url).status_code == 200


def _told(response: httpx.Response, ids: dict[str, str]) -> tuple[object, ...]:
    """An answer without what differs from request to request."""
    text = response.text.replace(response.headers["x-request-id"], "REQUEST")
    for value in ids.values():
        text = text.replace(value, "ID")
    headers = {name: value for name, value in response.headers.items() if name != "x-request-id"}
    return text, headers


def test_lists_show_only_ones_own(service: Service, alice: TestClient, bob: TestClient) -> None:
    hers, his = queued_scan(service, "alice"), queued_scan(service, "bob")
    for client, own in ((alice, hers), (bob, his)):
        assert [item["id"] for item in client.get("/v1/scans").json()["items"]] == [own]


def test_anothers_cursor_shows_nothing_of_the_other(service: Service, alice: TestClient, bob: TestClient) -> None:
    for _ in range(3):
        queued_scan(service, "alice")
    cursor = alice.get("/v1/scans?limit=1").json()["next_cursor"]
    assert bob.get("/v1/scans", params={"cursor": cursor}).json()["items"] == []


def test_the_same_file_is_new_to_each_tenant_and_deleted_for_one(alice: TestClient, bob: TestClient) -> None:
    assert alice.put("/v1/artifacts?kind=model", content=b"same").status_code == 201
    assert bob.put("/v1/artifacts?kind=bundle", content=b"same").status_code == 201
    assert bob.delete(f"/v1/artifacts/{sha256_of(b'same')}").status_code == 204
    assert alice.get(f"/v1/artifacts/{sha256_of(b'same')}").content == b"same"


def test_a_scan_of_anothers_files_cannot_be_asked_for(alice: TestClient, bob: TestClient) -> None:
    inputs = {"model": put(alice, b"m", "model"), "bundle": put(alice, b"b", "bundle")}
    assert bob.post("/v1/scans", json=inputs).json()["code"] == "unknown_artifact"


def test_finished_scans_and_idempotency_keys_are_not_shared(alice: TestClient, bob: TestClient) -> None:
    ids = set()
    for client in (alice, bob):
        inputs = {"model": put(client, b"m", "model"), "bundle": put(client, b"b", "bundle")}
        ids.add(client.post("/v1/scans", json=inputs, headers={"Idempotency-Key": "k"}).json()["id"])
    assert len(ids) == 2


def test_a_key_opens_until_it_is_revoked(service: Service) -> None:
    with service.database.writing() as session:
        key, secret = access.create_key(session, "alice", "laptop")
    with client_of(service, Authorization=f"Bearer {secret}") as client:
        assert client.get("/v1/scans").status_code == 200
        with service.database.writing() as session:
            access.revoke_key(session, key.id)
        refused = client.get("/v1/scans")
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert secret not in refused.text


def test_the_last_use_of_a_key_is_noted_once_a_minute(service: Service) -> None:
    with service.database.writing() as session:
        key, secret = access.create_key(session, "alice", "laptop")

    def last_used() -> float | None:
        with service.database.reading() as session:
            found = session.get(ApiKey, key.id)
            assert found is not None
            return found.last_used_at

    with client_of(service, Authorization=f"Bearer {secret}") as client:
        assert last_used() is None
        client.get("/v1/scans")
        noted = last_used()
        client.get("/v1/scans")
        assert noted is not None and last_used() == noted
