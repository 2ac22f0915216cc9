"""An archive that was understood, as a person reads it: a few facts, the tree of modules, the operators of the code.

A large network is told in few lines: neighbours that are alike share one, and parts deep inside are only counted.
"""

from collections.abc import Iterator, Mapping, Sized
from itertools import groupby
from typing import Any

from rich.columns import Columns
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from app import terminal
from app.core.intake.guards import readable_size
from app.core.report.inspection import Part

MOST_ROWS = 40  # of the tree
MOST_NAMES = 8  # of files beside the model
UNDERSTOOD = (
    "Every part of this file is understood, and nothing in it reaches files, processes, the network or the moment of "
    "loading. Whether its weights hold a backdoor is another question: `triggerlens scan` looks for one."
)
FOUND = (
    "Understood, with findings[/]\nEvery part of this file is understood, and nothing in it reaches files, processes "
    "or the network. But its code does what a search for triggers cannot see through, so a scan would give no verdict."
)
MOST_FINDINGS = 20
Row = tuple[str, str, str]


def show_inspection(document: dict[str, Any]) -> None:
    """All of it, for people."""
    title = escape(document["name"])
    is_blocked = any(found["blocks"] for found in document["findings"])
    words = f"[bold yellow]◆ {FOUND}" if is_blocked else f"[bold green]● Understood[/]\n{UNDERSTOOD}"
    terminal.console.print(Panel(words, title=title, expand=False, padding=(0, 1)))
    _show_findings(document["findings"])
    terminal.show_facts(dict(_facts(document)))
    terminal.console.print()
    terminal.console.print(_table(tree_rows(document["modules"])))
    if document["operators"]:
        count = _counted(document["operators"], "operator", "operators")
        terminal.console.print(f"\n[dim]{count} of torch, with how often the code has each[/]")
        uses = [f"{escape(name)} [dim]{count}[/]" for name, count in document["operators"].items()]
        terminal.console.print(Columns(uses, equal=True, column_first=True, padding=(0, 3)))


def _show_findings(findings: list[dict[str, Any]]) -> None:
    """Each with its place and its line; what to do is said once for each rule."""
    shown = findings[:MOST_FINDINGS]
    for index, found in enumerate(shown):
        mark = "[bold yellow]◆[/]" if found["blocks"] else "[dim]○ note[/]"
        terminal.console.print(f"{mark} [bold]{found['rule']}[/] {escape(found['detail'])}")
        if found["member"]:
            place = found["member"] + (f":{found['line']}" if found["line"] else "")
            terminal.console.print(f"  [dim]{escape(place)}[/]", soft_wrap=True)
        if found["text"]:
            terminal.console.print(f"  {escape(found['text'])}", soft_wrap=True)
        if index + 1 == len(shown) or shown[index + 1]["rule"] != found["rule"]:
            terminal.console.print(f"  [dim]{escape(found['advice'])} See docs/structure.md.[/]")
    if len(findings) > len(shown):
        terminal.console.print(f"[dim]and {len(findings) - len(shown)} more; --json has all of them[/]")
    if findings:
        terminal.console.print()


def _facts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "sha256", document["sha256"]
    yield "size", f"{readable_size(document['size'])} in {document['members']:,} members"
    yield "exported", f"{', '.join(document['exported'])}; format {document['format_version']}"
    yield "forward", _signature(document["forward"])
    for role in ("parameters", "buffers", "attributes", "constants"):
        if document[role]["tensors"]:
            yield role, _sizes(document[role])
    if document["shared_storages"]:
        yield "shared", f"{len(document['shared_storages'])} records are seen from more than one place"
    yield "devices", _devices(document["devices"])
    files = _counted(document["code"], "file", "files")
    classes = _counted(document["classes"], "class", "classes")
    yield "code", f"{files}, {classes}, {_counted(document['functions'], 'function', 'functions')}"
    if document["extra_files"]:
        yield "beside it", f"{_listed(document['extra_files'])}; nobody reads them"


def _signature(forward: dict[str, Any] | None) -> str:
    if forward is None:
        return "there is none"
    inputs = ", ".join(f"{one['name']}: {one['type']}" for one in forward["inputs"])
    return f"({inputs}) -> {forward['returns']}"


def _sizes(facts: dict[str, Any]) -> str:
    by_type = ", ".join(f"{dtype} {readable_size(size)}" for dtype, size in facts["bytes"].items())
    return f"{facts['items']:,} in {facts['tensors']:,} tensors ({by_type})"


def _devices(devices: Mapping[str, list[str]]) -> str:
    """Where the tensors were saved; others that the model names stay named wherever it is loaded."""
    named = sorted({*devices["attributes"], *devices["code"]})
    words = _listed(devices["tensors"]) or "none"
    return f"{words}; the model itself names {_listed(named)}" if named else words


def _counted(things: Sized, one: str, several: str) -> str:
    return f"{len(things):,} {one if len(things) == 1 else several}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def tree_rows(modules: Part) -> list[Row]:
    """The tree as rows of name, class and parameters, as deep as there is room for it."""
    rows = _rows(modules, 1)
    for depth in range(2, MOST_ROWS):
        deeper = _rows(modules, depth)
        if len(deeper) > MOST_ROWS or deeper == rows:
            break
        rows = deeper
    hidden = len(rows) - MOST_ROWS
    return rows if hidden <= 0 else [*rows[:MOST_ROWS], (f"  and {hidden} more", "", "")]


def _rows(root: Part, depth: int) -> list[Row]:
    return [("model", _class(root, depth), f"{root['parameters']:,}"), *_inner_rows(root["parts"], 1, depth)]


def _inner_rows(parts: list[Part], level: int, depth: int) -> Iterator[Row]:
    if level > depth:
        return
    for _, run in groupby(parts, lambda part: part | {"name": ""}):
        alike = list(run)
        first, last = alike[0], alike[-1]
        name, parameters = first["name"], f"{first['parameters']:,}"
        if len(alike) > 1:
            name, parameters = f"{name} to {last['name']}", f"{len(alike)} x {parameters}"
        yield "  " * level + name, _class(first, depth - level), parameters
        yield from _inner_rows(first["parts"], level + 1, depth)


def _class(part: Part, levels_below: int) -> str:
    if part["shared"]:
        return f"{part['class']}, shared with an earlier part"
    hidden = _count(part) if levels_below == 0 else 0
    return f"{part['class']}, {hidden} parts" if hidden else str(part["class"])


def _count(part: Part) -> int:
    return sum(1 + _count(inner) for inner in part["parts"])


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("part")
    table.add_column("class", style="dim")
    table.add_column("parameters", justify="right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
