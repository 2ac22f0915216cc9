"""What can be asked of the service: keep an artifact, request, cancel and delete a scan. One transaction each, then the
doorbell. Knows no HTTP.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core import scheduling
from app.core.config import ScanConfig
from app.core.errors import Refusal
from app.core.intake.declaration import DeclaredInput
from app.core.jobs import ScanJob
from app.core.lifecycle import OPEN_SCANS, ScanStatus
from app.core.repository import access, artifacts, scans
from app.core.service import Service
from app.core.settings import GB
from app.core.storage import SHA256, Received, artifact_key, scan_prefix
from app.core.tables import Artifact, Scan, new_id
from app.core.text import printable
from app.core.versions import MIXED, engine_version

SCAN_ID = re.compile("[0-9a-f]{32}")

UploadKind = Literal["model", "bundle"]


@dataclass(frozen=True)
class ScanRequest:
    """A scan as asked for, with its inputs by hash."""

    model_sha256: str
    bundle_sha256: str
    config: ScanConfig
    input: DeclaredInput
    repair: bool = False
    force: bool = False
    output: str | None = None
    check: bool = False
    model_name: str = "model.pt"
    bundle_name: str = "bundle"
    classes: dict[str, int] | None = None


async def register_artifact(
    service: Service, tenant_id: str, kind: UploadKind, chunks: AsyncIterator[bytes]
) -> tuple[Artifact, bool]:
    """Keep a file for a tenant; the flag says whether it is new to it.

    Uploads side by side share the room that is left: all that this process is receiving counts while it comes, and what
    is kept is counted again, by one after the other, before it is.
    Raises Refusal: too_large, storage_full, artifact_kind_mismatch, disk_full.
    """
    store, kept = service.store, await asyncio.to_thread(_kept_bytes, service)

    async def as_far_as_there_is_room() -> AsyncIterator[bytes]:
        async for chunk in chunks:
            if kept + store.incoming_bytes + len(chunk) > service.settings.max_disk_bytes:
                raise _storage_full(service)
            yield chunk

    largest = service.settings.max_model_bytes if kind == "model" else service.settings.max_bundle_bytes
    received = await store.receive(tenant_id, as_far_as_there_is_room(), largest)
    try:
        return await asyncio.to_thread(_enter, service, tenant_id, kind, received)
    finally:
        await store.discard(received)


def request_scan(
    service: Service, tenant_id: str, request: ScanRequest, idempotency: tuple[str, str] | None = None
) -> tuple[Scan, bool]:
    """A scan for a request: a new one, or a finished one of an equal request, if what computed that would compute this
    one; the flag says which.

    `idempotency` is an Idempotency-Key with the digest of what came with it: the same pair gets the same scan.
    Raises Refusal: unknown_artifact, wrong_artifact_kind, idempotency_key_reused.
    """
    with service.database.writing() as session:
        if idempotency and (remembered := access.remembered(session, tenant_id, idempotency[0])):
            if remembered.body_digest != idempotency[1]:
                raise Refusal(
                    "idempotency_key_reused",
                    "This Idempotency-Key came with another request before.",
                    "Use a new key for a new request.",
                )
            return get_scan(session, tenant_id, remembered.scan_id), False
        job = _job(session, tenant_id, request)
        hashes = {"model": request.model_sha256, "bundle": request.bundle_sha256}  # names decide nothing
        digest, engine = _digest(job.to_json() | hashes), _engine_of_now(session, service)
        can_answer = not request.force and engine != MIXED
        scan = scans.finished_like(session, tenant_id, digest, engine) if can_answer else None
        is_new = scan is None
        if scan is None:
            scan = Scan(
                id=new_id(),
                tenant_id=tenant_id,
                model_sha256=request.model_sha256,
                bundle_sha256=request.bundle_sha256,
                request=job.to_json(),
                request_digest=digest,
                engine_version=engine,
            )
            session.add(scan)
            session.flush()
            scheduling.begin(session, scan, service.settings.compute_queue)
        if idempotency:
            access.remember(session, tenant_id, *idempotency, scan.id)
    if is_new:
        service.queue.ring("cpu")
    return scan, is_new


def cancel_scan(service: Service, tenant_id: str, scan_id: str) -> Scan:
    """Ask for the end of a scan; a cancelled one stays as it is. Raises Refusal: scan_not_found, scan_ended."""
    with service.database.writing() as session:
        get_scan(session, tenant_id, scan_id)
        scan = scans.lock(session, scan_id)
        assert scan is not None
        if scan.status in OPEN_SCANS:
            scheduling.cancel(session, scan)
        elif scan.status != ScanStatus.CANCELLED:
            raise Refusal("scan_ended", f"The scan has already {scan.status}.", "There is nothing left to cancel.")
    return scan


def delete_scan(service: Service, tenant_id: str, scan_id: str) -> None:
    """Delete an ended scan with its report, pictures and repaired weights.

    Blobs go first: whatever interrupts this leaves a scan that can be deleted again.
    Raises Refusal: scan_not_found, scan_open, artifact_in_use where another scan needs the repaired weights.
    """
    with service.database.writing() as session:
        scan = get_scan(session, tenant_id, scan_id)
        if scan.status in OPEN_SCANS:
            raise Refusal("scan_open", f"The scan is {scan.status}.", "Cancel it first, then delete it.")
        made = artifacts.lock_made_by(session, scan)
        for artifact in made:
            _refuse_if_used(session, artifact)
        for artifact in made:
            _delete_locked(service, session, artifact)
    service.store.delete_prefix(scan_prefix(tenant_id, scan_id))
    with service.database.writing() as session:
        if (row := scans.find(session, tenant_id, scan_id)) is not None:
            scans.delete(session, row)


def delete_artifact(service: Service, tenant_id: str, sha256: str) -> None:
    """Delete an artifact that no open scan needs. Raises Refusal: artifact_not_found, artifact_in_use."""
    with service.database.writing() as session:
        get_artifact(session, tenant_id, sha256)
        artifact = artifacts.lock(session, tenant_id, sha256)
        if artifact is None:  # somebody else has just deleted it
            return
        _refuse_if_used(session, artifact)
        _delete_locked(service, session, artifact)


def get_scan(session: Session, tenant_id: str, scan_id: str) -> Scan:
    """A tenant's scan; raises Refusal scan_not_found, for somebody else's too."""
    if not SCAN_ID.fullmatch(scan_id) or (scan := scans.find(session, tenant_id, scan_id)) is None:
        raise Refusal(
            "scan_not_found", f"There is no scan {printable(scan_id)!r}.", "GET /v1/scans lists those there are."
        )
    return scan


def get_artifact(session: Session, tenant_id: str, sha256: str) -> Artifact:
    """A tenant's artifact; raises Refusal artifact_not_found, for somebody else's too."""
    if not SHA256.fullmatch(sha256) or (artifact := artifacts.find(session, tenant_id, sha256)) is None:
        name = printable(sha256)
        raise Refusal("artifact_not_found", f"There is no artifact {name!r}.", "Upload it with PUT /v1/artifacts.")
    return artifact


def _job(session: Session, tenant_id: str, request: ScanRequest) -> ScanJob:
    """The job of a request, its inputs looked up. Where and on how many threads it runs is the worker's to say."""
    inputs: dict[str, dict[str, Any]] = {}
    for kind, sha256, name in (
        ("model", request.model_sha256, request.model_name),
        ("bundle", request.bundle_sha256, request.bundle_name),
    ):
        artifact = artifacts.keep(session, tenant_id, sha256)
        if artifact is None:
            raise Refusal(
                "unknown_artifact",
                f"There is no {kind} with the hash {sha256!r}.",
                f"Upload it with PUT /v1/artifacts?kind={kind} and give the sha256 of the answer.",
            )
        if artifact.kind != kind:
            raise Refusal(
                "wrong_artifact_kind",
                f"{sha256} was uploaded as a {artifact.kind} and is given as the {kind}.",
                "Give the hashes in the right order, or upload the file again as what it is after deleting it.",
            )
        inputs[kind] = {"name": name, "bytes": artifact.size, "sha256": sha256}
    return ScanJob(
        model=inputs["model"],
        bundle=inputs["bundle"],
        config=request.config,
        input=request.input,
        repair=request.repair,
        output=request.output,
        check=request.check,
        classes=request.classes,
    )


