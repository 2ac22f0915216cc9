"""Who may ask, from where, and under which name; what the log keeps."""

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.core.database import Database
from app.core.errors import Refusal
from app.core.service import Service
from app.main import create_app
from tests.api.world import client_of, make_key, make_service


@pytest.mark.parametrize("host", ["localhost", "localhost:8360", "127.0.0.1:1", "[::1]:8360", "LOCALHOST", "scan.lan"])
def test_the_service_answers_under_its_own_names(database: Database, tmp_path: Path, host: str) -> None:
    with client_of(make_service(database, tmp_path, allowed_hosts=("Scan.lan",))) as client:
        assert client.get("/v1/scans", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[", "127.0.0.2", "localhost@evil"])
def test_another_name_is_not_answered(client: TestClient, host: str) -> None:
    refused = client.get("/v1/scans", headers={"Host": host})
    assert (refused.status_code, refused.json()["code"]) == (421, "host_not_allowed")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://[", "127.0.0.1:8360"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/scans"), ("PUT", "/v1/artifacts?kind=model")])
def test_pages_of_others_change_nothing(client: TestClient, method: str, path: str, origin: str) -> None:
    refused = client.request(method, path, headers={"Origin": origin}, content=b"x")
    assert (refused.status_code, refused.json()["code"]) == (403, "origin_not_allowed")


def test_ones_own_pages_may_write_and_any_may_try_to_read(client: TestClient) -> None:
    own = {"Origin": "http://127.0.0.1:8360"}
    assert client.put("/v1/artifacts?kind=model", headers=own, content=b"x").status_code == 201
    assert client.get("/v1/scans", headers={"Origin": "http://evil.example"}).status_code == 200


def test_a_service_that_others_reach_does_not_start_without_a_key(database: Database, tmp_path: Path) -> None:
    service = make_service(database, tmp_path, host="0.0.0.0")
    with pytest.raises(Refusal, match="triggerlens keys create"), TestClient(create_app(service.settings, service)):
        pass


def test_a_service_that_others_reach_asks_for_a_key(database: Database, tmp_path: Path) -> None:
    service = make_service(database, tmp_path, host="0.0.0.0")
    key = make_key(service, "alice")
    with client_of(service) as client:
        assert client.get("/v1/scans").json()["code"] == "unauthenticated"
        for wrong in ("Bearer tl_wrong", "Bearer ", "Basic YTpi", key["Authorization"] + "x"):
            assert client.get("/v1/scans", headers={"Authorization": wrong}).status_code == 401
        assert client.get("/v1/scans", headers=key).status_code == 200
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_a_wrong_key_is_refused_on_loopback_too(client: TestClient) -> None:
    assert client.get("/v1/scans", headers={"Authorization": "Bearer tl_wrong"}).status_code == 401


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2_3", True), ("x" * 129, False), ("a b", False), ('"', False)])
def test_a_sane_request_id_is_kept(client: TestClient, given: str, kept: bool) -> None:
    assert (client.get("/healthz", headers={"X-Request-Id": given}).headers["x-request-id"] == given) is kept


def test_the_log_has_a_line_for_each_request_and_no_secret(service: Service, capfd: pytest.CaptureFixture[str]) -> None:
    key = make_key(service, "alice")
    with client_of(service, **key) as client:
        client.put("/v1/artifacts?kind=model", content=b"the body", headers={"X-Request-Id": "mine"})
        client.get("/v1/scans", headers={"Authorization": "Bearer tl_guess"})
    said = capfd.readouterr().err
    lines = [json.loads(line) for line in said.splitlines()]
    assert lines[0].items() >= {
        "event": "request", "method": "PUT", "path": "/v1/artifacts", "status": 201, "tenant": "alice",
        "request_id": "mine",
    }.items()  # fmt: skip
    assert "tl_" not in said and "the body" not in said
