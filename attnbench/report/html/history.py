"""The page of ``attnbench history``: every cell over time, in the look of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnbench.report.charts.history import history_figure, history_words
from attnbench.report.charts.picture import Picture
from attnbench.report.charts.plain import svg_uri
from attnbench.report.history_words import (
    HistoryGroup,
    NamedSeries,
    gap_words,
    last_words,
    latency_words,
    shift_words,
    value_words,
)
from attnbench.report.html.templates import resource, template
from attnbench.report.words import NONE, listed, number
from attnbench.results.history import Run


@dataclass(frozen=True)
class CellHistory:
    """A cell on the page: its chart, its events, and a line of texts for each of its runs."""

    name: str
    measure: str
    event: str
    events: list[str]
    figure: Picture | None
    lines: list[list[str]]


def make_history(groups: Sequence[HistoryGroup], runs: Sequence[Run]) -> str:
    """Make the page: HTML that loads nothing from outside.

    Args:
        groups: the cells.
        runs: all runs that measured some of them, the oldest first.
    """
    sections = [(group, [_cell(each) for each in group.members]) for group in groups]
    devices = list(dict.fromkeys(group.device for group in groups))
    events = [(group.title, cell) for group, cells in sections for cell in cells if cell.events]
    html: str = template("history.html").render(
        css=resource("history.css"), title=" – ".join(["attnbench history", *devices]), devices=listed(devices),
        runs=runs, sections=sections, events=events, several=len(devices) > 1,
    )  # fmt: skip
    return html


def _cell(named: NamedSeries) -> CellHistory:
    series = named.series
    picture = None
    if series.points:
        caption = (
            f"{series.measure.capitalize()} of each run, with 95 % intervals that hold the noise between runs. "
            "Horizontal lines are levels, dashed lines changes of level."
        )
        picture = Picture(svg_uri(history_figure(named)), history_words(named), caption)
    at = {id(shift.after): "slower" if shift.slower else "faster" for shift in series.shifts}
    told: list[tuple[Run, list[str]]] = [
        (point.run, [value_words(point, series) if series.measure == "speed-up" else NONE, latency_words(point),
                     number(point.row.density), point.row.engine, at.get(id(point), "")])
        for point in series.points
    ]  # fmt: skip
    told += [(gap.run, [NONE, NONE, NONE, NONE, gap.what]) for gap in series.gaps]
    told.sort(key=lambda line: line[0].started)
    events = [shift_words(shift, series) for shift in series.shifts]
    events += [gap_words(series.ended)] if series.ended is not None else []
    lines = [[run.date, run.commit, *texts] for run, texts in reversed(told)]
    return CellHistory(named.name, series.measure, last_words(series), events, picture, lines)
