"""The bars of a scan of many labels."""

import io

from rich.console import Console
from rich.progress import Progress

from app.terminal import _Bars
from worker.sandbox.events import Event


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


def test_a_service_tells_of_labels_beyond_those_that_it_counts() -> None:
    """It counts those that are searched in full, which may be any of many."""
    told = [{"event": "progress", "progress": 0.5}, {"event": "prepared", "labels": 2, "names": ["0", "1"]}]
    bars = bars_after(*told, {**found(900), "name": "glyph"})
    assert whole(bars) == (1, 0.5) and "glyph" in bars.progress.tasks[-1].description
