"""A search that does not fit into memory: its block is halved as often as it must be, and the findings say so."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from app.core.config import RepairConfig, ScanConfig
from app.core.findings import Reason, RepairStatus, Verdict
from app.core.plan import blocks
from app.core.report.document import report_schema
from tests.processes import own_world
from tests.toys import QUICK, ToyNet, all_of, place_job
from worker import steps
from worker.detection.clean import CleanImages
from worker.detection.images import at_once
from worker.detection.inversion import invert_triggers
from worker.detection.repairing.base import is_too_costly
from worker.engine import trying, workbench
from worker.engine.prepare import prepare
from worker.engine.repair import repair
from worker.engine.search import invert
from worker.engine.workbench import Workbench
from worker.sandbox.events import Event

BLOCK = range(5)


@pytest.mark.parametrize("images", [50, 100, 200])
def test_a_repair_may_cost_exactly_its_budget(images: int) -> None:
    before, lost = torch.ones(images, dtype=torch.bool), images // 50
    before[0] = False
    after = before.clone()
    after[1 : 1 + lost] = False
    config = RepairConfig(max_accuracy_drop=0.02)
    assert not is_too_costly(before, after, config)
    after[1 + lost] = False
    assert is_too_costly(before, after, config)


def on_a_processor() -> None:
    torch.empty(2**60, dtype=torch.uint8)


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


class Memory:
    """Holds the search of a few labels at a time, and that of some labels not even alone."""

    def __init__(
        self, labels: int, too_large: Collection[int] = (), fail: Callable[[], object] = on_a_processor
    ) -> None:
        self.labels, self.too_large, self.fail = labels, too_large, fail
        self.tried: list[list[int]] = []

    def invert_triggers(
        self, classifier: Any, clean: Any, held_out: Any, labels: Sequence[int], *rest: Any, **how: Any
    ) -> Any:
        self.tried.append(list(labels))
        if len(labels) > self.labels or set(labels) & set(self.too_large):
            self.fail()
        return invert_triggers(classifier, clean, held_out, labels, *rest, **how)


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def bench(tmp_path: Path, events: list[Event]) -> Iterator[Workbench]:
    """A toy after its preparation, on a workbench in this process."""
    toy, bundle = ToyNet(len(BLOCK), planted=2), {"labels": len(BLOCK)}
    directory = place_job(tmp_path / "job", toy, bundle, labels_per_block=len(BLOCK), repair=True)
    with own_world():
        bench = Workbench(
            directory, directory.read_job(), lambda event, **data: events.append({"event": event, **data})
        )
        prepare(bench)
        yield bench


def report_of(bench: Workbench) -> dict[str, Any]:
    steps.decide(bench.directory)
    steps.report(bench.directory, "none")
    document = bench.directory.read_report()
    assert document is not None
    jsonschema.validate(document, report_schema())
    return document


@pytest.mark.parametrize("fail", [on_a_processor, on_a_gpu])
def test_a_block_that_does_not_fit_is_halved_until_it_does(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], object]
) -> None:
    invert(bench, BLOCK)
    whole = bench.directory.read_findings()
    for finding in whole:
        bench.directory.finding(finding.label).unlink()
    memory = Memory(labels=2, fail=fail)
    monkeypatch.setattr(workbench, "invert_triggers", memory.invert_triggers)
    invert(bench, BLOCK)
    assert memory.tried == [[0, 1, 2, 3, 4], [0, 1], [2, 3, 4], [2], [3, 4]]
    halved = bench.directory.read_findings()
    assert all(finding.halved for finding in halved) and not any(finding.halved for finding in whole)
    assert [f.families[0].norm for f in halved] == pytest.approx([f.families[0].norm for f in whole], rel=1e-3)
    report = report_of(bench)
    assert report["coverage"]["labels_in_halved_blocks"] == 5 and report["finished"]
    assert "out_of_memory" not in report["reasons"]


def test_any_other_failure_of_a_search_is_none_of_memory(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(labels=2, fail=lambda: torch.zeros(2) @ torch.zeros(3))
    monkeypatch.setattr(workbench, "invert_triggers", memory.invert_triggers)
    with pytest.raises(RuntimeError, match="size"):
        invert(bench, BLOCK)


def test_where_memory_is_short_less_is_shown_and_searched_together_and_else_nothing_changes(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least that is left in the first case is less than any machine with gigabytes has."""
    plain = bench.preparation
    assert plain.search_bytes > 0 and plain.labels_at_once is plain.images_at_once is None
    invert(bench, BLOCK)
    for number, (left, labels, images) in enumerate(
        [(2**30, None, None), (0.9 * plain.search_bytes / trying.ROOM, None, range(5, 80)), (0, 1, [1])]
    ):
        monkeypatch.setattr(trying, "memory_left", lambda left=left: left)
        root, toy = tmp_path / f"short {number}", ToyNet(len(BLOCK), planted=2)
        directory = place_job(root, toy, {"labels": len(BLOCK)}, labels_per_block=len(BLOCK), repair=True)
        short = Workbench(directory, directory.read_job(), bench.emit)
        prepare(short)
        found = directory.read_preparation()
        assert found is not None and found.labels_at_once == labels
        assert found.images_at_once in (images or [None])
        cut = blocks(BLOCK, short.job.config, found.device, found.labels_at_once)
        assert max(map(len, cut)) == (labels or len(BLOCK))
        for block in cut:
            invert(short, block)
        norms, before = ([f.families[0].norm for f in of.directory.read_findings()] for of in (short, bench))
        assert norms == (before if images is None else pytest.approx(before, rel=1e-3))
        assert all(finding.halved is (labels is not None) for finding in directory.read_findings())
        seen: list[int] = []
        short.classifier.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(len(given[0])))
        short.job = replace(short.job, config=replace(short.job.config, repair=RepairConfig(epochs=1)))
        repair(short, [2])
        assert max(seen) <= (found.images_at_once or at_once(short.images))


