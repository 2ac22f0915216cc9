"""Files in and out: models and bundles are streamed in, and known by their SHA-256 from then on."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from app import actions
from app.actions import UploadKind
from app.api.delivery import deliver
from app.api.deps import MetricsDep, ServiceDep, TenantDep
from app.api.documentation import WRITING, problems
from app.api.schemas import MODEL_SHA256, StoredArtifact
from app.core.errors import Refusal
from app.core.intake.guards import readable_size
from app.core.settings import Settings
from app.core.storage import artifact_key

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])

LEAST_BYTES_PER_SECOND = 1000

ArtifactSha256 = Annotated[str, Path(description="The SHA-256 of the file", examples=[MODEL_SHA256])]
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
KIND = {"X-Artifact-Kind": {"description": "`model`, `bundle` or `weights`", "schema": {"type": "string"}}}
FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file", "content": BINARY, "headers": KIND},
    206: {"description": "The part that Range asked for", "content": BINARY, "headers": KIND},
    304: {"description": "If-None-Match names the ETag"},
}


@router.put(
    "",
    status_code=201,
    response_model=StoredArtifact,
    responses={
        200: {"model": StoredArtifact, "description": "The service had this file already"},
        **problems(
            "invalid_request",
            "empty_upload",
            "too_large",
            "upload_stalled",
            "artifact_kind_mismatch",
            "storage_full",
            "storage_unavailable",
            *WRITING,
        ),
    },
    openapi_extra={"requestBody": {"required": True, "content": BINARY}},
)
async def upload(
    request: Request,
    response: Response,
    service: ServiceDep,
    metrics: MetricsDep,
    tenant_id: TenantDep,
    kind: Annotated[UploadKind, Query(description="What the file is", examples=["model"])],
) -> StoredArtifact:
    """Upload a file.

    The body is the file itself, of any Content-Type: `curl -T model.pt '.../v1/artifacts?kind=model'`. It is streamed
    to the store, and appears there whole or not at all.
    """
    _refuse_early(request, service.settings, kind)
    counted = metrics.uploaded_bytes.labels(kind)

    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in _steadily(request, service.settings.upload_idle_seconds):
            counted.inc(len(chunk))
            yield chunk

    artifact, is_new = await actions.register_artifact(service, tenant_id, kind, chunks())
    response.status_code = 201 if is_new else 200
    return StoredArtifact.model_validate(artifact, from_attributes=True)


@router.head("/{sha256}", response_class=Response, responses={**FILE, **problems("artifact_not_found")})
@router.get(
    "/{sha256}",
    response_class=Response,
    responses={
        **FILE,
        **problems("artifact_not_found", "range_not_satisfiable", "content_lost", "storage_unavailable"),
    },
)
def download(request: Request, service: ServiceDep, tenant_id: TenantDep, sha256: ArtifactSha256) -> Response:
    """Download a file, or ask whether it is known.

    The ETag is the SHA-256. A single Range is answered with that part, several with the whole file.
    """
    with service.database.reading() as session:
        artifact = actions.get_artifact(session, tenant_id, sha256)
    key = artifact_key(tenant_id, sha256)
    headers = {"X-Artifact-Kind": artifact.kind}
    return deliver(request, service.store, key, sha256, artifact.size, "application/octet-stream", headers)


@router.delete(
    "/{sha256}",
    status_code=204,
    responses=problems("artifact_not_found", "artifact_in_use", "storage_unavailable", *WRITING),
)
def delete(service: ServiceDep, tenant_id: TenantDep, sha256: ArtifactSha256) -> None:
    """Delete a file that no open scan needs.

    Reports of scans that used it stay.
    """
    actions.delete_artifact(service, tenant_id, sha256)


def _refuse_early(request: Request, settings: Settings, kind: UploadKind) -> None:
    """Refuse what its Content-Length already gives away, before a byte of it was sent (`Expect: 100-continue`)."""
    declared = request.headers.get("content-length", "")
    limit = settings.max_model_bytes if kind == "model" else settings.max_bundle_bytes
    if declared == "0":
        raise _empty()
    if declared.isdecimal() and int(declared) > limit:
        raise Refusal(
            "too_large",
            f"The upload is larger than {readable_size(limit)}.",
            "Send a smaller file, or have the operator raise the limit.",
        )


async def _steadily(request: Request, idle_seconds: float) -> AsyncIterator[bytes]:
    """The body as it comes in; a Refusal where nothing comes for too long, or hardly anything, or nothing at all."""
    stream, size, started = request.stream(), 0, time.monotonic()
    try:
        while True:
            async with asyncio.timeout(idle_seconds):
                chunk = await anext(stream)
            if chunk:
                size += len(chunk)
                yield chunk
            if size < (time.monotonic() - started - idle_seconds) * LEAST_BYTES_PER_SECOND:
                raise TimeoutError
    except StopAsyncIteration:
        if size == 0:
            raise _empty() from None
    except TimeoutError:
        raise Refusal(
            "upload_stalled",
            f"Nothing came for {idle_seconds:.0f} seconds, or hardly anything for longer.",
            "Send the file again; what had come was discarded.",
            retryable=True,
        ) from None


def _empty() -> Refusal:
    return Refusal("empty_upload", "The body is empty.", "Send the file as the body: `curl -T FILE URL`.")
