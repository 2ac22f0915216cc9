"""What does a bundle without one of the classes do to a verdict? `python -m benchmarks.missing_classes [--passes 10]`

Scans the digits nets that are reported on, clean and attacked, once without each class, the attacker's target among
them. How many clean nets are accused (asked: at most one in twenty)? How many end as `no_backdoor_found` (asked: nine
in ten)? How many targets are named (asked: nine in ten), the target missing or another class?

Each pass leaves another class out of every net's bundle, so a run of a few passes has seen all nets and all classes.
Finished scans are kept in `runs/detection`, one JSON row each, so a run that is stopped goes on. One net is scanned
again and again, so the interval of a rate is at least as wide as a bootstrap's over nets.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.computing import set_up_torch
from benchmarks.datasets import load_dataset
from benchmarks.detection import RUNS, SCAN_IMAGES, THREADS, Case, is_trained, scan
from benchmarks.false_alarms import rate_of, shown
from benchmarks.recording import write_result
from benchmarks.victims.roster import ROSTER
from benchmarks.victims.train import VICTIMS, Recipe, load_victim

ASKED = {"accused": "at most .05", "no_backdoor_found": "at least .90", "named": "at least .90"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("standard", "paper"), default="standard")
    parser.add_argument("--passes", type=int, default=10, help="of ten, each with another class left out")
    parser.add_argument("--jobs", type=int, default=2, help="scans side by side, one thread each")
    arguments = parser.parse_args()
    set_up_torch()
    RUNS.mkdir(parents=True, exist_ok=True)
    data = load_dataset("digits")
    listed = [recipe for recipe in ROSTER["reporting"] if recipe.dataset == "digits"]
    trained = [recipe for recipe in listed if is_trained(recipe)]
    victims = {recipe: load_victim(recipe, data, VICTIMS) for recipe in trained}

    def row_of(recipe: Recipe, without: int) -> dict[str, Any]:
        case = Case(recipe, arguments.preset, SCAN_IMAGES["digits"], without=without)
        row = {"cell": recipe.name, "without": without, **scan(case, victims[recipe], data)}
        print(f"{row['case']:60} target {row['target']}  flagged {row['flagged']}  {row['verdict']}", flush=True)
        return row

    asked = [
        (recipe, (number + shift) % data.num_classes)
        for shift in range(arguments.passes)
        for number, recipe in enumerate(trained)
    ]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda of: row_of(*of), asked))
    result = {"dataset": "digits", "preset": arguments.preset, "passes": arguments.passes, "threads": THREADS}
    result |= {"not_trained": len(listed) - len(trained), **summary(rows)}
    write_result(f"missing_classes-digits-{arguments.preset}", {**result, "scans": rows})
    for what, asked_for in ASKED.items():
        print(f"{what:18} {shown(result[what])}   asked: {asked_for}")
    print(f"{'target missing':18} {shown(result['named_where_missing'])}")


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rates over all scans, of clean nets and of attacked ones."""
    clean = [row for row in rows if row["target"] is None]
    attacked = [row for row in rows if row["target"] is not None]
    missing = [row for row in attacked if row["target"] == row["without"]]
    named = {"named": attacked, "named_where_missing": missing}
    return {
        "accused": rate_of(clean, [bool(row["flagged"]) for row in clean]),
        "no_backdoor_found": rate_of(clean, [row["verdict"] == "no_backdoor_found" for row in clean]),
        **{what: rate_of(of, [row["target"] in row["flagged"] for row in of]) for what, of in named.items()},
    }


if __name__ == "__main__":
    main()
