"""The contract of the artifact store: one suite over a folder, memory and an S3 server, then what only one has."""

import asyncio
import json
import logging
import secrets
import shutil
import socket
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from app.core.errors import Refusal
from app.core.settings import Settings
from app.core.storage import RETRIES, ArtifactStore, Received, StorageError, artifact_key, attempt_prefix, scan_prefix
from tests.processes import needs_proc
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.threads

MB = 1 << 20
ROOT = Path(__file__).parents[2]
LARGE = bytes(range(256)) * (12 * MB // 256)  # three parts
NO_SHA256 = "0" * 64

few_examples = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass(frozen=True)
class Place:
    """A store, and a look at everything that lies in it, with what no listing shows."""

    store: ArtifactStore
    settings: Settings
    everything: Callable[[], list[str]]


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, Any]]:
    """An S3 server with one bucket: its endpoint and a client."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key="word", region_name="us-east-1"
    )
    client.create_bucket(Bucket="bucket")
    yield endpoint, client
    server.stop()


def s3_settings(endpoint: str, url: str) -> Settings:
    return Settings(storage_url=url, storage_endpoint=endpoint, storage_key_id="key", storage_secret=SecretStr("word"))


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        where = Settings(data_dir=tmp_path / "data")
        blobs = tmp_path / "data" / "blobs"
        return Place(
            ArtifactStore.open(where),
            where,
            lambda: sorted(str(path.relative_to(blobs)) for path in blobs.rglob("*") if path.is_file()),
        )
    if request.param == "memory":
        where = Settings(storage_url="memory://")
        store = ArtifactStore.open(where)
        return Place(store, where, lambda: store.list_prefix("incoming/") + store.list_prefix("tenants/"))
    endpoint, client = request.getfixturevalue("s3")
    prefix = f"here/{secrets.token_hex(8)}/"
    where = s3_settings(endpoint, f"s3://bucket/{prefix}")

    def everything() -> list[str]:
        objects = client.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
        uploads = client.list_multipart_uploads(Bucket="bucket", Prefix=prefix).get("Uploads", [])
        return sorted(found["Key"].removeprefix(prefix) for found in [*objects, *uploads])

    return Place(ArtifactStore.open(where), where, everything)


@pytest.fixture
def store(place: Place) -> ArtifactStore:
    return place.store


async def chunked(data: bytes, size: int = MB) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def put(store: ArtifactStore, key: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "to-put"
    path.write_bytes(data)
    stored = store.put_file(key, path)
    assert (stored.sha256, stored.size) == (sha256(data).hexdigest(), len(data))


def read(store: ArtifactStore, key: str, offset: int = 0, length: int | None = None) -> bytes:
    return b"".join(store.read(key, offset, length))


async def upload(store: ArtifactStore, tenant_id: str, data: bytes) -> str:
    return store.publish(await store.receive(tenant_id, chunked(data), len(data)), tenant_id)


# What is put is what is read.


@few_examples
@given(
    data=st.binary(max_size=300),
    offset=st.integers(0, 320),
    length=st.none() | st.integers(0, 320),
)
def test_any_range_is_the_slice_of_what_was_put(
    store: ArtifactStore, tmp_path: Path, data: bytes, offset: int, length: int | None
) -> None:
    put(store, "tenants/t/scans/s/j-1/x", data, tmp_path)
    assert read(store, "tenants/t/scans/s/j-1/x") == data
    assert read(store, "tenants/t/scans/s/j-1/x", offset, length) == data[offset:][:length]


@few_examples
@given(chunks=st.lists(st.binary(max_size=50), max_size=8))
def test_an_upload_is_published_as_it_was_sent_however_it_was_cut(store: ArtifactStore, chunks: list[bytes]) -> None:
    async def sent() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def scenario() -> tuple[Received, str]:
        received = await store.receive("t", sent(), 1000)
        return received, store.publish(received, "t")

    data = b"".join(chunks)
    received, key = asyncio.run(scenario())
    assert (received.sha256, received.size) == (sha256(data).hexdigest(), len(data))
    assert key == artifact_key("t", received.sha256)
    assert read(store, key) == data and store.size(key) == len(data)
    assert store.list_prefix("incoming/") == []


def test_a_file_of_many_parts_comes_back_in_small_chunks(place: Place, tmp_path: Path) -> None:
    put(place.store, "tenants/t/scans/s/j-1/large", LARGE, tmp_path)
    chunks = list(place.store.read("tenants/t/scans/s/j-1/large"))
    assert b"".join(chunks) == LARGE and all(type(chunk) is bytes for chunk in chunks)
    if place.settings.storage_url != "memory://":  # memory hands out what it has
        assert max(map(len, chunks)) < 3 * MB
    assert read(place.store, "tenants/t/scans/s/j-1/large", 5 * MB - 3, 7) == LARGE[5 * MB - 3 :][:7]


def test_a_file_is_fetched_whole_and_checked(store: ArtifactStore, tmp_path: Path) -> None:
    key = asyncio.run(upload(store, "t", LARGE))
    store.fetch(key, tmp_path / "deep" / "model.pt", sha256(LARGE).hexdigest())
    assert (tmp_path / "deep" / "model.pt").read_bytes() == LARGE
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.pt"]


def test_a_fetch_with_another_digest_is_refused_and_leaves_the_old_file(store: ArtifactStore, tmp_path: Path) -> None:
    put(store, "tenants/t/scans/s/j-1/x", b"changed", tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    for name in ("old", "new"):
        with pytest.raises(Refusal) as caught:
            store.fetch("tenants/t/scans/s/j-1/x", tmp_path / "out" / name, NO_SHA256)
        assert caught.value.problem.code == "damaged_object"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]
    assert (tmp_path / "out" / "old").read_text() == "old"


def test_a_copy_has_the_same_bytes_and_outlives_the_original(store: ArtifactStore, tmp_path: Path) -> None:
    source, target = f"{attempt_prefix('t', 's', 'j', 1)}repaired.pt", artifact_key("t", NO_SHA256)
    put(store, source, b"weights", tmp_path)
    store.copy(source, target)
    store.copy(source, target)
    store.delete(source)
    assert read(store, target) == b"weights"


# Nothing half-done is seen, and nothing is left behind.


def test_nothing_is_visible_before_it_is_published(store: ArtifactStore) -> None:
    seen: list[str] = []

    async def watched() -> AsyncIterator[bytes]:
        async for chunk in chunked(LARGE):
            yield chunk
            seen.extend(store.list_prefix("tenants/"))

    received = asyncio.run(store.receive("t", watched(), len(LARGE)))
    assert seen == store.list_prefix("tenants/") == []
    assert store.list_prefix("incoming/") == [received.temporary]
    asyncio.run(store.discard(received))
    asyncio.run(store.discard(received))
    assert store.list_prefix("incoming/") == []


def test_an_upload_of_the_limit_is_taken_and_a_byte_more_is_refused(place: Place) -> None:
    received = asyncio.run(place.store.receive("t", chunked(b"x" * 10), limit=10))
    asyncio.run(place.store.discard(received))
    asked: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            asked.append(len(asked))
            yield b"x" * MB

    with pytest.raises(Refusal) as caught:
        asyncio.run(place.store.receive("t", endless(), limit=12 * MB))
    assert caught.value.problem.code == "too_large" and "12.0 MB" in caught.value.problem.detail
    assert len(asked) == 13 and place.everything() == []


@pytest.mark.parametrize("sent", [0, 1, 7, 12])
def test_an_upload_whose_sender_goes_leaves_nothing(place: Place, sent: int) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for chunk in chunked(b"x" * sent * MB):
            yield chunk
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        asyncio.run(place.store.receive("t", broken(), 20 * MB))
    assert place.everything() == []


@pytest.mark.parametrize("sent", [0, 1, 7, 12])
def test_an_upload_cancelled_while_it_waits_for_its_sender_leaves_nothing(place: Place, sent: int) -> None:
    async def scenario() -> None:
        stalled = asyncio.Event()

        async def silent() -> AsyncIterator[bytes]:
            async for chunk in chunked(b"x" * sent * MB):
                yield chunk
            stalled.set()
            await asyncio.Event().wait()

        receiving = asyncio.create_task(place.store.receive("t", silent(), 20 * MB))
        await stalled.wait()
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving

    asyncio.run(scenario())
    assert place.everything() == []


def test_an_upload_cancelled_at_any_moment_leaves_nothing(place: Place) -> None:
    async def scenario(patience: float) -> None:
        receiving = asyncio.create_task(place.store.receive("t", chunked(LARGE), 20 * MB))
        await asyncio.sleep(patience)
        if receiving.cancel():
            with pytest.raises(asyncio.CancelledError):
                await receiving
        else:
            await place.store.discard(receiving.result())

    started = time.monotonic()
    asyncio.run(upload(place.store, "t", LARGE))
    whole_seconds = time.monotonic() - started
    place.store.delete_prefix("tenants/")
    for step in range(24):
        asyncio.run(scenario(whole_seconds * step / 20))
        assert place.everything() == [], f"cancelled at {step / 20:.0%}"


def test_an_upload_cancelled_again_and_again_leaves_nothing(place: Place) -> None:
    """As anyio's cancel scopes do it: at every step, until the task has ended."""

    async def scenario() -> None:
        stands_still = asyncio.Event()

        async def most_of_it() -> AsyncIterator[bytes]:
            async for chunk in chunked(LARGE):
                yield chunk
            stands_still.set()
            await asyncio.Event().wait()

        receiving = asyncio.create_task(place.store.receive("t", most_of_it(), 20 * MB))
        await stands_still.wait()
        while not receiving.done():
            receiving.cancel()
            await asyncio.sleep(0)
        assert receiving.cancelled()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    asyncio.run(scenario())
    assert place.everything() == []


