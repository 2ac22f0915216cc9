"""Every problem that the API can answer, and how an exception becomes one (RFC 9457, application/problem+json).

An entry of the catalogue is a promise: its code, status and whether it helps to ask again do not change. What to do
about each is in docs/problems.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from app.core.errors import Problem, Refusal
from app.core.storage import StorageError
from app.core.text import printable

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
LISTED_ERRORS = 5


@dataclass(frozen=True)
class Kind:
    """One kind of problem. `retryable`: the same request may succeed later."""

    status: int
    title: str
    retryable: bool = False


CATALOGUE: dict[str, Kind] = {
    "invalid_request": Kind(422, "The request is not valid"),
    "invalid_cursor": Kind(422, "The cursor is not valid"),
    "empty_upload": Kind(422, "The upload is empty"),
    "unknown_artifact": Kind(422, "An input was not uploaded"),
    "wrong_artifact_kind": Kind(422, "An input is of the wrong kind"),
    "idempotency_key_reused": Kind(422, "The Idempotency-Key was used for another request"),
    "unauthenticated": Kind(401, "A valid API key is needed"),
    "origin_not_allowed": Kind(403, "The request comes from another site"),
    "host_not_allowed": Kind(421, "The service is not known by this name"),
    "not_found": Kind(404, "There is nothing at this address"),
    "artifact_not_found": Kind(404, "There is no such artifact"),
    "scan_not_found": Kind(404, "There is no such scan"),
    "no_report": Kind(404, "The scan has no report"),
    "figure_not_found": Kind(404, "The report has no such figure"),
    "no_repair": Kind(404, "The scan has no repaired weights"),
    "repair_refused": Kind(404, "The repair was refused"),
    "method_not_allowed": Kind(405, "The method is not allowed here"),
    "not_acceptable": Kind(406, "The answer does not exist in this form"),
    "upload_stalled": Kind(408, "The upload stood still", retryable=True),
    "artifact_kind_mismatch": Kind(409, "The artifact is known as another kind"),
    "artifact_in_use": Kind(409, "The artifact is in use"),
    "scan_ended": Kind(409, "The scan has ended"),
    "scan_open": Kind(409, "The scan has not ended"),
    "report_not_ready": Kind(409, "The scan has not ended", retryable=True),
    "too_large": Kind(413, "The body is too large"),
    "range_not_satisfiable": Kind(416, "The range lies outside the file"),
    "internal_error": Kind(500, "The service has a defect"),
    "content_lost": Kind(500, "The content of a file is lost"),
    "database_unavailable": Kind(503, "The database is unavailable", retryable=True),
    "database_behind": Kind(503, "The database has to be migrated", retryable=True),
    "database_ahead": Kind(503, "The database is newer than the service"),
    "storage_unavailable": Kind(503, "The artifact store is unavailable", retryable=True),
    "not_ready": Kind(503, "The service is not ready", retryable=True),
    "storage_full": Kind(507, "The service has reached its storage limit", retryable=True),
    "disk_full": Kind(507, "The disk is full", retryable=True),
}

DATABASE_UNAVAILABLE = Refusal(
    "database_unavailable",
    "The database cannot be reached, or is locked.",
    "Try again in a few seconds. If it stays so, the operator finds the reason in the service's log.",
    retryable=True,
)
DISK_FULL = Refusal(
    "disk_full",
    "The disk of the service is full.",
    "Delete scans or artifacts, or have the operator make room; then send the request again.",
    retryable=True,
)
INTERNAL_ERROR = Refusal(
    "internal_error",
    "Something went wrong inside the service.",
    "Report it to the operator with the request id, under which the log has the reason.",
)
NOT_FOUND = Refusal("not_found", "There is nothing at this address.", "/openapi.json lists every address.")
STALLED = Refusal("upload_stalled", "The body did not come in time.", "Send the request again.", retryable=True)
TOO_LARGE = Refusal("too_large", "The body is larger than this request needs.", "Files go to PUT /v1/artifacts.")


def problem_response(
    request_id: str, problem: Problem, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """The answer for a problem of the catalogue; `more` are members beside the usual ones."""
    kind = CATALOGUE[problem.code]
    document = problem.to_json() | {"title": kind.title, "status": kind.status, "request_id": request_id} | more
    sent = dict(headers or {})
    if problem.retryable:
        sent.setdefault("Retry-After", str(RETRY_SECONDS))
    if kind.status == HTTPStatus.UNAUTHORIZED:
        sent["WWW-Authenticate"] = 'Bearer realm="triggerlens"'
    if kind.status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        sent["Connection"] = "close"  # the rest of the body will not be read
    return JSONResponse(document, kind.status, sent, MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Have every exception that we expect answered as its problem; the middleware answers the others."""

    async def handle(request: Request, error: Exception) -> Response:
        headers = getattr(error, "headers", None) if isinstance(error, HTTPException) else None
        return problem_response(request.state.request_id, problem_of(error), headers)

    for expected in (Refusal, StorageError, RequestValidationError, HTTPException, DBAPIError, PoolTimeoutError):
        app.add_exception_handler(expected, handle)


def problem_of(error: Exception) -> Problem:
    """What an exception is called outside; nothing of a stack trace, a path or an address goes with it."""
    match error:
        case Refusal() if error.problem.code == "disk_full":  # its own words name the folder
            return DISK_FULL.problem
        case Refusal() if error.problem.code in CATALOGUE:
            return error.problem
        case StorageError():
            log.error("storage_failed", error=str(error))
            return error.problem
        case RequestValidationError():
            return _invalid(error.errors())
        case HTTPException():
            return _of_framework(error)
        case OperationalError() | InterfaceError() | PoolTimeoutError():
            log.error("database_failed", error=str(getattr(error, "orig", error)))
            return (DISK_FULL if _is_full(error) else DATABASE_UNAVAILABLE).problem
    log.error("request_failed", exc_info=error)
    return INTERNAL_ERROR.problem


def _invalid(errors: Sequence[Mapping[str, Any]]) -> Problem:
    said = []
    for error in errors[:LISTED_ERRORS]:
        place = ".".join(str(part) for part in error["loc"] if part != "body") or "body"
        said.append(printable(f"{place}: {error['msg'].removeprefix('Value error, ')}", 300))
    if len(errors) > LISTED_ERRORS:
        said.append(f"and {len(errors) - LISTED_ERRORS} more")
    return Refusal("invalid_request", f"{'; '.join(said)}.", "/openapi.json says what each request looks like.").problem


def _of_framework(error: HTTPException) -> Problem:
    """What Starlette and FastAPI raise by themselves."""
    match error.status_code:
        case 404:
            return NOT_FOUND.problem
        case 405:
            allowed = (error.headers or {}).get("Allow", "another")
            return Refusal(
                "method_not_allowed", f"Allowed here: {allowed}.", "/openapi.json lists every route."
            ).problem
        case 408:
            return STALLED.problem
        case 413:
            return TOO_LARGE.problem
        case 400:
            return Refusal("invalid_request", "The body cannot be read as JSON.", "Send one JSON object.").problem
    log.error("request_failed", exc_info=error)
    return INTERNAL_ERROR.problem


def _is_full(error: Exception) -> bool:
    """Whether SQLite or PostgreSQL had no room to write."""
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlite_errorname", None) == "SQLITE_FULL" or getattr(cause, "sqlstate", None) == "53100"
