"""A scan's job directory on one worker: its inputs and the results of finished jobs are fetched, new results handed in.

Results travel by the artifact store, each attempt at a job under its own prefix, so what a worker that was given up on
still writes is never looked at. The database's `Job.outputs` says which files there are.
"""

import re
import shutil
import stat
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.core.clock import Clock
from app.core.errors import Refusal, refusing_full_disk
from app.core.jobs import DECISION, JobDirectory, ScanJob
from app.core.plan import JobKind, Task
from app.core.repository.jobs import Lease
from app.core.storage import ArtifactStore, artifact_key, attempt_prefix
from app.core.tables import Job, Scan
from worker.lanes import lanes_for
from worker.launch import ScanSession
from worker.sandbox.events import Event
from worker.sandbox.fence import Sandbox

if TYPE_CHECKING:  # cryptography is only needed where something is signed
    from securesystemslib.signer import CryptoSigner

BUNDLE_SUFFIXES = (".npz", ".zip")

# What is handed in. Timings are not: each worker keeps its own, those of the report come from the database.
RESULT = re.compile(
    r"(structure|preparation|selection|repair|report)\.json|report\.html|figures/label_\d+\.png"
    rf"|{DECISION.pattern}|(start|students)\.safetensors|repaired\.(pt|safetensors|intoto\.jsonl)"
    r"|(first_pass|labels)/\d{6}\.json|confirmations/\d{6}-[a-z]+\.json|triggers/\d{6}-[a-z]+\.safetensors|strips/\d{6}-[a-z]+\.png"
)

# What of the other jobs' results a task reads, as patterns of paths. An engine that lacks the students once believes
# that there are none.
NEEDS: dict[JobKind, tuple[str, ...]] = {
    JobKind.INSPECT: (),
    JobKind.PREPARE: (),
    JobKind.FIRST_PASS: ("preparation.json", "start.safetensors", "students.safetensors"),
    JobKind.SELECT: ("*.json",),
    JobKind.INVERT: ("preparation.json", "start.safetensors", "students.safetensors"),
    JobKind.DECIDE: ("*.json",),
    JobKind.CONFIRM: ("preparation.json", "decision*.json", "start.safetensors", "students.safetensors"),
    JobKind.REPAIR: ("preparation.json", "decision*.json", "start.safetensors", "students.safetensors", "triggers/*"),
    JobKind.REPORT: ("*.json", "strips/*"),
}


class Desk:
    """One scan at work on this worker: its directory and its warm engine."""

    def __init__(
        self,
        root: Path,
        scan: Scan,
        store: ArtifactStore,
        on_event: Callable[[Event], None],
        job: ScanJob,
        environment: Mapping[str, str],
        sandbox: Sandbox,
        clock: Clock,
        signer: "CryptoSigner | None" = None,
    ) -> None:
        self.scan_id, self.tenant_id = scan.id, scan.tenant_id
        self.store = store
        self.directory = JobDirectory(root)
        self.job = job
        self._lanes: int | None = None
        self.session = ScanSession(
            self.directory, on_event, sandbox=sandbox, environment=environment, clock=clock, signer=signer
        )
        self.session.__enter__()

    @property
    def lanes(self) -> int:
        """How many engines this machine has room for in the search of this scan, as it was before that began."""
        if self._lanes is None and (preparation := self.directory.read_preparation()) is not None:
            self._lanes = lanes_for(preparation, self.job.model["bytes"])
        return self._lanes or 1

    def fetch(self, task: Task, finished: Sequence[Job]) -> None:
        """Bring what a task needs: the inputs, and the files of finished jobs that are not here.

        Raises Refusal: content_lost, damaged_object, disk_full.
        """
        with refusing_full_disk(self.directory.root):
            suffix = Path(self.job.bundle["name"]).suffix.lower()
            bundle = self.directory.root / f"bundle{suffix if suffix in BUNDLE_SUFFIXES else '.zip'}"
            for path, facts in ((self.directory.model, self.job.model), (bundle, self.job.bundle)):
                if not path.exists():
                    self._bring(artifact_key(self.tenant_id, facts["sha256"]), path, facts["sha256"])
            if not (self.directory.root / "job.json").exists():
                self.directory.write_job(self.job)
            for job in finished:
                for name, facts in (job.outputs or {}).items():
                    path = self.directory.result / name
                    if not path.exists() and _is_needed(name, task):
                        self._bring(facts["key"], path, facts["sha256"])
            if task.kind is JobKind.REPORT:
                self.directory.write_timings(_timings(finished))

    def hand_in(self, lease: Lease, finished: Sequence[Job]) -> dict[str, Any]:
        """Store the results that no finished job has handed in, and say where: path -> key, sha256 and size."""
        known = {name for job in finished for name in job.outputs or {}}
        prefix = attempt_prefix(self.tenant_id, self.scan_id, lease.job_id, lease.token)
        outputs = {}
        for path in sorted(self.directory.result.rglob("*")):
            name = path.relative_to(self.directory.result).as_posix()
            if RESULT.fullmatch(name) and name not in known and _is_plain_file(path):
                stored = self.store.put_file(prefix + name, path)
                outputs[name] = {"key": prefix + name, "sha256": stored.sha256, "size": stored.size}
        return outputs

    def close(self) -> None:
        """End the engine and clear the desk."""
        self.session.__exit__(None, None, None)
        shutil.rmtree(self.directory.root, ignore_errors=True)

    def _bring(self, key: str, path: Path, sha256: str) -> None:
        try:
            self.store.fetch(key, path, sha256)
        except FileNotFoundError as error:
            raise Refusal(
                "content_lost",
                f"The database knows a file that the storage does not have: {key}.",
                "If it is the model or the bundle, upload it again; then request the scan again.",
            ) from error


def _is_plain_file(path: Path) -> bool:
    """A file and no link: what an engine leaves may be the work of the suspect."""
    return stat.S_ISREG(path.lstat().st_mode)


def _timings(finished: Sequence[Job]) -> dict[str, float]:
    """Seconds that all workers together spent on each kind of job."""
    seconds: dict[str, float] = defaultdict(float)
    for job in finished:
        assert job.started_at is not None and job.finished_at is not None
        seconds[f"{job.kind}_seconds"] += job.finished_at - job.started_at
    return dict(seconds)


def _is_needed(name: str, task: Task) -> bool:
    if task.kind is JobKind.REPAIR and name.startswith("triggers/"):
        return any(name.startswith(f"triggers/{label:06d}-") for label in task.labels)
    return any(fnmatch(name, pattern) for pattern in NEEDS[task.kind])