def _engine_of_now(session: Session, service: Service) -> str:
    """What would compute a scan now: what the living workers announce, "mixed" while they differ, as in the middle of
    an upgrade; what is installed beside the API where none lives."""
    workers = access.living_workers(session, service.settings.heartbeat_seconds)
    engines = {worker.version for worker in workers} or {engine_version()}
    return engines.pop() if len(engines) == 1 else MIXED


def _refuse_if_used(session: Session, artifact: Artifact) -> None:
    if (user := scans.using_artifact(session, artifact.tenant_id, artifact.sha256)) is not None:
        raise Refusal(
            "artifact_in_use",
            f"The scan {user} needs the file {artifact.sha256}.",
            "Cancel the scan or wait for its end.",
        )


def _delete_locked(service: Service, session: Session, artifact: Artifact) -> None:
    """Delete a locked artifact. The blob goes while the lock is held, so whoever brings the same bytes comes before or
    after, not between."""
    artifacts.delete(session, artifact)
    service.store.delete(artifact_key(artifact.tenant_id, artifact.sha256))


def _kept_bytes(service: Service) -> int:
    with service.database.reading() as session:
        kept = artifacts.stored_bytes(session)
    if kept >= service.settings.max_disk_bytes:
        raise _storage_full(service)
    return kept


def _enter(service: Service, tenant_id: str, kind: UploadKind, received: Received) -> tuple[Artifact, bool]:
    """Have what was received appear as the tenant's artifact; the flag says whether it is new to it.

    First the blob, then the commit of the row that promises it; known bytes too, in case the disk has lost them. A
    known one that is uploaded by hand no longer goes when the scan goes that once made it.
    """
    try:
        with service.database.writing() as session:
            artifact = artifacts.lock(session, tenant_id, received.sha256)
            if is_new := artifact is None:
                artifacts.take_turns(session)
                if artifacts.stored_bytes(session) + received.size > service.settings.max_disk_bytes:
                    raise _storage_full(service)
                artifact = Artifact(tenant_id=tenant_id, sha256=received.sha256, kind=kind, size=received.size)
                artifacts.add(session, artifact)
            if artifact.kind != kind:
                raise Refusal(
                    "artifact_kind_mismatch",
                    f"This file is here already, as a {artifact.kind}.",
                    f"Use it as what it is, or delete it first to upload it as a {kind}.",
                )
            artifact.scan_id = None
            service.store.publish(received, tenant_id)
    except IntegrityError:  # the same file came twice at the same time
        return _enter(service, tenant_id, kind, received)
    return artifact, is_new


def _storage_full(service: Service) -> Refusal:
    return Refusal(
        "storage_full",
        f"The service keeps at most {service.settings.max_disk_bytes / GB:.0f} GB, and that is reached.",
        "Delete scans or artifacts, or ask the operator to raise TRIGGERLENS_MAX_DISK_BYTES.",
        retryable=True,
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
