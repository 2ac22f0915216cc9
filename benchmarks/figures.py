"""The paper's figures and a seventh, from our own runs: `python -m benchmarks.figures [2 ... 7]`, into docs/figures/.

2   how the norms of targets and of other labels scatter, by data set and family: from the scans of WaNet victims that
    `benchmarks.detection` left in benchmarks/results
3   one image under the generator of every label, and what each changed: the first WaNet victim on MNIST
4   what the attacker's trigger does to an image beside what the target's generator does: the first WaNet victim of
    each data set
5   what the learning rate does to a repair: what `benchmarks.learning_rates` left
6   searches with LPIPS in their loss and without: what `benchmarks.ablation` left, a dot for each seed
7   not the paper's: targets named against clean nets accused as the threshold moves, from `benchmarks.false_alarms`

Figures 3 and 4 search as the preset `paper` does. Residuals are shown from -1 to 1, grey is unchanged, as in the paper;
below them the same amplified until the largest change fills the range.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.core.families import FAMILIES
from app.core.plan import blocks
from app.core.presets import PRESETS
from benchmarks.computing import set_up_torch
from benchmarks.datasets import REPOSITORY, load_dataset
from benchmarks.detection import RUNS, SCAN_IMAGES, Case, chosen, place
from benchmarks.profiling import workbench
from benchmarks.recording import read_results
from benchmarks.tables import METHODS
from benchmarks.victims.train import VICTIMS, load_victim
from worker.detection.inversion import Inversion
from worker.engine.workbench import Workbench

matplotlib.use("Agg")
from matplotlib import pyplot, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FIGURES = REPOSITORY / "docs" / "figures"
ONE = "mnist"  # the data set of figure 3
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "gtsrb": "GTSRB"}
TARGET, OTHERS = "#c2410c", "#475569"
MEASURED = {
    "anomaly_index": "anomaly index of the target",
    "success": "attack success",
    "largest_channel": "share of the change in one channel",
}
WIDTH, TILE = 9.0, 0.95  # inches


def figure_2() -> Figure:
    """Norms by data set and family: a box for the labels that were not attacked, dots for the targets."""
    found = {result["dataset"]: result["scans"] for result in read_results("detection-") if _is_reported(result)}
    scans = {title: found[dataset] for dataset, title in TITLES.items() if dataset in found}
    searches = PRESETS["standard"].searches
    figure, axes = pyplot.subplots(1, len(searches), figsize=(WIDTH, 3.2), layout="constrained")
    for axis, (family, search) in zip(axes, searches.items(), strict=True):
        for place_of, of in enumerate(scans.values()):
            rows = [row for row in of if row["attack"] == "wanet"]
            others, targets = _norms(rows, family)
            axis.boxplot(others, positions=[place_of], widths=0.5, flierprops={"markersize": 3})
            axis.plot([place_of + 0.38] * len(targets), targets, "o", color=TARGET, markersize=4)
        axis.set_xticks(range(len(scans)), [*scans])
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
        axis.set_title(f"{family}: {FAMILIES[family].norm_of(vars(search)).unit}", fontsize=9)
    figure.supxlabel("boxes: labels that were not attacked    dots: targets", fontsize=8, color=OTHERS)
    return figure


def _is_reported(result: dict[str, Any]) -> bool:
    known = result["dataset"] in TITLES and result["images"] == SCAN_IMAGES[result["dataset"]]
    return known and result["preset"] == "standard" and result["use"] == "reporting"


def _norms(rows: Sequence[dict[str, Any]], family: str) -> tuple[list[float], list[float]]:
    """Of the labels that were not attacked, and of the targets."""
    by_label = [(row, label, found["norm"]) for row in rows for label, found in enumerate(row["families"][family])]
    others = [norm for row, label, norm in by_label if label != row["target"]]
    return others, [norm for row, label, norm in by_label if label == row["target"]]


def figure_3() -> Figure:
    """One image under the generator of every label."""
    (recipe,), data = chosen(ONE, 1)[:1], load_dataset(ONE)
    with tempfile.TemporaryDirectory() as folder:
        bench = _prepared(Path(folder), Case(recipe, "paper", SCAN_IMAGES[ONE]), data)
        known = bench.preparation
        together = blocks(range(known.num_labels), bench.job.config, known.device)
        found = [one for block in together for one in _searched(bench, block)]
        clean = bench.held_out.images[torch.zeros(1, dtype=torch.long)]
        generated = [_drawn(one, clean)[0] for one in found]
    rows = _rows(clean.expand(len(generated), -1, -1, -1), torch.stack(generated))
    heads = [
        f"{label}\n{one.norm:.3f}" + ("  target" if label == recipe.target else "") for label, one in enumerate(found)
    ]
    return _grid(rows, ("generated", "residual", "amplified"), heads)


def figure_4() -> Figure:
    """The attacker's trigger and the target's generator on the same image."""
    shown, heads = [], []
    for dataset, title in TITLES.items():
        (recipe,), data = chosen(dataset, 1)[:1], load_dataset(dataset)
        victim = load_victim(recipe, data, VICTIMS)
        assert victim.attack is not None and recipe.target is not None
        with tempfile.TemporaryDirectory() as folder:
            bench = _prepared(Path(folder), Case(recipe, "paper", SCAN_IMAGES[dataset]), data)
            [found] = _searched(bench, [recipe.target])
            clean = bench.held_out.images[torch.zeros(1, dtype=torch.long)]
            backdoored, generated = victim.attack.apply(clean), _drawn(found, clean)
        for kind, changed in (("attacker's", backdoored), ("generated", generated)):
            shown.append(_rows(clean, changed, with_clean=True))
            heads.append(f"{title}\n{kind}")
    rows = [[tile for of in shown for tile in of[row]] for row in range(len(shown[0]))]
    return _grid(rows, ("clean", "with trigger", "residual", "amplified"), heads)


def figure_5() -> Figure:
    """What repairs leave of the trigger, and of accuracy, by learning rate: medians over victims."""
    [result] = read_results("learning_rates-")
    figure, axes = pyplot.subplots(1, 2, figsize=(WIDTH, 3.2), layout="constrained")
    for axis, (name, title) in zip(
        axes, {"true_asr": "true trigger's success", "accuracy": "accuracy"}.items(), strict=True
    ):
        for method in dict.fromkeys(row["method"] for row in result["repairs"]):
            rows = [row for row in result["repairs"] if row["method"] == method]
            rates = sorted({row["rate"] for row in rows})
            after = [median(row["after"][name] for row in rows if row["rate"] == rate) for rate in rates]
            axis.plot(rates, after, "o-", markersize=4, label=METHODS[method].strip("`"))
        axis.set_xscale("log")
        axis.set_xlabel("learning rate", fontsize=8)
        axis.set_title(title, fontsize=9)
    axes[0].legend(fontsize=8)
    return figure


def figure_6() -> Figure:
    """With LPIPS and without: how far the target stands out, how many images it carries, and how one-coloured it is."""
    [result] = read_results("ablation-")
    figure, axes = pyplot.subplots(1, len(MEASURED), figsize=(WIDTH, 3.2), layout="constrained")
    for axis, (name, title) in zip(axes, MEASURED.items(), strict=True):
        for place_of, rows in enumerate(result["searches"].values()):
            spread = np.linspace(-0.12, 0.12, len(rows))
            axis.plot(
                place_of + spread, [row[name] for row in rows], "o", color=(TARGET, OTHERS)[place_of], markersize=4
            )
            axis.set_xlim(-0.5, 1.5)
        axis.set_xticks(range(len(result["searches"])), [*result["searches"]])
        axis.set_title(title, fontsize=9)
    return figure


def figure_7() -> Figure:
    """Targets named against clean nets accused, by preset; a ring around the threshold that the preset has."""
    figure, axis = pyplot.subplots(figsize=(WIDTH / 2, 3.6), layout="constrained")
    for colour, result in zip((OTHERS, TARGET), read_results("false_alarms-"), strict=True):
        shares = [[at[name]["count"] / at[name]["n"] for name in ("false_alarms", "named")] for at in result["curve"]]
        [own] = [pair for at, pair in zip(result["curve"], shares, strict=True) if at["threshold"] == result["rule"]]
        axis.plot(*zip(*shares, strict=True), "o-", color=colour, markersize=4, label=result["preset"])
        axis.plot(*own, "o", markersize=11, markerfacecolor="none", markeredgecolor=colour)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("share of clean nets accused", fontsize=8)
    axis.set_ylabel("share of targets named", fontsize=8)
    axis.legend(fontsize=8, loc="lower right")
    return figure


def _prepared(folder: Path, case: Case, data: Any) -> Workbench:
    model, bundle = place(case, load_victim(case.recipe, data, VICTIMS), data)
    return workbench(folder, model, bundle, PRESETS["paper"], threads=1)


def _searched(bench: Workbench, labels: Sequence[int]) -> list[Inversion]:
    return bench.search(bench.classifier, "dynamic", labels, seed=0)


def _drawn(found: Inversion, images_NCHW: Tensor) -> Tensor:
    with torch.no_grad():
        return found.trigger.on(images_NCHW)


def _rows(clean_NCHW: Tensor, changed_NCHW: Tensor, with_clean: bool = False) -> list[list[NDArray[np.float32]]]:
    """Rows of tiles: changed images, residuals, and residuals amplified."""
    residual = changed_NCHW - clean_NCHW
    amplified = residual / residual.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
    rows = [changed_NCHW, 0.5 + 0.5 * residual, 0.5 + 0.5 * amplified]
    return [[image.permute(1, 2, 0).numpy() for image in row] for row in ([clean_NCHW] if with_clean else []) + rows]


def _grid(rows: Sequence[Sequence[NDArray[np.float32]]], names: Sequence[str], heads: Sequence[str]) -> Figure:
    size = (TILE * len(heads) + 0.6, TILE * len(rows) + 0.5)
    figure, axes = pyplot.subplots(len(rows), len(heads), figsize=size, squeeze=False, layout="constrained")
    for row, (tiles, name) in enumerate(zip(rows, names, strict=True)):
        for column, tile in enumerate(tiles):
            axis: Axes = axes[row, column]
            axis.imshow(np.broadcast_to(tile, (*tile.shape[:2], 3)).clip(0, 1), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(heads[column], fontsize=7, color=TARGET if "target" in heads[column] else "black")
        axes[row, 0].set_ylabel(name, fontsize=7)
    return figure


DRAWN = {2: figure_2, 3: figure_3, 4: figure_4, 5: figure_5, 6: figure_6, 7: figure_7}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", type=int, metavar="FIGURE", help=f"of {[*DRAWN]}; all, if none is named")
    arguments = parser.parse_args()
    set_up_torch()
    for folder in (FIGURES, RUNS):
        folder.mkdir(parents=True, exist_ok=True)
    for number in arguments.figures or DRAWN:
        path = FIGURES / f"figure-{number}.png"
        DRAWN[number]().savefig(path, dpi=110)
        print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