def test_a_file_that_cannot_be_read_to_its_end_is_not_stored_at_all(place: Place, tmp_path: Path) -> None:
    class Failing:
        def open(self, mode: str) -> "Failing":
            self.reads = 0
            return self

        def __enter__(self) -> "Failing":
            return self

        def __exit__(self, *error: object) -> None: ...

        def read(self, size: int) -> bytes:
            self.reads += 1
            if self.reads > 12:
                raise OSError("bad sector")
            return b"x" * size

    with pytest.raises(StorageError):
        place.store.put_file("tenants/t/scans/s/j-1/x", Failing())  # type: ignore[arg-type]
    assert place.everything() == []


def test_equal_uploads_at_the_same_time_make_one_artifact(place: Place) -> None:
    async def scenario() -> list[str]:
        return await asyncio.gather(*(upload(place.store, "t", LARGE) for _ in range(5)))

    keys = asyncio.run(scenario())
    assert {*keys} == {*place.everything()} == {artifact_key("t", sha256(LARGE).hexdigest())}
    assert read(place.store, keys[0]) == LARGE


def test_a_damaged_artifact_is_whole_again_after_the_next_upload(store: ArtifactStore, tmp_path: Path) -> None:
    put(store, artifact_key("t", sha256(b"model").hexdigest()), b"m0del", tmp_path)
    assert read(store, asyncio.run(upload(store, "t", b"model"))) == b"model"


