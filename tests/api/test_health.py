"""Health, readiness, metrics: what those who run the service see."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from app.core.database import Database
from app.core.service import Service
from app.core.storage import StorageError
from tests.api.world import client_of, ended_scan, make_service, put, queued_scan, running_scan


def samples(client: TestClient) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def test_the_process_is_there(client: TestClient) -> None:
    assert client.get("/healthz").json()["status"] == "ok"


def test_a_service_with_all_its_parts_is_ready(client: TestClient) -> None:
    ready = client.get("/readyz").json()
    assert ready["status"] == "ready" and set(ready["parts"]) == {"database", "migrations", "storage"}
    assert (ready["workers_alive"], ready["broker_reachable"], ready["oldest_ready_seconds"]) == (0, None, 0.0)


def test_readiness_says_which_part_fails(client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StorageError("s3://secret-bucket does not answer")

    monkeypatch.setattr(service.store, "check", fail)
    unready = client.get("/readyz")
    assert (unready.status_code, unready.json()["code"]) == (503, "not_ready")
    assert [name for name, part in unready.json()["parts"].items() if not part["ok"]] == ["storage"]
    assert "secret" not in unready.text


def test_a_database_without_tables_is_not_ready(empty_database: Database, tmp_path: Path) -> None:
    with client_of(make_service(empty_database, tmp_path)) as client:
        unready = client.get("/readyz").json()
        assert unready["parts"]["migrations"] == {"ok": False, "detail": "empty"}
        assert client.get("/healthz").status_code == 200


def test_metrics_count_work_and_requests(client: TestClient, service: Service) -> None:
    put(client, b"12345", "model")
    queued_scan(service)
    running_scan(service)
    ended_scan(service)
    client.get("/v1/scans/" + "0" * 32)
    client.get("/nowhere")
    seen = samples(client)
    assert seen["triggerlens_scans", ("queued",)] == seen["triggerlens_scans", ("finished",)] == 1
    assert seen["triggerlens_scans", ("cancelled",)] == 0
    assert seen["triggerlens_jobs", ("cpu", "ready")] == 2 and seen["triggerlens_jobs", ("cpu", "running")] == 1
    assert seen["triggerlens_oldest_ready_seconds", ()] > 0 and seen["triggerlens_workers_alive", ()] == 0
    assert seen["triggerlens_uploaded_bytes_total", ("model",)] == 5
    assert seen["triggerlens_http_requests_total", ("GET", "/v1/scans/{scan_id}", "404")] == 1
    assert seen["triggerlens_http_requests_total", ("GET", "unknown", "404")] == 1
    assert seen["triggerlens_http_request_seconds_count", ("PUT", "/v1/artifacts")] == 1
    assert seen["triggerlens_database_up", ()] == 1


def test_metrics_are_there_without_the_database(client: TestClient, service: Service) -> None:
    with service.database.writing() as session:
        session.execute(text("ALTER TABLE scans RENAME TO gone"))
    assert samples(client)["triggerlens_database_up", ()] == 0
