"""Where bytes live: immutable objects under keys, in a folder, in memory or in an S3 bucket, all through obstore.

    incoming/<tenant>-<random>                            an upload under way, or one that nobody came back for
    tenants/<tenant>/artifacts/<sha256>                   an artifact
    tenants/<tenant>/scans/<scan>/<job>-<token>/<path>    a result of one attempt at a job

An object appears under its key whole or not at all, and is never changed, only replaced by equal bytes or deleted. This
module knows no rows: who owns an artifact, and when it may go, is decided elsewhere.

`receive` and `discard` are for the event loop; everything else blocks and belongs in a thread or a worker.
A store must be opened in the process that uses it: after a fork, one that its parent has already used hangs.

What a bucket needs: a lifecycle rule that aborts unfinished multipart uploads, which a killed process leaves behind and
no listing shows. What it allows: objects of up to 5 GB, the most that S3 copies in one request.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, S3Store

from app.core.errors import Problem, Refusal, disk_full, is_disk_full
from app.core.intake.guards import readable_size
from app.core.jobs import write_whole
from app.core.settings import Settings

if TYPE_CHECKING:
    from obstore import AsyncWritableFile, GetResult, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig, S3Config

CHUNK_BYTES = 1 << 20  # what is read at a time

INCOMING = "incoming/"
SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
ATTEMPT = re.compile(r"tenants/[^/]+/scans/[^/]+/(?P<job>[^/]+)-(?P<token>\d+)/")
SHA256 = re.compile(r"[0-9a-f]{64}")
OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how obstore tells the errno of a folder's error

# A server that is not there is given up on within seconds, one that has gone silent after `read_timeout`. A whole
# request may take a day: a download lasts as long as the person at its other end needs.
PATIENCE: ClientConfig = {
    "connect_timeout": timedelta(seconds=3),
    "read_timeout": timedelta(seconds=30),
    "timeout": timedelta(days=1),
}
RETRIES: RetryConfig = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=8),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}


class _Parts(TypedDict):
    buffer_size: int
    max_concurrency: int


# Up to this size an object is sent in one request, above it in parts (S3 takes none below 5 MiB), so many at a time.
PARTS: _Parts = {"buffer_size": 5 << 20, "max_concurrency": 2}


class StorageError(Exception):
    """The storage is out of reach, refuses, or does not do what it says. The same request may succeed later."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The storage failed: {reason}")
        self.problem = Problem(  # for people outside: without the reason, which names servers and paths
            "storage_unavailable",
            "The storage for models and results does not work at the moment.",
            "Try again in a minute. If it stays so, the operator finds the reason in the service's log.",
            title="The storage is unavailable",
            retryable=True,
        )


@dataclass(frozen=True)
class Received:
    """An upload that is complete but not yet published."""

    temporary: str  # its key
    sha256: str
    size: int


@dataclass(frozen=True)
class Stored:
    """What the bytes of an object were as they were sent."""

    sha256: str
    size: int


def artifact_key(tenant_id: str, sha256: str) -> str:
    """ValueError for anything that is not a plain name and a SHA-256 in lower-case hexadecimal."""
    if not SHA256.fullmatch(sha256):
        raise ValueError(f"expected a SHA-256 as 64 lower-case hexadecimal digits, found {sha256!r}")
    return f"tenants/{_safe(tenant_id)}/artifacts/{sha256}"


def scan_prefix(tenant_id: str, scan_id: str) -> str:
    """Everything that belongs to one scan lies below; ValueError for ids that are not plain names."""
    return f"tenants/{_safe(tenant_id)}/scans/{_safe(scan_id)}/"


def attempt_prefix(tenant_id: str, scan_id: str, job_id: str, token: int) -> str:
    """The results of one attempt at a job lie below; `token` counts the attempts (Job.lease_token)."""
    return f"{scan_prefix(tenant_id, scan_id)}{_safe(job_id)}-{token}/"


def _safe(name: str) -> str:
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(f"expected a name of letters, digits, '-', '_' and '.', found {name!r}")
    return name


