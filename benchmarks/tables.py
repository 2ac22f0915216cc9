"""The tables of README.md and docs/evidence.md, from benchmarks/results: `make tables` writes them, a test compares.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. Rates come with an exact 95 % interval (Clopper
and Pearson, 1934).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from scipy.stats import binomtest

from benchmarks.datasets import REPOSITORY
from benchmarks.recording import read_results
from benchmarks.victims.roster import ROSTER

PAGES = (REPOSITORY / "README.md", REPOSITORY / "docs" / "evidence.md")
DATASETS = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10", "gtsrb": "GTSRB"}
ATTACKS = {
    "wanet": "WaNet",
    "badnets": "BadNets, patch",
    "badnets_grid": "BadNets, grid",
    "blended": "Blended",
    "input_aware": "input-aware",
    "badnets_source_specific": "BadNets, one source label",
    "wanet_all_to_all": "WaNet, all-to-all",
    "badnets_all_to_all": "BadNets, all-to-all",
}
METHODS = {
    "standard": "`standard`",
    "paper": "`paper`",
    "fine_tune_weak": "fine-tuning, weak",
    "fine_tune_strong": "fine-tuning, strong",
    "nad": "NAD",
    "super_fine_tune": "super-fine-tuning",
    "ft_sam": "FT-SAM",
    "sau": "SAU",
    "nft": "NFT",
    "neural_cleanse": "Neural Cleanse",
}
Row = Sequence[object]


def results(kind: str) -> list[dict[str, Any]]:
    """The results of one benchmark, in the order of the data sets."""
    return sorted(read_results(f"{kind}-"), key=lambda result: [*DATASETS, None].index(result.get("dataset")))


def detection() -> str:
    """How often the target is named, by data set, attack and preset; and clean nets."""
    rows: list[Row] = []
    for result in (result for result in results("detection") if result["use"] == "reporting"):
        which = DATASETS[result["dataset"]], METHODS[result["preset"]], result["images"]
        for attack, of in sorted(result["attacks"].items(), key=lambda item: [*ATTACKS].index(item[0])):
            counts = [of["target_named"], of["target_alone_named"], of["accused"]]
            if attack.endswith("all_to_all"):  # has no target
                counts[:2] = None, None
            rows.append([*which, ATTACKS[attack], *("" if n is None else _rate(n, of["victims"]) for n in counts)])
        if result["clean"]:
            rows.append([*which, "none (clean)", "", "", _rate(result["clean_accused"], result["clean"])])
    head = ("data", "preset", "images", "attack", "target named", "and alone", "accused")
    return _table(head, rows)


def victims() -> str:
    """How good the networks are that the detection table is about, and how well their triggers work, in per cent."""
    rows: list[Row] = []
    for result in results("detection"):
        if (result["use"], result["preset"]) == ("reporting", "standard"):
            for attack in (*ATTACKS, "clean"):
                of = [scan for scan in result["scans"] if scan["attack"] == attack]
                success = [scan["attack_success_rate"] for scan in of if attack != "clean"]
                if of:
                    figures = _percent([scan["accuracy"] for scan in of]), _percent(success)
                    rows.append([DATASETS[result["dataset"]], ATTACKS.get(attack, "none (clean)"), len(of), *figures])
    return _table(("data", "attack", "networks", "accuracy", "attack success"), rows)


def inconclusive() -> str:
    """The share of scans without a verdict."""
    rows = [
        [DATASETS[result["dataset"]], METHODS[result["preset"]], _rate(result["inconclusive"], len(result["scans"]))]
        for result in results("detection")
        if result["use"] == "reporting"
    ]
    return _table(("data", "preset", "inconclusive"), rows)


def table1() -> str:
    """The paper's Table 1."""
    rows: list[Row] = []
    for result in results("table1"):
        for method, of in result["methods"].items():
            indices = (
                "" if of[name] is None else f"{of[name]:.2f}" for name in ("clean_anomaly_index", "anomaly_index")
            )
            clean, attacked = (
                f"{of['clean_runs']} ({of['clean_nets']})",
                f"{of['runs']} ({of['victims']})",
            )
            counts = clean, of["clean_accused"], attacked, *of["cases"]
            rows.append([DATASETS[result["dataset"]], METHODS[method], *indices, *counts])
    cases = (f"case {case}" for case in (1, 2, 3, 4))
    runs = "clean runs (nets)", "accused", "attacked runs (victims)"
    return _table(("data", "method", "index, clean", "index, attacked", *runs, *cases), rows)


