"""The report's charts of latencies, as data URIs that need nothing from outside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from attnbench.methods.draw import png_bytes, svg_bytes
from attnbench.report.cases import Case
from attnbench.report.judge import speedup_ratio
from attnbench.report.words import number, times
from attnbench.results.records.cells import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, DENSE = "#3b4552", "#d9dee4", "#3b4552"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LOG_FROM = 20.0


def svg_uri(figure: Figure) -> str:
    """Return ``figure`` as an SVG data URI. Equal figures give equal text."""
    return _data_uri("image/svg+xml", svg_bytes(figure))


def png_uri(figure: Figure, dpi: int = 120) -> str:
    """Return ``figure`` as a PNG data URI of at most 64 colours, a quarter of the usual size."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png_bytes(figure, dpi))) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return _data_uri("image/png", buffer.getvalue())


def latency_figure(case: Case) -> Figure:
    """Draw the median latency of every timed row with its interval, and the dense baseline as a line."""
    rows = case.timed
    figure, axes = plain_figure(1.15 + 0.34 * len(rows))
    colour_of = _colours(case)
    for place, row in enumerate(rows):
        ms = row.latency_ms or 0.0
        low, high = row.latency_lo_ms or ms, row.latency_hi_ms or ms
        axes.errorbar(
            ms, place, xerr=[[max(0.0, ms - low)], [max(0.0, high - ms)]], fmt="o", markersize=6,
            color=colour_of(row), elinewidth=1.8, capsize=3.5, zorder=3,
        )  # fmt: skip
        axes.annotate(
            number(ms), (max(high, ms), place), (7, 0), textcoords="offset points", va="center", fontsize=9, color=INK
        )
    axes.set_yticks(range(len(rows)), [_cut(case.label(row, rows)) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    values = [value for row in rows for value in (row.latency_ms, row.latency_hi_ms) if value]
    values += [case.baseline_ms] if case.baseline_ms else []
    logarithmic = max(values) > LOG_FROM * min(values)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 1.5, max(values) * 2.5)
        _plain_log(axes, "x")
    else:
        axes.set_xlim(0, max(values) * 1.16)
    axes.set_xlabel("latency, ms (logarithmic scale)" if logarithmic else "latency, ms")
    if case.baseline_ms:
        axes.axvline(case.baseline_ms, color=DENSE, linewidth=1.3, linestyle=(0, (4, 3)), zorder=2)
        right = axes.transAxes.inverted().transform(axes.transData.transform((case.baseline_ms, 0)))[0] > 0.5
        axes.annotate(
            f"dense baseline {case.baseline}", (case.baseline_ms, 1), (-3 if right else 3, 4), fontsize=9, color=INK,
            xycoords=("data", "axes fraction"), textcoords="offset points", ha="right" if right else "left",
        )  # fmt: skip
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    return figure


def tradeoff_figure(case: Case) -> Figure | None:
    """Draw density against speed-up, with the ideal line and break-even; None if no row has both."""
    rows = [row for row in case.sparse if row.speedup and row.density]
    if not rows:
        return None
    figure, axes = plain_figure(4.3)
    colour_of = _colours(case)
    for row in rows:
        density, speedup = row.density or 1.0, row.speedup or 1.0
        found = speedup_ratio(case, row)
        low, high = (found.lo, found.hi) if found else (speedup, speedup)
        nth = [other for other in rows if other.method == row.method].index(row)
        axes.vlines(density, min(low, speedup), max(high, speedup), color=colour_of(row), linewidth=1.6, zorder=3)
        axes.plot(
            density, speedup, MARKERS[nth % len(MARKERS)], markersize=8, markeredgecolor="white", markeredgewidth=0.8,
            color=colour_of(row), zorder=4, label=_cut(case.label(row, rows), 34),
        )  # fmt: skip
    densities, speedups = [row.density or 1.0 for row in rows], [row.speedup or 1.0 for row in rows]
    left, bottom = min(*densities, 0.5) / 1.5, min(*speedups, 1.0) / 1.6
    top = max(*speedups, 1 / min(densities)) * 1.35
    axes.set(xscale="log", yscale="log", xlim=(left, 1.15), ylim=(bottom, top))
    axes.plot([left, 1], [1 / left, 1], color=INK, linewidth=1.2, label="ideal: speed-up = 1 / density", zorder=2)
    axes.axhline(1, color=DENSE, linewidth=1.2, linestyle=(0, (4, 3)), label="break-even: as fast as dense", zorder=2)
    _plain_log(axes, "x")
    _plain_log(axes, "y")
    axes.set_xlabel("density (fraction of pairs kept)")
    axes.set_ylabel("speed-up over the dense baseline, ×")
    axes.grid(color=FAINT, linewidth=0.7)
    handles, labels = axes.get_legend_handles_labels()
    columns = 1 if len(labels) < 4 or max(map(len, labels)) > 30 else 2
    figure.set_figheight(3.3 + 0.19 * -(-len(labels) // columns))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=8.5, frameon=False, labelcolor=INK
    )
    return figure


def latency_words(case: Case) -> str:
    """Return the latency chart in words, for those who cannot see it."""
    parts = [f"{case.label(row, case.timed)} {number(row.latency_ms)} ms" for row in case.timed]
    base = f" Dense baseline {case.baseline}: {number(case.baseline_ms)} ms." if case.baseline_ms else ""
    return f"Latency with intervals: {'; '.join(parts)}.{base}"


def tradeoff_words(case: Case) -> str:
    """Return the density chart in words, for those who cannot see it."""
    parts = [
        f"{case.label(row, case.timed)}: density {number(row.density)}, speed-up {times(row.speedup)}"
        for row in case.sparse
        if row.speedup and row.density
    ]
    return f"Density against speed-up: {'; '.join(parts)}. The ideal line is 1 / density, break-even is 1."


def _data_uri(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def plain_figure(height: float) -> tuple[Figure, Axes]:
    """Return an empty chart of the report's width and style, ``height`` inches high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, height), facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.tick_params(length=0, labelsize=9, colors=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=9.5)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color="#aab3bd", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _colours(case: Case) -> Callable[[Row], str]:
    names = [name for name in case.methods if name in {row.method for row in case.sparse}]
    return lambda row: COLOURS[names.index(row.method) % len(COLOURS)] if row.method in names else DENSE


def _plain_log(axes: Axes, side: str) -> None:
    """Label a logarithmic axis with plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())


def _cut(label: str, most: int = 40) -> str:
    """Shorten a label, and keep matplotlib from treating a dollar sign as mathematics."""
    return (label if len(label) <= most else label[: most - 1] + "…").replace("$", r"\$")
