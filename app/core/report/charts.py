"""The geometry of the report's bar charts: one bar per label, ticks, and one horizontal line to compare with.

All positions are percentages of the plot, with y growing downwards as in SVG, so that a chart fits a phone and a poster
without scaling its words. The module knows numbers only; the template draws them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

HEADROOM = 1.12  # the plot is a little higher than its highest bar, to leave room for the numbers of flagged labels
NUMBER_EVERY = 4.0  # percent of the width that the number of a flagged label needs
WIDEST_BAR = 8.0  # percent of the width
SPACIOUS = 50  # labels; with more of them the gaps between bars get narrower
TINY, HUGE = 1e-9, 1e12  # values beyond these are drawn as zero and as HUGE
STEPS = (1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True)
class Bar:
    """One label's value; a label without a value (None) keeps its place."""

    label: int
    value: float | None
    flagged: bool
    left: float
    width: float
    top: float
    numbered: bool  # whether there is room to write the label's number above its bar

    @property
    def middle(self) -> float:
        """Where its number stands."""
        return self.left + self.width / 2

    @property
    def height(self) -> float:
        """From its top to the ground."""
        return 100.0 - self.top


@dataclass(frozen=True)
class Tick:
    """A word beside an axis."""

    position: float
    text: str


@dataclass(frozen=True)
class BarChart:
    """All that the template needs to draw."""

    bars: tuple[Bar, ...]
    value_ticks: tuple[Tick, ...]
    label_ticks: tuple[Tick, ...]
    line: float | None  # where the line to compare with lies, None for no line


def bar_chart(values: Sequence[float | None], flagged: Sequence[bool], line: float | None) -> BarChart | None:
    """The chart of one value per label; None where there is no value to draw."""
    assert len(values) == len(flagged)
    known = [min(value, HUGE) for value in values if value is not None]
    if not known:
        return None
    highest = max([*known, 0.0 if line is None else line])
    highest = highest if highest > TINY else 1.0
    full = highest * HEADROOM
    pitch = 100.0 / len(values)
    width = min(pitch * (0.7 if len(values) <= SPACIOUS else 0.85), WIDEST_BAR)
    bars: list[Bar] = []
    last_number = -NUMBER_EVERY
    for label, (value, is_flagged) in enumerate(zip(values, flagged, strict=True)):
        left = (label + 0.5) * pitch - width / 2
        numbered = is_flagged and value is not None and left - last_number >= NUMBER_EVERY
        last_number = left if numbered else last_number
        top = 100.0 - 100.0 * min(value or 0.0, HUGE) / full
        bars.append(Bar(label, value, is_flagged, left, width, top, numbered))
    step = _round_step(highest, at_most=5)
    value_ticks = tuple(
        Tick(100.0 - 100.0 * index * step / full, f"{index * step:g}") for index in range(math.floor(full / step) + 1)
    )
    label_step = max(1, math.ceil(_round_step(len(values), at_most=11)))
    label_ticks = tuple(Tick(bars[label].middle, str(label)) for label in range(0, len(values), label_step))
    return BarChart(tuple(bars), value_ticks, label_ticks, None if line is None else 100.0 - 100.0 * line / full)


def _round_step(span: float, at_most: int) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... (and .1, .2, .5, ...) that divides the span into at most so many steps."""
    decade: float = 10.0 ** math.floor(math.log10(span / at_most))
    return next(step * decade for step in STEPS if span / (step * decade) <= at_most)