def repair() -> str:
    """What repairs leave of the true trigger, and what they cost."""
    rows: list[Row] = []
    for result in (result for result in results("repair") if result["use"] == "reporting"):
        repairs = result["repairs"]
        for attack in (attack for attack in ATTACKS if any(row["attack"] == attack for row in repairs)):
            for method in (m for m in METHODS if any((r["attack"], r["method"]) == (attack, m) for r in repairs)):
                of = [row for row in repairs if (row["attack"], row["method"]) == (attack, method)]
                left = [100 * row["after"]["true_asr"] for row in of]
                lost = [100 * (row["before"]["accuracy"] - row["after"]["accuracy"]) for row in of]
                which = DATASETS[result["dataset"]], result["images"], ATTACKS[attack], METHODS[method], len(of)
                rows.append([*which, *(f"{value(of):.2f}" for of in (left, lost) for value in (median, max))])
    head = ("data", "images", "attack", "method", "n", "true trigger's success, %", "worst", "points lost", "worst")
    return _table(head, rows)


def service() -> str:
    """What the service and the gate cost."""
    start, overhead, upload, polling, workers = (
        read_results(f"service-{name}")[0] for name in ("start", "overhead", "upload", "polling", "workers")
    )
    (faults,), (gate,), (check,), (fuzzing,) = map(read_results, ("faults", "intake-gate", "intake-check", "fuzzing"))
    every = faults["rows"][-1]
    lost = f"{every['lost']} scans lost, {every['doubled']} doubled"
    recovered = f"back in {every['mean_recovery_seconds']:.0f} s, {every['longest_recovery_seconds']:.0f} s at most"
    rows: list[Row] = [
        ("until `triggerlens serve` answers", f"{median(start['seconds']):.1f} s", "service start"),
        ("over the bare engine, for each scan", f"{overhead['difference_seconds']:.1f} s", "service overhead"),
        (
            f"memory while {upload['megabytes'] / 1000:.0f} GB arrive",
            f"{upload['peak_rss_mb']:.0f} MB ({upload['rss_before_mb']:.0f} before)",
            "service upload",
        ),
        (
            f"{polling['clients']} clients polling among {polling['scans']:,} scans, one of which computes",
            f"99 % of the answers within {polling['p99_ms']:.0f} ms",
            "service polling",
        ),
        (
            "the search by two Celery workers on two cores, over PostgreSQL, Redis and S3",
            f"{workers['inversion_ratio']:.2f} of one worker's time",
            "service workers",
        ),
        (
            f"{every['trials']} faults: processes killed, Redis flushed, PostgreSQL restarted, storage paused",
            f"{lost}; {recovered}",
            "faults",
        ),
        (
            f"the gate on an archive of {gate['archive_mb']} MB",
            f"{gate['wall_seconds']:.1f} s, {gate['peak_mb']:.0f} MB",
            "intake gate",
        ),
        (
            f"`triggerlens check` of a ResNet-18 and {check['images']:,} images of 224 px, {check['threads']} threads",
            f"{check['wall_seconds']:.0f} s, {check['peak_mb']:,.0f} MB",
            "intake check --threads 2",
        ),
        (
            f"damaged archives in {fuzzing['minutes']:.0f} minutes",
            f"{fuzzing['archives']:,} tried, {len(fuzzing['failures'])} failures",
            "fuzzing",
        ),
    ]
    return _table(("measured", "outcome", "command"), [(*row, f"`python -m benchmarks.{of}`") for *row, of in rows])


def bundles() -> str:
    """What a scan owes to its bundle."""
    rows: list[Row] = []
    for result in results("bundles"):
        for of in result["conditions"]:
            named, alone = (_rate(of[name], of["victims"]) for name in ("named", "alone"))
            counts = named, alone, _rate(of["clean_accused"], of["clean"]), of["inconclusive"]
            rows.append([DATASETS[result["dataset"]], of["condition"], *counts, ", ".join(of["reasons"])])
    return _table(("data", "bundle", "target named", "and alone", "clean accused", "no verdict", "why"), rows)


def reactivation() -> str:
    """The trigger's success, in per cent, once so many poisoned images were learned from: medians over victims."""
    rows: list[Row] = []
    poisoned: list[int] = []
    for result in results("reactivation"):
        nets, poisoned = result["nets"], result["poisoned"]
        for attack, method in sorted({(net["attack"], net["method"]) for net in nets}):
            of = [net["after"] for net in nets if (net["attack"], net["method"]) == (attack, method)]
            success = [f"{100 * median(net[at]['true_asr'] for net in of):.1f}" for at in range(len(poisoned))]
            rows.append([DATASETS[result["dataset"]], ATTACKS[attack], METHODS.get(method, method), len(of), *success])
    return _table(("data", "attack", "net", "n", *poisoned), rows)


