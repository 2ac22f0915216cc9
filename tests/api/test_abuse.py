"""Abuse of the API, byte by byte, of a real server: nothing fails, nothing leaks, and every answer is a documented one.

Two tenants have a key each; whoever has none is the owner of the loopback. What is asked is another's, or nonsense.
"""

import base64
import http.client
import json
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from app import serving
from app.api import middleware
from app.api.middleware import LARGEST_JSON
from app.core.database import Database
from app.core.service import Service
from app.core.tables import DEFAULT_TENANT
from tests.api.world import (
    check_contract,
    description,
    ended_scan,
    make_key,
    make_service,
    operation_of,
    running_scan,
    served,
    sha256_of,
    store_artifact,
)
from tests.servers import BOTH, migrated_database
from tests.threads import at_once
from tests.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.threads

HERS = b"a file of alice's"
MINE = b"a file of the owner's"
LIMIT = 100_000  # bytes of a model


@dataclass(frozen=True)
class Place:
    """A server, and what lies there."""

    url: str
    service: Service
    folder: Path
    her_key: str
    her_scan: str
    scan: str  # the owner's, finished
    running: str
    sha256: str  # the owner's file

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def exchange(self, sent: bytes, method: str = "GET", target: str = "/") -> httpx.Response | None:
        """Send bytes over a connection of its own, and read the first answer; None where the server just hangs up."""
        address = urlsplit(self.url)
        with socket.create_connection((address.hostname, address.port), PATIENCE_SECONDS) as wire:
            with suppress(BrokenPipeError, ConnectionResetError):  # it has answered already
                wire.sendall(sent)
            return _answer(wire, method, f"{self.url}{target if target.startswith('/') else '/'}")

    def ask(self, method: str, target: str, *lines: str, body: bytes | None = None, host: str = "") -> httpx.Response:
        """A request of these lines, as they are, and its answer."""
        head = [f"{method} {target} HTTP/1.1", f"Host: {host or self.host}", *lines]
        if body is not None and not any(line.lower().startswith(("content-length", "transfer")) for line in lines):
            head.append(f"Content-Length: {len(body)}")
        sent = "\r\n".join([*head, "Connection: close", "", ""]).encode("latin-1") + (body or b"")
        answer = self.exchange(sent, method, target)
        assert answer is not None
        return answer


def _answer(wire: socket.socket, method: str, url: str) -> httpx.Response | None:
    answer = http.client.HTTPResponse(wire, method=method)
    try:
        answer.begin()
        content = answer.read(10**6)
    except (http.client.BadStatusLine, ConnectionResetError):
        return None
    finally:
        answer.close()
    return httpx.Response(
        answer.status, headers=answer.getheaders(), content=content, request=httpx.Request(method, url)
    )


@pytest.fixture(scope="module", params=BOTH)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place-of-the-service")
    with migrated_database(request, folder) as database:
        service = make_service(database, folder, max_model_bytes=LIMIT, max_bundle_bytes=LIMIT)
        store_artifact(service, "alice", HERS)
        with served(service) as url:
            yield Place(
                url=url,
                service=service,
                folder=folder,
                her_key=make_key(service, "alice")["Authorization"],
                her_scan=ended_scan(service, "alice"),
                scan=ended_scan(service),
                running=running_scan(service),
                sha256=store_artifact(service, DEFAULT_TENANT, MINE),
            )


def check(place: Place, answer: httpx.Response) -> None:
    """No failure, nothing of the inside or of another tenant, and a status and code that the route is known for."""
    assert answer.status_code < 500, answer.text
    check_contract(answer)
    seen = answer.text + str(answer.headers)
    for secret in ("Traceback", 'File "', str(place.folder), "site-packages", "sqlite", HERS.decode(), place.her_key):
        assert secret not in seen
    if place.her_scan not in str(answer.request.url):
        assert place.her_scan not in seen
    operation = operation_of(description(), answer.request.method, answer.request.url.path)
    if operation is not None:
        assert str(answer.status_code) in operation["responses"]


def code_of(answer: httpx.Response) -> str | int:
    """The problem's code, or the status of what is none."""
    return (
        str(answer.json()["code"])
        if answer.headers.get("content-type") == "application/problem+json"
        else (answer.status_code)
    )


