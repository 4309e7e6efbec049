"""The history of cells for the terminal: a table of 80 columns a group, and a sentence for each event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from attnbench.report.history_words import (
    HistoryGroup,
    NamedSeries,
    gap_words,
    last_words,
    latency_words,
    shift_words,
    value_words,
)
from attnbench.report.words import NONE

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {"slower": "red", "lost": "red", "faster": "green", "other": "yellow"}


def history_table(group: HistoryGroup) -> Table:
    """Return the cells of a group as a table of at most 80 columns: the newest values, and the last event."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("cell", max_width=22, overflow="fold")
    table.add_column("runs", justify="right")
    table.add_column("speed-up", justify="right", max_width=20, overflow="fold")
    table.add_column("latency, ms", justify="right", max_width=18, overflow="fold")
    table.add_column("last event", max_width=17, overflow="fold")
    for each in group.members:
        series, event = each.series, last_words(each.series)
        points = series.points
        followed = series.measure == "speed-up"
        table.add_row(
            Text(each.name), str(len(points)),
            Text(value_words(points[-1], series) if points and followed else NONE),
            Text(latency_words(points[-1]) if points else NONE),
            Text(event, style=_STYLES.get(event.split()[0].rstrip(":"), "")),
        )  # fmt: skip
    return table


def event_lines(group: HistoryGroup) -> Iterator[str]:
    """Yield a sentence for each change of level and each cell that ended."""
    for each in group.members:
        yield from events_of(each)


def events_of(named: NamedSeries) -> list[str]:
    """Return what happened to a cell, a sentence each, in order of time."""
    series = named.series
    told = [f"{named.name}: {shift_words(shift, series)}" for shift in series.shifts]
    return told + ([f"{named.name}: {gap_words(series.ended)}"] if series.ended is not None else [])


def heading(group: HistoryGroup, several: Sequence[str]) -> str:
    """Return the title of a group, with its device if there are several."""
    return f"{group.title}, on {group.device}" if len(several) > 1 else group.title
