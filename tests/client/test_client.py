"""The client against a small server that answers as it is told to: late, brokenly, wrongly, or not at all."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app.client import ApiError, Client, Event
from app.core.lifecycle import ScanStatus
from tests.clocks import PretendClock

pytestmark = pytest.mark.threads

CONTENT = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SCAN = {"id": "5ca0", "status": "finished", "verdict": "backdoored", "labels": [], "of_the_future": {"x": 1}}

Answer = Callable[[BaseHTTPRequestHandler], None]


def json_answer(document: Any, status: int = 200, **headers: str) -> Answer:
    body = json.dumps(document).encode()

    def answer(request: BaseHTTPRequestHandler) -> None:
        send(request, status, {"Content-Length": str(len(body))} | {k.replace("_", "-"): v for k, v in headers.items()})
        request.wfile.write(body)

    return answer


def problem(code: str, status: int, retryable: bool = False, **headers: str) -> Answer:
    told = {"code": code, "detail": "It does not go.", "advice": "Do otherwise.", "title": "No", "retryable": retryable}
    return json_answer(told | {"type": "urn:x", "request_id": "1"}, status, **headers)


def broken(request: BaseHTTPRequestHandler) -> None:
    """No answer at all."""
    request.close_connection = True


def content(upto: int | None = None, etag: str = DIGEST, body: bytes = CONTENT) -> Answer:
    """The file, from where it is asked for; the connection breaks after `upto` of its bytes."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        first = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        headers = {"ETag": f'"{etag}"', "Content-Length": str(len(body) - first)}
        send(request, 206 if first else 200, headers)
        request.wfile.write(body[first:upto])
        request.close_connection = True

    return answer


