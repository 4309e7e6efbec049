"""The waterfall as a chart and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnbench.cost.waterfall import Waterfall
from attnbench.report.charts.plain import DENSE, FAINT, INK, plain_figure
from attnbench.report.words import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROMISE, LOSS, GAIN, LEFT = "#009e73", "#d55e00", "#56b4e9", "#aab3bd"


def waterfall_figure(waterfall: Waterfall) -> Figure:
    """Draw the ideal time, each loss from where the previous one ends, what is unexplained, and the measured
    latency."""
    steps = [("dense × density", 0.0, waterfall.ideal.ms, PROMISE, False)]
    at = waterfall.ideal.ms
    for bar in waterfall.bars:
        colour = LOSS if bar.span.ms >= 0 else GAIN
        steps.append((bar.name, at, bar.span.ms, colour, bar.kind == "modelled"))
        at += bar.span.ms
    steps.append(("unexplained", at, waterfall.unexplained.ms, LEFT, False))
    steps.append(("measured", 0.0, waterfall.latency.ms, DENSE, False))
    figure, axes = plain_figure(1.0 + 0.3 * len(steps))
    right = max(begin + max(0.0, length) for _, begin, length, _, _ in steps)
    for place, (name, begin, length, colour, modelled) in enumerate(steps):
        style: dict[str, Any] = {"hatch": "////", "edgecolor": "white", "linewidth": 0.0} if modelled else {}
        axes.barh(place, length, left=begin, height=0.62, color=colour, zorder=3, **style)
        end = max(begin, begin + length, begin + waterfall.unexplained.hi if name == "unexplained" else begin)
        sign = "+" if 0 < place < len(steps) - 1 and length >= 0 else ""
        axes.annotate(
            f"{sign}{number(length)}", (end, place), (5, 0), textcoords="offset points", va="center", fontsize=9,
            color=INK,
        )  # fmt: skip
        if place + 1 < len(steps) - 1:
            reach = begin + length
            axes.plot([reach, reach], [place - 0.31, place + 1.31], color=INK, linewidth=0.6, zorder=2)
        if name == "unexplained":
            span = waterfall.unexplained
            ends = [[max(0.0, span.ms - span.lo)], [max(0.0, span.hi - span.ms)]]
            axes.errorbar(begin + length, place, xerr=ends, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3, zorder=4)
            right = max(right, begin + span.hi)
    axes.set_yticks(range(len(steps)), [name for name, *_ in steps])
    axes.set_ylim(len(steps) - 0.5, -0.6)
    axes.set_xlim(min(0.0, waterfall.unexplained.lo + at), right * 1.2)
    axes.set_xlabel("ms")
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    return figure


def waterfall_words(waterfall: Waterfall) -> str:
    """Return the chart in words, for those who cannot see it."""
    losses = [
        f"{bar.name} {number(bar.span.ms)}{' (modelled)' if bar.kind == 'modelled' else ''}" for bar in waterfall.bars
    ]
    return (
        f"Dense × density: {number(waterfall.ideal.ms)} ms. Then {', '.join(losses) or 'nothing'}; unexplained "
        f"{number(waterfall.unexplained.ms)}, between {number(waterfall.unexplained.lo)} and "
        f"{number(waterfall.unexplained.hi)}. Measured: {number(waterfall.latency.ms)} ms."
    )
