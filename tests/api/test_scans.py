"""Scans over HTTP: asked for, followed, listed, ended, forgotten."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.api.schemas import InversionOverrides, RepairOverrides
from app.core.config import InversionConfig, RepairConfig
from app.core.lifecycle import ScanStatus
from app.core.progress import QUICK_SECONDS
from app.core.queue import RecordingQueue
from app.core.repository import access, scans
from app.core.service import Service
from app.core.storage import scan_prefix
from app.core.tables import DEFAULT_TENANT, Worker
from app.core.versions import engine_version
from tests.api.world import (
    client_of,
    ended_scan,
    finding,
    make_service,
    put,
    queued_scan,
    running_scan,
    scan_row,
    sha256_of,
    store_artifact,
)


@pytest.fixture
def inputs(service: Service) -> dict[str, str]:
    return {kind: store_artifact(service, DEFAULT_TENANT, kind.encode(), kind) for kind in ("model", "bundle")}


def test_a_new_scan_is_accepted_with_its_address_and_rung_for(
    client: TestClient, service: Service, inputs: dict[str, str]
) -> None:
    answer = client.post("/v1/scans", json=inputs | {"model_name": "a.pt", "repair": True, "seed": 3})
    state = answer.json()
    assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
    assert answer.headers["location"] == f"/v1/scans/{state['id']}" == state["links"]["self"]
    assert (state["status"], state["progress"], state["queue_position"]) == ("queued", 0.0, 0)
    assert (state["preset"], state["seed"], state["repair"]) == ("standard", 3, True)
    assert isinstance(service.queue, RecordingQueue) and service.queue.rings == ["cpu"]
    assert client.get(state["links"]["self"]).json()["id"] == state["id"]


def test_the_request_reaches_the_engine_as_it_was_said(
    client: TestClient, service: Service, inputs: dict[str, str]
) -> None:
    said = {
        "input": {"height": 28, "mean": 0.5, "std": [0.25], "range": [0, 255]},
        "config": {"inversion": {"steps": 7}, "repair": {"batch_size": 8}},
        "max_accuracy_drop": 0.1,
        "output": "logits",
        "check": True,
        "classes": ["dog", "cat"],
        "bundle_name": "evil\u202e\x1b.zip",
    }
    scan_id = client.post("/v1/scans", json=inputs | said).json()["id"]
    with service.database.reading() as session:
        scan = scans.find(session, DEFAULT_TENANT, scan_id)
    assert scan is not None
    request = scan.request
    assert request["input"]["mean"] == [0.5] and request["input"]["range"] == [0.0, 255.0]
    assert request["input"]["width"] is None
    assert request["config"]["inversion"]["steps"] == 7 and request["config"]["inversion"]["batch_size"] == 12
    assert request["config"]["repair"]["max_accuracy_drop"] == 0.1 and request["config"]["repair"]["batch_size"] == 8
    assert request["output"] == "logits" and request["check"] is True
    assert request["classes"] == {"dog": 0, "cat": 1}
    assert request["bundle"]["name"] == "evil��.zip"


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "abc"},
        {"model": None},
        {"preset": "fast"},
        {"colour": 1},
        {"seed": -1},
        {"seed": 1.5},
        {"seed": True},
        {"repair": "yes"},
        {"max_accuracy_drop": 2},
        {"input": {"heigth": 3}},
        {"classes": {"cat": -1}},
        {"classes": "cat"},
        {"input": {"height": 0}},
        {"input": {"std": [0]}},
        {"input": [1]},
        {"config": {"inversion": {"stepps": 3}}},
        {"config": {"inversion": {"steps": 0}}},
        {"config": {"inversion": {"steps": "7"}}},
        {"config": {"seed": 1}},
        {"model_name": ""},
        {"output": ""},
        {"output": 1},
    ],
    ids=str,
)
def test_what_is_wrong_with_a_request_is_named(
    client: TestClient, inputs: dict[str, str], wrong: dict[str, Any]
) -> None:
    refused = client.post("/v1/scans", json=inputs | wrong)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert next(iter(wrong)) in refused.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 20_000, b'"x"'])
def test_what_is_no_json_object_is_refused(client: TestClient, body: bytes) -> None:
    refused = client.post("/v1/scans", content=body, headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(("preset", "status"), [("standard", 422), ("paper", 202)])
def test_a_generator_that_cannot_be_weakened_is_refused_where_it_would_have_to_be(
    client: TestClient, inputs: dict[str, str], preset: str, status: int
) -> None:
    config = {"inversion": {"identity_start": "trained"}}
    answer = client.post("/v1/scans", json=inputs | {"preset": preset, "config": config})
    assert answer.status_code == status
    assert status == 202 or "success_level" in answer.text


@pytest.mark.parametrize(("preset", "status"), [("standard", 422), ("paper", 202)])
def test_a_knob_of_the_papers_repair_is_refused_where_nothing_would_hear_of_it(
    client: TestClient, inputs: dict[str, str], preset: str, status: int
) -> None:
    answer = client.post("/v1/scans", json=inputs | {"preset": preset, "config": {"repair": {"epochs": 5}}})
    assert answer.status_code == status
    assert status == 202 or "config.repair.epochs" in answer.text


def test_overrides_know_every_field_of_the_config() -> None:
    for overrides, config, fixed in (
        (InversionOverrides, InversionConfig, {"betas", "norm"}),
        (RepairOverrides, RepairConfig, {"matching"}),
    ):
        assert set(overrides.model_fields) == {field.name for field in fields(config)} - fixed


def test_the_same_key_gets_the_same_scan_and_another_body_is_refused(
    client: TestClient, inputs: dict[str, str]
) -> None:
    key = {"Idempotency-Key": "once"}
    first, again = (client.post("/v1/scans", json=inputs, headers=key) for _ in range(2))
    assert first.json()["id"] == again.json()["id"] and again.status_code == 202
    other = client.post("/v1/scans", json=inputs | {"seed": 1}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert client.post("/v1/scans", json=inputs).json()["id"] != first.json()["id"]


def test_a_finished_scan_is_answered_again_unless_forced(
    client: TestClient, service: Service, inputs: dict[str, str]
) -> None:
    first = client.post("/v1/scans", json=inputs).json()["id"]
    with service.database.writing() as session:
        scan = scans.lock(session, first)
        assert scan is not None
        scans.move(session, scan, ScanStatus.RUNNING)
        scans.move(session, scan, ScanStatus.FINISHED, verdict="inconclusive")
    reused = client.post("/v1/scans", json=inputs)
    assert (reused.status_code, reused.json()["id"]) == (200, first)
    assert "retry-after" not in reused.headers
    forced = client.post("/v1/scans", json=inputs | {"force": True})
    assert forced.status_code == 202 and forced.json()["id"] != first


@pytest.mark.parametrize(
    ("computed_by", "alive", "answered"),
    [
        ("theirs", ["theirs", "theirs"], True),
        ("theirs", ["theirs", "newer"], False),
        ("theirs", ["newer"], False),
        ("theirs", [], False),
        ("ours", [], True),
        ("mixed", ["theirs", "newer"], False),
    ],
)
def test_a_finished_scan_answers_only_if_the_engine_that_computed_it_would_compute_it_again(
    client: TestClient, service: Service, inputs: dict[str, str], computed_by: str, alive: list[str], answered: bool
) -> None:
    """While workers differ nobody knows which one would compute; without any it is what is installed here."""
    first = client.post("/v1/scans", json=inputs).json()["id"]
    with service.database.writing() as session:
        scan = scans.lock(session, first)
        assert scan is not None
        scan.engine_version = engine_version() if computed_by == "ours" else computed_by
        scans.move(session, scan, ScanStatus.RUNNING)
        scans.move(session, scan, ScanStatus.FINISHED, verdict="inconclusive")
        for name in alive:
            access.see_worker(session, Worker(queues="cpu", host="h", process=1, device="cpu", version=name))
    assert (client.post("/v1/scans", json=inputs).json()["id"] == first) == answered


def test_inputs_have_to_be_there_and_of_the_right_kind(client: TestClient, inputs: dict[str, str]) -> None:
    unknown = client.post("/v1/scans", json=inputs | {"bundle": sha256_of(b"nobody's")})
    swapped = client.post("/v1/scans", json={"model": inputs["bundle"], "bundle": inputs["model"]})
    assert (unknown.json()["code"], swapped.json()["code"]) == ("unknown_artifact", "wrong_artifact_kind")
    again = client.put("/v1/artifacts?kind=bundle", content=b"model")
    assert (again.status_code, again.json()["code"]) == (409, "artifact_kind_mismatch")


def test_a_running_scan_tells_how_far_it_is(client: TestClient, service: Service) -> None:
    answer = client.get(f"/v1/scans/{running_scan(service)}")
    state = answer.json()
    assert (state["status"], state["stage"], answer.headers["retry-after"]) == ("running", "invert", "1")
    assert (state["labels_done"], state["labels_total"]) == (3, 10)
    assert state["labels"][0] == {
        "label": 0,
        "name": "0",
        "norm": 0.05,
        "family": "dynamic",
        "attack_success_rate": 0.98,
        "p_value": None,
        "anomaly_index": None,
        "flagged": False,
        "spared": None,
    }
    left = 60 + 120 + 2 * QUICK_SECONDS  # of this block, of the one that waits, and of what follows
    assert state["eta_seconds"] == pytest.approx(left, rel=0.1)
    assert state["progress"] == pytest.approx(100 / (100 + left), rel=0.1)
    assert state["doing"] == "searching static triggers on students, 2 of 3"
    assert state["waiting_for"] is None and state["queue_position"] is None
    assert state["created_at"].endswith("Z") and state["finished_at"] is None


def test_blocks_side_by_side_take_as_long_as_there_are_workers_for(client: TestClient, service: Service) -> None:
    scan_id = running_scan(service)
    with service.database.writing() as session:
        for queues in ("cpu", "cpu", "gpu"):
            access.see_worker(session, Worker(queues=queues, host="h", process=1, device="cpu", version="0"))
    state = client.get(f"/v1/scans/{scan_id}").json()
    assert state["eta_seconds"] == pytest.approx(120 + 2 * QUICK_SECONDS, rel=0.1), "of two"
    running_scan(service)
    state = client.get(f"/v1/scans/{scan_id}").json()
    assert state["eta_seconds"] == pytest.approx(180 + 2 * QUICK_SECONDS, rel=0.1), "of one each"


def test_a_finished_scan_tells_what_it_found(client: TestClient, service: Service) -> None:
    scan_id = ended_scan(service)
    answer = client.get(f"/v1/scans/{scan_id}")
    state = answer.json()
    assert (state["status"], state["verdict"], state["progress"]) == ("finished", "backdoored", 1.0)
    assert state["summary"]["flagged_labels"] == [1] and state["eta_seconds"] is None
    assert set(state["links"]) == {"self", "events", "report", "repaired"}
    assert "retry-after" not in answer.headers


def test_a_failed_scan_tells_its_problem(client: TestClient, service: Service) -> None:
    state = client.get(f"/v1/scans/{ended_scan(service, status=ScanStatus.FAILED)}").json()
    assert (state["status"], state["problem"]["code"], state["summary"]) == ("failed", "bundle_empty", None)


def test_an_unchanged_status_is_not_sent_again(client: TestClient, service: Service) -> None:
    url = f"/v1/scans/{running_scan(service)}"
    etag = client.get(url).headers["etag"]
    same = client.get(url, headers={"If-None-Match": etag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    client.post(f"{url}/cancel")
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 200


def test_a_queued_scan_tells_what_it_waits_for(client: TestClient, service: Service) -> None:
    first, second = queued_scan(service), queued_scan(service)
    assert client.get(f"/v1/scans/{first}").json()["waiting_for"] == "worker"
    with service.database.writing() as session:
        access.see_worker(session, Worker(queues="cpu,gpu", host="h", process=1, device="cpu", version="0"))
    states = [client.get(f"/v1/scans/{scan_id}").json() for scan_id in (first, second)]
    assert [(s["waiting_for"], s["queue_position"]) for s in states] == [(None, 0), ("earlier_scans", 1)]


def test_a_worker_that_was_not_seen_for_long_does_not_count(service: Service, tmp_path: Any) -> None:
    with service.database.writing() as session:
        session.add(Worker(queues="cpu", host="h", process=1, device="cpu", version="0", seen_at=1.0))
    with client_of(service) as client:
        assert client.get(f"/v1/scans/{queued_scan(service)}").json()["waiting_for"] == "worker"


class SilentQueue(RecordingQueue):
    """A broker that is away."""

    def is_reachable(self) -> bool:
        return False


def test_scans_are_accepted_while_the_broker_is_away_and_wait_for_it(service: Service, tmp_path: Any) -> None:
    made = make_service(service.database, tmp_path, broker_url="redis://127.0.0.1:1")
    away = Service(made.settings, made.database, made.store, SilentQueue())
    with client_of(away) as client:
        inputs = {"model": put(client, b"m", "model"), "bundle": put(client, b"b", "bundle")}
        accepted = client.post("/v1/scans", json=inputs)
        assert accepted.status_code == 202
        ready = client.get("/readyz")  # waits for the check, so the status knows of it
        assert (ready.status_code, ready.json()["broker_reachable"]) == (200, False)
        assert client.get(accepted.headers["location"]).json()["waiting_for"] == "broker"


def test_pages_follow_each_other_newest_first(client: TestClient, service: Service) -> None:
    ids = [queued_scan(service) for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = client.get("/v1/scans", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["id"] for item in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == sorted(ids, reverse=True)


def test_lists_are_filtered(client: TestClient, service: Service) -> None:
    queued, finished = queued_scan(service, model_sha256="a" * 64), ended_scan(service)
    for query, expected in (
        ({"status": "queued"}, [queued]),
        ({"status": "failed"}, []),
        ({"verdict": "backdoored"}, [finished]),
        ({"model": "a" * 64}, [queued]),
        ({"bundle": sha256_of(b"bundle")}, [finished, queued]),
        ({"bundle": sha256_of(b"bundle"), "status": "finished"}, [finished]),
    ):
        items = client.get("/v1/scans", params=query).json()["items"]
        assert [item["id"] for item in items] == expected, query
    assert "labels" not in items[0] and items[0]["summary"]["flagged_labels"] == [1]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "status=done", "model=x", "verdict=clean"])
def test_strange_filters_are_refused(client: TestClient, query: str) -> None:
    assert client.get(f"/v1/scans?{query}").json()["code"] == "invalid_request"


@pytest.mark.parametrize("cursor", ["x", "%00", "AAAA", "é", "MDE5", "_" * 22])
def test_a_strange_cursor_is_refused_or_finds_nothing(client: TestClient, cursor: str) -> None:
    answer = client.get(f"/v1/scans?cursor={cursor}")
    assert answer.json().get("code") == "invalid_cursor" or answer.json()["items"] == []


def test_cancelling_a_queued_scan_ends_it_at_once(client: TestClient, service: Service) -> None:
    url = f"/v1/scans/{queued_scan(service)}"
    for _ in range(2):
        answer = client.post(f"{url}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


def test_cancelling_a_running_scan_waits_for_its_worker(client: TestClient, service: Service) -> None:
    answer = client.post(f"/v1/scans/{running_scan(service)}/cancel")
    assert (answer.status_code, answer.json()["cancel_requested"]) == (202, True)


def test_a_finished_scan_is_not_cancelled(client: TestClient, service: Service) -> None:
    refused = client.post(f"/v1/scans/{ended_scan(service)}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "scan_ended")


def test_deleting_an_ended_scan_takes_everything_along(client: TestClient, service: Service) -> None:
    scan_id = ended_scan(service)
    assert client.delete(f"/v1/scans/{scan_id}").status_code == 204
    assert client.get(f"/v1/scans/{scan_id}").json()["code"] == "scan_not_found"
    assert service.store.list_prefix(scan_prefix(DEFAULT_TENANT, scan_id)) == []
    assert client.delete(f"/v1/scans/{running_scan(service)}").json()["code"] == "scan_open"


@pytest.fixture
def statements(service: Service) -> Iterator[list[str]]:
    said: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    event.listen(service.database.engine, "before_cursor_execute", note)
    yield said
    event.remove(service.database.engine, "before_cursor_execute", note)


@pytest.mark.parametrize("labels", [3, 60])
def test_a_status_takes_few_queries_however_many_labels_there_are(
    client: TestClient, service: Service, statements: list[str], labels: int
) -> None:
    scan_id = running_scan(service)
    with service.database.writing() as session:
        scan = scans.lock(session, scan_id)
        assert scan is not None
        for label in range(labels):
            scans.record_finding(session, scan, finding(label))
    client.get(f"/v1/scans/{scan_id}")  # looks at the migrations
    statements.clear()
    assert client.get(f"/v1/scans/{scan_id}").json()["labels_done"] == labels
    assert len(statements) <= 6, statements  # BEGIN and five queries


def test_hot_queries_use_an_index(service: Service, statements: list[str]) -> None:
    if not service.database.is_sqlite:
        pytest.skip("EXPLAIN QUERY PLAN is SQLite's")
    with service.database.writing() as session:
        session.add_all([scan_row(status="finished") for _ in range(300)])
    queued, running = queued_scan(service), running_scan(service)
    with client_of(service) as client:
        statements.clear()
        for path in (f"/v1/scans/{queued}", f"/v1/scans/{running}", "/v1/scans", "/v1/scans?status=queued"):
            assert client.get(path).status_code == 200
    with service.database.engine.connect() as connection:
        for statement in list(statements):
            if "FROM scans" in statement or "FROM jobs" in statement or "FROM label_findings" in statement:
                marks = tuple("x" for _ in range(statement.count("?")))
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", marks).all()
                assert all("SCAN scans" not in row[3] and "SCAN jobs" not in row[3] for row in plan), (statement, plan)
