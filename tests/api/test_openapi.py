"""/openapi.json describes every route: in words, by example, and with every problem it can answer."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.documentation import EVERYWHERE
from app.api.problems import CATALOGUE, MEDIA_TYPE
from app.core.service import Service
from tests.api.world import description

DESCRIPTION = description()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in DESCRIPTION["paths"].items()
    for method, operation in operations.items()
}
ROUTES = {
    "PUT /v1/artifacts", "GET /v1/artifacts/{sha256}", "HEAD /v1/artifacts/{sha256}", "DELETE /v1/artifacts/{sha256}",
    "POST /v1/scans", "GET /v1/scans", "GET /v1/scans/{scan_id}", "DELETE /v1/scans/{scan_id}",
    "POST /v1/scans/{scan_id}/cancel", "GET /v1/scans/{scan_id}/events", "GET /v1/scans/{scan_id}/report",
    "GET /v1/scans/{scan_id}/figures/{name}", "GET /v1/scans/{scan_id}/repaired",
    "GET /healthz", "GET /readyz", "GET /metrics",
}  # fmt: skip


def problems_of(operation: dict[str, Any]) -> dict[str, Any]:
    return {
        code: example["value"]
        for response in operation["responses"].values()
        for code, example in response.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {}).items()
    }


def test_every_route_is_described() -> None:
    assert OPERATIONS.keys() == ROUTES


@pytest.mark.parametrize("route", sorted(ROUTES))
def test_a_route_is_described_in_words_and_by_example(route: str) -> None:
    operation = OPERATIONS[route]
    assert operation["summary"] and operation["description"]
    for status, response in operation["responses"].items():
        assert response["description"], status
        if status == "200" or status in ("201", "202"):
            assert all(map(_has_example, response.get("content", {}).values())), status
        if int(status) >= 400:
            assert set(response["content"]) == {MEDIA_TYPE}
    if "application/json" in (body := operation.get("requestBody", {}).get("content", {})):
        assert _has_example(body["application/json"])
    documented = problems_of(operation)
    assert documented.keys() >= set(EVERYWHERE if "/v1/" in route else ("internal_error", "host_not_allowed"))
    for code, example in documented.items():
        kind = CATALOGUE[code]
        assert (example["code"], example["status"], example["retryable"]) == (code, kind.status, kind.retryable)
    if route.split()[0] in ("PUT", "POST", "DELETE"):
        assert "origin_not_allowed" in documented


def _has_example(content: dict[str, Any]) -> bool:
    """Whether a body has an example, by itself or by its schema; bytes need none."""
    schema = content.get("schema", {})
    if "$ref" in schema:
        schema = DESCRIPTION["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return "example" in content or "examples" in schema or schema.get("format") == "binary"


def test_every_problem_of_a_route_is_documented_somewhere() -> None:
    documented = {code for operation in OPERATIONS.values() for code in problems_of(operation)}
    assert documented == CATALOGUE.keys() - {"not_found", "method_not_allowed"}  # those belong to no route


def test_the_description_is_served_and_loads_nothing_from_elsewhere(client: TestClient) -> None:
    assert client.get("/openapi.json").json()["info"]["title"] == "TriggerLens"
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_the_api_needs_no_environment_no_torch_and_makes_nothing(tmp_path: Path, service: Service) -> None:
    code = (
        "import sys, app.main; app.main.create_app(); print(sorted({*sys.modules} & {'torch', 'torchvision', 'lpips'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.glob("triggerlens*")) == []