def test_an_upload_can_be_published_only_while_it_is_there(store: ArtifactStore) -> None:
    async def scenario() -> None:
        received = await store.receive("t", chunked(b"model"), 10)
        await store.discard(received)
        store.publish(received, "t")

    with pytest.raises(StorageError):
        asyncio.run(scenario())
    assert store.list_prefix("tenants/") == []


# Who is beside whom.


def test_two_tenants_do_not_see_each_other(store: ArtifactStore) -> None:
    keys = [asyncio.run(upload(store, tenant, b"the same")) for tenant in ("ann", "anna")]
    assert store.list_prefix("tenants/ann/") == keys[:1] and store.list_prefix("tenants/anna/") == keys[1:]
    store.delete_prefix("tenants/ann/")
    assert store.size(keys[0]) is None and read(store, keys[1]) == b"the same"


def test_deleting_a_scan_leaves_its_neighbours(store: ArtifactStore, tmp_path: Path) -> None:
    for scan in ("1", "10", "01"):
        for name in ("report.json", "figures/label-0.png", "figures/label-1.png"):
            put(store, f"{attempt_prefix('t', scan, 'job', 2)}{name}", b"x", tmp_path)
    store.delete_prefix(scan_prefix("t", "1"))
    store.delete_prefix(scan_prefix("t", "1"))
    assert store.list_prefix(scan_prefix("t", "1")) == []
    assert store.list_prefix(scan_prefix("t", "10")) == [
        "tenants/t/scans/10/job-2/figures/label-0.png",
        "tenants/t/scans/10/job-2/figures/label-1.png",
        "tenants/t/scans/10/job-2/report.json",
    ]
    assert len(store.list_prefix("tenants/t/scans/")) == 6


