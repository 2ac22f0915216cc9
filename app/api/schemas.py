"""What goes over the wire, with examples. Names and values are the service's own; nothing here reads the database."""

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)

from app.actions import ScanRequest
from app.core.config import ScanConfig
from app.core.findings import ComesBack, RepairStatus, Spared, Unrepaired, Verdict
from app.core.intake.declaration import DeclaredInput, declared_classes, declared_input
from app.core.lifecycle import ScanStatus
from app.core.plan import JobKind
from app.core.presets import DEFAULT_PRESET, PRESETS, preset_config
from app.core.report.card import BESIDE_A_REFERENCE
from app.core.text import printable

MODEL_SHA256 = "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"
BUNDLE_SHA256 = "7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730"
SCAN_ID = "019a8c2f4e10d3c1a0b5e7f92461853c"
LABEL = {
    "label": 7,
    "name": "7",
    "norm": 0.0181,
    "attack_success_rate": 0.99,
    "anomaly_index": 5.2,
    "flagged": True,
    "spared": None,
}
SUMMARY = {
    "flagged_labels": [7],
    "model_anomaly_index": 5.2,
    "reasons": [],
    "caveats": ["unconfirmed", "unsandboxed"],
    "repair_status": "repaired",
    "repair_reason": None,
    "repair_detail": "The inverted trigger no longer works.",
    "comes_back": "hardly",
    "coming_back": BESIDE_A_REFERENCE[ComesBack.HARDLY],
}
SCAN = {
    "id": SCAN_ID,
    "status": "finished",
    "stage": "report",
    "labels_total": 10,
    "verdict": "backdoored",
    "summary": SUMMARY,
    "check": False,
    "problem": None,
    "cancel_requested": False,
    "model": MODEL_SHA256,
    "bundle": BUNDLE_SHA256,
    "model_name": "digits.pt",
    "bundle_name": "digits.zip",
    "preset": "standard",
    "seed": 0,
    "repair": True,
    "engine_version": "9f3c1b7a52e04d68",
    "created_at": "2026-11-23T05:00:00.000Z",
    "started_at": "2026-11-23T05:00:00.120Z",
    "finished_at": "2026-11-23T05:01:12.480Z",
    "links": {"self": f"/v1/scans/{SCAN_ID}", "report": f"/v1/scans/{SCAN_ID}/report"},
}
SCAN_STATE = SCAN | {
    "progress": 1.0,
    "understood": None,
    "labels_done": 10,
    "labels": [LABEL],
    "queue_position": None,
    "waiting_for": None,
    "doing": None,
    "eta_seconds": None,
}

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", examples=[MODEL_SHA256])]
FileName = Annotated[str, BeforeValidator(lambda name: printable(name, 255) if isinstance(name, str) else name)]
Input = Annotated[
    DeclaredInput,
    PlainValidator(lambda entry: DeclaredInput() if entry is None else declared_input(entry)),
    WithJsonSchema(TypeAdapter(DeclaredInput).json_schema()),
]
OutputName = Annotated[str, Field(min_length=1, max_length=255, examples=["logits"])]
Classes = Annotated[
    dict[str, int],
    PlainValidator(declared_classes),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "array"}]}),
]
Weight = Annotated[float, Field(ge=0, le=1000)]
LearningRate = Annotated[float, Field(gt=0, le=10)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]


def _example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


class ProblemDocument(BaseModel):
    """Why a request was not done: RFC 9457, with a stable `code` and advice."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; listed in docs/problems.md")
    advice: str = Field(description="What to do about it")
    retryable: bool = Field(description="Whether the same request may succeed later; then there is a Retry-After")
    request_id: str = Field(description="Under this id the service's log has more")


class StoredArtifact(BaseModel):
    """A file that the service keeps."""

    model_config = _example({"sha256": MODEL_SHA256, "kind": "model", "size": 44_812_345})

    sha256: str
    kind: Literal["model", "bundle", "weights"]
    size: int = Field(description="Bytes")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class InversionOverrides(_Strict):
    """What to change in the preset's search; what is left out stays."""

    lambda_attack: Weight | None = None
    lambda_mse: Weight | None = None
    lambda_perceptual: Weight | None = None
    learning_rate: LearningRate | None = None
    identity_start: Literal["trained", "residual"] | None = None
    pretrain_epochs: Annotated[int, Field(ge=0, le=1000)] | None = None
    steps: Annotated[int, Field(ge=1, le=100_000)] | None = None
    batch_size: BatchSize | None = None
    success_level: Fraction | None = None
    generator_width: Annotated[int, Field(ge=1, le=256)] | None = None
    generator_levels: Annotated[int, Field(ge=1, le=6)] | None = None


