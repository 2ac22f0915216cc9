"""What a person sees on the terminal: a bar per label while a scan runs, then the verdict in words and figures.

Everything goes to stderr. Where that is no terminal, progress is one JSON object a line.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.core.errors import Problem
from app.core.findings import Caveat, Reason, RepairReport, Verdict
from app.core.progress import STAGES
from app.core.report.card import coming_back
from app.core.report.explanations import CAVEATS, REASONS, SPARED, VERDICTS, disagreements
from app.core.report.facts import facts
from app.core.text import printable
from worker.sandbox.events import Event

if TYPE_CHECKING:
    from app.doctor import Check

MOST_BARS = 24  # with more labels only the block at work has bars
LONGEST_LINE = 1000  # characters
STYLES = {Verdict.BACKDOORED: "bold red", Verdict.NO_BACKDOOR_FOUND: "bold green", Verdict.INCONCLUSIVE: "bold yellow"}
MARKS = {Verdict.BACKDOORED: "▲", Verdict.NO_BACKDOOR_FOUND: "●", Verdict.INCONCLUSIVE: "◆"}

CHECK_MARKS = {"ok": "[green]●[/]", "note": "[yellow]○[/]", "wrong": "[bold red]✗[/]"}

READY = "Model and images go together. This is what a scan takes for true; compare it with what you know."
IN_DOUBT = "Something does not fit together, so a scan would rest on it or give no verdict. Read what is marked below."

console = Console(stderr=True, highlight=False)


def say(words: str) -> None:
    console.print(_shown(words), soft_wrap=True)


def tell(words: str, event: Event) -> None:
    """Words for people on a terminal; elsewhere the event, as a line of the progress."""
    if console.is_terminal:
        say(words)
    else:
        _print_event(event)


def _print_event(event: Event) -> None:
    print(json.dumps(event), file=sys.stderr, flush=True)


def show_problem(problem: Problem) -> None:
    """A refusal: what is wrong, where if the gate refused it, and what to do."""
    console.print(f"[bold red]✗[/] {_shown(problem.detail)}\n  {_shown(problem.advice)}")
    if problem.rule is not None:
        console.print(f"  [dim]{_shown(_place(problem))}[/]", soft_wrap=True)


def _place(problem: Problem) -> str:
    """Which rule of the gate was broken, and where in the archive."""
    places = [f"Rule {problem.rule}, see docs/gate.md"]
    if problem.member is not None:
        places.append(f"member {problem.member}")
    if problem.line is not None:
        places.append(f"line {problem.line}")
    return "; ".join(places)


def show_facts(facts: Mapping[str, str]) -> None:
    """A few things, each with its name."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, fact in facts.items():
        table.add_row(f"[dim]{name}[/]", _shown(fact))
    console.print(table)


def show_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(_shown, row))
    console.print(table)


def show_checks(checks: Sequence["Check"]) -> None:
    """What was looked at, with advice below what is wrong."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for check in checks:
        found = _shown(check.found) + (f"\n[dim]{_shown(check.advice)}[/]" if check.advice else "")
        table.add_row(CHECK_MARKS[check.state], check.name, found)
    console.print(table)


@contextmanager
def busy(words: str) -> Iterator[None]:
    """Says what is being done, while it is done and only on a terminal."""
    if not console.is_terminal:
        yield
        return
    with console.status(_shown(words), spinner_style="dim"):
        yield


@contextmanager
def progress_display(title: str) -> Iterator[Callable[[Event], None]]:
    """A listener for the engine's events that shows them."""
    if not console.is_terminal:
        yield _print_event
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bars(progress, title)


