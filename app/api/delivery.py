"""Sends stored files: whole, in part (a single Range), or not at all where the asker has them already.

A file is known by its SHA-256, which is its ETag. Several ranges in one request are answered with the whole file, as
RFC 9110 allows: merging them is how servers were brought down.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import chain

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.api.problems import problem_response
from app.core.errors import Refusal
from app.core.storage import ArtifactStore

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

CONTENT_LOST = Refusal(
    "content_lost",
    "The database knows this file, but the artifact store does not have it.",
    "Upload the file again, or scan again with `force`; the operator finds the key in the log.",
)


def deliver(
    request: Request,
    store: ArtifactStore,
    key: str,
    sha256: str,
    size: int,
    media_type: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer to a GET or HEAD of a stored file. Raises Refusal content_lost and what the store raises."""
    etag = f'"{sha256}"'
    sent = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache", **(headers or {})}
    if has_already(request.headers, etag):
        return Response(status_code=304, headers=sent)
    first, last = 0, size - 1
    if request.method == "GET" and (found := _range(request.headers, etag)) is not None:
        first, last = _resolved(*found, size)
        if first > last:
            outside = Refusal("range_not_satisfiable", f"The file has {size} bytes.", "Ask for bytes that it has.")
            return problem_response(request.state.request_id, outside.problem, {"Content-Range": f"bytes */{size}"})
        sent["Content-Range"] = f"bytes {first}-{last}/{size}"
    sent["Content-Length"] = str(last - first + 1)
    if request.method == "HEAD":
        return Response(headers=sent, media_type=media_type)
    chunks = _begun(store, key, first, last - first + 1)
    return StreamingResponse(chunks, 206 if "Content-Range" in sent else 200, sent, media_type)


def has_already(headers: Headers, etag: str) -> bool:
    """Whether If-None-Match names the version that would be sent; by weak comparison, as RFC 9110 says."""
    known = headers.get("if-none-match", "")
    return known.strip() == "*" or etag.removeprefix("W/") in re.findall(r'"[^"]*"', known)


def _range(headers: Headers, etag: str) -> tuple[str, str] | None:
    """The two numbers of a single Range that is to be heeded; If-Range asks for that only of this version."""
    if headers.get("if-range", etag) != etag:
        return None
    asked = RANGE.fullmatch(headers.get("range", "").strip())
    if asked is None or asked[1] == asked[2] == "":
        return None
    if asked[1] and asked[2] and int(asked[2]) < int(asked[1]):
        return None  # malformed, and malformed ones are ignored
    return asked[1], asked[2]


def _resolved(first: str, last: str, size: int) -> tuple[int, int]:
    """The range within a file of this size; empty (first > last) if it lies outside."""
    if not first:
        return max(size - int(last), 0), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1


def _begun(store: ArtifactStore, key: str, offset: int, length: int) -> Iterator[bytes]:
    """The bytes, the first of them already read: what can go wrong goes wrong before the answer has begun."""
    try:
        chunks = store.read(key, offset, length)
        return chain([next(chunks, b"")], chunks)
    except FileNotFoundError as error:
        raise CONTENT_LOST from error
