"""What a scan owes to its bundle: `python -m benchmarks.bundles mnist|cifar10|digits [--victims 3]`

Scans the first WaNet victims and as many clean nets of the roster that are to be reported on, with 5, 10, 30 and 60
images a class; with as many images as other benchmarks, but no labels; and with a normalisation declared that the net
was not trained with. Prints how many targets are named, how many clean nets are accused, and how many scans end without
a verdict. Finished scans are kept in `runs/detection`.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from app.core.intake.declaration import DeclaredInput
from benchmarks.computing import set_up_torch
from benchmarks.datasets import load_dataset
from benchmarks.detection import RUNS, SCAN_IMAGES, THREADS, Case, first_victims, scan
from benchmarks.recording import write_result

PER_CLASS = (5, 10, 30, 60)
WRONG_MEAN, WRONG_STD = 0.0, 1.0  # of nets that were trained with mean .5 and deviation .5


def conditions(usual: Case, labels: int, channels: int) -> dict[str, Case]:
    """The bundles that a net is scanned with, by name."""
    wrong = DeclaredInput(mean=(WRONG_MEAN,) * channels, std=(WRONG_STD,) * channels)
    return {
        **{f"{number} images a class": replace(usual, images=number * labels) for number in PER_CLASS},
        "no labels": replace(usual, labelled=False),
        "wrong normalisation": replace(usual, declared=wrong),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(SCAN_IMAGES))
    parser.add_argument("--victims", type=int, default=3, help="attacked ones, and as many clean nets")
    parser.add_argument("--jobs", type=int, default=2, help="scans side by side, one thread each")
    arguments = parser.parse_args()
    set_up_torch()
    RUNS.mkdir(parents=True, exist_ok=True)
    data = load_dataset(arguments.dataset)
    victims = first_victims(arguments.dataset, data, arguments.victims)
    todo = [
        (name, case)
        for recipe in victims
        for name, case in conditions(
            Case(recipe, "standard", SCAN_IMAGES[arguments.dataset]),
            data.num_classes,
            data.x_train.shape[-1],
        ).items()
    ]

    def row_of(asked: tuple[str, Case]) -> dict[str, Any]:
        name, case = asked
        row = scan(case, victims[case.recipe], data)
        kept = {key: row[key] for key in ("case", "target", "flagged", "verdict", "reasons")}
        return {"condition": name, "images": case.images, **kept}

    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(row_of, todo))
    result = {"dataset": arguments.dataset, "threads": THREADS, "conditions": summary(rows), "scans": rows}
    write_result(f"bundles-{arguments.dataset}", result)
    print(f"{'bundle':22} {'targets named':>14} {'and alone':>10} {'clean accused':>14} {'no verdict':>11}")
    for of in result["conditions"]:
        named, alone = f"{of['named']} of {of['victims']}", f"{of['alone']} of {of['victims']}"
        clean = f"{of['clean_accused']} of {of['clean']}"
        print(f"{of['condition']:22} {named:>14} {alone:>10} {clean:>14} {of['inconclusive']:11}  {of['reasons']}")


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts for each condition."""
    counted = []
    for condition in dict.fromkeys(row["condition"] for row in rows):
        of = [row for row in rows if row["condition"] == condition]
        clean = [row for row in of if row["target"] is None]
        attacked = [row for row in of if row["target"] is not None]
        counted.append(
            {
                "condition": condition,
                "victims": len(attacked),
                "named": sum(row["target"] in row["flagged"] for row in attacked),
                "alone": sum(row["flagged"] == [row["target"]] for row in attacked),
                "clean": len(clean),
                "clean_accused": sum(bool(row["flagged"]) for row in clean),
                "inconclusive": sum(row["verdict"] == "inconclusive" for row in of),
                "reasons": sorted({reason for row in of for reason in row["reasons"]}),
            }
        )
    return counted


if __name__ == "__main__":
    main()
