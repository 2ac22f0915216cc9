"""The report as one page for people: self-contained, without scripts, without any other host.

The page is made from the document and its pictures alone, so it can be made again from `report.json` at any time. Every
word that is printed may come from a stranger: it passes `printable` first, then Jinja's escaping; a content security
policy forbids everything but this page's own style and embedded pictures.
"""

import base64
import hashlib
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from app.core.config import DYNAMIC
from app.core.families import FAMILIES, Norm
from app.core.findings import Caveat, Probe, Reason, Verdict
from app.core.report.card import coming_back
from app.core.report.charts import bar_chart
from app.core.report.document import LONGEST_TEXT
from app.core.report.explanations import CAVEATS, PROBES, REASONS, VERDICTS, disagreements
from app.core.report.facts import DASH, facts, percent
from app.core.report.figures import amplification_of
from app.core.text import printable

LARGE = 1e6  # an index this high is written with an exponent


def report_html(document: Mapping[str, Any], strips: Mapping[int, bytes]) -> str:
    """The page of a report document; `strips` holds a picture (PNG, see `figures`) for some labels."""
    style = _packaged("style.css")
    rows, structure = document["labels"], document["structure"] or {}
    flagged = [row["flagged"] for row in rows]
    flagged_rows = sorted((row for row in rows if row["flagged"]), key=_suspicion, reverse=True)
    family = next((row["family"] for row in [*flagged_rows, *rows] if row["family"]), None)
    norms = [_in_family(row, family, "norm") for row in rows]
    known_norms = [norm for norm in norms if norm is not None]
    median_norm = statistics.median(known_norms) if known_norms else None
    rate, threshold = document["config"]["false_alarm_rate"], document["config"]["anomaly_threshold"]
    if rate is None:
        evidence = [row["anomaly_index"] for row in rows]
    else:
        evidence = [None if (p := row["p_value"]) is None else -math.log10(p) for row in rows]
    return _template().render(
        report=document,
        style=Markup(style),  # our own file
        style_sha256=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        verdict=VERDICTS[Verdict(document["verdict"])],
        facts=facts(document),
        reasons=[(reason, REASONS[Reason(reason)]) for reason in document["reasons"]],
        disagreements=disagreements(document),
        agreements=[
            PROBES[Probe(found["probe"])].title
            for found in document["coverage"]["probes"]
            if not found["disagrees"] and found["difference"] is not None
        ],
        caveats=[(caveat, CAVEATS[Caveat(caveat)]) for caveat in document["caveats"]],
        flagged_rows=flagged_rows,
        spared=_spared(rows),
        rows=flagged_rows + [row for row in rows if not row["flagged"]],
        most_suspicious=max(rows, key=_suspicion, default=None),
        median_norm=median_norm,
        titles={name: family.title for name, family in FAMILIES.items()},
        norms=_norms(document["config"]),
        family=family,
        rate=rate,
        evidence_chart=bar_chart(evidence, flagged, threshold if rate is None else -math.log10(rate)),
        norm_chart=bar_chart(norms, flagged, median_norm),
        strips=[_strip(rows[label], strips[label]) for label in sorted(strips, key=lambda n: (not flagged[n], n))],
        config=list(_settings(document["config"])),
        findings=structure.get("findings", []),
        manifest=structure if "operators" in structure else None,
        stopped=structure.get("problem"),
        coming_back=coming_back,
        searched_afresh=[
            trigger for trigger in (document["repair"] or {}).get("triggers", []) if trigger["norm_afresh"] is not None
        ],
    )


def _suspicion(row: Mapping[str, Any]) -> tuple[float, float]:
    """By p-value, then by anomaly index."""
    p_value, index = row["p_value"], row["anomaly_index"]
    return -1.0 if p_value is None else -p_value, -1.0 if index is None else index


def _in_family(row: Mapping[str, Any], family: str | None, figure: str) -> Any:
    """A label's figure in one family, None where that was not searched."""
    return next((found[figure] for found in row["families"] if found["family"] == family), None)


def _headline(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The findings of the family whose figures stand for a label."""
    found: Mapping[str, Any] = next(found for found in row["families"] if found["family"] == row["family"])
    return found


def _spared(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Labels that stood out in the first search and are not accused, with the findings that they did so by."""
    return [
        (row, found)
        for row in rows
        for found in row["families"]
        if not row["flagged"] and (found["natural"] or found["in_doubt"] or found["unconfirmed"])
    ]


def _packaged(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_final, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "figure": _figure, "duration": _duration, "prose": _prose}
    environment.filters |= {"norm": _norm, "headline": _headline, "share": _share}
    return environment.from_string(_packaged("template.html"))


def _final(value: Any) -> Any:
    """What becomes of every printed value: our own markup stands, all other text is made printable."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, LONGEST_TEXT)
    return value


def _figure(value: float | None, digits: int) -> str:
    if value is None:
        return DASH
    smallest: float = 10.0**-digits
    if digits > 1 and 0 < value < smallest:
        return f"< {smallest:.{digits}f}"
    return f"{value:.{digits}f}" if value < LARGE else f"{value:.1e}"


def _norms(config: Mapping[str, Any]) -> dict[str, Norm]:
    """What each family's labels are compared by, in a scan of this configuration."""
    searches = {DYNAMIC: config["inversion"], **config["families"]}
    return {name: family.norm_of(searches.get(name, {})) for name, family in FAMILIES.items()}


def _norm(value: float | None, family: str | None) -> str:
    """A norm of a family in its unit; of a label that no family was searched for there is none."""
    if value is None or family is None:
        return DASH
    digits = FAMILIES[family].norm.digits
    return percent(value) if digits is None else _figure(value, digits)


def _share(value: float) -> str:
    """A share in percent, however small."""
    return f"{value:.2%}" if value >= 0.0001 else "< 0.01%"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _prose(text: str) -> Markup:
    """Our own sentences, with `typed words` set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(printable(text, LONGEST_TEXT)))))


def _strip(row: Mapping[str, Any], png: bytes) -> dict[str, Any]:
    picture = "data:image/png;base64," + base64.b64encode(png).decode()
    return {"row": row, "picture": Markup(picture), "amplification": amplification_of(png)}


def _settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