class _Bars:
    """One bar for the whole scan, with what it is at and the time that is left, and one for each label."""

    def __init__(self, progress: Progress, title: str) -> None:
        self.progress = progress
        self.whole = progress.add_task(f"[bold]{_shown(title)}", total=None, note="", left="")
        self.labels: dict[int, TaskID] = {}
        self.done: dict[int, float] = {}
        self.repair: TaskID | None = None
        self.share = 0.0

    def __call__(self, event: Event) -> None:
        handler: Callable[[Event], None] | None = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def _on_stage(self, event: Event) -> None:
        self.progress.update(self.whole, note=_shown(STAGES.get(event["stage"], event["stage"].replace("_", " "))))

    def _on_prepared(self, event: Event) -> None:
        if self.labels:  # a service may go back to this stage after it lost a worker
            return
        visible = event["labels"] <= MOST_BARS
        for label, name in enumerate(event["names"]):
            title = _titled(label, name)
            self.labels[label] = self.progress.add_task(title, total=1, note="", left="", visible=visible, start=False)

    def _on_progress(self, event: Event) -> None:
        seconds = event.get("eta_seconds")  # an older service does not tell
        left = "" if seconds is None else f"about {duration(seconds)} left"
        self.share = max(self.share, event["progress"])  # what is left may turn out to be more
        self.progress.update(self.whole, total=1, completed=self.share, left=left)
        if event.get("doing"):
            self.progress.update(self.whole, note=_shown(event["doing"]))

    def _on_step(self, event: Event) -> None:
        for label in event["labels"]:
            if event["done"] == 1:
                self.progress.start_task(self.labels[label])
            share = event["done"] / event["of"]
            self.done[label] = max(self.done.get(label, 0.0), share)  # one in doubt is searched again
            self.progress.update(self.labels[label], completed=share, visible=True)

    def _on_label(self, event: Event) -> None:
        self.done[event["label"]] = 1.0
        note = f"norm {_number(event['norm'], '.4f')}  success {_number(event['attack_success_rate'], '.0%')}"
        visible = len(self.labels) <= MOST_BARS
        if event["label"] not in self.labels:  # a service tells of some of many labels, whichever they are
            title = _titled(event["label"], str(event["label"]))
            self.labels[event["label"]] = self.progress.add_task(title, total=1, note="", left="")
        task = self.labels[event["label"]]
        self.progress.update(task, completed=1, note=note, visible=visible)
        if "name" in event:
            self.progress.update(task, description=_titled(event["label"], event["name"]))

    def _on_epoch(self, event: Event) -> None:
        if self.repair is None:
            self.repair = self.progress.add_task("  repair", total=event["of"], note="", left="")
        self.progress.update(self.repair, completed=event["done"])


def show_check(document: dict[str, Any]) -> None:
    """Whether a scan would understand model and images, what it would take for true, and what is in doubt."""
    words = f"[bold green]● Ready[/]\n{READY}" if document["ready"] else f"[bold yellow]◆ In doubt[/]\n{IN_DOUBT}"
    title = escape(document["inputs"]["model"]["name"])
    console.print(Panel(words, title=title, expand=False, padding=(0, 1)))
    show_understood(document)
    for reason in document["reasons"]:
        console.print(f"[bold yellow]◆[/] {escape(REASONS[Reason(reason)].title)}. [dim]See `{reason}` in "
                      "docs/reasons.md.[/]")  # fmt: skip
    for found in document["findings"]:
        console.print(f"[bold yellow]◆[/] [bold]{found['rule']}[/] {escape(found['detail'])}")
    if document["stopped"] is not None:
        console.print(f"[bold yellow]◆[/] {_shown(document['stopped']['detail'])}")
    _show_caveats(document)


def show_understood(document: dict[str, Any]) -> None:
    """What a scan took for true about its inputs, and what it doubts."""
    known = facts(document)
    if known:
        show_facts({fact.name: fact.words for fact in known})
    for doubt in document["inputs"]["doubts"]:
        console.print(f"[bold yellow]◆[/] {_shown(doubt)}", soft_wrap=True)


def _show_caveats(document: dict[str, Any]) -> None:
    if document["caveats"]:
        console.print(
            "[dim]Caveats: " + ", ".join(escape(CAVEATS[Caveat(c)].title) for c in document["caveats"]) + "[/]"
        )


def show_report(document: dict[str, Any], page: Path | str) -> None:
    """What was understood, the verdict, the labels, the repair, and where the page with all of it is."""
    show_understood(document)
    verdict = Verdict(document["verdict"])
    explained = VERDICTS[verdict]
    lines = [f"[{STYLES[verdict]}]{MARKS[verdict]} {escape(explained.title)}[/]", escape(explained.means)]
    if document["flagged_labels"]:
        names = [f"{row['label']} ({row['name']})" if row["name"] != str(row["label"]) else row["name"]
                 for row in document["labels"] if row["flagged"]]  # fmt: skip
        lines.append(f"Suspect label: [bold]{escape(', '.join(names))}[/]   {_sureness(document)}")
    lines += [f"[yellow]Reason:[/] {escape(REASONS[Reason(reason)].means)}" for reason in document["reasons"]]
    lines += map(escape, disagreements(document))
    console.print(
        Panel("\n".join(lines), title=escape(document["inputs"]["model"]["name"]), expand=False, padding=(0, 1))
    )
    if any(row["norm"] is not None for row in document["labels"]):
        console.print(_label_table(document))
    _show_caveats(document)
    if document["repair"] is not None:
        _print_repair(document["repair"])
    console.print(f"Report: [bold]{escape(str(page))}[/]", soft_wrap=True)


def show_repair(repair: RepairReport, out: Path) -> None:
    """A repair without a scan."""
    _print_repair(asdict(repair))
    if repair.status.hands_out_weights:
        console.print(f"Weights: [bold]{escape(str(out / 'repaired.pt'))}[/]")


def _sureness(document: dict[str, Any]) -> str:
    """The figure that the accusation rests on."""
    p_values = [row["p_value"] for row in document["labels"] if row["flagged"] and row["p_value"] is not None]
    if p_values:
        return f"p-value [bold]{min(p_values):.4f}[/]"
    return f"anomaly index [bold]{document['model_anomaly_index']:.2f}[/]"


