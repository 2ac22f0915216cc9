"""Around every request: an id, a line in the log, figures, headers, and who may ask from where. Plain ASGI."""

import asyncio
import re
import secrets
import time
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.metrics import Metrics
from app.api.problems import INTERNAL_ERROR, problem_response
from app.core.errors import Refusal
from app.core.settings import Settings
from app.core.text import printable

log = structlog.get_logger()

SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
READING = ("GET", "HEAD", "OPTIONS")
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
LARGEST_JSON = 64 * 1024  # bytes
JSON_SECONDS = 30.0
CLIENT_GONE = 499  # nobody is there to be answered; the log's word for it is nginx's

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class RequestRecord:
    """Names each request, tells the log and the figures how it ended, and lets no exception out unanswered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if SANE_REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started, status = time.perf_counter(), 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception:
            log.exception("request_failed")
            if status:
                raise  # half an answer is out: the server breaks the connection, so nobody takes it for a whole one
            await problem_response(request_id, INTERNAL_ERROR.problem)(scope, receive, send_named)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS") else "other"
        self.metrics.requests.labels(method, route, status).inc()
        self.metrics.seconds.labels(method, route).observe(seconds)
        log.info(
            "request",
            method=method,
            path=scope["path"],
            status=status,
            seconds=round(seconds, 4),
            tenant=scope["state"].get("tenant"),
        )


class OwnHostOnly:
    """Answers only under the service's own names, and writes only what its own pages or programs ask for.

    A browser sends requests of any site to any address, this one's loopback included; a name that an attacker points
    there (DNS rebinding) would even let him read the answers.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.names = LOOPBACK_NAMES | {name.lower().strip("[]") for name in (settings.host, *settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope["method"], Headers(scope=scope))) is not None:
            response = problem_response(scope["state"]["request_id"], refusal.problem)
            await response(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> Refusal | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if _hostname(host) not in self.names:
            return Refusal(
                "host_not_allowed",
                f"The service does not answer under the name {printable(host)!r}.",
                "Ask under its own name, or have the operator add this one to TRIGGERLENS_ALLOWED_HOSTS.",
            )
        if method not in READING and origin is not None and origin.partition("://")[2].lower() != host.lower():
            return Refusal(
                "origin_not_allowed",
                f"Pages of {printable(origin)!r} may not change anything here.",
                "Use the service's own pages, or a program that sends no Origin header.",
            )
        return None


class SmallBodies:
    """Reads no more of a body than a request in JSON needs, and waits no longer for it; files come by PUT, which has
    limits of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left, is_whole, deadline = LARGEST_JSON, False, time.monotonic() + JSON_SECONDS

        async def receive_little() -> Message:
            nonlocal left, is_whole
            if is_whole:  # what follows is the end of the connection, whenever it comes
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408) from None
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413)
            is_whole = not message.get("more_body", False)
            return message

        has_small_body = scope["type"] == "http" and scope["method"] != "PUT"
        await self.app(scope, receive_little if has_small_body else receive, send)


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
