"""What a finished scan leaves: the report for programs and for people, its figures, and the repaired weights."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response

from app.api.delivery import deliver
from app.api.deps import ScanDep, ServiceDep
from app.api.documentation import problems
from app.api.negotiation import preferred
from app.core.errors import Refusal
from app.core.findings import RepairStatus
from app.core.jobs import REPAIRED, RepairedForm
from app.core.lifecycle import OPEN_SCANS, ScanStatus
from app.core.plan import JobKind
from app.core.repository import jobs
from app.core.service import Service
from app.core.tables import Scan

router = APIRouter(prefix="/v1/scans", tags=["reports"])

FORMS = {"application/json": "report.json", "text/html": "report.html"}

# The page carries a stricter policy for its style, by hash; both hold. `sandbox`: no scripts, forms or cookies.
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox"
)
DELIVERY = ("report_not_ready", "range_not_satisfiable", "content_lost", "storage_unavailable", "scan_not_found")
NOT_CHANGED: dict[int | str, dict[str, Any]] = {
    206: {"description": "The part that Range asked for"},
    304: {"description": "If-None-Match names the ETag"},
}
BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.get(
    "/{scan_id}/report",
    response_class=Response,
    responses={
        200: {
            "description": "The report",
            "content": {
                "application/json": {"example": {"schema_version": "1.0", "verdict": "backdoored", "labels": []}},
                "text/html": {"example": "<!doctype html>..."},
            },
        },
        **NOT_CHANGED,
        **problems("invalid_request", "no_report", "not_acceptable", *DELIVERY),
    },
)
def report(
    request: Request,
    service: ServiceDep,
    scan: ScanDep,
    accept: Annotated[str, Header(description="application/json or text/html")] = "*/*",
    format: Annotated[Literal["json", "html"] | None, Query(description="Goes before Accept")] = None,
) -> Response:
    """Read the report of a finished scan.

    JSON by default (its schema is published with the source), a self-contained page where `Accept` prefers HTML.
    """
    _finished(scan)
    chosen = {"json": "application/json", "html": "text/html", None: preferred(accept, list(FORMS))}[format]
    if chosen is None:
        raise Refusal("not_acceptable", "A report is JSON or HTML.", f"Accept one of {', '.join(FORMS)}.")
    facts = _outputs(service, scan, JobKind.REPORT).get(FORMS[chosen])
    if facts is None:
        raise _no_report(scan)
    headers = {"Vary": "Accept"}
    if chosen == "text/html":
        headers["Content-Security-Policy"] = PAGE_POLICY
    return _deliver(request, service, facts, chosen, headers)


@router.get(
    "/{scan_id}/figures/{name}",
    response_class=Response,
    responses={
        200: {"description": "The figure", "content": {"image/png": BINARY}},
        **NOT_CHANGED,
        **problems("no_report", "figure_not_found", *DELIVERY),
    },
)
def figure(
    request: Request,
    service: ServiceDep,
    scan: ScanDep,
    name: Annotated[str, Path(description="As the report names it", examples=["label_7.png"])],
) -> Response:
    """See one figure of a report: clean images, the same with the inverted trigger, and the difference."""
    _finished(scan)
    facts = _outputs(service, scan, JobKind.REPORT).get(f"figures/{name}")
    if facts is None:
        raise Refusal("figure_not_found", "The report has no figure of this name.", "There is one for flagged labels.")
    return _deliver(request, service, facts, "image/png", {})


@router.get(
    "/{scan_id}/repaired",
    response_class=Response,
    responses={
        200: {"description": "The weights, or the statement", "content": {"application/octet-stream": BINARY}},
        **NOT_CHANGED,
        **problems("invalid_request", "no_repair", "repair_refused", *DELIVERY),
    },
)
def repaired(
    request: Request,
    service: ServiceDep,
    scan: ScanDep,
    format: Annotated[
        RepairedForm, Query(description="A module to load, its state dict, or the in-toto statement about both")
    ] = "torchscript",
) -> Response:
    """Download the repaired weights, or the statement about them that `triggerlens verify` checks.

    The report says what the repair did to the clean accuracy and to the success of the inverted trigger.
    """
    _repaired(scan)
    name = REPAIRED[format]
    facts = _outputs(service, scan, JobKind.REPAIR).get(name)
    if facts is None:
        raise _no_repair("The repair left no file in this format.")
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return _deliver(request, service, facts, "application/octet-stream", headers)


def _outputs(service: Service, scan: Scan, kind: JobKind) -> dict[str, Any]:
    with service.database.reading() as session:
        return jobs.outputs(session, scan.id, kind)


def _deliver(
    request: Request, service: Service, facts: Mapping[str, Any], media_type: str, headers: dict[str, str]
) -> Response:
    return deliver(request, service.store, facts["key"], facts["sha256"], facts["size"], media_type, headers)


def _ready(scan: Scan) -> None:
    if scan.status in OPEN_SCANS:
        raise Refusal(
            "report_not_ready",
            f"The scan is {scan.status}.",
            f"Wait for its end: /v1/scans/{scan.id}/events tells it.",
            retryable=True,
        )


def _finished(scan: Scan) -> None:
    _ready(scan)
    if scan.status != ScanStatus.FINISHED:
        raise _no_report(scan)


def _repaired(scan: Scan) -> None:
    _ready(scan)
    status = (scan.summary or {}).get("repair_status")
    if status == RepairStatus.REFUSED:
        raise Refusal("repair_refused", "The repair was refused.", "`repair.detail` in the report says why.")
    if status == RepairStatus.NOT_NEEDED:
        raise _no_repair("No label was flagged, so there was nothing to repair.")
    if status is None:
        raise _no_repair("No repair was made.")


def _no_report(scan: Scan) -> Refusal:
    if scan.request.get("check"):
        return Refusal(
            "no_report", "A check ends with no report.", f"`understood` of /v1/scans/{scan.id} has what it found."
        )
    return Refusal("no_report", f"The scan has {scan.status}.", f"`problem` of /v1/scans/{scan.id} may say why.")


def _no_repair(detail: str) -> Refusal:
    return Refusal("no_repair", detail, "Ask for a scan with `repair`: true; a flagged label is then repaired.")