class RepairOverrides(_Strict):
    """What to change in the preset's repair; what is left out stays."""

    learning_rate: LearningRate | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    batch_size: BatchSize | None = None
    twins: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_accuracy_drop: Fraction | None = None


PAPERS_REPAIR = {"learning_rate", "epochs", "twins"}  # what matching scores does not look at


class ConfigOverrides(_Strict):
    """Parts of the config (see `config` in a report) that differ from the preset."""

    inversion: InversionOverrides = InversionOverrides()
    labels_per_block: Annotated[int, Field(ge=1, le=1000)] | None = None
    repair: RepairOverrides = RepairOverrides()

    def applied_to(self, config: ScanConfig) -> ScanConfig:
        return replace(
            config,
            labels_per_block=self.labels_per_block or config.labels_per_block,
            inversion=replace(config.inversion, **self.inversion.model_dump(exclude_none=True)),
            repair=replace(config.repair, **self.repair.model_dump(exclude_none=True)),
        )


class NewScan(_Strict):
    """What to scan, by the hashes of what was uploaded, and how."""

    model_config = _example(
        {
            "model": MODEL_SHA256,
            "bundle": BUNDLE_SHA256,
            "model_name": "digits.pt",
            "bundle_name": "digits.zip",
            "input": {"height": 28, "width": 28, "mean": [0.5], "std": [0.5], "range": [0, 1]},
            "repair": True,
        }
    )

    model: Sha256
    bundle: Sha256
    model_name: FileName = Field("model.pt", min_length=1, description="What the report calls the model")
    bundle_name: FileName = Field("bundle", min_length=1, description="What the report calls the bundle")
    preset: str = Field(DEFAULT_PRESET, examples=sorted(PRESETS))
    input: Input = Field(DeclaredInput(), description="What the model expects; goes before what the bundle declares")
    output: OutputName | None = Field(None, description="Which output to scan, of a model that has several")
    classes: Classes | None = Field(
        None,
        description="Index of each class by the names that the bundle uses, or a list of names in the order of the "
        "outputs; goes before what the bundle declares",
        examples=[{"cat": 0, "dog": 1}],
    )
    seed: int = Field(0, ge=0, lt=2**63)
    config: ConfigOverrides = ConfigOverrides()
    repair: bool = Field(False, description="Whether to unlearn the triggers of flagged labels")
    max_accuracy_drop: Fraction | None = Field(None, description="A repair that costs more is refused")
    force: bool = Field(False, description="Scan again even if an equal scan has finished")
    check: bool = Field(False, description="Only say what a scan would take for true: ends in seconds, with no verdict")

    @model_validator(mode="after")
    def _preset_exists(self) -> Self:
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(sorted(PRESETS))}")
        return self

    @model_validator(mode="after")
    def _repair_is_the_papers(self) -> Self:
        given = PAPERS_REPAIR & self.config.repair.model_dump(exclude_none=True).keys()
        if given and PRESETS[self.preset].repair.matching is not None:
            named = ", ".join(f"config.repair.{name}" for name in sorted(given))
            raise ValueError(f"{named}: the preset {self.preset} repairs in another way, leave it out")
        return self

    @model_validator(mode="after")
    def _triggers_can_be_weakened(self) -> Self:
        inversion = self.config.applied_to(preset_config(self.preset)).inversion
        if inversion.identity_start == "trained" and inversion.success_level is not None:
            raise ValueError(
                "identity_start must be residual where norms are read at a success_level: another generator cannot be "
                "weakened until it has just that success. The preset paper has no success_level."
            )
        return self

    def request(self) -> ScanRequest:
        """The same in the words of `app.actions`."""
        config = self.config.applied_to(preset_config(self.preset, self.seed))
        if self.max_accuracy_drop is not None:
            config = replace(config, repair=replace(config.repair, max_accuracy_drop=self.max_accuracy_drop))
        return ScanRequest(
            model_sha256=self.model,
            bundle_sha256=self.bundle,
            config=config,
            input=self.input,
            repair=self.repair,
            force=self.force,
            output=self.output,
            check=self.check,
            model_name=self.model_name,
            bundle_name=self.bundle_name,
            classes=self.classes,
        )