def test_a_scan_may_be_deleted_by_several_at_once(place: Place, tmp_path: Path) -> None:
    for number in range(60):
        put(place.store, f"{attempt_prefix('t', 's', 'job', 1)}{number % 7}/{number}", b"x", tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: place.store.delete_prefix(scan_prefix("t", "s")), range(4)))
    assert place.everything() == []


def test_what_is_not_there_is_said_at_once(store: ArtifactStore, tmp_path: Path) -> None:
    missing = artifact_key("t", NO_SHA256)
    assert store.size(missing) is None and store.list_prefix("tenants/") == []
    store.delete(missing)
    with pytest.raises(FileNotFoundError, match=NO_SHA256):
        store.read(missing)
    with pytest.raises(FileNotFoundError, match=NO_SHA256):
        store.fetch(missing, tmp_path / "x", NO_SHA256)
    with pytest.raises(FileNotFoundError, match=NO_SHA256):
        store.copy(missing, "tenants/t/scans/s/j-1/x")
    assert not (tmp_path / "x").exists()


def test_uploads_that_nobody_came_back_for_are_swept(place: Place) -> None:
    key = asyncio.run(upload(place.store, "t", b"kept"))
    received = asyncio.run(place.store.receive("t", chunked(b"forgotten"), 10))
    place.store.sweep_incoming(older_than_seconds=3600)
    assert place.everything() == [received.temporary, key]
    place.store.sweep_incoming(older_than_seconds=-10)
    assert place.everything() == [key]


def test_a_check_leaves_nothing(place: Place) -> None:
    place.store.check()
    assert place.everything() == []


# Names.


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a#1", "a b", "ä", "-" * 129, "a\n", "%2e", "\0", "a\\b"])
def test_a_name_that_could_lead_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a name"):
        artifact_key(name, NO_SHA256)
    with pytest.raises(ValueError, match="expected a name"):
        scan_prefix("t", name)
    with pytest.raises(ValueError, match="expected a name"):
        attempt_prefix("t", "s", name, 1)
    store = ArtifactStore.open(Settings(storage_url="memory://"))
    with pytest.raises(ValueError, match="expected a name"):
        asyncio.run(store.receive(name, chunked(b""), 1))
    if name != "a/b":
        with pytest.raises(ValueError, match="expected a name"):
            store.put_file(f"{attempt_prefix('t', 's', 'j', 1)}{name}", tmp_path)


@pytest.mark.parametrize(
    "digest", ["", "0" * 63, "0" * 65, "A" * 64, "../" + "0" * 61, "0" * 63 + "\n", "0" * 64 + "\n"]
)
def test_only_a_sha256_names_an_artifact(digest: str) -> None:
    with pytest.raises(ValueError, match="expected a SHA-256"):
        artifact_key("t", digest)


def test_the_settings_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for where, folder in (
        (Settings(), "triggerlens-data/blobs"),
        (Settings(storage_url=f"file://{tmp_path}/a%20b"), "a b"),
    ):
        asyncio.run(upload(ArtifactStore.open(where), "t", b"x"))
        assert (tmp_path / folder / "tenants").is_dir()
    for url in ("file://host/path", "file:relative", "s3://", "s3:bucket", "https://host/bucket", "/folder", ""):
        with pytest.raises(ValueError, match="expected a storage URL"):
            ArtifactStore.open(Settings(storage_url=url))


# Storage that fails.


