"""Every script of the benchmarks in miniature: it runs from start to end and leaves what it promises.

The figures mean nothing here, and engines share the process of the tests where a script does not time them. What needs
servers (`benchmarks.service workers`, `benchmarks.faults`) is made of what tests/flow tests against them.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.core.config import FirstPassConfig, InversionConfig, SearchConfig
from app.core.presets import PRESETS
from benchmarks import (
    ablation,
    bundles,
    cores,
    datasets,
    detection,
    false_alarms,
    figures,
    gpu_tier,
    intake,
    learning_rates,
    many_labels,
    missing_classes,
    profiling,
    reactivation,
    readings,
    recording,
    repair,
    selection,
    service,
    shifts,
    speed,
    table1,
    tables,
    walls,
)
from benchmarks.baselines import ft_sam, nad, nft, sau, super_fine_tuning
from benchmarks.victims import train
from benchmarks.victims.recipes import RECIPES
from benchmarks.victims.roster import ROSTER, attacked, clean
from tests.flow import cli
from tests.servers import do_without
from tests.shared_process import sharing_process
from tests.toys import ToyNet, save_toy, save_toy_bundle
from worker.detection import students
from worker.engine import prepare
from worker.sandbox import fence

TINY = replace(RECIPES["digits"], epochs=8, width=0.25)
VICTIMS = (attacked(TINY, "wanet", seed=901, target=3), *clean(TINY, 902))
IMAGES = 60
pytestmark = pytest.mark.slow
IN_TURN = ("--jobs", 1)  # engines that share a process would disturb each other
SHORT = SearchConfig(steps=4, batch_size=8, success_level=0.95)
SEARCH = InversionConfig(steps=4, batch_size=8, generator_width=4)


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("victims")
    data = train.load_dataset("digits")
    for recipe in VICTIMS:
        train.train(recipe, data, folder, log=False)
    return folder


@pytest.fixture
def miniature(victims: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two small victims, presets of a few steps on 60 images, and folders that are thrown away; yields that of results.

    Scans are kept for the module, as a script finds those of another.
    """
    monkeypatch.setitem(detection.SCAN_IMAGES, "digits", IMAGES)
    for use in ROSTER:
        monkeypatch.setitem(ROSTER, use, VICTIMS)
    for name, preset in PRESETS.items():
        families = dict.fromkeys(preset.families, SHORT)
        matching = preset.repair.matching and replace(preset.repair.matching, steps=4, rounds=1)
        parts = {"repair": replace(preset.repair, epochs=1, matching=matching), "families": families}
        short = replace(preset, inversion=SEARCH, students=min(preset.students, 1), **parts)
        monkeypatch.setitem(PRESETS, name, short)
    for module in (detection, readings, repair, reactivation, false_alarms, gpu_tier, figures, missing_classes, shifts):
        monkeypatch.setattr(module, "VICTIMS", victims)
    placing = (detection, repair, false_alarms, gpu_tier, table1, figures, learning_rates, ablation, missing_classes)
    for module in placing:  # where readings places its victims, too
        monkeypatch.setattr(module, "RUNS", victims.with_name("runs"))
    monkeypatch.setattr(gpu_tier, "FOLDER", tmp_path / "gpu_tier")
    for rival in (nad, super_fine_tuning, ft_sam, sau, nft):
        monkeypatch.setattr(rival, "EPOCHS", 1)
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(recording, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(students, "STEPS", 10)
    monkeypatch.setattr(prepare, "USEFUL_AGREEMENT", 0.0)  # ten steps teach them little, and they are asked
    for name, instead in (("REPEATS", 1), ("IMPORTS", 1), ("FEW", 1)):
        monkeypatch.setattr(profiling, name, instead)
    with sharing_process():
        yield tmp_path / "results"


@pytest.fixture
def toy(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a scan that is short by itself."""
    return save_toy(tmp_path / "toy.pt", ToyNet()), save_toy_bundle(tmp_path / "toy.npz")


def run(script: Any, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
    script.main()


def result(folder: Path, case: str) -> dict[str, Any]:
    (path,) = folder.glob(f"{case}_cpu_*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_detection(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(detection, monkeypatch, "digits", *IN_TURN)
    found = result(miniature, "detection-digits-standard")
    assert [scan["attack"] for scan in found["scans"]] == ["wanet", "clean"] and found["not_trained"] == 0
    assert found["attacks"]["wanet"]["victims"] == 1 == found["clean"]
    assert {*found["scans"][0]["families"]} == {"dynamic", "static", "warp"}
    assert tables.victims().count("| digits | ") == 2


def test_figures(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning_rates, "RATES", (1e-3, 1e-2))
    run(detection, monkeypatch, "digits", *IN_TURN)  # what figure 2 shows, and figures 5 to 7
    run(learning_rates, monkeypatch, "digits", "--images", IMAGES, *IN_TURN)
    run(ablation, monkeypatch, "digits", "--seeds", 2, *IN_TURN)
    monkeypatch.setattr(false_alarms, "WORKS", 0.0)
    run(false_alarms, monkeypatch, *IN_TURN)
    for name, instead in (("TITLES", {"digits": "digits"}), ("ONE", "digits"), ("FIGURES", miniature / "figures")):
        monkeypatch.setattr(figures, name, instead)
    monkeypatch.setattr(figures, "REPOSITORY", miniature)
    run(figures, monkeypatch)
    sizes = {path.name: Image.open(path).size for path in (miniature / "figures").iterdir()}
    assert {*sizes} == {f"figure-{number}.png" for number in range(2, 8)}
    assert all(width > 200 and height > 200 for width, height in sizes.values())


def test_repair_and_reactivation(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(repair, monkeypatch, "digits", *IN_TURN)
    repairs = result(miniature, f"repair-digits-{IMAGES}")["repairs"]
    assert {row["method"] for row in repairs} == {*repair.METHODS}
    assert all(0 <= row["after"][figure] <= 1 for row in repairs for figure in ("true_asr", "accuracy"))
    monkeypatch.setattr(reactivation, "POISONED", (0, 5))
    run(reactivation, monkeypatch, "digits")
    nets = result(miniature, f"reactivation-digits-{IMAGES}")["nets"]
    assert {"fine_tune_strong", "clean net"} <= {row["method"] for row in nets}
    assert all(len(row["after"]) == 2 and 0 <= row["with_noise"] <= 1 for row in nets)
    assert len({row["line"][-1] for row in nets}) == 1, "every way back ends at the victim"
    assert "| clean net | 1 |" in tables.reactivation()


def test_false_alarms(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(false_alarms, "WORKS", 0.0)  # eight epochs teach no WaNet
    run(false_alarms, monkeypatch, *IN_TURN)
    for preset in ("standard", "paper"):
        found = result(miniature, f"false_alarms-{preset}")
        assert (found["cells"], found["clean"], found["attacked"], found["not_trained"]) == (1, 1, 1, 0)
        assert all(0 <= at["named"]["low"] <= at["named"]["high"] <= 1 for at in found["curve"])
    thresholds = sum(map(len, false_alarms.THRESHOLDS.values()))
    assert tables.false_alarms().count("of 1 (") == 2 * thresholds and tables.false_alarms().count("of 2 (") == 2


def test_missing_classes(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(missing_classes, monkeypatch, "--passes", 1, *IN_TURN)
    found = result(miniature, "missing_classes-digits-standard")
    assert [(scan["target"], scan["without"]) for scan in found["scans"]] == [(3, 0), (None, 1)]
    assert all(found[what]["n"] == 1 for what in missing_classes.ASKED) and found["named_where_missing"]["n"] == 0


def test_many_labels(miniature: Path, victims: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten labels all are searched in full, of 24 some."""
    for name, instead in (("GLYPH_IMAGES", 960), ("FEWEST_GLYPHS", 40), ("TEST_GLYPHS", 2)):
        monkeypatch.setattr(datasets, name, instead)
    for name, instead in (
        ("VICTIMS", victims),
        ("RUNS", victims.with_name("runs")),
        ("RECIPE", replace(many_labels.RECIPE, epochs=12, width=0.5)),
        ("FEWEST_IMAGES", 120),
        ("ACCURATE", 0.0),
        ("WORKS", 0.0),
    ):
        monkeypatch.setattr(many_labels, name, instead)
    coarse = FirstPassConfig(lowest=1, controls=5, steps=1, images=4)
    monkeypatch.setitem(PRESETS, "standard", replace(PRESETS["standard"], first_pass=coarse, students=0))
    run(many_labels, monkeypatch, "--labels", 10, 24, "--attacks", "badnets", "--seeds", 1)
    few, many = result(miniature, "many_labels")["sizes"]
    assert (few["labels"], few["poisoned"], few["clean"], few["target_searched"]) == (10, 1, 0, 1)
    assert (many["labels"], many["nets"]) == (24, 1) and many["times_ten_labels"] > 0 < many["room_bytes"]
    found = result(miniature, "many_labels")["rows"]
    assert found[0]["searched"] == 10 and 5 <= found[1]["searched"] <= 8


def test_selection(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(selection, monkeypatch, "--labels", 25, "--correlations", 0.8, "--models", 3)
    rows = result(miniature, "selection")["rows"]
    assert [row["effect"] for row in rows] == list(selection.EFFECTS)
    assert all(0 <= row[share] <= 1 for row in rows for share in ("accused", "kept", "alone"))


def test_table1(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table1, "MOST_BATCHES", {"digits": 31})
    run(table1, monkeypatch, "digits", "--seeds", 1, *IN_TURN)
    found = result(miniature, "table1-digits")["methods"]
    assert [*found] == [*table1.METHODS]
    assert all((of["victims"], of["runs"], sum(of["cases"]), of["clean_runs"]) == (1, 1, 1, 1) for of in found.values())
    assert all(f"| digits | {tables.METHODS[method]} |" in tables.table1() for method in found)


def test_bundles(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "PER_CLASS", (6,))
    run(bundles, monkeypatch, "digits", *IN_TURN)
    found = {of["condition"]: of for of in result(miniature, "bundles-digits")["conditions"]}
    assert [*found] == ["6 images a class", "no labels", "wrong normalisation"]
    assert all((of["victims"], of["clean"]) == (1, 1) for of in found.values())
    assert all(f"| digits | {condition} |" in tables.bundles() for condition in found)


def test_a_run_is_one_of_the_papers_four_cases() -> None:
    assert [table1.case_of(3, flagged) for flagged in ([3], [1, 3], [1], [])] == [1, 2, 3, 4]


def test_gpu_tier(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tier, "THREADS", 1)
    run(gpu_tier, monkeypatch, "digits", "--device", "cpu", "--repeats", 1)
    found = result(miniature, "gpu_tier-digits")
    attacked, clean = found["nets"]
    assert attacked["scans"][0]["seconds"] > 0 and all(part["flops"] >= 0 for part in found["profile"]["parts"])
    assert 0 <= attacked["repair"]["before"]["true_asr"] <= 1 and "repair" not in clean
    assert all(f"| {net['net']} | CPU |" in tables.gpu_tier() for net in (attacked, clean))
    assert (gpu_tier.FOLDER / "digits-wanet-t3-s901-standard-60" / "scan-0-files" / "report.html").exists()


def test_speed(miniature: Path, toy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = speed.command

    def shortened(method: str, *options: Any) -> Sequence[str | Path]:
        program, *arguments = map(str, whole(method, *options))
        if method == "neural_cleanse":
            return [program, *arguments, "--most-batches", "31"]
        return cli.command(arguments, SEARCH)

    monkeypatch.setattr(speed, "command", shortened)
    run(speed, monkeypatch, *toy, "--repeats", 1, "--threads", 1)
    methods = result(miniature, "speed-mnist")["methods"]
    assert [*methods] == [*speed.METHODS]
    for method in methods.values():
        assert 50 < method["peak_mb"] < 4000 and method["cpu_seconds"] > 0.5 and method["seconds"] > 0.5


def test_cores(miniature: Path, toy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cores.command

    def shortened(*arguments: Any, **options: Any) -> Sequence[str | Path]:
        _, *rest = map(str, whole(*arguments, **options))
        return cli.command(rest, SEARCH)

    monkeypatch.setattr(cores, "command", shortened)
    monkeypatch.setattr(cores, "ways", lambda: [("one lane", 1, 0), ("two lanes", 2, 0), ("beside another", 2, 1)])
    run(cores, monkeypatch, *toy, "--repeats", 1)
    found = result(miniature, "cores")
    assert found["of_one_lane"] > 0 and len(found["beside_others"]) == 1


def test_readings(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "CONFIG", replace(readings.CONFIG, inversion=SEARCH))
    monkeypatch.setattr(readings, "SETTINGS", {"equal weight": SEARCH})
    run(readings, monkeypatch, "digits")
    rows = result(miniature, "readings-digits")["rows"]
    assert [row["attack"] for row in rows] == ["wanet", "clean"]
    assert all(len(of) == 10 for row in rows for of in row["readings"].values())


def test_shifts(miniature: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shifts, "MOST_COMPARED", 20)
    run(shifts, monkeypatch, *(recipe.name for recipe in VICTIMS))
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].count("|") == len(VICTIMS) + 2 and rows[2].startswith(f"| its own, {shifts.FEW} of them | 0.")
    assert len(rows) == 2 + 2 + len(shifts.CHANGES)


def test_profiling(
    miniature: Path, toy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(profiling, monkeypatch, *toy)
    said = capsys.readouterr().out
    assert "static, students" in said and "warp, suspect" in said


def test_intake(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "archive", lambda name: service.MODEL)
    run(intake, monkeypatch, "gate")
    assert result(miniature, "intake-gate")["peak_mb"] < 256
    monkeypatch.setattr(intake, "CHECKED_IMAGES", 20)
    monkeypatch.setattr(intake, "SIDE", 35)
    run(intake, monkeypatch, "check")
    assert result(miniature, "intake-check")["accuracy"] == 1.0


def test_service(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(service, monkeypatch, "start", "--repeats", 1)
    run(service, monkeypatch, "upload", "--megabytes", 20)
    assert not result(miniature, "service-start")["loaded_torch"]
    assert result(miniature, "service-upload")["megabytes"] == 20


def test_walls(miniature: Path, toy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    if (lack := fence.lacking()) is not None:
        do_without(f"bubblewrap ({lack.found})", lack.advice)
    monkeypatch.setattr(walls, "archive", lambda name: service.MODEL)
    for name, path in zip(("MODEL", "BUNDLE"), toy, strict=True):
        monkeypatch.setattr(walls, name, path)
    monkeypatch.setattr(walls, "STEPS", 3)
    run(walls, monkeypatch, "start", "--repeats", 1)
    run(walls, monkeypatch, "scan", "--repeats", 1)
    assert result(miniature, "walls-start")["gate_seconds"] > 0
    scans = result(miniature, "walls-scan")
    assert scans["computing_ratio"] > 0 and [*scans["runs"]] == ["bwrap", "none"]