class LabelResult(BaseModel):
    """What was found for one label so far; `anomaly_index` and `p_value` come with the verdict."""

    label: int
    name: str
    family: str | None
    norm: float | None
    attack_success_rate: float | None
    anomaly_index: float | None
    p_value: float | None
    flagged: bool
    spared: Spared | None = Field(description="Why a label that stood out is not flagged")


class ScanSummary(BaseModel):
    """What a finished scan found, in short."""

    flagged_labels: list[int]
    model_anomaly_index: float | None
    reasons: list[str]
    caveats: list[str]
    repair_status: RepairStatus | None
    repair_reason: Unrepaired | None = Field(None, description="Why it was refused; see docs/repair.md")
    repair_detail: str | None = Field(None, description="What a repair claims, or why it was refused")
    comes_back: ComesBack | None = Field(None, description="How soon the unlearned trigger does; see docs/repair.md")
    coming_back: str | None = Field(None, description="The same as a sentence")


class FactRow(BaseModel):
    """Something that a scan takes for true about its inputs, in words."""

    name: str
    words: str


class Understood(BaseModel):
    """What a scan took for true about its inputs."""

    ready: bool = Field(description="Whether nothing is in doubt")
    facts: list[FactRow]
    doubts: list[str] = Field(description="What does not fit together, as sentences, each with a way out")
    inputs: dict[str, Any] = Field(description="The same as values: `inputs` of a report")
    document: dict[str, Any] | None = Field(
        None, description="Of a check: all of it, as `triggerlens check --json` prints it"
    )


class ScanItem(BaseModel):
    """A scan as a list shows it."""

    model_config = _example(SCAN)

    id: str
    status: ScanStatus
    stage: JobKind | None = Field(description="The newest kind of work that was begun")
    labels_total: int | None = Field(description="To be searched in full: all or, of many labels, some")
    verdict: Verdict | None
    summary: ScanSummary | None
    check: bool = Field(description="Whether it was to say what a scan would take for true, and no more")
    problem: dict[str, Any] | None = Field(
        description="Why a failed scan failed: code, detail, advice; by the gate: rule, member, line"
    )
    cancel_requested: bool
    model: str
    bundle: str
    model_name: str
    bundle_name: str
    preset: str
    seed: int
    repair: bool
    engine_version: str = Field(
        description="Names the code, weights and packages that computed it; an equal request is answered by equals only"
    )
    created_at: str
    started_at: str | None
    finished_at: str | None
    links: dict[str, str]


class ScanState(ScanItem):
    """A scan with how far it is and what it waits for."""

    model_config = _example(SCAN_STATE)

    progress: float = Field(ge=0, le=1)
    understood: Understood | None = Field(description="Of a check or a scan that has finished")
    labels_done: int
    labels: list[LabelResult]
    queue_position: int | None = Field(description="How many scans are served before a queued one")
    waiting_for: Literal["worker", "broker", "earlier_scans"] | None
    doing: str | None = Field(description="What it is at, in words; null while nobody says so")
    eta_seconds: float | None = Field(
        description="How long it still takes, at the pace so far; null before one is known"
    )


class ScanPage(BaseModel):
    """Scans, newest first."""

    model_config = _example({"items": [SCAN], "next_cursor": "MDE5YThjMmY0ZTEw"})

    items: list[ScanItem]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null on the last one")


class Health(BaseModel):
    model_config = _example({"status": "ok", "version": "0.1.0"})

    status: Literal["ok"]
    version: str


class Part(BaseModel):
    """One part of the service; without `ok`, figures for people to judge."""

    ok: bool
    detail: str


class Readiness(BaseModel):
    model_config = _example(
        {
            "status": "ready",
            "parts": {
                "database": {"ok": True, "detail": "reachable"},
                "migrations": {"ok": True, "detail": "current"},
                "storage": {"ok": True, "detail": "works"},
            },
            "workers_alive": 1,
            "broker_reachable": None,
            "oldest_ready_seconds": 0.0,
        }
    )

    status: Literal["ready"]
    parts: dict[str, Part]
    workers_alive: int
    broker_reachable: bool | None = Field(description="Null where there is no broker")
    oldest_ready_seconds: float = Field(description="How long the job has waited that has waited for longest")