def every_request(store: ArtifactStore, tmp_path: Path) -> list[Callable[[], object]]:
    (tmp_path / "x").write_bytes(LARGE)
    return [
        store.check,
        lambda: store.put_file("a/b", tmp_path / "x"),
        lambda: store.list_prefix("a/"),
        lambda: store.delete_prefix("a/"),
        lambda: store.sweep_incoming(0),
        lambda: asyncio.run(store.receive("t", chunked(b"x"), 10)),
        lambda: asyncio.run(store.receive("t", chunked(LARGE), len(LARGE))),
        lambda: store.publish(Received("incoming/t-0", NO_SHA256, 1), "t"),
    ]


def test_a_server_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RETRIES, "max_retries", 0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    store = ArtifactStore.open(s3_settings(endpoint, "s3://bucket/prefix"))
    for request in (
        *every_request(store, tmp_path),
        lambda: store.size("a"),
        lambda: store.read("a"),
        lambda: store.fetch("a", tmp_path / "y", NO_SHA256),
        lambda: store.copy("a", "b"),
        lambda: store.delete("a"),
        lambda: asyncio.run(store.discard(Received("incoming/t-0", NO_SHA256, 1))),
    ):
        with pytest.raises(StorageError) as caught:
            request()
        problem = caught.value.problem
        assert problem.code == "storage_unavailable" and problem.retryable and problem.advice
        assert endpoint in str(caught.value) and "127.0.0.1" not in str(problem.to_json()), "for the log only"


def test_a_server_that_hangs_up_is_asked_again_and_soon_given_up() -> None:
    """The library by itself goes on for ten tries."""
    calls: list[object] = []

    class HangsUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            calls.append(self.client_address)

    with socketserver.TCPServer(("127.0.0.1", 0), HangsUp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = ArtifactStore.open(s3_settings(f"http://127.0.0.1:{server.server_address[1]}", "s3://bucket/prefix"))
        with pytest.raises(StorageError):
            store.size("a")
        server.shutdown()
    assert 1 < len(calls) <= 4


def test_a_bucket_that_is_missing_is_a_failure_and_not_an_empty_store(s3: tuple[str, Any], tmp_path: Path) -> None:
    store = ArtifactStore.open(s3_settings(s3[0], "s3://nobody-made-it"))
    for request in every_request(store, tmp_path):
        with pytest.raises(StorageError):
            request()


def test_a_folder_that_cannot_be_made_or_written_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        ArtifactStore.open(Settings(data_dir=tmp_path / "file"))
    store = ArtifactStore.open(Settings(data_dir=tmp_path))
    (tmp_path / "blobs" / "incoming").touch()
    with pytest.raises(StorageError):
        store.check()


def run_python(code: str, *arguments: str, prefix: tuple[str, ...] = ()) -> str:
    command = [*prefix, sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    ).stdout.strip()


def test_a_full_disk_is_told_as_such_and_nothing_half_written_stays(tmp_path: Path) -> None:
    """On a real file system of 1 MB, in a mount namespace of its own."""
    mount = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
    disk, large = tmp_path / "disk", tmp_path / "large"
    disk.mkdir()
    large.write_bytes(LARGE)
    prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(disk))
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces on this machine")
    code = """
        import asyncio, sys
        from pathlib import Path
        from app.core.errors import Refusal
        from app.core.settings import Settings
        from app.core.storage import ArtifactStore

        async def chunks(count):
            for _ in range(count):
                yield bytes(1 << 20)

        disk, large = Path(sys.argv[1]), Path(sys.argv[2])
        store = ArtifactStore.open(Settings(data_dir=disk))
        elsewhere = ArtifactStore.open(Settings(storage_url="memory://"))
        key = asyncio.run(elsewhere.receive("t", chunks(3), 1 << 30)).temporary
        for fill in (
            lambda: asyncio.run(store.receive("t", chunks(3), 1 << 30)),  # in one request
            lambda: asyncio.run(store.receive("t", chunks(20), 1 << 30)),  # in parts
            lambda: store.put_file("a", large),
            lambda: elsewhere.fetch(key, disk / "out", "0" * 64),
        ):
            try:
                fill()
            except Refusal as refusal:
                left = [path for path in disk.rglob("*") if path.is_file()]
                print(refusal.problem.code, refusal.problem.retryable, left)
    """
    assert run_python(code, str(disk), str(large), prefix=prefix).splitlines() == ["disk_full True []"] * 4