JSON = "Content-Type: application/json"
DEEP = b"[" * (LARGEST_JSON // 2) + b"]" * (LARGEST_JSON // 2)
SHA = "0" * 64


def new_scan(**changes: Any) -> bytes:
    return json.dumps({"model": SHA, "bundle": SHA} | changes).encode()


def cursor(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


SCAN, ARTIFACT = "/v1/scans/{scan}", "/v1/artifacts/{sha256}"
Case = tuple[str, str, tuple[str, ...], bytes | None, set[str | int]]

BODIES: dict[str, Case] = {
    "a model that is too large": ("PUT", "/v1/artifacts?kind=model", (), bytes(LIMIT + 1), {"too_large"}),
    "a model that says it is too large": (
        "PUT", "/v1/artifacts?kind=model", ("Content-Length: 99999999999999999999",), b"", {"too_large"}
    ),
    "a model of unsaid length that is too large": (
        "PUT", "/v1/artifacts?kind=model", ("Transfer-Encoding: chunked",),
        b"18700\r\n" + bytes(0x18700) + b"\r\n0\r\n\r\n", {"too_large"},
    ),
    "no body at all": ("PUT", "/v1/artifacts?kind=model", (), b"", {"empty_upload"}),
    "an empty chunked body": (
        "PUT", "/v1/artifacts?kind=model", ("Transfer-Encoding: chunked",), b"0\r\n\r\n", {"empty_upload"}
    ),
    "no kind": ("PUT", "/v1/artifacts", (), b"x", {"invalid_request"}),
    "the kind that only the service makes": ("PUT", "/v1/artifacts?kind=weights", (), b"x", {"invalid_request"}),
    "two kinds": ("PUT", "/v1/artifacts?kind=model&kind=../../x", (), b"x", {"invalid_request"}),
    "a known file as another kind": ("PUT", "/v1/artifacts?kind=bundle", (), MINE, {"artifact_kind_mismatch"}),
    "JSON beyond its limit": ("POST", "/v1/scans", (JSON,), new_scan(model_name="x" * 70_000), {"too_large"}),
    "chunked JSON beyond its limit": (
        "POST", "/v1/scans", (JSON, "Transfer-Encoding: chunked"), b"18700\r\n" + b" " * 0x18700 + b"\r\n0\r\n\r\n",
        {"too_large"},
    ),
    "deep JSON": ("POST", "/v1/scans", (JSON,), DEEP, {"invalid_request"}),
    "deep JSON where an input is expected": (
        "POST", "/v1/scans", (JSON,), b'{"input":' + b'{"mean":' * 5000 + b"1" + b"}" * 5001, {"invalid_request"}
    ),
    "no JSON": ("POST", "/v1/scans", (JSON,), b"{]", {"invalid_request"}),
    "JSON that is no UTF-8": ("POST", "/v1/scans", (JSON,), b'{"model": "\xff\xfe"}', {"invalid_request"}),
    "JSON in UTF-16": ("POST", "/v1/scans", (JSON,), new_scan().decode().encode("utf-16"), {"unknown_artifact"}),
    "a list for an object": ("POST", "/v1/scans", (JSON,), b"[]", {"invalid_request"}),
    "null": ("POST", "/v1/scans", (JSON,), b"null", {"invalid_request"}),
    "a form": (
        "POST", "/v1/scans", ("Content-Type: application/x-www-form-urlencoded",), b"model=1&bundle=2",
        {"invalid_request"},
    ),
    "XML with an entity": (
        "POST", "/v1/scans", ("Content-Type: application/xml",),
        b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>', {"invalid_request"},
    ),
    "JSON as text, which any page may send": (
        "POST", "/v1/scans", ("Content-Type: text/plain", "Origin: http://evil.example"), new_scan(),
        {"origin_not_allowed"},
    ),
    "a seed of ten thousand digits": (
        "POST", "/v1/scans", (JSON,), new_scan()[:-1] + b',"seed":' + b"9" * 10_000 + b"}", {"invalid_request"}
    ),
    "a seed beyond all numbers": (
        "POST", "/v1/scans", (JSON,), new_scan()[:-1] + b',"seed":1e999}', {"invalid_request"}
    ),
    "a drop that is no number": (
        "POST", "/v1/scans", (JSON,), new_scan(max_accuracy_drop=float("nan")), {"invalid_request"}
    ),
    "a mean that is no number": (
        "POST", "/v1/scans", (JSON,), new_scan(input={"mean": [float("inf")]}), {"invalid_request"}
    ),
    "a height without end": (
        "POST", "/v1/scans", (JSON,), new_scan(input={"height": 10**18, "width": 10**18}), {"invalid_request"}
    ),
    "a search without end": (
        "POST", "/v1/scans", (JSON,), new_scan(config={"inversion": {"steps": 10**9}}), {"invalid_request"}
    ),
    "text for a number": ("POST", "/v1/scans", (JSON,), new_scan(seed="1"), {"invalid_request"}),
    "a number for a truth": ("POST", "/v1/scans", (JSON,), new_scan(repair=1), {"invalid_request"}),
    "half a character": (
        "POST", "/v1/scans", (JSON,), b'{"model":"\\ud800","bundle":"\\udfff"}', {"invalid_request"}
    ),
    "names that steer": (
        "POST", "/v1/scans", (JSON,), new_scan(model_name="\x00\x1b[2J\u202e../../etc/passwd", bundle_name="\ud800"),
        {"unknown_artifact"},
    ),
    "a key twice": (
        "POST", "/v1/scans", (JSON,), f'{{"model":"{SHA}","bundle":"{SHA}","model":"../x"}}'.encode(),
        {"invalid_request"},
    ),
    "keys that nobody knows": (
        "POST", "/v1/scans", (JSON,), new_scan(tenant_id="alice", __proto__={}, status="finished"), {"invalid_request"}
    ),
    "a key with half a character": ("POST", "/v1/scans", (JSON,), b'{"\\ud800":1}', {"invalid_request"}),
    "a webhook to this machine": (
        "POST", "/v1/scans", (JSON,), new_scan(webhook="http://127.0.0.1:1/"), {"invalid_request"}
    ),
    "a webhook to a file": (
        "POST", "/v1/scans", (JSON,), new_scan(webhook="file:///etc/passwd"), {"invalid_request"}
    ),
    "a bundle and a model that are one file": (
        "POST", "/v1/scans", (JSON,), new_scan(model=sha256_of(MINE), bundle=sha256_of(MINE)), {"wrong_artifact_kind"}
    ),
    "another tenant's file": (
        "POST", "/v1/scans", (JSON,), new_scan(model=sha256_of(HERS), bundle=sha256_of(HERS)), {"unknown_artifact"}
    ),
    "an idempotency key without end": (
        "POST", "/v1/scans", (JSON, f"Idempotency-Key: {'k' * 256}"), new_scan(), {"invalid_request"}
    ),
    "an idempotency key of other characters": (
        "POST", "/v1/scans", (JSON, "Idempotency-Key: \xe9\xff"), new_scan(), {"invalid_request"}
    ),
    "a body where none belongs": ("GET", SCAN, (JSON,), b"{" * 1000, {200}),
    "a body to cancel with": ("POST", SCAN + "/cancel", (JSON,), DEEP, {"scan_ended"}),
}  # fmt: skip

HEADERS: dict[str, Case] = {
    "a range of ten thousand parts": (
        "GET", ARTIFACT, ("Range: bytes=" + ",".join(f"{n}-{n}" for n in range(9999)),), None, {200}
    ),
    "overlapping ranges": ("GET", ARTIFACT, ("Range: bytes=" + ",".join(["0-"] * 1000),), None, {200}),
    "a range of twenty digits": ("GET", ARTIFACT, ("Range: bytes=0-99999999999999999999",), None, {200}),
    "a range beyond the end": (
        "GET", ARTIFACT, ("Range: bytes=999999999999999999-",), None, {"range_not_satisfiable"}
    ),
    "a range of other digits": ("GET", ARTIFACT, ("Range: bytes=\xb2-\xb3",), None, {200}),
    "etags without end": ("GET", ARTIFACT, ("If-None-Match: " + '"x",' * 9000,), None, {200}),
    "an Accept without end": ("GET", SCAN + "/report", ("Accept: " + "a/b;q=0.1," * 5000,), None, {"not_acceptable"}),
    "an Accept that is no number": (
        "GET", SCAN + "/report", ("Accept: text/html;q=nan, application/json;q=-inf",), None, {"not_acceptable"}
    ),
    "an Accept of nothing": ("GET", SCAN + "/report", ("Accept: ;;;,,,/",), None, {"not_acceptable"}),
    "an event number that is text": (
        "GET", SCAN + "/events", ("Last-Event-ID: 1; DROP TABLE",), None, {"invalid_request"}
    ),
    "an event number below zero": ("GET", SCAN + "/events", ("Last-Event-ID: -1",), None, {"invalid_request"}),
    "an event number beyond all": (
        "GET", SCAN + "/events", ("Last-Event-ID: " + "9" * 400,), None, {"invalid_request"}
    ),
    "the largest event number": ("GET", SCAN + "/events", (f"Last-Event-ID: {2**63 - 1}",), None, {204}),
    "an event number in two places": ("GET", SCAN + "/events?after=zero", (), None, {"invalid_request"}),
    "a forwarded host": ("GET", "/", ("X-Forwarded-Host: evil.example", "X-Forwarded-Proto: javascript"), None, {200}),
    "a forwarded address": ("GET", SCAN, ("X-Forwarded-For: ' OR 1=1", "Forwarded: for=evil"), None, {200}),
    "another method by a header": ("GET", SCAN, ("X-HTTP-Method-Override: DELETE",), None, {200}),
    "another path by a header": ("GET", "/healthz", ("X-Original-URL: /v1/scans",), None, {200}),
    "a key of another kind": ("GET", "/v1/scans", ("Authorization: Basic YWxpY2U6eA==",), None, {200}),
    "a key of nothing": ("GET", "/v1/scans", ("Authorization: Bearer \xff",), None, {"unauthenticated"}),
    "a key that injects": ("GET", "/v1/scans", ("Authorization: Bearer ' OR '1'='1",), None, {"unauthenticated"}),
    "a key without end": ("GET", "/v1/scans", ("Authorization: Bearer " + "x" * 30_000,), None, {"unauthenticated"}),
    "an upgrade": ("GET", SCAN, ("Connection: Upgrade", "Upgrade: websocket"), None, {200}),
    "an upgrade to HTTP/2": ("GET", SCAN, ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"), None, {200}),
    "an expectation that nobody has": ("GET", SCAN, ("Expect: 999-surprise",), None, {200}),
}  # fmt: skip

PATHS: dict[str, Case] = {
    "a way up": ("GET", "/v1/artifacts/../../etc/passwd", (), None, {"not_found"}),
    "an encoded way up": ("GET", "/v1/artifacts/..%2f..%2f..%2fetc%2fpasswd", (), None, {"not_found"}),
    "a twice encoded way up": ("GET", "/v1/artifacts/%252e%252e%252fpasswd", (), None, {"artifact_not_found"}),
    "a way up among the static files": ("GET", "/static/..%5c..%5cmain.py", (), None, {"not_found"}),
    "an absolute static file": ("GET", "/static//etc/passwd", (), None, {"not_found"}),
    "a hash in capitals": ("GET", "/v1/artifacts/" + "A" * 64, (), None, {"artifact_not_found"}),
    "a hash with a line end": ("GET", "/v1/artifacts/" + "0" * 64 + "%0a", (), None, {"artifact_not_found"}),
    "a hash with a zero": ("DELETE", "/v1/artifacts/" + "0" * 63 + "%00", (), None, {"artifact_not_found"}),
    "a hash without end": ("GET", "/v1/artifacts/" + "0" * 20_000, (), None, {"artifact_not_found"}),
    "an id that injects": ("GET", "/v1/scans/'%20OR%20'1'='1", (), None, {"scan_not_found"}),
    "an id that is no UTF-8": ("GET", "/v1/scans/%ff%fe%c0%af", (), None, {"scan_not_found"}),
    "an id of other digits": ("GET", "/v1/scans/" + "%d9%a1" * 32, (), None, {"scan_not_found"}),
    "an id with a line end": ("POST", "/v1/scans/0%0d%0aX-Evil:%201/cancel", (), b"", {"scan_not_found"}),
    "a figure above": ("GET", SCAN + "/figures/..%2f..%2freport.json", (), None, {"not_found"}),
    "a figure that is a report": ("GET", SCAN + "/figures/%2e%2e", (), None, {"figure_not_found"}),
    "a figure with a zero": ("GET", SCAN + "/figures/label_1.png%00.html", (), None, {"figure_not_found"}),
    "repaired weights of another form": ("GET", SCAN + "/repaired?format=../../etc", (), None, {"invalid_request"}),
    "a report of another form": ("GET", SCAN + "/report?format=xml", (), None, {"invalid_request"}),
    "a cursor that is none": ("GET", "/v1/scans?cursor=%00%ff", (), None, {"invalid_cursor"}),
    "a cursor of too few bytes": ("GET", f"/v1/scans?cursor={cursor(b'x')}", (), None, {"invalid_cursor"}),
    "a cursor of too many bytes": ("GET", f"/v1/scans?cursor={cursor(b'x' * 60)}", (), None, {"invalid_cursor"}),
    "a cursor without end": ("GET", "/v1/scans?cursor=" + "A" * 9000, (), None, {"invalid_request"}),
    "a page of everything": ("GET", "/v1/scans?limit=1000000", (), None, {"invalid_request"}),
    "a page of nothing": ("GET", "/v1/scans?limit=0", (), None, {"invalid_request"}),
    "a page below nothing": ("GET", "/v1/scans?limit=-1", (), None, {"invalid_request"}),
    "a status that is none": ("GET", "/v1/scans?status='%20OR%201=1", (), None, {"invalid_request"}),
    "a filter that injects": ("GET", "/v1/scans?model=%27%20OR%201=1", (), None, {"invalid_request"}),
    "a question without end": ("GET", "/v1/scans?" + "a=1&" * 9000, (), None, {200}),
    "a whole address": ("GET", "http://evil.example/v1/scans", (), None, {"not_found"}),
    "an address without a path": ("GET", "*", (), None, {"not_found"}),
    "two slashes": ("GET", "//v1//scans", (), None, {"not_found"}),
    "a slash at the end": ("GET", "/v1/scans/", (), None, {"not_found"}),
    "the framework's own pages": ("GET", "/docs", (), None, {"not_found"}),
    "a method that nobody knows": ("FOO", SCAN, (), None, {"method_not_allowed"}),
    "TRACE": ("TRACE", "/v1/scans", ("Cookie: secret",), None, {"method_not_allowed"}),
    "CONNECT": ("CONNECT", "/v1/scans", (), None, {"method_not_allowed"}),
    "OPTIONS from another page": (
        "OPTIONS", "/v1/scans", ("Origin: http://evil.example", "Access-Control-Request-Method: POST"), None,
        {"method_not_allowed"},
    ),
    "a scan that is patched": ("PATCH", SCAN, (JSON,), b'{"status": "finished"}', {"method_not_allowed"}),
    "a list that is deleted": ("DELETE", "/v1/scans", (), None, {"method_not_allowed"}),
}  # fmt: skip
CASES = {**BODIES, **HEADERS, **PATHS}


@pytest.mark.parametrize("name", CASES)
def test_abuse_is_answered_as_documented_and_tells_nothing(place: Place, name: str) -> None:
    method, target, lines, body, expected = CASES[name]
    answer = place.ask(method, target.format(scan=place.scan, sha256=place.sha256), *lines, body=body)
    check(place, answer)
    assert code_of(answer) in expected
    assert "evil" not in answer.text or "Pages of" in answer.text
    assert "access-control-allow-origin" not in answer.headers


# Every route, from elsewhere


ROUTES = [
    (method.upper(), path.format(sha256=SHA, scan_id="0" * 32, name="x.png"))
    for path, operations in description()["paths"].items()
    for method in operations
]
PAGES = [("GET", "/"), ("GET", "/scans/x"), ("GET", "/scans/x/report"), ("GET", "/static/page.js"), ("GET", "/x")]


@pytest.mark.parametrize(("method", "path"), ROUTES + PAGES)
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "a@evil.example", "[::ffff:7f00:1]"])
def test_no_route_answers_under_a_name_that_others_may_point_here(
    place: Place, method: str, path: str, host: str
) -> None:
    answer = place.ask(method, path, host=host)
    check_contract(answer)
    assert answer.status_code == 421 and (method == "HEAD" or code_of(answer) == "host_not_allowed")


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[0] not in ("GET", "HEAD")])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1.evil.example"])
def test_no_route_that_changes_something_obeys_a_page_of_others(
    place: Place, method: str, path: str, origin: str
) -> None:
    answer = place.ask(method, path, f"Origin: {origin}", JSON, body=new_scan())
    check(place, answer)
    assert code_of(answer) == "origin_not_allowed"


