"""The job directory: what an engine is asked to do and what it leaves behind. Written by whoever starts an engine.

    job.json                    the request: ScanJob
    model.pt, bundle.*          the inputs, copied here and never changed
    result/                     structure.json, preparation.json, start.safetensors, students.safetensors,
                                first_pass/, selection.json, labels/, triggers/, strips/, decision.json,
                                confirmations/, decision-1.json, repair.json, repaired.pt, repaired.safetensors,
                                repaired.intoto.jsonl, timings.json, report.json, report.html, figures/

Every file appears whole or not at all: it is written beside its name and renamed. Standard library only.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from app.core.config import ScanConfig
from app.core.findings import (
    Caveat,
    ClassAccuracy,
    ComesBack,
    Confirmation,
    ConventionFit,
    Decision,
    FamilyFinding,
    FirstPass,
    InputSpec,
    LabelFinding,
    Likeness,
    OtherOutput,
    Preparation,
    Probe,
    ProbeFinding,
    Reactivation,
    Reason,
    RepairReport,
    RepairStatus,
    Selection,
    Shift,
    Takes,
    TensorChange,
    UnlearnedTrigger,
    Unrepaired,
    Verdict,
    finite,
)
from app.core.intake.declaration import DeclaredInput
from app.core.intake.notes import Note

WEIGHTS = ("repaired.pt", "repaired.safetensors")
STATEMENT = "repaired.intoto.jsonl"  # about both, see app/core/statement.py
RepairedForm = Literal["torchscript", "safetensors", "statement"]
REPAIRED: dict[RepairedForm, str] = {"torchscript": WEIGHTS[0], "safetensors": WEIGHTS[1], "statement": STATEMENT}
DECISION = re.compile(r"decision(-\d+)?\.json")


@dataclass(frozen=True)
class ScanJob:
    """One scan as asked for: names and hashes of its inputs, the config, and what to do with the verdict."""

    model: dict[str, Any]  # name, bytes, sha256
    bundle: dict[str, Any]
    config: ScanConfig
    input: DeclaredInput  # what the user said about the model's input
    repair: bool = False
    repair_label: int | None = None  # search and repair this label only, without a verdict
    output: str | None = None  # the name of the output to scan, of a model that has several
    check: bool = False  # learn how model and bundle fit together, and search nothing
    device: str = "auto"
    threads: int = 1
    perceptual: str | None = None  # a file of backbone weights; None for the usual order
    classes: dict[str, int] | None = None  # indices by the names that the bundle uses; None for what the bundle says

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "ScanJob":
        config, declared = ScanConfig.from_json(document["config"]), DeclaredInput(**_tuples(document["input"]))
        return cls(**{**document, "config": config, "input": declared})


class JobDirectory:
    """Paths of a job directory, and its records as dataclasses."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.result = root / "result"
        self.model = root / "model.pt"
        self.repaired, self.repaired_state = (self.result / name for name in WEIGHTS)
        self.statement = self.result / STATEMENT
        self.start = self.result / "start.safetensors"
        self.students = self.result / "students.safetensors"
        self.report = self.result / "report.json"
        self.page = self.result / "report.html"
        self.figures = self.result / "figures"

    @property
    def bundle(self) -> Path:
        return next(path for path in sorted(self.root.glob("bundle.*")))

    def first_pass(self, first: int) -> Path:
        """What it found for the block that begins with this label."""
        return self.result / "first_pass" / f"{first:06d}.json"

    def finding(self, label: int) -> Path:
        return self.result / "labels" / f"{label:06d}.json"

    def trigger(self, label: int, family: str) -> Path:
        return self.result / "triggers" / f"{label:06d}-{family}.safetensors"

    def strip(self, label: int, family: str) -> Path:
        """The picture of a label's trigger (app/core/report/figures.py)."""
        return self.result / "strips" / f"{label:06d}-{family}.png"

    def write_job(self, job: ScanJob) -> None:
        self._write(self.root / "job.json", job.to_json())

    def read_job(self) -> ScanJob:
        return ScanJob.from_json(self._read(self.root / "job.json"))

    def write_structure(self, structure: dict[str, Any]) -> None:
        self._write(self.result / "structure.json", structure)

    def read_structure(self) -> dict[str, Any] | None:
        """What is in the archive, by the gate."""
        return self._read_result("structure.json")

    def write_preparation(self, preparation: Preparation) -> None:
        self._write(self.result / "preparation.json", asdict(preparation))

    def read_preparation(self) -> Preparation | None:
        if (document := self._read_result("preparation.json")) is None:
            return None
        document["input"] = document["input"] and InputSpec(**_tuples(document["input"]))
        document["reasons"] = tuple(map(Reason, document["reasons"]))
        document["caveats"] = tuple(map(Caveat, document["caveats"]))
        document["takes"] = Takes(document["takes"])
        shift = document.get("shift")  # a preparation of an older version has none
        document["shift"] = shift and Shift(**{**shift, "likeness": Likeness(shift["likeness"])})
        document["other_outputs"] = tuple(OtherOutput(**other) for other in document["other_outputs"])
        document["probes"] = tuple(
            ProbeFinding(**{**probe, "probe": Probe(probe["probe"])}) for probe in document["probes"]
        )
        document["conventions"] = tuple(ConventionFit(**fit) for fit in document["conventions"])
        document["notes"] = tuple(map(Note.from_json, document["notes"]))
        return Preparation(**_tuples(document))

    def write_first_pass(self, found: FirstPass) -> None:
        self._write(self.first_pass(found.labels[0]), asdict(found))

    def read_first_passes(self) -> list[FirstPass]:
        """Of the blocks that were looked at so far, in label order."""
        paths = sorted((self.result / "first_pass").glob("*.json"))
        return [FirstPass(**_scored(self._read(path))) for path in paths]

    def write_selection(self, selection: Selection) -> None:
        self._write(self.result / "selection.json", asdict(selection))

    def read_selection(self) -> Selection | None:
        return _selection_from_json(self._read_result("selection.json"))

    def write_finding(self, finding: LabelFinding) -> None:
        self._write(self.finding(finding.label), asdict(finding))

    def read_finding(self, label: int) -> LabelFinding | None:
        path = self.finding(label)
        return finding_from_json(self._read(path)) if path.exists() else None

    def read_findings(self, round: int = 0) -> list[LabelFinding]:
        """The labels searched so far, in label order; after the first round with what second searches found."""
        findings = [finding_from_json(self._read(path)) for path in sorted((self.result / "labels").glob("*.json"))]
        return [self._with_confirmations(finding) for finding in findings] if round else findings

    def confirmation(self, label: int, family: str) -> Path:
        return self.result / "confirmations" / f"{label:06d}-{family}.json"

    def write_confirmation(self, label: int, family: str, confirmation: Confirmation) -> None:
        self._write(self.confirmation(label, family), asdict(confirmation))

    def _with_confirmations(self, finding: LabelFinding) -> LabelFinding:
        paths = {found.family: self.confirmation(finding.label, found.family) for found in finding.families}
        known = {family: Confirmation(**self._read(path)) for family, path in paths.items() if path.exists()}
        return replace(finding, families=tuple(replace(f, confirmation=known.get(f.family)) for f in finding.families))

    def decision(self, round: int) -> Path:
        """That of each round is kept, so what follows from one finds it as it was."""
        return self.result / (f"decision-{round}.json" if round else "decision.json")

    def write_decision(self, decision: Decision, round: int = 0) -> None:
        self._write(self.decision(round), asdict(decision))

    def read_decision(self, round: int = 0) -> Decision | None:
        if (document := self._read_result(self.decision(round).name)) is None:
            return None
        return Decision(
            Verdict(document["verdict"]),
            tuple(map(finding_from_json, document["labels"])),
            document["model_anomaly_index"],
            tuple(map(Reason, document["reasons"])),
            tuple(map(Caveat, document["caveats"])),
            _selection_from_json(document.get("selection")),  # a decision of an older version has none
        )

    def write_repair(self, repair: RepairReport) -> None:
        self._write(self.result / "repair.json", asdict(repair))

    def read_repair(self) -> RepairReport | None:
        if (document := self._read_result("repair.json")) is None:
            return None
        document["status"] = RepairStatus(document["status"])
        if document.get("reason"):  # a repair of an older version has none
            document["reason"] = Unrepaired(document["reason"])
        document["classes"] = tuple(ClassAccuracy(**found) for found in document["classes"])
        document["triggers"] = tuple(UnlearnedTrigger(**found) for found in document["triggers"])
        document["comes_back"] = document["comes_back"] and ComesBack(document["comes_back"])
        document["reactivations"] = tuple(map(_reactivation_from_json, document["reactivations"]))
        document["largest_changes"] = tuple(TensorChange(**found) for found in document["largest_changes"])
        return RepairReport(**_tuples(document))

    def add_timing(self, stage: str, seconds: float) -> None:
        """Add to what a stage took so far, which survives a restart. One thread at a time."""
        known, key = self.read_timings(), f"{stage}_seconds"
        self.write_timings(known | {key: known.get(key, 0.0) + seconds})

    def write_timings(self, timings: dict[str, float]) -> None:
        self._write(self.result / "timings.json", timings)

    def read_timings(self) -> dict[str, float]:
        return self._read_result("timings.json") or {}

    def write_report(self, document: dict[str, Any]) -> None:
        self._write(self.report, document)

    def read_report(self) -> dict[str, Any] | None:
        return self._read_result("report.json")

    def _write(self, path: Path, document: Any) -> None:
        write_whole(path, lambda temporary: temporary.write_text(json.dumps(document, indent=1) + "\n"))

    def _read_result(self, name: str) -> dict[str, Any] | None:
        path = self.result / name
        return self._read(path) if path.exists() else None

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(path.read_text())
        return document