# A folder.


def folder_store(tmp_path: Path) -> tuple[ArtifactStore, Path]:
    return ArtifactStore.open(Settings(data_dir=tmp_path)), tmp_path / "blobs"


def test_deleting_a_scan_leaves_no_folder(tmp_path: Path) -> None:
    store, blobs = folder_store(tmp_path)
    for name in ("report.json", "figures/deep/label-0.png"):
        put(store, f"{attempt_prefix('t', 's', 'job', 1)}{name}", b"x", tmp_path)
    store.delete_prefix(scan_prefix("t", "s"))
    assert list((blobs / "tenants/t/scans").iterdir()) == []
    put(store, f"{attempt_prefix('t', 's', 'job', 1)}report.json", b"x", tmp_path)
    (blobs / attempt_prefix("t", "s", "job", 1) / "large#1").write_text("its writer was killed")
    store.delete_prefix(scan_prefix("t", "s"))
    assert list((blobs / "tenants/t/scans").iterdir()) == []


def test_what_a_killed_process_was_writing_is_swept(tmp_path: Path) -> None:
    store, blobs = folder_store(tmp_path)
    code = """
        import asyncio, os, sys
        from pathlib import Path
        from app.core.settings import Settings
        from app.core.storage import ArtifactStore

        async def chunks():
            for _ in range(12):
                yield bytes(1 << 20)
            os._exit(0)

        asyncio.run(ArtifactStore.open(Settings(data_dir=Path(sys.argv[1]))).receive("t", chunks(), 1 << 30))
    """
    run_python(code, str(tmp_path))
    assert len(list((blobs / "incoming").iterdir())) == 1 and store.list_prefix("incoming/") == []
    store.sweep_incoming(older_than_seconds=3600)
    assert len(list((blobs / "incoming").iterdir())) == 1
    store.sweep_incoming(older_than_seconds=-10)
    assert list((blobs / "incoming").iterdir()) == []


def test_writing_where_others_delete_does_not_fail(tmp_path: Path) -> None:
    """Folders must not vanish under a writer, which obstore's `automatic_cleanup` makes them do."""
    store, _ = folder_store(tmp_path)

    def write_and_delete(writer: int) -> None:
        (tmp_path / str(writer)).write_bytes(b"x")
        for number in range(200):
            source, target = (artifact_key(f"t{number % 3}", f"{digit}{writer:063x}") for digit in "ab")
            store.put_file(source, tmp_path / str(writer))
            store.copy(source, target)
            store.delete(source)
            store.delete(target)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_and_delete, range(4)))


# Memory.


@needs_proc
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_large_upload_takes_little_memory(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """120 MB in 64 kB chunks, as a server gets them, through a process that keeps under 150 MB."""
    where = Settings(data_dir=tmp_path)
    if kind == "s3":
        where = s3_settings(request.getfixturevalue("s3")[0], "s3://bucket/large")
    code = """
        import asyncio, os, sys
        from pathlib import Path
        from app.core.settings import Settings
        from app.core.storage import ArtifactStore

        async def chunks(megabytes):
            for _ in range(megabytes * 16):
                yield bytes(1 << 16)

        def peak_megabytes():  # getrusage would tell that of the process which started this one
            status = Path("/proc/self/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) // 1024

        async def upload(store, megabytes):
            received = await store.receive("t", chunks(megabytes), megabytes << 20)
            return store.publish(received, "t")

        store = ArtifactStore.open(Settings.model_validate_json(sys.argv[1]))
        store.check()
        before = peak_megabytes()
        key = asyncio.run(upload(store, int(sys.argv[2])))
        print(before, peak_megabytes(), store.size(key), flush=True)
        os._exit(0)  # a thread of obstore that is late for the end of the interpreter aborts it, now and then
    """
    payload = where.model_dump(mode="json") | {"storage_secret": "word"}
    before, after, size = map(int, run_python(code, json.dumps(payload), "120").split())
    print(f"{kind}: {before} MB before, {after} MB at most while receiving {size >> 20} MB")
    assert size == 120 * MB and after < 150 and after - before < 60
