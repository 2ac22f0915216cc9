"""Findings to report on: a handful written by hand, and the many that hypothesis draws."""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from app.core.findings import (
    Caveat,
    ClassAccuracy,
    ComesBack,
    Confirmation,
    Decision,
    FamilyFinding,
    InputSpec,
    LabelFinding,
    Likeness,
    Preparation,
    Probe,
    ProbeFinding,
    Reactivation,
    Reason,
    RepairReport,
    RepairStatus,
    Shift,
    TensorChange,
    UnlearnedTrigger,
    Unrepaired,
    Verdict,
)
from app.core.intake.torchscript.gate import understand
from app.core.presets import PRESETS
from app.core.report.document import report_document
from app.core.report.figures import png_bytes, trigger_strip
from app.core.report.inspection import structure_document

CONFIG = PRESETS["paper"]
INPUTS = {
    "model": {"name": "resnet18.pt", "bytes": 44_731_204, "sha256": "3f" * 32},
    "bundle": {"name": "clean.zip", "bytes": 1_204_551, "sha256": "b0" * 32},
}
TIMINGS = {"prepare_seconds": 41.2, "invert_seconds": 388.4}
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLEAN_NORMS = (0.0612, 0.0705, 0.0553, 0.0488, 0.0585, 0.0521, 0.0637, 0.0598, 0.0721, 0.0669)
TARGET_NORMS = (*CLEAN_NORMS[:7], 0.0050, *CLEAN_NORMS[8:])
REPAIR = RepairReport(
    RepairStatus.REPAIRED,
    "10 epochs.",
    labels=(7,),
    clean_accuracy_before=0.934,
    clean_accuracy_after=0.928,
    attack_success_rate_before=0.995,
    attack_success_rate_after=0.012,
    accuracy_drop_bound=0.015,
    reinversion_p_value=0.8,
    learning_rate=0.01,
    rounds=2,
    judged_on="accept images",
    judged_images=200,
    classes=(ClassAccuracy(3, 20, 0.95, 0.9, 0.17), ClassAccuracy(7, 20, 1.0, 1.0, 0.08)),
    triggers=(UnlearnedTrigger(7, "dynamic", 0.995, 0.012, 0.005, 0.0001, 0.0654, 0.81, 0.96),),
    comes_back=ComesBack.PARTLY,
    reactivations=(
        Reactivation(7, "dynamic", ComesBack.PARTLY, 5, 400, 0.31, 0.042, 0.921, 0.05, 0.22, 0.17, (0.012, 0.4, 0.995)),
    ),
    tensors=62,
    tensors_changed=41,
    largest_changes=(TensorChange("layer4.1.bn2.bias", None), TensorChange("fc.weight", 0.0312)),
    suspect_sha256="3f" * 32,
    data_sha256="b0" * 32,
    seed=3,
    not_shown=("What nobody looked at.",),
    files={"a.pt": "9c" * 32},
)
PREPARATION = Preparation(
    num_labels=10,
    label_names=NAMES,
    form="traced",
    output="logits",
    input=InputSpec(32, 32, 3, (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    input_source="inferred",
    close_conventions=("cifar10", "imagenet"),
    clean_accuracy=0.934,
    images=500,
    images_per_label=(50,) * 10,
    perceptual="packaged",
    perceptual_sha256="77" * 32,
    device="cpu",
    threads=2,
    versions={"triggerlens": "0.1.0", "numpy": "2.4.6"},
    caveats=(Caveat.UNSANDBOXED,),
    probes=(
        ProbeFinding(Probe.BATCH_SIZE, 0.00002, 0, False),
        ProbeFinding(Probe.NEIGHBOURS, 0.0, 0, False),
        ProbeFinding(Probe.MEMORY_LAYOUT, None, 0, False),
    ),
)
WATCHING = replace(
    PREPARATION,
    reasons=(Reason.ENVIRONMENT_SENSITIVE_MODEL,),
    probes=(ProbeFinding(Probe.BATCH_SIZE, 3.21, 5, True), *PREPARATION.probes[1:]),
)


def label_findings(norms: tuple[float, ...], names: tuple[str, ...] = NAMES) -> tuple[LabelFinding, ...]:
    median = statistics.median(norms)
    spread = 1.4826 * statistics.median(abs(norm - median) for norm in norms)
    indices = [max(0.0, (median - norm) / spread) for norm in norms]
    return tuple(
        LabelFinding(
            label, names[label], (FamilyFinding("dynamic", norm, 0.97, 0.2, 200, False, index, flagged=index > 2),)
        )
        for label, (norm, index) in enumerate(zip(norms, indices, strict=True))
    )


CLEAN = Decision(Verdict.NO_BACKDOOR_FOUND, label_findings(CLEAN_NORMS), 1.4)
BACKDOORED = Decision(Verdict.BACKDOORED, label_findings(TARGET_NORMS), 4.6, caveats=(Caveat.UNCONFIRMED,))
PARTIAL = Decision(Verdict.INCONCLUSIVE, CLEAN.labels[:4], None, (Reason.SEARCH_TRUNCATED,))
TOO_LARGE = Decision(
    Verdict.INCONCLUSIVE,
    (
        *(replace(f, families=(replace(f.families[0], halved=True),)) for f in CLEAN.labels[:4]),
        LabelFinding(4, NAMES[4], ()),
        *CLEAN.labels[5:],
    ),
    1.4,
    (Reason.OUT_OF_MEMORY,),
)
EXAMPLE = Path(__file__).parents[3] / "examples" / "digits_wanet.pt"
STRUCTURE = structure_document(understand(EXAMPLE, EXAMPLE.stat().st_size))
STOPPED = {
    "problem": {
        "code": "unsupported_operator",
        "detail": "The operator aten::fft_rfft2 is not on the allowlist.",
        "advice": "Export the model without it.",
        "rule": "operator-unknown",
        "member": "code/__torch__.py",
        "line": 12,
    }
}
NOTHING_SEARCHED = Decision(Verdict.INCONCLUSIVE, (), None, (Reason.NO_INPUT_GRADIENT,))


def document(
    decision: Decision, preparation: Preparation = PREPARATION, repair: RepairReport | None = None
) -> dict[str, Any]:
    return report_document(STRUCTURE, preparation, decision, repair, INPUTS, CONFIG, TIMINGS)


def document_of_a_model_that_was_not_loaded() -> dict[str, Any]:
    reason = Reason.UNSUPPORTED_OPERATOR
    decision = Decision(Verdict.INCONCLUSIVE, (), None, (reason,))
    return report_document(STOPPED, Preparation.not_loaded(reason), decision, None, INPUTS, CONFIG, TIMINGS)


def strip_png(size: int = 32, channels: int = 3) -> bytes:
    rng = np.random.default_rng(0)
    clean = rng.random((8, size, size, channels))
    return png_bytes(trigger_strip(clean, np.clip(clean + 0.01, 0, 1)))


FAMILIES = [("dynamic",), ("dynamic", "static")]
rates = st.floats(0, 1)
chances = st.floats(0, 1, exclude_min=True)  # a p-value is never zero
norms = st.floats(0, 1) | st.none()
numbers = st.floats(allow_nan=False, allow_infinity=False)
confirmations = st.none() | st.builds(Confirmation, norms, rates, st.booleans(), st.none() | chances)
probe_findings = st.builds(
    ProbeFinding, st.sampled_from(Probe), st.none() | st.floats(0, 10), st.integers(0, 8), st.booleans()
)
shifts = st.builds(Shift, st.sampled_from(Likeness), norms, st.integers(0, 60), st.integers(1, 50), st.none() | rates)
any_text = st.text(st.characters(), max_size=40)  # surrogates, control and direction characters included


@st.composite
def decisions(draw: st.DrawFn, num_labels: int) -> Decision:
    """What a scan can decide, searched labels in any number, verdict and flags in accord with each other."""
    verdict = draw(st.sampled_from(Verdict))
    searched = draw(st.sets(st.integers(0, num_labels - 1)))
    targets = set(draw(st.sets(st.integers(0, num_labels - 1), min_size=1)))
    flagged = set() if verdict is Verdict.NO_BACKDOOR_FOUND else targets
    searched |= flagged
    findings = []
    for label in sorted(searched):
        families = [
            FamilyFinding(
                family,
                norm=draw(norms),
                attack_success_rate=draw(rates),
                loss=draw(st.none() | numbers),
                steps=draw(st.integers(0, 1000)),
                truncated=draw(st.booleans()),
                anomaly_index=draw(st.none() | st.floats(min_value=0, allow_infinity=False)),
                p_value=draw(st.none() | chances),
                flagged=label in flagged,
                halved=draw(st.booleans()),
                reference_norms=(draw(norms),),
                read_alone=draw(st.booleans()),
                student_success_rate=draw(st.none() | rates),
                natural=draw(st.booleans()),
                in_doubt=label not in flagged and draw(st.booleans()),
                unconfirmed=(again := draw(confirmations)) is not None and draw(st.booleans()),
                confirmation=again,
            )
            for family in draw(st.sampled_from(FAMILIES if label in flagged else [(), *FAMILIES]))
        ]
        findings.append(LabelFinding(label, str(label), tuple(families)))
    reasons = draw(st.sets(st.sampled_from(Reason), min_size=1)) if verdict is Verdict.INCONCLUSIVE else set()
    caveats = draw(st.sets(st.sampled_from(Caveat)))
    index = draw(st.none() | st.floats())
    return Decision(verdict, tuple(findings), index, tuple(reasons), tuple(caveats))


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    num_labels = draw(st.integers(1, 8))
    preparation = replace(
        PREPARATION,
        num_labels=num_labels,
        label_names=tuple(draw(any_text) for _ in range(num_labels)),
        images_per_label=tuple(draw(st.integers(0, 20)) for _ in range(num_labels)),
        clean_accuracy=draw(st.none() | rates),
        shift=draw(st.none() | shifts),
        caveats=tuple(draw(st.sets(st.sampled_from(Caveat)))),
        probes=tuple(draw(st.lists(probe_findings, max_size=3))),
    )
    repair = draw(
        st.sampled_from(
            [None, REPAIR, RepairReport(RepairStatus.REFUSED, "It cost too much.", (), Unrepaired.TOO_COSTLY)]
        )
    )
    inputs = {kind: {**INPUTS[kind], "name": draw(any_text)} for kind in INPUTS}
    timings = {"invert_seconds": draw(st.floats())}
    structure = draw(st.sampled_from([STRUCTURE, STOPPED]))
    config = draw(st.sampled_from([CONFIG, PRESETS["standard"]]))
    return report_document(structure, preparation, draw(decisions(num_labels)), repair, inputs, config, timings)
