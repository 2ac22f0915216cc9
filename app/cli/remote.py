"""What is asked of a service: send files, look at scans and follow them, fetch what they leave, end them."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from app import terminal
from app.cli.endings import ending_well, print_json
from app.cli.following import (
    exit_code,
    fetch_results,
    follow,
    leave_unless_finished,
    page_of,
    send,
    show_document,
    waiting,
)
from app.cli.options import service_options
from app.client import Client, Scan
from app.core.jobs import REPAIRED, RepairedForm
from app.local_scan import OUT_OF_TIME, unwritable


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--kind", type=click.Choice(["model", "bundle"]), required=True)
@service_options
def upload(server: str, key: str | None, as_json: bool, file: Path, kind: Literal["model", "bundle"]) -> None:
    """Send a file to a service.

    It is known there by its SHA-256 from then on, and not sent twice.
    """
    with ending_well(as_json), Client(server, key) as client:
        artifact = send(client, file, kind)
        if as_json:
            print_json(asdict(artifact))
        else:
            terminal.say(f"{file.name} is there as {kind} {artifact.sha256}")


@click.command()
@click.argument("scan_id", metavar="ID")
@service_options
def status(server: str, key: str | None, as_json: bool, scan_id: str) -> None:
    """Say how far a scan is and what it found."""
    with ending_well(as_json), Client(server, key) as client:
        found = client.scan(scan_id)
        if as_json:
            print_json(asdict(found))
        else:
            terminal.show_facts(_facts(found))


@click.command()
@click.argument("scan_id", metavar="ID")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds until watching ends with code 5.")
@service_options
def watch(server: str, key: str | None, as_json: bool, scan_id: str, timeout: float | None) -> None:
    """Follow a scan to its end.

    The exit code is its verdict. Ctrl-C ends the watching, not the scan.
    """
    with ending_well(as_json), Client(server, key) as client:
        try:
            ended = follow(client, scan_id, f"scan {scan_id[-8:]}", timeout)
        except (KeyboardInterrupt, TimeoutError):
            terminal.say(f"The scan goes on. Watch it again: triggerlens watch {scan_id} --server {client.server}")
            sys.exit(OUT_OF_TIME)
        leave_unless_finished(ended, as_json)
        show_document(client.report(scan_id), page_of(client, scan_id), as_json)
        sys.exit(exit_code(ended))


@click.command()
@click.argument("scan_id", metavar="ID")
@click.option("--out", type=click.Path(path_type=Path), help="Also put the report, figures and weights there.")
@service_options
def report(server: str, key: str | None, as_json: bool, scan_id: str, out: Path | None) -> None:
    """Show the report of a finished scan."""
    with ending_well(as_json), Client(server, key) as client:
        leave_unless_finished(client.scan(scan_id), as_json)
        if out is None:
            show_document(client.report(scan_id), page_of(client, scan_id), as_json)
        else:
            show_document(fetch_results(client, scan_id, out), out / "report.html", as_json)


@click.command()
@click.argument("scan_id", metavar="ID")
@click.option("--format", "format_", type=click.Choice(list(REPAIRED)), default="torchscript", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="[default: the name that a scan here would give it]")
@service_options
def download(
    server: str, key: str | None, as_json: bool, scan_id: str, format_: RepairedForm, out: Path | None
) -> None:
    """Fetch the repaired weights of a finished scan, or the statement about them."""
    with ending_well(as_json), Client(server, key) as client:
        leave_unless_finished(client.scan(scan_id), as_json)
        path = out or Path(REPAIRED[format_])
        try:
            client.download(scan_id, format_, path)
        except OSError as error:
            raise unwritable(path.parent, error) from error
        if as_json:
            print_json({"path": str(path), "format": format_, "size": path.stat().st_size})
        else:
            terminal.say(f"{'Statement' if format_ == 'statement' else 'Weights'}: {path}")


@click.command()
@click.argument("scan_id", metavar="ID")
@service_options
def cancel(server: str, key: str | None, as_json: bool, scan_id: str) -> None:
    """End a scan that has not ended yet."""
    with ending_well(as_json), Client(server, key) as client:
        found = client.cancel(scan_id)
        if as_json:
            print_json(asdict(found))
        else:
            terminal.say("Its worker is letting go of it." if found.is_open else "Cancelled.")


COMMANDS = (upload, status, watch, report, download, cancel)


def _facts(found: Scan) -> dict[str, str]:
    """A scan in a few lines for people."""
    facts = {"scan": found.id, "status": waiting(found) or found.status.value}
    if found.is_open and found.progress is not None:
        facts["done"] = f"{found.progress:.0%}" + (f", in {found.stage}" if found.stage else "")
    if found.doing is not None:
        facts["doing"] = found.doing
    if found.eta_seconds is not None:
        facts["left"] = f"about {terminal.duration(found.eta_seconds)}"
    if found.labels_total:
        facts["labels"] = f"{found.labels_done} of {found.labels_total}"
    if found.verdict is not None:
        facts["verdict"] = found.verdict
    if found.summary is not None and found.summary["flagged_labels"]:
        facts["suspect"] = ", ".join(map(str, found.summary["flagged_labels"]))
    if found.summary is not None and found.summary["repair_status"]:
        facts["repair"] = found.summary["repair_status"]
    if found.summary is not None and found.summary.get("coming_back"):  # an older service does not tell
        facts["after it"] = found.summary["coming_back"]
    if found.problem is not None:
        facts["problem"] = f"{found.problem['detail']} {found.problem['advice']}"
    return facts