class ArtifactStore:
    """Objects under keys.

    Every method raises StorageError where the storage fails, Refusal `disk_full` where a disk is full, and
    FileNotFoundError where it needs an object that is not there.
    """

    def __init__(self, store: LocalStore | MemoryStore | S3Store) -> None:
        self._store = store
        self._folder = store.prefix if isinstance(store, LocalStore) else None
        self._incoming: dict[str, int] = {}  # of each upload that this process is receiving, or has not yet published

    @classmethod
    def open(cls, settings: Settings) -> ArtifactStore:
        """The store that the settings name; every `memory://` is a new one. ValueError for a URL of another kind."""
        if settings.storage_url is None:
            return cls._open_folder(settings.data_dir / "blobs")
        url = urlsplit(settings.storage_url)
        match url.scheme:
            case "file" if url.path.startswith("/") and not url.netloc:
                return cls._open_folder(Path(unquote(url.path)))
            case "memory":
                return cls(MemoryStore())
            case "s3" if url.netloc:
                return cls(_s3_store(url.netloc, url.path.strip("/"), settings))
        raise ValueError(
            f"expected a storage URL of s3://bucket/prefix, file:///folder or memory://, found {settings.storage_url!r}"
        )

    @classmethod
    def _open_folder(cls, folder: Path) -> ArtifactStore:
        """Without obstore's `automatic_cleanup`: that removes folders in which others are about to write."""
        try:
            return cls(LocalStore(folder.resolve(), mkdir=True))
        except OSError as error:
            raise StorageError(f"{folder} cannot be made: {error}") from error

    async def receive(self, tenant_id: str, chunks: AsyncIterator[bytes], limit: int) -> Received:
        """Stream an upload of at most `limit` bytes under a temporary key, hashing it on the way.

        Memory stays at a few parts, whatever the size. Larger uploads are a Refusal `too_large`. However it fails,
        `chunks` raising and the task being cancelled included, nothing stays behind.
        """
        key = _temporary_key(tenant_id)
        digest, size = new_sha256(), 0
        writer = obstore.open_writer_async(self._store, key, **PARTS)
        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                self._incoming[key] = size
                digest.update(chunk)
                with self._working():
                    await _to_the_end(writer.write(chunk))
            with self._working():
                await _to_the_end(writer.close())
        except BaseException as reason:
            await _to_the_end(self._abandon(writer, key, reason))
            raise
        return Received(key, digest.hexdigest(), size)

    @property
    def incoming_bytes(self) -> int:
        """What this process has received so far of uploads that are neither published nor discarded."""
        return sum(tuple(self._incoming.values()))

    async def _abandon(self, writer: AsyncWritableFile, key: str, reason: BaseException) -> None:
        """Take an upload back, whole or not. That the storage fails at this, too, is not worth telling: `reason` is."""
        self._incoming.pop(key, None)
        with suppress(BaseError, OSError):  # OSError also where the writer was closed before
            await writer.__aexit__(type(reason), reason, reason.__traceback__)
        with suppress(StorageError):
            await self._delete_async(key)

    def publish(self, received: Received, tenant_id: str) -> str:
        """Have what was received appear under its artifact key, in one step, and answer that key.

        Bytes that are there already are replaced by these equal ones, so an artifact that was damaged is whole again.
        """
        key = artifact_key(tenant_id, received.sha256)
        with self._working():
            self._store.rename(received.temporary, key)
            size = self._store.head(key)["size"]
        if size != received.size:
            self.delete(key)
            raise StorageError(f"{key} holds {size} bytes where {received.size} were received")
        return key

    async def discard(self, received: Received) -> None:
        """Forget an upload that was not published, or was; idempotent."""
        self._incoming.pop(received.temporary, None)
        await self._delete_async(received.temporary)

    async def _delete_async(self, key: str) -> None:
        with suppress(FileNotFoundError), self._looking_for(key):
            await self._store.delete_async(key)

    def put_file(self, key: str, path: Path) -> Stored:
        """Store a file's bytes, and say what they were. ValueError for a key of other than plain names."""
        for name in key.split("/"):
            _safe(name)
        digest, size = new_sha256(), 0
        with path.open("rb") as file, self._working(), obstore.open_writer(self._store, key, **PARTS) as writer:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                writer.write(chunk)
        return Stored(digest.hexdigest(), size)

    def fetch(self, key: str, path: Path, sha256: str) -> None:
        """Have an object's bytes appear as a file, whole; Refusal `damaged_object` where they have another digest."""
        try:
            write_whole(path, lambda temporary: self._download(key, temporary, sha256))
        except OSError as error:
            if is_disk_full(error):
                raise disk_full(path.parent) from error
            raise

    def _download(self, key: str, path: Path, sha256: str) -> None:
        digest = new_sha256()
        with path.open("wb") as file:
            for chunk in self.read(key):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != sha256:
            raise Refusal(
                "damaged_object",
                f"What is stored as {key} is not what was put there: its SHA-256 is {digest.hexdigest()}.",
                "Upload the file again; if it is a result, run the scan again.",
            )

    def read(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `offset` on, at most `length` of them, in chunks of about 1 MB.

        As with slices, a range may reach beyond the end. A missing object is told at once, not with the first chunk.
        """
        assert offset >= 0 and (length is None or length >= 0)
        with self._looking_for(key):
            size = self._store.head(key)["size"]
            end = size if length is None else min(size, offset + length)
            if offset >= end:
                return iter(())
            return self._chunks(key, self._store.get(key, options={"range": (offset, end)}))

    def _chunks(self, key: str, found: GetResult) -> Iterator[bytes]:
        with self._looking_for(key):
            for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    def size(self, key: str) -> int | None:
        """In bytes; None where nothing is stored."""
        try:
            with self._looking_for(key):
                return self._store.head(key)["size"]
        except FileNotFoundError:
            return None

    def copy(self, source: str, target: str) -> None:
        """Have the same bytes under another key as well, without their passing through this process."""
        with self._looking_for(source):
            self._store.copy(source, target)

    def delete(self, key: str) -> None:
        """Delete one object; idempotent."""
        with suppress(FileNotFoundError), self._looking_for(key):
            self._store.delete(key)

    def delete_prefix(self, prefix: str) -> None:
        """Delete everything below a prefix, which ends with `/`; idempotent. Of a folder, the folder goes too."""
        while keys := self.list_prefix(prefix):
            with suppress(FileNotFoundError), self._looking_for(prefix):  # somebody deletes the same; look again
                self._store.delete(keys)
        if self._folder is not None:  # with what a killed process was writing
            shutil.rmtree(self._folder / prefix, ignore_errors=True)

    def list_prefix(self, prefix: str) -> list[str]:
        """The keys below a prefix, which ends with `/`, in order."""
        return sorted(found["path"] for found in self._below(prefix))

    def _below(self, prefix: str) -> list[ObjectMeta]:
        assert prefix.endswith("/") and len(prefix) > 1
        with self._working():
            return [found for batch in self._store.list(prefix) for found in batch]

    def check(self) -> None:
        """Write, read and delete a few bytes."""
        key, probe = _temporary_key("probe"), secrets.token_bytes(16)
        with self._working():
            self._store.put(key, probe)
            answer = self._store.get(key).bytes().to_bytes()
            self._store.delete(key)
        if answer != probe:
            raise StorageError(f"{key} was read differently than it was written")

    def sweep_incoming(self, older_than_seconds: float) -> None:
        """Delete uploads that were received so long ago and never published; in a folder also every file that a process
        was writing when it was killed."""
        deadline = time.time() - older_than_seconds
        for found in self._below(INCOMING):
            if found["last_modified"].timestamp() < deadline:
                self.delete(found["path"])
        for path in self._half_written():
            with suppress(FileNotFoundError):  # it was finished in the meantime
                if path.stat().st_mtime < deadline:
                    path.unlink()

    def attempts(self) -> list[str]:
        """The prefixes below which attempts at jobs have left results, of all scans of all tenants."""
        found = (ATTEMPT.match(found["path"]) for found in self._below("tenants/"))
        return sorted({attempt[0] for attempt in found if attempt})

    def _half_written(self) -> Iterator[Path]:
        """What obstore writes in a folder is called `<key>#<number>` until it is whole, and no listing shows it."""
        if self._folder is not None:
            for folder, _, names in os.walk(self._folder):
                yield from (Path(folder, name) for name in names if "#" in name)

    @contextmanager
    def _looking_for(self, key: str) -> Iterator[None]:
        """Tell the storage's errors in our words; that there is no such object is an answer, not a failure."""
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(f"nothing is stored as {key}") from error
        except (BaseError, OSError) as error:
            raise self._explained(error) from error

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Tell the storage's errors in our words; what is not found here is a bucket, and that is a failure."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> StorageError | Refusal:
        reason = str(error).partition("\n")[0]  # obstore's debug output follows
        number = OS_ERROR.search(reason)
        if self._folder is not None and number and is_disk_full(OSError(int(number[1]), reason)):
            return disk_full(self._folder)
        return StorageError(reason)


async def _to_the_end(request: Awaitable[object]) -> None:
    """Await a request that a cancellation must not tear apart; the cancellation comes through when it is over."""
    under_way = asyncio.ensure_future(request)
    try:
        await asyncio.shield(under_way)
    except asyncio.CancelledError:
        await asyncio.wait({under_way})
        raise


def _temporary_key(name: str) -> str:
    return f"{INCOMING}{_safe(name)}-{secrets.token_hex(16)}"


def _too_large(limit: int) -> Refusal:
    return Refusal(
        "too_large",
        f"The upload is larger than {readable_size(limit)}.",
        "Send a smaller file, or have the operator raise the limit.",
    )


def _s3_store(bucket: str, prefix: str, settings: Settings) -> S3Store:
    """What the settings leave open (keys, roles) is found in the environment, the way of Amazon's own tools."""
    config: S3Config = {"region": settings.storage_region}
    client = PATIENCE.copy()
    if settings.storage_key_id is not None and settings.storage_secret is not None:
        config["access_key_id"] = settings.storage_key_id
        config["secret_access_key"] = settings.storage_secret.get_secret_value()
    if settings.storage_endpoint is not None:
        config["endpoint"] = settings.storage_endpoint
        config["virtual_hosted_style_request"] = False
        client["allow_http"] = settings.storage_endpoint.startswith("http://")
    return S3Store(bucket, prefix=prefix or None, config=config, client_options=client, retry_config=RETRIES)
