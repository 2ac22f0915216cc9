"""Server-sent events: replayed by number, followed while they happen, ended with the scan."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.api import events
from app.core.database import Database
from app.core.lifecycle import ScanStatus
from app.core.repository import scans
from app.core.service import Service
from tests.api.world import ended_scan, make_service, queued_scan, running_scan, served
from tests.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.threads


def parsed(text: str) -> list[dict[str, Any]]:
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
    return [block | {"data": json.loads(block["data"])} for block in blocks if "event" in block]


def end(service: Service, scan_id: str) -> None:
    with service.database.writing() as session:
        scan = scans.lock(session, scan_id)
        assert scan is not None
        scans.move(session, scan, ScanStatus.FINISHED, verdict="no_backdoor_found")


def test_an_ended_scan_is_told_from_its_beginning_to_its_end(client: TestClient, service: Service) -> None:
    answer = client.get(f"/v1/scans/{ended_scan(service)}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    told = parsed(answer.text)
    assert [int(event["id"]) for event in told] == list(range(1, len(told) + 1))
    assert [event["event"] for event in told] == ["queued", "running", "label", "label", "label", "finished"]
    assert told[-1]["data"] == {"verdict": "backdoored"}


@pytest.mark.parametrize("how", ["header", "query"])
def test_what_was_missed_is_replayed(client: TestClient, service: Service, how: str) -> None:
    url = f"/v1/scans/{ended_scan(service)}/events"
    asked = {"headers": {"Last-Event-ID": "4"}} if how == "header" else {"params": {"after": "4"}}
    assert [event["id"] for event in parsed(client.get(url, **asked).text)] == ["5", "6"]  # type: ignore[arg-type]


def test_a_browser_that_comes_back_after_the_end_is_told_to_stay_away(client: TestClient, service: Service) -> None:
    url = f"/v1/scans/{ended_scan(service)}/events"
    assert client.get(url, headers={"Last-Event-ID": "6"}).status_code == 204


@pytest.mark.parametrize("number", ["x", "-1", "9" * 30])
def test_a_strange_event_number_is_refused(client: TestClient, service: Service, number: str) -> None:
    answer = client.get(f"/v1/scans/{ended_scan(service)}/events", headers={"Last-Event-ID": number})
    assert answer.json()["code"] == "invalid_request"


@pytest.fixture
def followed(service: Service) -> Iterator[tuple[str, list[dict[str, Any]], threading.Thread]]:
    """A running scan, the events that a listener on a real server has heard, and the listener."""
    scan_id, heard = running_scan(service), []

    def listen(url: str) -> None:
        with httpx.stream("GET", f"{url}/v1/scans/{scan_id}/events", timeout=PATIENCE_SECONDS) as answer:
            block = ""
            for line in answer.iter_lines():
                if line:
                    block += f"{line}\n"
                else:
                    heard.extend(parsed(block))
                    block = ""

    with served(service) as url:
        listener = threading.Thread(target=listen, args=(url,), daemon=True)
        listener.start()
        yield scan_id, heard, listener


def test_a_listener_hears_what_happens_and_how_far_it_is(
    service: Service, followed: tuple[str, list[dict[str, Any]], threading.Thread]
) -> None:
    scan_id, heard, listener = followed
    eventually(lambda: any(event["event"] == "progress" for event in heard))
    with service.database.writing() as session:
        scans.tell(session, scan_id, "label", label=3)
    eventually(lambda: any(event["data"].get("label") == 3 for event in heard))
    end(service, scan_id)
    listener.join(PATIENCE_SECONDS)
    assert not listener.is_alive()
    assert heard[-1]["event"] == "finished"
    progress = next(event for event in heard if event["event"] == "progress")
    assert progress["data"].keys() == {"stage", "progress", "doing", "eta_seconds"} and "id" not in progress
    assert progress["data"]["stage"] == "invert" and 0.3 < progress["data"]["progress"] < 0.4
    assert progress["data"]["doing"] == "searching static triggers on students, 2 of 3"


def test_the_listener_of_a_deleted_scan_is_let_go(
    service: Service, followed: tuple[str, list[dict[str, Any]], threading.Thread]
) -> None:
    scan_id, heard, listener = followed
    eventually(lambda: heard)
    with service.database.writing() as session:
        scan = scans.lock(session, scan_id)
        assert scan is not None
        scans.delete(session, scan)
    listener.join(PATIENCE_SECONDS)
    assert not listener.is_alive()


def test_a_silent_stream_is_kept_alive_without_holding_a_session(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.6)
    service = make_service(database, tmp_path)
    scan_id = queued_scan(service)
    with (
        served(service) as url,
        httpx.stream("GET", f"{url}/v1/scans/{scan_id}/events", timeout=PATIENCE_SECONDS) as answer,
    ):
        lines = answer.iter_lines()
        assert any(line == ": still here" for line in lines)
        eventually(lambda: service.database.engine.pool.checkedout() == 0)  # type: ignore[attr-defined]