def sha256_of(path: Path) -> str:
    """In hexadecimal digits; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Have `write` fill a temporary file beside the path, then rename it: no reader ever sees half a file.

    `write` should leave the writing to Python: libraries that write by themselves hide a full disk in errors of their
    own, and whoever starts a job wants to hear of it as OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def finding_from_json(document: Mapping[str, Any]) -> LabelFinding:
    families = tuple(_family_from_json(family) for family in document["families"])
    return LabelFinding(document["label"], document["name"], families)


def _selection_from_json(document: dict[str, Any] | None) -> Selection | None:
    return None if document is None else Selection(**_scored(document))


def _scored(document: dict[str, Any]) -> dict[str, Any]:
    return {**_tuples(document), "scores": _tuples(document["scores"])}


def _family_from_json(document: Mapping[str, Any]) -> FamilyFinding:
    again = document["confirmation"]
    confirmation = again and Confirmation(**{name: _finite(value) for name, value in again.items()})
    known = _tuples({**document, "confirmation": confirmation})
    return FamilyFinding(**{name: _finite(value) for name, value in known.items()})


def _reactivation_from_json(document: dict[str, Any]) -> Reactivation:
    return Reactivation(**{**_tuples(document), "comes_back": ComesBack(document["comes_back"])})


def _finite(value: Any) -> Any:
    """The value; None where a database remembers a number that is none, of a version that wrote such."""
    return finite(value) if isinstance(value, float) else value


def _tuples(document: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}
