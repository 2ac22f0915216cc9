"""The client itself: one method for each thing that can be asked."""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import httpx

from app.client.answers import ApiError, Artifact, Event, Scan, refusal_of, told_events, unreachable
from app.client.patience import Patience
from app.core.clock import MACHINE, Clock
from app.core.errors import Problem
from app.core.jobs import RepairedForm, write_whole
from app.core.lifecycle import OPEN_SCANS, ScanStatus

T = TypeVar("T")

ANSWER_SECONDS = 60.0  # an answer that does not begin, or stands still, for so long is given up
SILENT_SECONDS = 5.0  # the same for events while a deadline is near: a new connection costs little
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
ENDINGS = frozenset(ScanStatus) - OPEN_SCANS


class Client:
    """One service, and the key that opens it. `patience_seconds`: how long failures in a row are borne."""

    def __init__(
        self, server: str, key: str | None = None, patience_seconds: float = 30.0, clock: Clock = MACHINE
    ) -> None:
        self.server, self._clock = server.rstrip("/"), clock
        self._patience_seconds, self._has_answered = patience_seconds, False
        try:
            self._http = httpx.Client(
                base_url=self.server,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(ANSWER_SECONDS, connect=5.0),
                mounts={f"all://{name}": None for name in LOOPBACK},  # no proxy on the way to this machine
            )
        except httpx.InvalidURL as error:
            raise ApiError(unreachable(self.server, str(error))) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()

    def upload(self, path: Path | str, kind: Literal["model", "bundle"]) -> Artifact:
        """Send a file, unless the service knows it already."""
        path = Path(path)
        with path.open("rb") as file:
            known = Artifact(hashlib.file_digest(file, "sha256").hexdigest(), kind, path.stat().st_size)
        if self._keeps(known):
            return known
        stored = self._patiently(lambda: self._send(path, kind))
        if stored.sha256 != known.sha256:
            raise _damaged(f"{path} was stored with other bytes than it had: it changed meanwhile, or on the way.")
        return stored

    def request_scan(self, model: str, bundle: str, **options: Any) -> Scan:
        """Ask for a scan of two files by their SHA-256; options as of `POST /v1/scans`.

        A finished scan of an equal request is the answer, unless `force`.
        """
        body = {"model": model, "bundle": bundle, **options}
        return self._scan("POST", "/v1/scans", json=body, headers={"Idempotency-Key": uuid.uuid4().hex})

    def scan(self, scan_id: str) -> Scan:
        return self._scan("GET", f"/v1/scans/{scan_id}")

    def scans(self, **filters: str) -> Iterator[Scan]:
        """All scans, newest first; filters are `status`, `verdict`, `model` and `bundle`."""
        cursor: dict[str, str] = {}
        while True:
            page = self._ask("GET", "/v1/scans", params={**filters, **cursor}).json()
            yield from map(Scan.from_json, page["items"])
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    def events(self, scan_id: str, after: int = 0, timeout: float | None = None) -> Iterator[Event]:
        """What happened since the event numbered `after`, and what happens until the scan ends.

        A lost connection is made again and goes on where it stopped. TimeoutError after `timeout` seconds.
        """
        deadline = float("inf") if timeout is None else self._clock.now() + timeout
        patience = self._patience()
        while True:
            silence = ANSWER_SECONDS if timeout is None else min(SILENT_SECONDS, deadline - self._clock.now())
            asked: dict[str, Any] = {"headers": {"Last-Event-ID": str(after)}, "timeout": max(silence, 0.01)}
            try:
                with self._stream(f"/v1/scans/{scan_id}/events", **asked) as answer:
                    if answer.status_code == httpx.codes.NO_CONTENT:
                        return
                    for event in told_events(answer, deadline, self._clock):
                        patience = self._patience()
                        after = event.number or after
                        yield event
                        if event.name in ENDINGS:
                            return
                raise httpx.RemoteProtocolError("the events stopped before the scan ended")
            except (ApiError, httpx.TransportError) as error:
                if self._clock.now() >= deadline:
                    raise TimeoutError from error
                patience.bear(error)

    def wait(
        self, scan_id: str, timeout: float | None = None, on_event: Callable[[Event], None] = lambda event: None
    ) -> Scan:
        """The scan once it has ended; TimeoutError if it has not within `timeout` seconds."""
        for event in self.events(scan_id, timeout=timeout):
            on_event(event)
        return self.scan(scan_id)

    def cancel(self, scan_id: str) -> Scan:
        """Ask for the end of a scan; a worker may need a few seconds to let go of it."""
        return self._scan("POST", f"/v1/scans/{scan_id}/cancel")

    def delete(self, scan_id: str) -> None:
        """Forget an ended scan with its report and repaired weights."""
        self._ask("DELETE", f"/v1/scans/{scan_id}")

    def report(self, scan_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self._ask("GET", f"/v1/scans/{scan_id}/report").json()
        return document

    def report_page(self, scan_id: str) -> str:
        """The report for people: one HTML page that needs nothing else."""
        return self._ask("GET", f"/v1/scans/{scan_id}/report", params={"format": "html"}).text

    def figure(self, scan_id: str, name: str) -> bytes:
        """A picture of the report, such as `label_7.png`."""
        return self._ask("GET", f"/v1/scans/{scan_id}/figures/{name}").content

    def download(self, scan_id: str, format: RepairedForm, path: Path | str) -> None:
        """Fetch the repaired weights, or the statement about them; the file appears whole and with the right SHA-256,
        or not at all."""
        url = f"/v1/scans/{scan_id}/repaired"
        write_whole(Path(path), lambda temporary: self._fetch(url, {"format": format}, temporary))

    def _scan(self, method: str, url: str, **request: Any) -> Scan:
        return Scan.from_json(self._ask(method, url, **request).json())

    def _keeps(self, artifact: Artifact) -> bool:
        """Whether the service has a file as what it is. A conditional GET sends no more than HEAD, and a refusal of it
        comes with its problem."""
        asked = {"If-None-Match": f'"{artifact.sha256}"'}
        try:
            answer = self._ask("GET", f"/v1/artifacts/{artifact.sha256}", headers=asked)
        except ApiError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return False
            raise
        return bool(answer.headers.get("x-artifact-kind") == artifact.kind)

    def _send(self, path: Path, kind: str) -> Artifact:
        with path.open("rb") as file:
            stored = self._ask_once("PUT", "/v1/artifacts", params={"kind": kind}, content=file).json()
        return Artifact(stored["sha256"], stored["kind"], stored["size"])

    def _fetch(self, url: str, params: dict[str, str], path: Path) -> None:
        """Stream an answer into a file; a broken connection is made again for the bytes that are missing."""
        digest, got, etag, patience = hashlib.sha256(), 0, "", self._patience()
        with path.open("wb") as file:
            while True:
                headers = {"Accept-Encoding": "identity"}
                if got:
                    headers |= {"Range": f"bytes={got}-", "If-Range": etag}
                try:
                    with self._stream(url, params=params, headers=headers) as answer:
                        if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                            digest, got, etag = hashlib.sha256(), 0, answer.headers.get("etag", "")
                            file.seek(0)
                            file.truncate()
                        for chunk in answer.iter_raw():
                            file.write(chunk)
                            digest.update(chunk)
                            got, patience = got + len(chunk), self._patience()
                    break
                except (ApiError, httpx.TransportError) as error:
                    patience.bear(error)
        if etag.strip('"') != digest.hexdigest():
            raise _damaged("What was downloaded is not what the service keeps: it was damaged there or on the way.")

    def _ask(self, method: str, url: str, **request: Any) -> httpx.Response:
        return self._patiently(lambda: self._ask_once(method, url, **request))

    def _ask_once(self, method: str, url: str, **request: Any) -> httpx.Response:
        with self._stream(url, method, **request) as answer:
            answer.read()
        return answer

    @contextmanager
    def _stream(self, url: str, method: str = "GET", **request: Any) -> Iterator[httpx.Response]:
        """An answer whose body is still to be read; raises ApiError for a refusal."""
        with self._http.stream(method, url, **request) as answer:
            self._has_answered = True
            if not (answer.is_success or answer.status_code == httpx.codes.NOT_MODIFIED):
                answer.read()
                raise refusal_of(answer)
            yield answer

    def _patiently(self, attempt: Callable[[], T]) -> T:
        patience = self._patience()
        while True:
            try:
                return attempt()
            except (ApiError, httpx.TransportError) as error:
                patience.bear(error)

    def _patience(self) -> Patience:
        return Patience(self.server, self._patience_seconds, self._has_answered, self._clock)


def _damaged(what: str) -> ApiError:
    return ApiError(Problem("digest_mismatch", what, "Try again; if it stays so, something changes files."))
