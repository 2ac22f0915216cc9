"""A chart keeps every bar, tick and line inside its plot, for any values."""

from hypothesis import given
from hypothesis import strategies as st

from app.core.report.charts import bar_chart

heights = st.none() | st.floats(min_value=0, allow_infinity=False)


@given(st.lists(st.tuples(heights, st.booleans()), min_size=1, max_size=200), st.none() | st.floats(0, 100))
def test_everything_lies_within_the_plot_and_no_two_bars_overlap(
    labels: list[tuple[float | None, bool]], line: float | None
) -> None:
    chart = bar_chart([value for value, _ in labels], [flagged for _, flagged in labels], line)
    if chart is None:
        assert all(value is None for value, _ in labels)
        return
    assert len(chart.bars) == len(labels)
    assert all(bar.left >= 0 and bar.left + bar.width <= 100 and 0 <= bar.top <= 100 for bar in chart.bars)
    assert all(a.left + a.width <= b.left for a, b in zip(chart.bars, chart.bars[1:], strict=False))
    assert 1 <= len(chart.value_ticks) <= 7 and all(0 <= tick.position <= 100 for tick in chart.value_ticks)
    assert 1 <= len(chart.label_ticks) <= 12
    assert chart.line is None or 0 <= chart.line <= 100


def test_bars_stand_in_proportion_to_their_values_and_gaps_keep_their_place() -> None:
    chart = bar_chart([4.0, None, 1.0], [True, False, False], 2.0)
    assert chart is not None and chart.line is not None
    first, gap, last = chart.bars
    assert abs(first.height - 4 * last.height) < 1e-9
    assert first.top < chart.line < last.top
    assert gap.value is None and first.left < gap.left < last.left
    assert [tick.text for tick in chart.value_ticks] == ["0", "1", "2", "3", "4"]


def test_only_flagged_labels_with_room_are_numbered() -> None:
    flagged = [label in (3, 4, 50) for label in range(200)]
    chart = bar_chart([1.0] * 200, flagged, None)
    assert chart is not None
    assert [bar.label for bar in chart.bars if bar.numbered] == [3, 50]