def events(text: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        send(request, 200, {"Content-Type": "text/event-stream"})
        request.wfile.write(text.encode())
        request.close_connection = True

    return answer


def send(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()


class Told:
    """A server with a list of answers, and what it was asked when, by the clock that the client waits by."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked = list(answers), list[tuple[str, str, dict[str, str]]]()
        self.clock, self.times = PretendClock(), list[float]()


@contextmanager
def told(*answers: Answer) -> Iterator[tuple[Client, Told]]:
    """A client of a server that gives these answers, one after the other."""
    script = Told(*answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline()
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.asked.append((self.command, self.path, dict(self.headers)))
            script.times.append(script.clock.now())
            script.answers.pop(0)(self)
            self.wfile.flush()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        with Client(address, key="tl_key", patience_seconds=5, clock=script.clock) as client:
            yield client, script
        assert script.answers == [], "the client asked less than it should have"
    finally:
        server.shutdown()
        server.server_close()


def test_an_answer_of_a_newer_service_is_understood_as_far_as_it_is_known() -> None:
    with told(json_answer(SCAN)) as (client, script):
        scan = client.scan("5ca0")
    assert scan.status is ScanStatus.FINISHED and scan.verdict == "backdoored" and not scan.is_open
    method, path, headers = script.asked[0]
    assert (method, path, headers["Authorization"]) == ("GET", "/v1/scans/5ca0", "Bearer tl_key")


def test_a_refusal_is_an_error_with_code_and_advice_and_is_not_asked_again() -> None:
    with told(problem("scan_not_found", 404)) as (client, _), pytest.raises(ApiError) as refused:
        client.scan("none")
    error = refused.value
    assert (error.code, error.status, error.advice) == ("scan_not_found", 404, "Do otherwise.")


def test_what_may_succeed_later_is_asked_again_when_the_service_says() -> None:
    later = problem("database_unavailable", 503, retryable=True, Retry_After="1")
    with told(later, json_answer(SCAN)) as (client, script):
        assert client.scan("5ca0").id == "5ca0"
    assert script.times[1] - script.times[0] >= 1


def test_patience_ends() -> None:
    never = problem("storage_full", 507, retryable=True, Retry_After="60")
    with told(never) as (client, _), pytest.raises(ApiError, match="It does not go") as refused:
        client.scan("5ca0")
    assert refused.value.code == "storage_full"


def test_failures_in_a_row_are_borne_with_longer_and_longer_pauses_for_as_long_as_patience_lasts() -> None:
    never = [problem("database_unavailable", 503, retryable=True)] * 5
    with told(*never) as (client, script), pytest.raises(ApiError):
        client.scan("5ca0")
    assert [later - earlier for earlier, later in pairwise(script.times)] == [0.25, 0.5, 1, 2]  # and 4 is beyond


def test_a_broken_connection_is_made_again_with_the_same_idempotency_key() -> None:
    with told(broken, json_answer(SCAN, 202)) as (client, script):
        client.request_scan("a" * 64, "b" * 64, repair=True)
    first, second = (headers["Idempotency-Key"] for _, _, headers in script.asked)
    assert first == second and len(first) >= 32


def test_two_requests_are_two_requests() -> None:
    with told(json_answer(SCAN), json_answer(SCAN)) as (client, script):
        client.request_scan("a" * 64, "b" * 64)
        client.request_scan("a" * 64, "b" * 64)
    assert len({headers["Idempotency-Key"] for _, _, headers in script.asked}) == 2


def test_a_service_that_is_not_there_is_told_at_once() -> None:
    clock = PretendClock()
    began = clock.now()
    with (
        Client("http://127.0.0.1:9", clock=clock) as client,
        pytest.raises(ApiError, match="triggerlens serve") as refused,
    ):
        client.scan("5ca0")
    assert refused.value.code == "service_unreachable" and refused.value.status is None
    assert clock.now() - began < 1, "not the half minute in which a service that was there may come back"


@pytest.mark.parametrize("address", ["no address", "ftp://host", "http://[::1", "http://ho st:port"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(ApiError) as refused, Client(address) as client:
        client.scan("5ca0")
    assert refused.value.code == "service_unreachable"


def test_something_else_than_the_service_is_told() -> None:
    with told(json_answer("<html>", 404)) as (client, _), pytest.raises(ApiError, match="404 Not Found") as refused:
        client.scan("5ca0")
    assert refused.value.code == "unexpected_answer"


def test_pages_are_walked_through_with_the_same_filters() -> None:
    pages = [{"items": [SCAN, SCAN], "next_cursor": "next"}, {"items": [SCAN], "next_cursor": None}]
    with told(*map(json_answer, pages)) as (client, script):
        assert len(list(client.scans(status="finished"))) == 3
    assert [path for _, path, _ in script.asked] == [
        "/v1/scans?status=finished",
        "/v1/scans?status=finished&cursor=next",
    ]


# Files in


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(CONTENT)
    return path


def test_a_file_that_the_service_has_is_not_sent(model: Path) -> None:
    with told(json_answer("", 304, X_Artifact_Kind="model")) as (client, script):
        assert client.upload(model, "model").sha256 == DIGEST
    assert script.asked[0][:2] == ("GET", f"/v1/artifacts/{DIGEST}")


def test_a_file_is_sent_with_its_length_and_again_after_a_broken_connection(model: Path) -> None:
    stored = json_answer({"sha256": DIGEST, "kind": "model", "size": len(CONTENT)}, 201)
    with told(problem("artifact_not_found", 404), broken, stored) as (client, script):
        artifact = client.upload(model, "model")
    assert (artifact.sha256, artifact.size) == (DIGEST, len(CONTENT))
    assert [(method, headers.get("Content-Length")) for method, _, headers in script.asked[1:]] == [
        ("PUT", str(len(CONTENT)))
    ] * 2


def test_a_file_that_arrives_as_another_one_is_refused(model: Path) -> None:
    stored = json_answer({"sha256": "0" * 64, "kind": "model", "size": len(CONTENT)}, 201)
    with told(problem("artifact_not_found", 404), stored) as (client, _), pytest.raises(ApiError) as refused:
        client.upload(model, "model")
    assert refused.value.code == "digest_mismatch"


# Files out


def test_a_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    path = tmp_path / "repaired.pt"
    with told(content(upto=100_000), content(upto=200_000), content()) as (client, script):
        client.download("5ca0", "torchscript", path)
    assert path.read_bytes() == CONTENT and list(tmp_path.iterdir()) == [path]
    asked = [(headers.get("Range"), headers.get("If-Range")) for _, _, headers in script.asked]
    assert asked == [(None, None), ("bytes=100000-", f'"{DIGEST}"'), ("bytes=200000-", f'"{DIGEST}"')]


def test_a_download_begins_anew_where_the_file_is_another_by_now(tmp_path: Path) -> None:
    def anew(request: BaseHTTPRequestHandler) -> None:
        del request.headers["Range"]
        content()(request)

    with told(content(upto=1000, body=b"x" * 5000, etag="old"), anew) as (client, _):
        client.download("5ca0", "torchscript", tmp_path / "repaired.pt")
    assert (tmp_path / "repaired.pt").read_bytes() == CONTENT


def test_a_damaged_download_leaves_no_file(tmp_path: Path) -> None:
    with told(content(etag="0" * 64)) as (client, _), pytest.raises(ApiError) as refused:
        client.download("5ca0", "safetensors", tmp_path / "repaired.safetensors")
    assert refused.value.code == "digest_mismatch" and list(tmp_path.iterdir()) == []


# Events

FIRST = 'event: queued\ndata: {}\nid: 1\n\n: still here\n\nevent: progress\ndata: {"progress": 0.4}\n\n'
REST = 'event: stage\ndata: {"stage": "invert"}\nid: 2\n\nevent: finished\ndata: {"verdict": "backdoored"}\nid: 3\n\n'


def test_events_go_on_after_a_lost_connection() -> None:
    with told(events(FIRST), broken, events(REST), json_answer(SCAN)) as (client, script):
        heard = list[str]()
        assert client.wait("5ca0", on_event=lambda event: heard.append(event.name)).verdict == "backdoored"
    assert heard == ["queued", "progress", "stage", "finished"]
    assert [headers["Last-Event-ID"] for _, path, headers in script.asked if path.endswith("/events")] == [
        "0",
        "1",
        "1",
    ]


def test_a_scan_that_has_ended_and_was_told_has_no_events() -> None:
    with told(json_answer("", 204)) as (client, _):
        assert list(client.events("5ca0", after=3)) == []


def test_waiting_ends_at_its_timeout_though_events_come() -> None:
    def talkative(request: BaseHTTPRequestHandler) -> None:
        events(FIRST)(request)
        with suppress(ConnectionError):  # once the client has gone
            while True:
                request.wfile.write(b": still here\n\n")

    heard = list[str]()

    def hear(event: Event) -> None:
        heard.append(event.name)
        script.clock.let_pass(50)

    with told(talkative) as (client, script), pytest.raises(TimeoutError):
        client.wait("5ca0", timeout=100, on_event=hear)
    assert heard == ["queued", "progress"]


def test_waiting_ends_at_its_timeout_though_nothing_comes() -> None:
    """A silence is borne until then, and what was lost by it is asked for again."""
    gone = threading.Event()

    def silent(request: BaseHTTPRequestHandler) -> None:
        script.answers.append(silent)
        send(request, 200, {"Content-Type": "text/event-stream"})
        gone.wait()

    with told(silent) as (client, script):
        began = script.clock.now()
        with pytest.raises(TimeoutError):
            client.wait("5ca0", timeout=0.5)
        assert 0.5 <= script.clock.now() - began <= 1.0
        gone.set()
        script.answers.clear()