def _label_table(document: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    has_p_values = any(row["p_value"] is not None for row in document["labels"])
    of = {row["family"] for row in document["labels"] if row["family"]} if has_p_values else {}
    norm = f"norm ({next(iter(of))})" if len(of) == 1 else "norm"
    for name in ("label", norm, "anomaly index", *(["p-value"] if has_p_values else []), "attack success", ""):
        table.add_column(name, justify="left" if name in ("label", "") else "right")
    shown = sorted(
        document["labels"],
        key=lambda row: (not row["flagged"], row["p_value"] or 1.0, row["norm"] is None, row["norm"]),
    )
    for row in shown[:MOST_BARS]:
        name = str(row["label"]) if row["name"] == str(row["label"]) else f"{row['label']} {row['name']}"
        cells = [
            _number(row["norm"], ".4f"),
            _number(row["anomaly_index"], ".2f"),
            *([_number(row["p_value"], ".4f")] if has_p_values else []),
            _number(row["attack_success_rate"], ".0%"),
        ]
        table.add_row(escape(name), *cells, _standing(row))
    if len(shown) > MOST_BARS:
        table.add_row(f"and {len(shown) - MOST_BARS} more")
    return table


def _standing(row: Mapping[str, Any]) -> str:
    """What is to be said of a label beside its figures."""
    if row["flagged"]:
        return "[bold red]▲ suspect[/]"
    for why, words in SPARED.items():
        if any(found[why] for found in row["families"]):
            return f"[yellow]{words}[/]"
    return ""


def _print_repair(repair: dict[str, Any]) -> None:
    reason = f" ({repair['reason']})" if repair["reason"] else ""
    status = escape(f"{repair['status']}{reason}".replace("_", " "))
    console.print(f"[bold]Repair: {status}.[/] {escape(repair['detail'])}")
    if repair["clean_accuracy_after"] is None:
        return
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("", "before", "after"):
        table.add_column(name, justify="left" if not name else "right")
    rows = [("clean accuracy", repair, "clean_accuracy")]
    rows += [
        (f"success of the inverted trigger, label {found['label']} ({found['family']})", found, "attack_success_rate")
        for found in repair["triggers"][:MOST_BARS]
    ] or [("success of the inverted trigger", repair, "attack_success_rate")]
    for title, figures, key in rows:
        before, after = (_number(figures[f"{key}_{when}"], ".1%") for when in ("before", "after"))
        table.add_row(escape(title), before, after)
    console.print(table)
    _print_card(repair)
    if repair["unjudged_labels"]:
        console.print(
            f"[yellow]Not judged, for lack of images:[/] labels {', '.join(map(str, repair['unjudged_labels']))}"
        )


def _print_card(repair: dict[str, Any]) -> None:
    """What a repair is judged by beside the two figures that everybody looks at."""
    for found in repair["triggers"][:MOST_BARS]:
        if found["norm_afresh"] is not None:
            norm = f"norm {_number(found['norm'], '.4f')}, now {_number(found['norm_afresh'], '.4f')}"
            p_value = f"p-value {_number(found['p_value'], '.4f')}, now {_number(found['p_value_afresh'], '.4f')}"
            say(f"Searched afresh, label {found['label']} ({found['family']}): {norm}; {p_value}")
    if repair["classes"]:
        worst = max(repair["classes"], key=lambda found: found["accuracy_before"] - found["accuracy_after"])
        if worst["accuracy_after"] < worst["accuracy_before"]:
            change = f"{worst['accuracy_before']:.0%} to {worst['accuracy_after']:.0%} of {worst['images']} images"
            say(f"The class that lost most accuracy: {worst['label']}, {change}")
    if repair["tensors_changed"] is not None:
        most = "".join(f"; most of all {found['name']}" for found in repair["largest_changes"][:1])
        say(f"Changed: {repair['tensors_changed']} of {repair['tensors']} tensors{most}")
    if repair["comes_back"] is not None:
        say(coming_back(repair))
    for found in repair["reactivations"][:MOST_BARS]:
        reference = _number(found["retuned_reference"], ".1%")
        say(
            f"Trained on {found['poisoned']} poisoned images of {found['images']}, label {found['label']} "
            f"({found['family']}): success {found['retuned']:.1%}; a network that never had it: {reference}"
        )
    if repair["not_shown"]:
        console.print("[dim]What this does not show:[/]")
        for sentence in repair["not_shown"]:
            console.print(f"[dim]- {_shown(sentence)}[/]")


def _shown(words: str) -> str:
    """Words that may be a stranger's, line by line without control characters and without markup."""
    return escape("\n".join(printable(line, LONGEST_LINE) for line in words.splitlines()))


def _titled(label: int, name: str) -> str:
    return f"  label {label}" + ("" if name == str(label) else f" {escape(printable(name, 24))}")


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min."""
    return f"{math.ceil(seconds)} s" if seconds < 90 else f"{round(seconds / 60)} min"


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)
