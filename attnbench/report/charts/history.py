"""One cell over time: each run's value with its interval, and a line where the level changed."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from attnbench.report.charts.plain import FAINT, INK, plain_figure
from attnbench.report.history_words import NamedSeries, value_words
from attnbench.report.marks import mark_of
from attnbench.report.terminal.shown import shown
from attnbench.results.estimates import power_of_e
from attnbench.results.history import exponentials

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TICKS = 6
SLOWER, FASTER = "#b3261e", "#0a6b47"


def history_figure(named: NamedSeries) -> Figure:
    """Draw a cell over its runs, the oldest on the left; runs are equally far apart. At least one point is needed."""
    series = named.series
    figure, axes = plain_figure(2.6)
    for place, log in enumerate(series.values):
        value, lo, hi = exponentials(log)
        known = math.isfinite(log.error)
        ends = [[value - lo], [hi - value]] if known else None
        axes.errorbar(
            place, value, yerr=ends, fmt="o" if known else "x", color=mark_of(series.last.method).light, markersize=5,
            elinewidth=1.5, capsize=3, zorder=3,
        )  # fmt: skip
    begins = [0, *(series.points.index(shift.after) for shift in series.shifts), len(series.points)]
    for begin, end in itertools.pairwise(begins):
        logs = [log.value for log in series.values[begin:end]]
        level = power_of_e(math.fsum(logs) / len(logs))
        axes.plot([begin - 0.4, end - 0.6], [level, level], color=INK, linewidth=1.1, zorder=2)
    for shift in series.shifts:
        colour = SLOWER if shift.slower else FASTER
        axes.axvline(series.points.index(shift.after) - 0.5, color=colour, linewidth=1.3, linestyle=(0, (4, 3)))
    every = -(-len(series.points) // _TICKS)
    labelled = range(0, len(series.points), every)
    words = [f"{series.points[place].run.date[:10]}\n{_plain(series.points[place].run.commit)}" for place in labelled]
    axes.set_xticks(list(labelled), words, fontsize=7.5)
    axes.set_xlim(-0.6, len(series.points) - 0.4)
    axes.set_ylabel("speed-up, ×" if series.measure == "speed-up" else "latency, ms")
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    return figure


def _plain(commit: str) -> str:
    """Return a commit with nothing in it that matplotlib lacks a picture of, or takes for mathematics."""
    return shown(commit).replace("$", r"\$")


def history_words(named: NamedSeries) -> str:
    """Return the chart in words, for those who cannot see it."""
    series = named.series
    first, last = series.points[0], series.points[-1]
    count = len(series.points)
    told = f"{named.name}, {series.measure} over {count} run{'s' if count != 1 else ''}"
    ends = f"{value_words(first, series)} on {first.run.date}, {value_words(last, series)} on {last.run.date}"
    return f"{told}: {ends}. Changes of level: {len(series.shifts)}."
