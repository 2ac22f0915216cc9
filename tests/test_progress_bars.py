"""The bars of a search: the whole is as long as what there is to search in full, known after a look at many labels."""

import io

from rich.console import Console
from rich.progress import Progress

from app.terminal import MOST_BARS, _Bars
from worker.sandbox.events import Event

MANY = MOST_BARS + 80
PREPARED: Event = {"event": "prepared", "labels": MANY, "names": list(map(str, range(MANY))), "images": 300}


def bars_after(*events: Event) -> _Bars:
    bars = _Bars(Progress(console=Console(file=io.StringIO())), "net.pt")
    for event in events:
        bars(event)
    return bars


def whole(bars: _Bars) -> tuple[float | None, float]:
    (task,) = (task for task in bars.progress.tasks if task.id == bars.whole)
    return task.total, task.completed


def found(label: int) -> Event:
    return {"event": "label", "label": label, "norm": 0.1, "attack_success_rate": 0.95}


def test_of_many_labels_those_that_are_searched_in_full_fill_the_bar() -> None:
    looking = [PREPARED, {"event": "stage", "stage": "first_pass"}, {"event": "step", "labels": [], "done": 1, "of": 3}]
    assert whole(bars_after(*looking)) == (MANY, 0), "how many there will be is not known"
    searching = [*looking, {"event": "selected", "labels": 2}, found(7)]
    assert whole(bars_after(*searching)) == (2, 1)
    assert whole(bars_after(*searching, found(MANY - 1))) == (2, 2)


def test_a_service_tells_of_labels_beyond_those_that_it_counts() -> None:
    """It counts those that are searched in full, which may be any of many."""
    told = [{"event": "progress", "progress": 0.5}, {"event": "prepared", "labels": 2, "names": ["0", "1"]}]
    bars = bars_after(*told, {**found(900), "name": "glyph"})
    assert whole(bars) == (1, 0.5) and "glyph" in bars.progress.tasks[-1].description