def test_a_label_that_does_not_fit_by_itself_is_a_reason_for_no_verdict(
    bench: Workbench, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench, "invert_triggers", Memory(labels=5, too_large={3}).invert_triggers)
    invert(bench, BLOCK)
    assert {"event": "label", "label": 3, "norm": None, "attack_success_rate": None} in events
    report = report_of(bench)
    assert report["verdict"] == Verdict.INCONCLUSIVE and report["reasons"] == [Reason.OUT_OF_MEMORY]
    assert [row["norm"] is None for row in report["labels"]] == [False, False, False, True, False]
    assert report["coverage"]["labels_out_of_memory"] == 1
    assert "Not searched for lack of memory: label 3." in report["coverage"]["not_searched"]


def test_what_did_not_fit_is_not_tried_again(
    bench: Workbench, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(labels=1, too_large=BLOCK)
    monkeypatch.setattr(workbench, "invert_triggers", memory.invert_triggers)
    invert(bench, BLOCK)
    tried, told = list(memory.tried), [event for event in events if event["event"] == "label"]
    events.clear()
    invert(bench, BLOCK)
    assert memory.tried == tried and events == told
    assert report_of(bench)["coverage"]["labels_searched"] == 0


def test_without_a_trigger_there_is_nothing_to_unlearn(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "invert_triggers", Memory(labels=0).invert_triggers)
    invert(bench, [2])
    repair(bench, [2])
    refused = bench.directory.read_repair()
    assert refused is not None and refused.status is RepairStatus.REFUSED and "memory" in refused.detail


@pytest.mark.parametrize("per_label", [20, 4], ids=["roles", "too few images for roles"])
def test_a_further_round_searches_on_what_judged_the_first_and_is_judged_by_what_that_was_searched_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_label: int
) -> None:
    seen: list[tuple[list[bytes], list[bytes]]] = []

    def look(network: Any, clean: CleanImages, held_out: CleanImages, *rest: Any) -> list[Any]:
        on, by = ([image.numpy().tobytes() for image in all_of(of.images)] for of in (clean, held_out))
        seen.append((on, by))
        return []

    directory = place_job(
        tmp_path / "job", bundle={"per_label": per_label}, config=ScanConfig(inversion=QUICK, separate_roles=True)
    )
    bench = Workbench(directory, directory.read_job(), lambda event, **data: None)
    prepare(bench)
    monkeypatch.setattr(workbench, "invert_triggers", look)
    for round in (0, 1):
        bench.search(bench.classifier, "dynamic", [2], 0, round=round)
    (first_on, first_by), (second_on, second_by) = seen
    assert (second_on, second_by) == (first_by, first_on)
    assert set(first_on).isdisjoint(first_by) == (per_label == 20)


def test_out_of_time_nothing_is_begun(bench: Workbench) -> None:
    bench.deadline = 0.0
    invert(bench, BLOCK)
    repair(bench, [2])
    assert bench.directory.read_findings() == [] and bench.directory.read_repair() is None
    report = report_of(bench)
    assert report["reasons"] == [Reason.SEARCH_TRUNCATED] and report["repair"]["status"] == RepairStatus.REFUSED
