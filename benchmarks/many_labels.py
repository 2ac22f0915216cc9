"""Ten, two hundred, a thousand labels: `python -m benchmarks.many_labels [--labels 10 200] [--seeds 1 2]`

Trains small nets on as many glyphs of a font (benchmarks/glyphs.py), poisoned by a patch or a warp and clean ones, and
scans each by `standard` on one thread with so many clean images of each class. Of every scan: whether the target alone
was named, whether it was among the labels that were searched in full, how long it took and how much room it needed. Of
each number of labels: the same over all its nets, and the time as a multiple of what ten labels take.

Finished nets and scans are kept in `runs/`, so a run that is stopped goes on where it was.
"""

import argparse
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.core.presets import preset_config
from app.local_scan import job_for, run_scan
from benchmarks.computing import set_up_torch
from benchmarks.datasets import load_dataset
from benchmarks.detection import RUNS, THREADS, Case, place
from benchmarks.recording import kept, write_result
from benchmarks.victims.recipes import Recipe
from benchmarks.victims.roster import attacked
from benchmarks.victims.train import VICTIMS, load_victim
from worker.sandbox.events import Event

LABELS = (10, 200, 1000)
ATTACKS = ("badnets", "wanet", "clean")
SEEDS = (1, 2, 3, 4, 5)
PRESET = "standard"
RECIPE = Recipe("glyphs-10", seed=0, epochs=12, batch=64, shift=1)
FEWEST_IMAGES, IMAGES_OF_EACH = 600, 5
ACCURATE, WORKS = 0.9, 0.8  # a net of less has not learned its task, and an attack of less is none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", nargs="+", type=int, default=LABELS)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=ATTACKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    arguments = parser.parse_args()
    set_up_torch()
    for folder in (VICTIMS, RUNS):
        folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for labels in arguments.labels:
        for attack in arguments.attacks:
            for seed in arguments.seeds:
                rows.append(row_of(labels, recipe_of(labels, attack, seed)))
                show(rows[-1])
    result = {"preset": PRESET, "threads": THREADS, "sizes": summary(rows), "rows": rows}
    for size in result["sizes"]:
        print(size)
    write_result("many_labels", result)


def recipe_of(labels: int, attack: str, seed: int) -> Recipe:
    recipe = replace(RECIPE, dataset=f"glyphs-{labels}", seed=seed)
    return recipe if attack == "clean" else attacked(recipe, attack, seed, target=77 * seed % labels)


def row_of(labels: int, recipe: Recipe) -> dict[str, Any]:
    """What a scan of one net said, or says now."""
    case = Case(recipe, PRESET, max(FEWEST_IMAGES, IMAGES_OF_EACH * labels))
    return kept(RUNS / f"{case.name}-many.json", lambda: _scanned(labels, case), preset_config(PRESET))


def _scanned(labels: int, case: Case) -> dict[str, Any]:
    data = load_dataset(case.recipe.dataset)
    victim = load_victim(case.recipe, data, VICTIMS)
    model, bundle = place(case, victim, data)
    job = job_for(model, bundle, config=preset_config(PRESET), input=case.declared, device="cpu", threads=THREADS)
    out, room = RUNS / f"{case.name}-many", list[int]()
    shutil.rmtree(out, ignore_errors=True)  # what a stopped run left would not be timed
    began = time.monotonic()
    document = run_scan(job, model, bundle, out, on_event=_before_the_report(lambda: room.append(_bytes(out)))).document
    seconds = time.monotonic() - began
    assert document is not None, "there was no time limit"
    target, rows = case.recipe.target, document["labels"]
    return {
        "case": case.name,
        "labels": labels,
        "attack": case.attack,
        "target": target,
        "accuracy": victim.accuracy,
        "attack_success_rate": victim.attack_success_rate,
        "verdict": document["verdict"],
        "reasons": document["reasons"],
        "flagged": document["flagged_labels"],
        "searched": document["coverage"]["labels_searched"],
        "target_searched": None if target is None else rows[target]["searched"] == "in_full",
        "least_p_value": min((row["p_value"] for row in rows if row["p_value"] is not None), default=None),
        "students_agreement": document["coverage"]["students_agreement"],
        "seconds": seconds,
        "stages": document["timings"],
        "room_bytes": max(room),
        "report_bytes": _bytes(out / "report.html") + _bytes(out / "report.json"),
        "memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,  # of the largest so far
    }


def _before_the_report(look: Callable[[], object]) -> Callable[[Event], None]:
    """A listener that looks at the folder of a scan when all is there and nothing was cleared away."""

    def hear(event: Event) -> None:
        if event["event"] == "stage" and event["stage"] == "report":
            look()

    return hear


def _bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in (place, *place.rglob("*")) if path.is_file())


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each number of labels, over the nets that learned what they were to; times as multiples of those of ten."""
    sizes = []
    for labels in sorted({row["labels"] for row in rows}):
        of = [row for row in rows if row["labels"] == labels and row["accuracy"] >= ACCURATE]
        poisoned = [row for row in of if row["target"] is not None and row["attack_success_rate"] >= WORKS]
        clean = [row for row in of if row["target"] is None]
        seconds = statistics.median(row["seconds"] for row in rows if row["labels"] == labels)
        sizes.append(
            {
                "labels": labels,
                "nets": sum(row["labels"] == labels for row in rows),
                "poisoned": len(poisoned),
                "target_searched": sum(row["target_searched"] for row in poisoned),
                "target_alone_named": sum(row["flagged"] == [row["target"]] for row in poisoned),
                "clean": len(clean),
                "clean_accused": sum(bool(row["flagged"]) for row in clean),
                "seconds": seconds,
                "times_ten_labels": seconds / sizes[0]["seconds"] if sizes and sizes[0]["labels"] == 10 else None,
                "room_bytes": max(row["room_bytes"] for row in rows if row["labels"] == labels),
                "report_bytes": max(row["report_bytes"] for row in rows if row["labels"] == labels),
                "memory_bytes": max(row["memory_bytes"] for row in rows if row["labels"] == labels),
            }
        )
    return sizes


def show(row: dict[str, Any]) -> None:
    success = row["attack_success_rate"]
    print(
        f"{row['case']:44} {row['accuracy']:6.3f} {'-' if success is None else f'{success:.3f}':>6} "
        f"{row['target']!s:>5} {row['flagged']} {row['verdict']} {row['searched']} searched, {row['seconds']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
