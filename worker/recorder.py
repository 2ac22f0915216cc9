"""Writes down, under the lease it was made with, what came of a job; without the lease nothing is written.

Each method is one transaction. Knows no engine and no queue: what there is to ring for is answered.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app.core import scheduling
from app.core.errors import Problem
from app.core.findings import LabelFinding, Preparation
from app.core.lifecycle import ScanStatus
from app.core.plan import FIRST, JobKind, Task
from app.core.report.document import check_document
from app.core.report.facts import understood
from app.core.repository import artifacts, jobs, scans
from app.core.repository.jobs import Lease
from app.core.service import Service
from app.core.storage import artifact_key
from app.core.tables import Artifact, Job, Scan
from app.core.versions import MIXED, engine_version
from worker.desk import Desk

NO_SEARCH: dict[str, Any] = {
    "flagged_labels": [],
    "model_anomaly_index": None,
    "repair": None,
}  # what a check has not looked for
ARTIFACT_KINDS = {"repaired.pt": "model", "repaired.safetensors": "weights"}

Outputs = dict[str, Any]


class LostLeaseError(Exception):
    """Somebody else holds the job by now; what was done for it is dropped."""


class Recorder:
    """Records for one worker."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def finding(self, lease: Lease, finding: LabelFinding) -> None:
        """A label was searched; people see it while the block goes on. Raises LostLeaseError."""
        with self.service.database.writing() as session:
            _, scan = _held(session, lease)
            if scans.record_finding(session, scan, finding):
                # A label that did not fit into memory was searched by no family.
                found = finding.families[0] if finding.families else None
                rates = {"norm": found.norm, "attack_success_rate": found.attack_success_rate} if found else {}
                scans.tell(session, scan.id, "label", label=finding.label, name=finding.name, **rates)

    def done(self, lease: Lease, desk: Desk, task: Task, outputs: Outputs) -> list[str]:
        """A job has ended well: its results, and what follows from them. Raises LostLeaseError."""
        preparation, decision = desk.directory.read_preparation(), desk.directory.read_decision(task.round)
        selection, compute_queue = desk.directory.read_selection(), self.service.settings.compute_queue
        report = desk.directory.read_report() if task.kind is JobKind.REPORT else None
        with self.service.database.writing() as session:
            job, scan = _held(session, lease)
            job.outputs = outputs
            scan.engine_version = _computed_by(scan, task)
            scan.output_bytes += sum(facts["size"] for facts in outputs.values())
            if task.kind is JobKind.PREPARE and preparation is not None:
                scan.labels_total = preparation.num_labels
            if task.kind is JobKind.SELECT and selection is not None:
                scan.labels_total = len(selection.labels)
            if task.kind is JobKind.DECIDE and decision is not None:
                for finding in decision.labels:
                    scans.record_finding(session, scan, finding)
            for name, facts in _repaired(outputs).items():
                self._enter_artifact(session, scan, ARTIFACT_KINDS[name], facts)
            queues = scheduling.done(session, job, compute_queue, desk.job, preparation, decision, selection)
            if desk.job.check and preparation is not None and scan.status == ScanStatus.RUNNING:
                found = _checked(desk, preparation)
                summary = scheduling.summary_of(NO_SEARCH | found)
                summary |= {"understood": understood(found) | {"document": found}}
                scans.move(session, scan, ScanStatus.FINISHED, summary=summary)
            if report is not None and scan.status == ScanStatus.RUNNING:
                summary = scheduling.summary_of(report) | {"understood": understood(report)}
                scans.move(session, scan, ScanStatus.FINISHED, verdict=report["verdict"], summary=summary)
        return queues

    def refused(self, lease: Lease, problem: Problem) -> None:
        """A job was refused, and its scan fails with the same problem."""
        with self.service.database.writing() as session:
            if (job := jobs.held(session, lease)) is not None:
                scheduling.fail(session, job, problem)

    def given_back(self, lease: Lease, problem: Problem | None) -> list[str]:
        """A job was not done; with a problem it counts as a loss, for it may be the job's own fault."""
        with self.service.database.writing() as session:
            job = jobs.held(session, lease)
            return [] if job is None else scheduling.release(session, job, problem)

    def _enter_artifact(self, session: Session, scan: Scan, kind: str, facts: Mapping[str, Any]) -> None:
        """Make repaired weights known as an artifact of the tenant, who can scan them like any other. The blob comes
        while the row is locked, so whoever deletes the same bytes comes before or after, not between."""
        if artifacts.lock(session, scan.tenant_id, facts["sha256"]) is None:
            artifacts.add(
                session,
                Artifact(
                    tenant_id=scan.tenant_id,
                    sha256=facts["sha256"],
                    kind=kind,
                    size=facts["size"],
                    parent_sha256=scan.model_sha256,
                    scan_id=scan.id,
                ),
            )
        self.service.store.copy(facts["key"], artifact_key(scan.tenant_id, facts["sha256"]))


def _checked(desk: Desk, preparation: Preparation) -> dict[str, Any]:
    """What a check has to say."""
    directory, inputs = desk.directory, {"model": desk.job.model, "bundle": desk.job.bundle}
    return check_document(directory.read_structure(), preparation, inputs, directory.read_timings())


def _held(session: Session, lease: Lease) -> tuple[Job, Scan]:
    """The job under a lease and its scan, both locked; raises LostLeaseError."""
    job = jobs.held(session, lease)
    if job is None:
        raise LostLeaseError
    scan = scans.lock(session, job.scan_id)
    assert scan is not None
    return job, scan


def _computed_by(scan: Scan, task: Task) -> str:
    """The engine that has done all of a scan so far, this task included; an upgrade in the middle leaves none."""
    same = task == FIRST or scan.engine_version == engine_version()
    return engine_version() if same else MIXED


def _repaired(outputs: Outputs) -> Outputs:
    """The repaired weights among the results."""
    return {name: facts for name, facts in outputs.items() if name in ARTIFACT_KINDS}
