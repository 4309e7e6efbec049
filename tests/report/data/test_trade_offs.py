"""The picture of speed against error: what it leaves off the frontier, and where its axis ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from attnbench.report.charts.paper import draw
from attnbench.report.data.figure import Figure, Point
from attnbench.report.data.page import page_data
from attnbench.report.html.svg import svg_of
from attnbench.results.load import Results
from attnbench.results.records.cells import Row

Maker = Callable[..., Any]
NAMES = ("sta", "radial", "nabla", "sparge", "draft", "svg1", "rainfusion")
"""Methods that are used without training and keep no state."""


@pytest.fixture
def rows(row_of: Maker) -> list[Row]:
    """Methods that are slower the smaller their error; one with a state is beyond all, one without training far out."""
    plain = [
        row_of(name, latency_ms=30.0 + 5 * place, approximation_error=0.4 - 0.05 * place)
        for place, name in enumerate(NAMES)
    ]
    state = row_of("svg2", latency_ms=25.0, approximation_error=0.01, refresh_ms=90.0, refresh_every=10,
                   latency_amortised_ms=31.5)  # fmt: skip
    untrained = row_of("vsa", latency_ms=28.0, approximation_error=1.13)
    dense = row_of("full", engine="sdpa", density=1.0, latency_ms=100.0, approximation_error=0.0)
    return [dense, *plain, state, untrained]


def figure(table_of: Callable[..., Results], rows: list[Row], option: str) -> Figure:
    (found,) = [
        each for each in page_data(table_of(rows)).figures if each.section == "trade-off" and each.option == option
    ]
    return found


def points(found: Figure) -> dict[str, Point]:
    return {series.method: series.points[0] for series in found.series if series.method}


def test_errors_that_no_clip_would_see_are_hollow_and_off_the_frontier(
    table_of: Callable[..., Results], rows: list[Row]
) -> None:
    for option in ("error", "recall", "density"):
        found = figure(table_of, rows, option)
        assert {name for name, point in points(found).items() if point.apart} == {"svg2", "vsa"}
        assert "Hollow" in found.caption
        frontier = [point.row for series in found.series if series.name == "frontier" for point in series.points]
        assert bool(frontier) == ("frontier leaves them out" in found.caption) == (option != "density")
        assert {"", *(row.row_id for row in rows if row.method in ("svg2", "vsa"))}.isdisjoint(frontier)


def test_one_point_far_out_does_not_squeeze_the_others(table_of: Callable[..., Results], rows: list[Row]) -> None:
    found = figure(table_of, rows, "error")
    assert found.x.cut == pytest.approx(1.06 * 0.4)
    assert points(found)["vsa"].x == 1.13  # the data are what was measured
    assert "lie beyond it" in found.caption
    (axes,) = draw(found).axes
    assert axes.get_xlim()[1] < 0.5
    assert "1.13 →" in [text.get_text() for text in axes.texts]
    assert svg_of(found, page_data(table_of(rows)).methods).count(' apart"') == 2


@pytest.mark.parametrize("left_out", [("vsa",), NAMES])
def test_the_axis_holds_all_points_where_none_is_far_out_or_they_are_few(
    table_of: Callable[..., Results], rows: list[Row], left_out: tuple[str, ...]
) -> None:
    found = figure(table_of, [row for row in rows if row.method not in left_out], "error")
    assert found.x.cut is None
    assert "lie beyond it" not in found.caption
