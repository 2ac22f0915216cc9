"""Scans: ask for one, see how far it is, end it, forget it."""

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel

from app import actions
from app.api.delivery import has_already
from app.api.deps import ChecksDep, ScanId, ServiceDep, TenantDep
from app.api.documentation import WRITING, problems
from app.api.schemas import MODEL_SHA256, NewScan, ScanPage, ScanState
from app.api.status import scan_item, scan_state
from app.core.errors import Refusal
from app.core.findings import Verdict
from app.core.lifecycle import OPEN_SCANS, ScanStatus
from app.core.repository import scans

router = APIRouter(prefix="/v1/scans", tags=["scans"])

LARGEST_PAGE = 100
POLL_SECONDS = 1
SHA256 = "^[0-9a-f]{64}$"

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern="^[ -~]{1,255}$",
        description="The same key with the same body gets the same scan for a day, however often it is sent",
        examples=["5f0c6c1e-6a0e-4b8c-9f0e-2f4f0b9a7f11"],
    ),
]


@router.post(
    "",
    status_code=202,
    response_model=ScanState,
    responses={
        200: {"model": ScanState, "description": "An equal scan has finished already: this is it"},
        **problems(
            "invalid_request",
            "unknown_artifact",
            "wrong_artifact_kind",
            "idempotency_key_reused",
            "too_large",
            "upload_stalled",
            *WRITING,
        ),
    },
)
def create(
    service: ServiceDep,
    checks: ChecksDep,
    tenant_id: TenantDep,
    new: NewScan,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Ask for a scan.

    A finished scan with the same inputs, config, repair and engine version is answered instead, unless `force`.
    """
    asked = new.request()
    digest = hashlib.sha256(json.dumps(asdict(asked), sort_keys=True).encode()).hexdigest()
    idempotency = (idempotency_key, digest) if idempotency_key else None
    scan, _ = actions.request_scan(service, tenant_id, asked, idempotency)
    with service.database.reading() as session:
        state = scan_state(session, checks, scan)
    headers = {"Location": f"/v1/scans/{scan.id}"}
    return _json(state, 202, headers) if scan.status in OPEN_SCANS else _json(state, 200, headers)


@router.get("", response_model=ScanPage, responses=problems("invalid_request", "invalid_cursor"))
def listed(
    service: ServiceDep,
    tenant_id: TenantDep,
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 20,
    cursor: Annotated[str | None, Query(max_length=100, description="`next_cursor` of the page before")] = None,
    status: ScanStatus | None = None,
    verdict: Verdict | None = None,
    model: Annotated[str | None, Query(pattern=SHA256, examples=[MODEL_SHA256])] = None,
    bundle: Annotated[str | None, Query(pattern=SHA256)] = None,
) -> Response:
    """List scans, newest first.

    The cursor is opaque; filters have to stay the same from page to page.
    """
    before = None if cursor is None else _scan_id(cursor)
    wanted = {"status": status, "verdict": verdict, "model_sha256": model, "bundle_sha256": bundle}
    with service.database.reading() as session:
        found = scans.page(session, tenant_id, limit + 1, before, **wanted)
    items = [scan_item(scan) for scan in found[:limit]]
    return _json(ScanPage(items=items, next_cursor=_cursor(items[-1].id) if len(found) > limit else None))


@router.get(
    "/{scan_id}",
    response_model=ScanState,
    responses={304: {"description": "If-None-Match names the ETag"}, **problems("scan_not_found")},
)
def read(request: Request, service: ServiceDep, checks: ChecksDep, tenant_id: TenantDep, scan_id: ScanId) -> Response:
    """See how far a scan is and what it found.

    While it is open, `Retry-After` says when to look again. The ETag is weak: `eta_seconds` may differ under the same.
    """
    with service.database.reading() as session:
        scan = actions.get_scan(session, tenant_id, scan_id)
        state = scan_state(session, checks, scan)
    etag = _etag(state)
    if has_already(request.headers, etag):
        return Response(status_code=304, headers={"ETag": etag})
    return _json(state, headers={"ETag": etag, "Cache-Control": "private, no-cache"})


@router.post(
    "/{scan_id}/cancel",
    status_code=202,
    response_model=ScanState,
    responses={
        200: {"model": ScanState, "description": "The scan is cancelled"},
        **problems("scan_not_found", "scan_ended", *WRITING),
    },
)
def cancel(service: ServiceDep, checks: ChecksDep, tenant_id: TenantDep, scan_id: ScanId) -> Response:
    """Cancel a scan.

    202 while a worker still has to let go of it, 200 once it is cancelled; asking again is harmless.
    """
    scan = actions.cancel_scan(service, tenant_id, scan_id)
    with service.database.reading() as session:
        state = scan_state(session, checks, scan)
    return _json(state, 202 if scan.status in OPEN_SCANS else 200)


@router.delete(
    "/{scan_id}",
    status_code=204,
    responses=problems("scan_not_found", "scan_open", "artifact_in_use", "storage_unavailable", *WRITING),
)
def delete(service: ServiceDep, tenant_id: TenantDep, scan_id: ScanId) -> None:
    """Delete an ended scan with its report, figures and repaired weights.

    The model and the bundle stay; DELETE /v1/artifacts/{sha256} deletes those. While another scan that is open needs
    the repaired weights, nothing is deleted.
    """
    actions.delete_scan(service, tenant_id, scan_id)


def _json(document: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    sent = dict(headers or {})
    if isinstance(document, ScanState) and document.status in OPEN_SCANS:
        sent["Retry-After"] = str(POLL_SECONDS)
    return Response(document.model_dump_json(), status, sent, "application/json")


def _etag(state: ScanState) -> str:
    """Equal for equal states; the estimate changes with the clock alone and does not count."""
    told = state.model_dump_json(exclude={"eta_seconds"})
    return f'W/"{hashlib.sha256(told.encode()).hexdigest()[:32]}"'


def _cursor(scan_id: str) -> str:
    return urlsafe_b64encode(bytes.fromhex(scan_id)).decode().rstrip("=")


def _scan_id(cursor: str) -> str:
    try:
        scan_id = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).hex()
    except ValueError:
        scan_id = ""
    if not actions.SCAN_ID.fullmatch(scan_id):
        raise Refusal("invalid_cursor", "This is no cursor of a page of scans.", "Start without one.")
    return scan_id
