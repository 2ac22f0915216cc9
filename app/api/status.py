"""A scan as the API tells it: from its row, its jobs and its findings, in a handful of small queries."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy.orm import Session

from app.api.checks import Checks
from app.api.schemas import LabelResult, ScanItem, ScanState, ScanSummary, Understood
from app.core.findings import LabelFinding, RepairStatus, most_suspicious_family
from app.core.jobs import finding_from_json
from app.core.lifecycle import OPEN_SCANS, JobState, ScanStatus
from app.core.plan import WITHOUT_TORCH
from app.core.progress import JobProgress, Outlook, at, outlook, told
from app.core.repository import access, jobs, scans
from app.core.tables import Scan


def scan_item(scan: Scan) -> ScanItem:
    """A scan as a list shows it."""
    return ScanItem(**_facts(scan))


def scan_state(session: Session, checks: Checks, scan: Scan) -> ScanState:
    """A scan with how far it is and what it waits for."""
    findings = [finding_from_json(row.finding) for row in scans.findings(session, scan)]
    family = most_suspicious_family(findings)
    labels = [_label(finding, family) for finding in findings]
    going = [] if scan.status == ScanStatus.FINISHED else jobs.progress(session, scan.id)
    earlier = scans.queued_before(session, scan) if scan.status == ScanStatus.QUEUED else None
    return ScanState(
        **_facts(scan),
        **how_far(session, scan, going, checks.service.settings.heartbeat_seconds),
        understood=_understood(scan),
        labels_done=len(labels),
        labels=labels,
        queue_position=earlier,
        waiting_for=_waiting_for(session, checks, going, earlier) if scan.status in OPEN_SCANS else None,
    )


def how_far(session: Session, scan: Scan, going: Sequence[JobProgress], heartbeat_seconds: float) -> dict[str, Any]:
    """How much of a scan is done, what it is at, and how long it still takes."""
    if scan.status == ScanStatus.FINISHED:
        found = Outlook(1.0)
    else:
        lanes = _lanes(session, going, heartbeat_seconds) if scan.status == ScanStatus.RUNNING else 1
        found = outlook(going, scan.request["repair"], lanes)
    if scan.status != ScanStatus.RUNNING:
        return told(Outlook(found.share), None)
    return told(found, at(going))


def _lanes(session: Session, going: Sequence[JobProgress], heartbeat_seconds: float) -> int:
    """How many workers a scan has for itself, where scans share them evenly."""
    queues = {job.queue for job in going if job.kind not in WITHOUT_TORCH}
    workers = access.living_workers(session, heartbeat_seconds)
    hearing = sum(not queues.isdisjoint(worker.queues.split(",")) for worker in workers)
    return max(1, hearing // max(1, scans.running(session)))


def _facts(scan: Scan) -> dict[str, Any]:
    config = scan.request["config"]
    return {
        "id": scan.id,
        "status": scan.status,
        "stage": scan.stage,
        "labels_total": scan.labels_total,
        "verdict": scan.verdict,
        "summary": None if scan.summary is None else ScanSummary.model_validate(scan.summary),
        "check": _is_check(scan),
        "problem": scan.problem,
        "cancel_requested": scan.cancel_requested,
        "model": scan.model_sha256,
        "bundle": scan.bundle_sha256,
        "model_name": scan.request["model"]["name"],
        "bundle_name": scan.request["bundle"]["name"],
        "preset": config["preset"],
        "seed": config["seed"],
        "repair": scan.request["repair"],
        "engine_version": scan.engine_version,
        "created_at": _iso(scan.created_at),
        "started_at": _iso(scan.started_at),
        "finished_at": _iso(scan.finished_at),
        "links": _links(scan),
    }


def _is_check(scan: Scan) -> bool:
    return bool(scan.request.get("check"))  # older requests do not say


def _understood(scan: Scan) -> Understood | None:
    known = (scan.summary or {}).get("understood")  # older scans have none
    return None if known is None else Understood.model_validate(known)


def _links(scan: Scan) -> dict[str, str]:
    here = f"/v1/scans/{scan.id}"
    links = {"self": here, "events": f"{here}/events"}
    if scan.status in OPEN_SCANS:
        links["cancel"] = f"{here}/cancel"
    if _is_check(scan):
        return links
    if scan.status == ScanStatus.FINISHED:
        links["report"] = f"{here}/report"
    repair = (scan.summary or {}).get("repair_status")
    if repair is not None and RepairStatus(repair).hands_out_weights:
        links["repaired"] = f"{here}/repaired"
    return links


def _label(finding: LabelFinding, family: str | None) -> LabelResult:
    """A finding in short: the figures of the family that labels are compared in; none where nothing was searched."""
    headline = finding.headline(family) if finding.families and family else None
    return LabelResult(
        label=finding.label,
        name=finding.name,
        family=headline.family if headline else None,
        norm=headline.norm if headline else None,
        attack_success_rate=headline.attack_success_rate if headline else None,
        anomaly_index=headline.anomaly_index if headline else None,
        p_value=headline.p_value if headline else None,
        flagged=finding.flagged,
        spared=finding.spared,
    )


def _waiting_for(
    session: Session, checks: Checks, going: Sequence[JobProgress], earlier: int | None
) -> Literal["worker", "broker", "earlier_scans"] | None:
    """What keeps an open scan from going on; None while somebody works on it, or is about to."""
    ready = {job.queue for job in going if job.state == JobState.READY}
    if not ready or any(job.state == JobState.RUNNING for job in going):
        return None
    if checks.broker is not None and checks.broker.latest() is False:
        return "broker"
    if not ready <= checks.live_queues(session):
        return "worker"
    return "earlier_scans" if earlier else None


def _iso(seconds: float | None) -> str | None:
    """ISO 8601 in UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
