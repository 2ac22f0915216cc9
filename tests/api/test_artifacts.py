"""Uploads and downloads: streamed in, known by hash, sent whole or in part."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from app import actions
from app.core.database import Database
from app.core.errors import Refusal
from app.core.service import Service
from app.core.storage import artifact_key
from app.core.tables import DEFAULT_TENANT
from app.main import create_app
from tests.api.world import client_of, make_service, put, running_scan, served, sha256_of, store_artifact
from tests.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.threads

CONTENT = bytes(range(256)) * 40


def test_a_file_is_known_by_its_hash_from_then_on(client: TestClient) -> None:
    first = client.put("/v1/artifacts?kind=model", content=CONTENT, headers={"Content-Type": "text/plain"})
    again = client.put("/v1/artifacts?kind=model", content=CONTENT)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() == {"sha256": sha256_of(CONTENT), "kind": "model", "size": len(CONTENT)}
    known = client.head(f"/v1/artifacts/{sha256_of(CONTENT)}")
    assert (known.status_code, known.content, known.headers["content-length"]) == (200, b"", str(len(CONTENT)))
    assert known.headers["etag"] == f'"{sha256_of(CONTENT)}"'
    assert client.get(f"/v1/artifacts/{sha256_of(CONTENT)}").content == CONTENT


def test_a_body_without_a_length_is_streamed(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (CONTENT[:100], b"", CONTENT[100:])

    assert client.put("/v1/artifacts?kind=bundle", content=pieces()).json()["sha256"] == sha256_of(CONTENT)


def test_uploading_again_brings_back_content_that_was_lost(client: TestClient, service: Service) -> None:
    sha256 = put(client, CONTENT, "model")
    service.store.delete(artifact_key(DEFAULT_TENANT, sha256))
    assert client.get(f"/v1/artifacts/{sha256}").json()["code"] == "content_lost"
    assert put(client, CONTENT, "model") == sha256
    assert client.get(f"/v1/artifacts/{sha256}").content == CONTENT


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=10000-", 10000, 10240),
        ("bytes=10230-99999", 10230, 10240),
        ("bytes=-5", -5, None),
        ("bytes=-99999", 0, None),
    ],
)
def test_a_single_range_is_answered_with_that_part(
    client: TestClient, asked: str, start: int, stop: int | None
) -> None:
    url = f"/v1/artifacts/{put(client, CONTENT, 'model')}"
    part = client.get(url, headers={"Range": asked})
    assert (part.status_code, part.content) == (206, CONTENT[start:stop])
    first = start % len(CONTENT)
    assert part.headers["content-range"] == f"bytes {first}-{first + len(part.content) - 1}/{len(CONTENT)}"
    assert part.headers["content-length"] == str(len(part.content))


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=9-5", "bytes=-", "lines=1-2", "bytes=0-1-2", "x"])
def test_other_ranges_are_answered_with_the_whole_file(client: TestClient, asked: str) -> None:
    whole = client.get(f"/v1/artifacts/{put(client, CONTENT, 'model')}", headers={"Range": asked})
    assert (whole.status_code, whole.content) == (200, CONTENT)


@pytest.mark.parametrize("asked", ["bytes=10240-", "bytes=99999-100000", "bytes=-0"])
def test_a_range_outside_the_file_is_refused_with_the_size(client: TestClient, asked: str) -> None:
    refused = client.get(f"/v1/artifacts/{put(client, CONTENT, 'model')}", headers={"Range": asked})
    assert (refused.status_code, refused.json()["code"]) == (416, "range_not_satisfiable")
    assert refused.headers["content-range"] == "bytes */10240"


def test_if_range_asks_for_the_part_of_this_version_only(client: TestClient) -> None:
    url = f"/v1/artifacts/{put(client, CONTENT, 'model')}"
    asked = {"Range": "bytes=0-0"}
    assert client.get(url, headers=asked | {"If-Range": f'"{sha256_of(CONTENT)}"'}).status_code == 206
    assert client.get(url, headers=asked | {"If-Range": '"another"'}).content == CONTENT


def test_what_the_asker_has_already_is_not_sent(client: TestClient) -> None:
    sha256 = put(client, CONTENT, "model")
    for known in (f'"{sha256}"', f'W/"{sha256}"', f'"x", "{sha256}"', "*"):
        answer = client.get(f"/v1/artifacts/{sha256}", headers={"If-None-Match": known, "Range": "bytes=0-1"})
        assert (answer.status_code, answer.content) == (304, b"")
    assert client.get(f"/v1/artifacts/{sha256}", headers={"If-None-Match": '"x"'}).status_code == 200


def test_deleting_takes_the_content_along(client: TestClient, service: Service) -> None:
    sha256 = put(client, CONTENT, "model")
    assert client.delete(f"/v1/artifacts/{sha256}").status_code == 204
    assert client.get(f"/v1/artifacts/{sha256}").json()["code"] == "artifact_not_found"
    assert service.store.size(artifact_key(DEFAULT_TENANT, sha256)) is None


def test_what_an_open_scan_needs_is_not_deleted(client: TestClient, service: Service) -> None:
    sha256 = store_artifact(service, DEFAULT_TENANT, b"model")
    running_scan(service)
    assert client.delete(f"/v1/artifacts/{sha256}").json()["code"] == "artifact_in_use"


def test_a_body_that_is_too_large_is_refused_before_and_while_it_comes(database: Database, tmp_path: Path) -> None:
    with client_of(make_service(database, tmp_path, max_model_bytes=1000, max_bundle_bytes=10)) as client:
        declared = client.put("/v1/artifacts?kind=model", content=CONTENT)
        undeclared = client.put("/v1/artifacts?kind=bundle", content=iter([b"12345", b"678901"]))
        for refused in (declared, undeclared):
            assert (refused.status_code, refused.json()["code"]) == (413, "too_large")


def test_uploads_side_by_side_share_the_room_that_is_left(database: Database, tmp_path: Path) -> None:
    """Each alone would fit; the one that comes to the end of the room is ended there, and the other one is kept."""
    service = make_service(database, tmp_path, max_disk_bytes=1000)

    async def side_by_side() -> list[object]:
        half_of_second, end_of_first = asyncio.Event(), asyncio.Event()

        async def first() -> AsyncIterator[bytes]:
            yield b"1" * 400
            await half_of_second.wait()
            yield b"1" * 400
            raise AssertionError("more than there is room for was asked for")

        async def second() -> AsyncIterator[bytes]:
            yield b"2" * 400
            half_of_second.set()
            await end_of_first.wait()
            yield b"2" * 400

        async def keep(chunks: AsyncIterator[bytes]) -> object:
            try:
                return await actions.register_artifact(service, DEFAULT_TENANT, "model", chunks)
            except Refusal as refusal:
                end_of_first.set()
                return refusal.problem.code

        return await asyncio.gather(keep(first()), keep(second()))

    refused, kept = asyncio.run(side_by_side())
    assert refused == "storage_full" and not isinstance(kept, str)
    assert service.store.incoming_bytes == 0 and service.store.list_prefix("incoming/") == []


def test_a_refusal_by_length_reads_nothing_of_the_body(service: Service, tmp_path: Path) -> None:
    small = make_service(service.database, tmp_path, max_model_bytes=10)

    async def unread() -> dict[str, object]:
        raise AssertionError("the body was asked for")

    async def put_too_much() -> list[dict[str, object]]:
        app, sent = create_app(small.settings, small), []
        async with app.router.lifespan_context(app):
            headers = [(b"host", b"localhost"), (b"content-length", b"11")]
            scope = {"type": "http", "method": "PUT", "path": "/v1/artifacts", "headers": headers}
            scope |= {"query_string": b"kind=model", "http_version": "1.1", "scheme": "http", "raw_path": b""}

            async def send(message: dict[str, object]) -> None:
                sent.append(message)

            await app(scope, unread, send)
        return sent

    assert asyncio.run(put_too_much())[0]["status"] == 413


def test_an_upload_that_stands_still_is_ended(database: Database, tmp_path: Path) -> None:
    slow = make_service(database, tmp_path, upload_idle_seconds=0.3)

    head = b"PUT /v1/artifacts?kind=model HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with served(slow) as url, socket.create_connection(("127.0.0.1", urlsplit(url).port), PATIENCE_SECONDS) as wire:
        wire.sendall(head + b"a beginning")
        refused = HTTPResponse(wire)
        refused.begin()
        assert (refused.status, json.load(refused)["code"]) == (408, "upload_stalled")
        assert refused.headers["connection"] == "close"
    assert slow.store.list_prefix("incoming/") == []


def test_a_client_that_goes_away_leaves_nothing_behind(service: Service) -> None:
    async def go_away(url: str) -> None:
        async def pieces():  # type: ignore[no-untyped-def]
            yield b"a beginning"
            await asyncio.sleep(0.3)
            raise ConnectionAbortedError

        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
            with pytest.raises(ConnectionAbortedError):
                await client.put(f"{url}/v1/artifacts?kind=model", content=pieces())

    with served(service) as url:
        asyncio.run(go_away(url))
        eventually(lambda: service.store.list_prefix("incoming/") == [])


def test_an_upload_is_streamed_in_chunks_as_they_come(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The route hands on what the server hands it: nothing collects the body."""
    sizes: list[int] = []
    receive = service.store.receive

    async def watched(tenant_id: str, chunks, limit: int):  # type: ignore[no-untyped-def]
        async def noted():  # type: ignore[no-untyped-def]
            async for chunk in chunks:
                sizes.append(len(chunk))
                yield chunk

        return await receive(tenant_id, noted(), limit)

    monkeypatch.setattr(service.store, "receive", watched)
    with served(service) as url, httpx.Client(timeout=PATIENCE_SECONDS) as client:
        assert client.put(f"{url}/v1/artifacts?kind=model", content=bytes(20_000_000)).status_code == 201
    assert sum(sizes) == 20_000_000 and max(sizes) <= 1 << 20
