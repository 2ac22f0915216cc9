"""A scan on a service, from the request to the files in a folder, told on the terminal like one on this machine."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal, NoReturn

from app import terminal
from app.cli.endings import print_json, refuse
from app.client import ApiError, Artifact, Client, Event, Scan
from app.core.errors import Problem
from app.core.findings import Verdict
from app.core.jobs import REPAIRED, JobDirectory
from app.core.lifecycle import ScanStatus
from app.core.report.document import pictured_labels
from app.local_scan import DOUBTFUL, EXIT_CODES, OUT_OF_TIME, READY, REPORT, hand_over, unwritable


def scan_there(client: Client, model: Path, bundle: Path, out: Path, as_json: bool, asked: dict[str, Any]) -> NoReturn:
    """Have a service scan two files, leave in `out` what a local scan leaves, and end with its exit code."""
    _try_place(out)
    ended = _done_there(client, model, bundle, as_json, asked)
    show_document(fetch_results(client, ended.id, out), out / "report.html", as_json)
    sys.exit(exit_code(ended))


def check_there(client: Client, model: Path, bundle: Path, as_json: bool, asked: dict[str, Any]) -> NoReturn:
    """Have a service say what a scan of two files would take for true, and end as a check on this machine does."""
    ended = _done_there(client, model, bundle, as_json, asked | {"check": True})
    assert ended.understood is not None, "a check that has finished has understood something"
    show_check(ended.understood["document"], as_json)


def _done_there(client: Client, model: Path, bundle: Path, as_json: bool, asked: dict[str, Any]) -> Scan:
    """What a service was asked to do with two files, once it has; ends the command where it has not."""
    files = send(client, model, "model"), send(client, bundle, "bundle")
    names = {"model_name": model.name, "bundle_name": bundle.name}
    requested = None
    try:
        with _interrupted_afterwards():
            requested = client.request_scan(files[0].sha256, files[1].sha256, **names, **asked)
        _say_where(client, requested)
        ended = follow(client, requested.id, model.name)
    except KeyboardInterrupt:
        if requested is None:
            raise
        _cancel_quietly(client, requested.id)
        terminal.say(f"Cancelled, at {client.server} too.")
        sys.exit(OUT_OF_TIME)
    leave_unless_finished(ended, as_json)
    return ended


@contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """A Ctrl-C within is heard at the end: what is asked for can only be taken back once its id is known."""
    heard: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if heard:
        raise KeyboardInterrupt


def show_document(document: dict[str, Any], page: Path | str, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        terminal.show_report(document, page)


def show_check(document: dict[str, Any], as_json: bool) -> NoReturn:
    """Show what a scan would take for true, and leave with whether anything is in doubt."""
    if as_json:
        print_json(document)
    else:
        terminal.show_check(document)
    sys.exit(READY if document["ready"] else DOUBTFUL)


def _try_place(out: Path) -> None:
    """Raises Refusal where the results could not be put, before anybody computes them."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".download"
        probe.mkdir(exist_ok=True)
        probe.rmdir()
        with suppress(OSError):
            out.rmdir()  # if it is new: a scan without results leaves none
    except OSError as error:
        raise unwritable(out, error) from error


def send(client: Client, path: Path, kind: Literal["model", "bundle"]) -> Artifact:
    with terminal.busy(f"Sending {path.name}"):
        return client.upload(path, kind)


def _say_where(client: Client, requested: Scan) -> None:
    words = f"Scan {requested.id} at {client.server}. Ctrl-C cancels it."
    if not requested.is_open:
        words = f"{client.server} has done this before, as scan {requested.id}."
    terminal.tell(words, {"event": "requested", "scan": requested.id, "server": client.server})


def follow(client: Client, scan_id: str, title: str, timeout: float | None = None) -> Scan:
    """The scan once it has ended; what happens until then is shown."""
    with terminal.progress_display(title) as show:
        return client.wait(scan_id, timeout, _teller(client, scan_id, show))


def _teller(client: Client, scan_id: str, show: Callable[[dict[str, Any]], None]) -> Callable[[Event], None]:
    """Tells a service's events in the words of an engine's, which the display knows."""

    def tell(event: Event) -> None:
        if event.name == "queued":
            show({"event": "stage", "stage": waiting(client.scan(scan_id)) or "queued"})
        elif event.name == "stage" and event.data["stage"] == "invert":
            labels = client.scan(scan_id).labels_total or 0
            show({"event": "prepared", "labels": labels, "names": list(map(str, range(labels)))})
        show({"event": event.name, **event.data})

    return tell


def _cancel_quietly(client: Client, scan_id: str) -> None:
    try:
        client.cancel(scan_id)
    except ApiError as error:
        if error.code != "scan_ended":
            raise


def leave_unless_finished(found: Scan, as_json: bool) -> None:
    """End the command for a scan without a verdict, with the problem that the service tells."""
    if found.is_open:
        wait = f"Wait for its end: `triggerlens watch {found.id}`."
        refuse(Problem("report_not_ready", f"The scan is {found.status}.", wait, retryable=True), as_json)
    if found.status is ScanStatus.FAILED and found.problem is not None:
        refuse(Problem.from_json(found.problem), as_json)
    if found.status is ScanStatus.CANCELLED:
        terminal.say("The scan was cancelled.")
        sys.exit(OUT_OF_TIME)


def fetch_results(client: Client, scan_id: str, out: Path) -> dict[str, Any]:
    """Leave in `out` what a local scan leaves there, all of it or nothing; the report."""
    directory, document = JobDirectory(out / ".download"), client.report(scan_id)
    repaired = (document["repair"] or {}).get("files", {})
    files = {form: name for form, name in REPAIRED.items() if name in repaired}
    try:
        with terminal.busy("Fetching the report"):
            directory.figures.mkdir(parents=True, exist_ok=True)
            directory.write_report(document)
            directory.page.write_text(client.report_page(scan_id), "utf-8")
            for label in pictured_labels(document):
                name = f"label_{label}.png"
                (directory.figures / name).write_bytes(client.figure(scan_id, name))
            for form, name in files.items():
                client.download(scan_id, form, directory.result / name)
        hand_over(directory, out, {*REPORT, *files.values()})
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        rmtree(directory.root, ignore_errors=True)
    return document


def exit_code(ended: Scan) -> int:
    return EXIT_CODES[Verdict(str(ended.verdict))]


def page_of(client: Client, scan_id: str) -> str:
    return f"{client.server}/v1/scans/{scan_id}/report?format=html"


def waiting(found: Scan) -> str | None:
    """What keeps a scan from going on, in words."""
    match found.waiting_for:
        case "earlier_scans":
            return f"waiting for {found.queue_position} earlier scans"
        case None:
            return None
        case part:
            return f"waiting for a {part}"
