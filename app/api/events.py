"""What happens to a scan, told as it happens: server-sent events out of the database, so any API process can go on
where another one stopped."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool

from app.api.deps import ScanDep, ServiceDep
from app.api.documentation import problems
from app.api.status import how_far
from app.core.lifecycle import OPEN_SCANS
from app.core.repository import jobs, scans
from app.core.service import Service
from app.core.tables import Event, Scan

router = APIRouter(prefix="/v1/scans", tags=["scans"])

LOOK_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15.0
EXAMPLE = (
    'event: queued\ndata: {}\nid: 1\n\nevent: stage\ndata: {"stage": "invert"}\nid: 4\n\n'
    'event: progress\ndata: {"stage": "invert", "progress": 0.41, "doing": "searching static triggers on students, '
    '2 of 3", "eta_seconds": 43.5}\n\n'
    'event: finished\ndata: {"verdict": "no_backdoor_found"}\nid: 19\n\n'
)


@dataclass(frozen=True)
class News:
    """What a look into the database found."""

    events: list[tuple[int, str, dict[str, Any]]]
    progress: dict[str, Any] | None  # of an open scan
    is_over: bool  # nothing will follow


@router.get(
    "/{scan_id}/events",
    response_class=Response,
    responses={
        200: {"description": "The events", "content": {"text/event-stream": {"example": EXAMPLE}}},
        204: {"description": "The scan has ended, and everything was told: do not ask again"},
        **problems("invalid_request", "scan_not_found"),
    },
)
async def follow(
    request: Request,
    service: ServiceDep,
    scan: ScanDep,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Tell only events with a higher number")] = 0,
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**63, description="What a browser sends instead")] = None,
) -> Response:
    """Follow a scan by server-sent events.

    Each event has its number within the scan as id; after a lost connection `Last-Event-ID` tells what was missed.
    `progress` events have no id and are told only while somebody listens. The stream ends with `finished`, `failed` or
    `cancelled`.
    """
    told = after if last_event_id is None else last_event_id
    if scan.status not in OPEN_SCANS and told >= scan.last_event:
        return Response(status_code=204)
    return EventSourceResponse(_stream(service, scan, told), headers={"X-Accel-Buffering": "no"})


async def _stream(service: Service, scan: Scan, told: int) -> AsyncIterator[bytes]:
    """Look twice a second, with no session held in between; a database that is away is waited for."""
    shown, spoke_at, is_over = None, time.monotonic(), False
    while not is_over:
        try:
            news = await run_in_threadpool(_look, service, scan, told)
        except OperationalError:
            news = News([], shown, is_over=False)
        for number, name, data in news.events:
            yield format_sse_event(event=name, data_str=json.dumps(data), id=str(number))
            told, spoke_at = number, time.monotonic()
        if news.progress is not None and _but_time(news.progress) != _but_time(shown):
            yield format_sse_event(event="progress", data_str=json.dumps(news.progress))
            shown, spoke_at = news.progress, time.monotonic()
        if time.monotonic() - spoke_at >= KEEP_ALIVE_SECONDS:
            yield format_sse_event(comment="still here")
            spoke_at = time.monotonic()
        is_over = news.is_over
        if not is_over and not news.events:
            await asyncio.sleep(LOOK_SECONDS)


def _but_time(progress: dict[str, Any] | None) -> dict[str, Any]:
    """What has to change before anybody is told: the time that is left does so all the time."""
    return {**(progress or {}), "eta_seconds": None}


def _look(service: Service, scan: Scan, told: int) -> News:
    with service.database.reading() as session:
        current = scans.find(session, scan.tenant_id, scan.id)
        if current is None:  # deleted
            return News([], None, is_over=True)
        found = scans.events_after(session, current, told) if current.last_event > told else []
        is_open = current.status in OPEN_SCANS
        far = None
        if is_open:
            going = jobs.progress(session, scan.id)
            far = {
                "stage": current.stage,
                **how_far(session, current, going, service.settings.heartbeat_seconds),
            }
    newest = found[-1].number if found else told
    return News([_told(event) for event in found], far, is_over=not is_open and newest >= current.last_event)


def _told(event: Event) -> tuple[int, str, dict[str, Any]]:
    return event.number, event.name, event.data