def false_alarms() -> str:
    """How often clean nets are accused, and attacked ones named, as the threshold moves; bold is the preset's own."""
    rows: list[Row] = []
    for result in read_results("false_alarms-"):
        for at in result["curve"]:
            rates = [_clustered(at[name]) for name in ("false_alarms", "named")]
            if at["threshold"] == result["rule"]:
                rates = [f"**{rate}**" for rate in rates] + [_clustered(result["inconclusive"])]
            rows.append([METHODS[result["preset"]], at["threshold"], *rates, *[""] * (3 - len(rates))])
    return _table(("preset", "threshold", "clean nets accused", "targets named", "no verdict"), rows)


def gpu_tier() -> str:
    """The paper's full nets on a GPU."""
    measured = {net["net"]: (result["card"], net) for result in results("gpu_tier") for net in result["nets"]}
    rows: list[Row] = []
    for recipe in ROSTER["gpu"]:
        if recipe.name not in measured:
            rows.append([recipe.name, "not run", *[""] * 5])
            continue
        card, net = measured[recipe.name]
        seconds = [scan["seconds"] for scan in net["scans"]]
        after = net.get("repair", {}).get("after")
        repaired = "" if after is None else f"{100 * after['true_asr']:.2f} %, accuracy {100 * after['accuracy']:.2f} %"
        before = f"{100 * net['accuracy']:.2f} %"
        flagged = ", ".join(str(scan["flagged"]) for scan in net["scans"])
        busy = median(scan.get("gpu_utilisation", 0) for scan in net["scans"])
        rows.append([recipe.name, card, before, flagged, f"{median(seconds):.1f}", f"{busy:.0f} %", repaired])
    head = ("net", "card", "accuracy", "labels flagged", "seconds of a scan", "GPU busy", "true trigger after repair")
    return _table(head, rows)


def walls() -> str:
    """What the walls around a suspect cost."""
    (start,), (scan,) = (read_results(f"walls-{name}") for name in ("start", "scan"))
    low, high = scan["computing_ratio_interval"]
    rows: list[Row] = [
        (
            f"gate, re-pack, rebuilding and fence of an archive of {start['archive_mb']} MB",
            f"{start['seconds']:.2f} s",
            "walls start",
        ),
        (
            "computing behind the fence, over computing without (and where it lies by 95 %)",
            f"{scan['computing_ratio']:.2f} ({low:.2f} to {high:.2f})",
            "walls scan",
        ),
    ]
    return _table(("measured", "outcome", "command"), [(*row, f"`python -m benchmarks.{of}`") for *row, of in rows])


def speed() -> str:
    """Seconds of whole processes, side by side."""
    rows: list[Row] = []
    for result in results("speed"):
        first = next(iter(result["methods"].values()))["seconds"]
        for method, of in result["methods"].items():
            low, high = of["range_seconds"]
            seconds = f"{of['seconds']:.0f} ({low:.0f} to {high:.0f})"
            figures = f"{of['cpu_seconds']:.0f}", f"{of['peak_mb']:.0f}", f"{of['seconds'] / first:.1f}"
            rows.append([result["name"], result["threads"], METHODS[method], len(of["runs"]), seconds, *figures])
    return _table(("scan", "threads", "method", "runs", "seconds", "processor seconds", "peak MB", "ratio"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "detection": detection,
    "victims": victims,
    "inconclusive": inconclusive,
    "table1": table1,
    "repair": repair,
    "speed": speed,
    "service": service,
    "walls": walls,
    "gpu_tier": gpu_tier,
    "bundles": bundles,
    "reactivation": reactivation,
    "false_alarms": false_alarms,
}


def filled(page: str) -> str:
    """A page with each of its tables made anew."""

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- begin {name} -->\n{TABLES[name]()}\n<!-- end {name} -->"

    return re.sub(r"<!-- begin (?P<name>\w+) -->\n.*?<!-- end (?P=name) -->", table, page, flags=re.DOTALL)


def _rate(count: int, of: int) -> str:
    if not of:
        return "none"
    low, high = binomtest(count, of).proportion_ci(method="exact")
    return f"{count} of {of} ({low:.2f} to {high:.2f})"


def _percent(shares: Sequence[float]) -> str:
    """Their median and range."""
    return f"{100 * median(shares):.1f} ({100 * min(shares):.1f} to {100 * max(shares):.1f})" if shares else ""


def _clustered(rate: dict[str, Any]) -> str:
    return f"{rate['count']} of {rate['n']} ({rate['low']:.2f} to {rate['high']:.2f})"


def _table(head: Iterable[object], rows: Iterable[Row]) -> str:
    """A Markdown table."""
    lines = [[*map(str, head)], *([*map(str, row)] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    for page in PAGES:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
