"""The picture of a sweep: speed-up and translation over tokens or density, with intervals and break-even."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attnbench.report.charts.plain import DENSE, FAINT, INK, calm
from attnbench.report.curve_words import label, shown
from attnbench.report.marks import SHAPES, mark_of
from attnbench.report.words import number
from attnbench.results.break_even import Curve, CurvePoint
from attnbench.results.speedups import Ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_X = {"tokens": "tokens (logarithmic scale)", "density": "density, fraction of pairs kept (logarithmic scale)"}
_DASHES = (0, (4, 3))


def curve_figure(curves: Sequence[Curve], title: str) -> Figure | None:
    """Draw speed-up above translation, a line for each method; None if no curve has a point.

    Bars are the intervals of the points, and dotted lines the speed-ups of calls back to back, by wall clock. A diamond
    on the dense line marks a break-even, and the band around it is its interval, cut off at the measured points if it
    is open.
    """
    from matplotlib.figure import Figure

    drawn = [curve for curve in shown(curves) if curve.points]
    if not drawn:
        return None
    figure = Figure(figsize=(6.6, 6.6), facecolor="white", layout="constrained")
    figure.suptitle(title, x=0.012, ha="left", fontsize=10.5, fontweight="bold", color=INK)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.25, 1))
    span = [point.x for curve in drawn for point in curve.points]
    wide = max(span) / min(span) if len(set(span)) > 1 else 2.0
    edges = (min(span) / wide**0.06, max(span) * wide**0.06)
    above.set(xscale="log", yscale="log", xlim=edges)
    _lines(above, drawn, lambda point: point.speedup)
    _lines(below, drawn, lambda point: point.translation)
    _by_wall_clock(above, drawn)
    _break_evens(above, drawn, edges)
    above.axhline(1, color=DENSE, linewidth=1.2, linestyle=_DASHES, label="dense baseline", zorder=2)
    speedups = [end for curve in drawn for p in curve.points for end in (p.speedup.lo, p.speedup.hi, p.speedup_eager)]
    told = [end for end in speedups if end is not None]
    above.set_ylim(min(*told, 1.0) / 1.3, max(*told, 1.0) * 1.3)
    below.axhline(1, color=DENSE, linewidth=1.2, linestyle=_DASHES, zorder=2)
    below.annotate(
        "every dropped pair became saved time", (0, 1), (4, 4), fontsize=8, color=INK,
        xycoords=("axes fraction", "data"), textcoords="offset points",
    )  # fmt: skip
    below.set_ylim(0, max(1.18, *(p.translation.hi * 1.08 for curve in drawn for p in curve.points)))
    above.set_ylabel("speed-up over the dense baseline, ×")
    below.set_ylabel("translation (speed-up × density)")
    below.set_xlabel(_X[drawn[0].axis])
    for axes in (above, below):
        calm(axes)
        axes.grid(color=FAINT, linewidth=0.7)
    _plain_log(above, "y")
    _plain_log(below, "x")
    above.legend(fontsize=8.5, frameon=False, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def _lines(axes: Axes, curves: Sequence[Curve], of: Callable[[CurvePoint], Ratio]) -> None:
    for curve in curves:
        mark = mark_of(curve.method)
        ratios = [of(point) for point in curve.points]
        low = [max(0.0, ratio.value - ratio.lo) for ratio in ratios]
        high = [max(0.0, ratio.hi - ratio.value) for ratio in ratios]
        axes.errorbar(
            [point.x for point in curve.points], [ratio.value for ratio in ratios], yerr=[low, high],
            fmt=f"-{SHAPES[mark.marker]}", color=mark.light, linewidth=1.4, markersize=6,
            markeredgecolor="white", markeredgewidth=0.7, elinewidth=1.6, capsize=3, zorder=3,
            label=label(curve).replace("$", r"\$"),
        )  # fmt: skip


def _by_wall_clock(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw the speed-ups of calls back to back as thin dotted lines, where they are known."""
    told = "dotted: calls back to back, by wall clock"
    for curve in curves:
        known = [(point.x, point.speedup_eager) for point in curve.points if point.speedup_eager is not None]
        if known:
            colour = mark_of(curve.method).light
            axes.plot(*zip(*known, strict=True), ":", color=colour, linewidth=1.2, zorder=2, label=told)
            told = "_"  # in the legend once


def _break_evens(axes: Axes, curves: Sequence[Curve], edges: tuple[float, float]) -> None:
    for place, curve in enumerate(curves):
        found, colour = curve.break_even, mark_of(curve.method).light
        if found.at is None:
            continue
        axes.axvspan(found.lo or edges[0], found.hi or edges[1], color=colour, alpha=0.14, linewidth=0, zorder=1)
        axes.axvline(found.at, color=colour, linewidth=0.9, alpha=0.8, zorder=2)
        axes.plot(
            found.at, 1, "D", markersize=7, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=1.6,
            zorder=5,
        )  # fmt: skip
        told = f"{round(found.at):,}" if curve.axis == "tokens" else number(found.at)
        axes.annotate(
            told, (found.at, 0), (4, 5 + 11 * place), fontsize=8.5, color=colour, fontweight="bold",
            xycoords=("data", "axes fraction"), textcoords="offset points", zorder=6,
        )  # fmt: skip


def _plain_log(axes: Axes, side: str) -> None:
    """Label a logarithmic axis with plain numbers, which are closer together if it spans less."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_xlim() if side == "x" else axes.get_ylim()
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < 20 else (1.0, 2.0, 5.0)
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())
