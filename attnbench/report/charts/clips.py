"""Charts of clips: the gap of each method with its two floors, and PSNR frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnbench.report.charts.latency import COLOURS, FAINT, INK, plain_figure
from attnbench.report.gap_words import ARROWS, estimate_words, names_of, value_words
from attnbench.results.gaps import Gap
from attnbench.results.means import Estimate
from attnbench.results.records.clips import QualityRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KERNEL, SEED = "#8d98a5", "#e3c27a"


def gap_figure(gaps: Sequence[Gap]) -> Figure:
    """Draw the gaps of one metric, one line per method, on bands that show another kernel and another seed.

    Args:
        gaps: at least one gap, all of the same metric and run.
    """
    names = names_of(gaps)
    figure, axes = plain_figure(1.35 + 0.36 * len(gaps))
    first = gaps[0]
    _floor(axes, first.seed_floor, SEED, "another seed")
    _floor(axes, first.kernel_floor, KERNEL, "another exact kernel")
    for place, gap in enumerate(gaps):
        colour = COLOURS[place % len(COLOURS)]
        mean, low, high = gap.gap.mean, gap.gap.lo, gap.gap.hi
        reach = None if low is None or high is None else [[max(0.0, mean - low)], [max(0.0, high - mean)]]
        axes.errorbar(
            mean, place, xerr=reach, fmt="o", markersize=6, color=colour, elinewidth=1.8, capsize=3.5, zorder=3
        )
        axes.annotate(
            value_words(mean), (mean, place), (0, 8), textcoords="offset points", ha="center", fontsize=9, color=INK
        )
    labels = [names[gap.method, gap.settings, gap.engine].replace("$", r"\$") for gap in gaps]
    axes.set_yticks(range(len(gaps)), labels)
    axes.set_ylim(len(gaps) - 0.4, -0.75)
    axes.margins(x=0.08)
    unit = f", {first.unit}" if first.unit else ""
    what = "distance from full attention" if first.kind == "distance" else "method − full attention"
    axes.set_xlabel(f"{first.metric}{unit} {ARROWS[first.better]}  ({what})")
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    handles, words = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, words, loc="outside lower center", ncols=_columns(words, 40), fontsize=8.5, frameon=False,
            labelcolor=INK,
        )  # fmt: skip
    return figure


def gap_words(gaps: Sequence[Gap]) -> str:
    """Return the chart of gaps in words, for those who cannot see it."""
    return " ".join(f"{gap.sentence}." for gap in gaps)


def curve_figure(lines: Sequence[tuple[str, QualityRow]]) -> Figure:
    """Draw a metric frame by frame: methods in colour, the noise floors dashed in the colours of their bands.

    Args:
        lines: names and rows; each row has a value for every frame.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = plain_figure(2.9)
    methods = 0
    for name, row in lines:
        style = {"kernel-floor": (KERNEL, (0, (4, 3))), "seed-floor": (SEED, (0, (4, 3)))}.get(row.role)
        colour, dashes = style or (COLOURS[methods % len(COLOURS)], "solid")
        methods += style is None
        marker = "o" if len(row.per_frame) == 1 else None
        axes.plot(
            range(1, len(row.per_frame) + 1), row.per_frame, color=colour, linestyle=dashes, marker=marker,
            linewidth=1.8, label=name.replace("$", r"\$"),
        )  # fmt: skip
    first = lines[0][1]
    axes.set_xlabel("frame")
    axes.set_ylabel(f"{first.metric}{', ' if first.unit else ''}{first.unit}")
    if max(len(row.per_frame) for _, row in lines) == 1:
        axes.set_xticks([1])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=FAINT, linewidth=0.7)
    handles, words = axes.get_legend_handles_labels()
    figure.legend(
        handles, words, loc="outside lower center", ncols=_columns(words, 34), fontsize=8.5, frameon=False,
        labelcolor=INK,
    )  # fmt: skip
    return figure


def curve_words(lines: Sequence[tuple[str, QualityRow]]) -> str:
    """Return the curves in words, for those who cannot see them."""
    parts = []
    for name, row in lines:
        ends = row.per_frame[0], row.per_frame[-1]
        parts.append(
            f"{name} from {value_words(ends[0])} to {value_words(ends[1])}, mean {value_words(row.value or 0)}"
        )
    return f"{lines[0][1].metric} by frame: {'; '.join(parts)}."


def _columns(labels: Sequence[str], room: int) -> int:
    return 2 if max(map(len, labels)) < room else 1


def _floor(axes: Axes, floor: Estimate | None, colour: str, name: str) -> None:
    if floor is None:
        return
    axes.axvline(floor.mean, color=colour, linewidth=2.5, label=f"{name}: {estimate_words(floor)}", zorder=1)
    if floor.lo is not None and floor.hi is not None:
        axes.axvspan(floor.lo, floor.hi, color=colour, alpha=0.45, linewidth=0, zorder=1)