# What is no HTTP, or no longer


MALFORMED = {
    "two lengths": b"POST /v1/scans HTTP/1.1\r\nHost: H\r\nContent-Length: 1\r\nContent-Length: 9\r\n\r\nx",
    "a length below zero": b"PUT /v1/artifacts?kind=model HTTP/1.1\r\nHost: H\r\nContent-Length: -1\r\n\r\nx",
    "a length in other digits": b"PUT /v1/artifacts?kind=model HTTP/1.1\r\nHost: H\r\nContent-Length: 0x1\r\n\r\nx",
    "an encoding that nobody knows": b"POST /v1/scans HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: gzip\r\n\r\nx",
    "two hosts": b"GET /v1/scans HTTP/1.1\r\nHost: H\r\nHost: evil.example\r\n\r\n",
    "no host": b"GET /v1/scans HTTP/1.1\r\n\r\n",
    "a head without end": b"GET /v1/scans HTTP/1.1\r\nHost: H\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "lines without end": b"GET /v1/scans HTTP/1.1\r\nHost: H\r\n" + b"X: x\r\n" * 50_000 + b"\r\n",
    "a bare line end in a header": b"GET /v1/scans HTTP/1.1\r\nHost: H\r\nX: a\rY: b\r\n\r\n",
    "a zero in a header": b"GET /v1/scans HTTP/1.1\r\nHost: H\r\nX: a\0b\r\n\r\n",
    "a space before the colon": b"GET /v1/scans HTTP/1.1\r\nHost: H\r\nContent-Length : 5\r\n\r\nhello",
    "a space in the address": b"GET /v1/scans?a b HTTP/1.1\r\nHost: H\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "noise": bytes(range(256)) * 400,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_http_is_refused_in_the_servers_few_words(place: Place, name: str) -> None:
    answer = place.exchange(MALFORMED[name].replace(b"Host: H", f"Host: {place.host}".encode()))
    if answer is not None:
        assert (answer.status_code, answer.text) == (400, "Invalid HTTP request received.")
        assert answer.headers["connection"] == "close"
    assert place.ask("GET", "/healthz").status_code == 200


def test_a_request_is_not_smuggled_behind_another(place: Place) -> None:
    """Where both are given, the chunks count, and what follows them is no request of anybody else."""
    smuggled = f"DELETE /v1/artifacts/{place.sha256} HTTP/1.1\r\nHost: {place.host}\r\n\r\n".encode()
    head = f"POST /v1/scans/{place.scan}/cancel HTTP/1.1\r\nHost: {place.host}\r\nTransfer-Encoding: chunked\r\n"
    place.exchange(f"{head}Content-Length: {5 + len(smuggled)}\r\n\r\n".encode() + b"0\r\n\r\n" + smuggled)
    # h11 reads it as a request of the same connection, as RFC 9112 allows: whoever sent it may send it anyway.
    assert place.ask("GET", f"/v1/artifacts/{sha256_of(HERS)}").status_code == 404


def test_a_pipeline_of_requests_is_answered_in_order(place: Place) -> None:
    one = f"GET /healthz HTTP/1.1\r\nHost: {place.host}\r\n\r\n".encode()
    answer = place.exchange(one * 500)
    assert answer is not None and answer.status_code == 200
    assert place.ask("GET", "/healthz").status_code == 200


# Slowness


@contextmanager
def held_open(place: Place, beginning: bytes, count: int) -> Iterator[list[socket.socket]]:
    """So many connections on which no more comes."""
    address = urlsplit(place.url)
    wires = [socket.create_connection((address.hostname, address.port), PATIENCE_SECONDS) for _ in range(count)]
    try:
        for wire in wires:
            wire.sendall(beginning)
        yield wires
    finally:
        for wire in wires:
            wire.close()


SLOW = {
    "nothing": b"",
    "half a head": b"GET /v1/scans HTTP/1.1\r\nHost: localh",
    "half a JSON": b"POST /v1/scans HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
    "half a file": b"PUT /v1/artifacts?kind=model HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx",
}


@pytest.fixture
def impatient(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A server that waits for a second, for whatever it waits."""
    monkeypatch.setattr(serving, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(middleware, "JSON_SECONDS", 1.0)
    service = make_service(database, tmp_path, upload_idle_seconds=1.0)
    with served(service) as url:
        yield Place(url, service, tmp_path, "key", "scan", "", "", "")


@pytest.mark.parametrize("name", SLOW)
def test_who_sends_slowly_keeps_nobody_waiting(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(middleware, "JSON_SECONDS", PATIENCE_SECONDS)
    with held_open(place, SLOW[name], 200) as wires:
        assert place.ask("GET", "/v1/scans").status_code == 200
        assert select.select(wires, [], [], 0)[0] == [], "others were served meanwhile"


@pytest.mark.parametrize("name", SLOW)
def test_who_sends_slowly_is_hung_up_on(impatient: Place, name: str) -> None:
    with held_open(impatient, SLOW[name], 200) as wires:
        for wire in wires:
            answer = _answer(wire, SLOW[name].split(b" ")[0].decode() or "GET", f"{impatient.url}/v1/scans")
            assert answer is None or code_of(answer) == "upload_stalled"
    assert impatient.service.store.list_prefix("incoming/") == []


@pytest.mark.parametrize("name", SLOW)
def test_a_drop_now_and_then_does_not_help(impatient: Place, name: str) -> None:
    """A byte is what uvicorn waits for, and who reads the next chunk; here the whole has its time, too."""
    with held_open(impatient, SLOW[name], 1) as (wire,):

        def is_hung_up_on() -> bool:
            try:
                wire.sendall(b"x")
            except (BrokenPipeError, ConnectionResetError):
                return True
            return False

        eventually(is_hung_up_on, pause=0.1)


# At the same time


def test_a_scan_that_is_asked_for_many_times_at_once_under_one_key_is_one(place: Place) -> None:
    for kind, content in (("model", b"m"), ("bundle", b"b")):
        place.ask("PUT", f"/v1/artifacts?kind={kind}", body=content)
    body = new_scan(model=sha256_of(b"m"), bundle=sha256_of(b"b"))
    answers = at_once(
        *(lambda: place.ask("POST", "/v1/scans", JSON, "Idempotency-Key: once", body=body) for _ in range(8))
    )
    for answer in answers:
        check(place, answer)
    assert len({answer.json()["id"] for answer in answers}) == 1
    scan_id = answers[0].json()["id"]
    assert place.ask("POST", f"/v1/scans/{scan_id}/cancel", body=b"").status_code == 200
    assert place.ask("DELETE", f"/v1/scans/{scan_id}").status_code == 204
    again = place.ask("POST", "/v1/scans", JSON, "Idempotency-Key: once", body=body)
    check(place, again)
    assert again.status_code == 202 and again.json()["id"] != scan_id, "the key went with the scan that was deleted"
    place.ask("POST", f"/v1/scans/{again.json()['id']}/cancel", body=b"")


def test_a_file_that_is_uploaded_and_deleted_at_once_ends_as_one_or_the_other(place: Place) -> None:
    """Who asks for it just then may find that it is going; whoever asks afterwards finds it whole or not at all."""
    content = b"x" * 50_000
    target = f"/v1/artifacts/{sha256_of(content)}"
    acts = [
        lambda: place.ask("PUT", "/v1/artifacts?kind=model", body=content),
        lambda: place.ask("DELETE", target),
        lambda: place.ask("GET", target),
    ]
    for _ in range(10):
        for answer in at_once(*acts * 3):
            assert answer.status_code < 500 or answer.json()["code"] == "content_lost", answer.text
        after = place.ask("GET", target)
        assert after.status_code == 404 or after.content == content, after.text


def test_two_hundred_listeners_keep_nobody_waiting(place: Place) -> None:
    listen = f"GET /v1/scans/{place.running}/events HTTP/1.1\r\nHost: {place.host}\r\n\r\n".encode()
    with held_open(place, listen, 200):
        assert place.ask("GET", f"/v1/scans/{place.running}").status_code == 200, "though none of them ever leaves"


def test_nobody_is_another_tenant_without_a_key_or_with_another(place: Place) -> None:
    """tests/api/test_tenants.py tries every route; here the ids of another's things are what is asked for."""
    for target in (f"/v1/scans/{place.her_scan}", f"/v1/artifacts/{sha256_of(HERS)}"):
        answer = place.ask("GET", target)
        check(place, answer)
        assert answer.status_code == 404
        assert place.ask("GET", target, f"Authorization: {place.her_key}").status_code == 200
