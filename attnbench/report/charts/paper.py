"""Figures of a report for papers: drawn by matplotlib at the width of a column, without a title."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from attnbench.report.data.figure import Axis, Bar, Figure, Series, heat_cells
from attnbench.report.marks import COLOURS, INK, SHAPES, mark_of
from attnbench.report.words import number, shortened, two_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

PICTURES = ("png", "svg", "pdf")
"""In what forms a figure may be drawn."""

COLUMN_MM = 84.0
"""Width of a column of a paper in two columns."""

_INCH = 25.4
_DPI = 300
_DASHES = (0, (4, 3))
_GREY, _FAINT = "#5b6672", "#dfe3e8"
_PARTS: Mapping[str, str] = MappingProxyType(
    {"ideal": INK[0], "loss": COLOURS[1][0], "unexplained": _GREY, "floor": _GREY, "total": COLOURS[0][0]}
)
_HATCHED = ("modelled", "ablated")
_STYLES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
"""Lines of one method: the first series is solid, and others differ from it."""

_FILLS: tuple[Any, ...] = ("full", "none", "left")
"""Markers of one method: those of its first series are solid."""

_MOST, _LINE = 42, 30
"""Characters of a label, and of one on two lines."""

_A_COLUMN = 0.3
"""Characters of a label a millimetre of width, above which a legend has one column."""

_TICK_MM = 20.0
"""Width of a tick in words."""

_LEGEND_MM = 3.0
"""Height of a line of a legend."""


_STYLE: Mapping[Any, Any] = MappingProxyType(
    {
        "font.family": "DejaVu Sans", "font.size": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5,
        "ytick.labelsize": 6.5, "legend.fontsize": 6.5, "axes.linewidth": 0.6, "lines.linewidth": 1.0,
        "hatch.linewidth": 0.5, "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "attnbench",
        "text.color": INK[0], "axes.labelcolor": INK[0], "xtick.color": INK[0], "ytick.color": INK[0],
        "text.parse_math": False,
    }
)  # fmt: skip


def picture(figure: Figure, form: str, width: float = COLUMN_MM) -> bytes:
    """Return a figure as a file; equal figures give equal bytes.

    Args:
        figure: the data.
        form: one of ``PICTURES``. Text in PDF files stays text; in SVG files it is drawn as paths.
        width: in millimetres.
    """
    from matplotlib import rc_context

    buffer = io.BytesIO()
    dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[form]
    with rc_context(dict(_STYLE)):
        draw(figure, width).savefig(buffer, format=form, dpi=_DPI, metadata=dates)
    return buffer.getvalue()


def draw(figure: Figure, width: float = COLUMN_MM) -> Drawing:
    """Return a drawing of a figure, ``width`` millimetres wide."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(facecolor="white", layout="constrained")
    axes = drawing.subplots()
    if figure.kind == "xy":
        _draw_points(axes, figure, width)
    else:
        (_draw_bars if figure.kind == "bars" else _draw_cells)(axes, figure)
    axes.set_axisbelow(True)
    axes.tick_params(length=2, width=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    columns = 1 if max(map(len, labels), default=0) > _A_COLUMN * width else 2
    height = _height(figure, width) + _LEGEND_MM * math.ceil(len(labels) / columns)
    drawing.set_size_inches(width / _INCH, height / _INCH)
    if labels:
        drawing.legend(
            handles, labels, loc="outside lower center", ncols=columns, frameon=False, handlelength=1.8,
            columnspacing=1.0, borderpad=0.1, labelspacing=0.3,
        )  # fmt: skip
    return drawing


def _height(figure: Figure, width: float) -> float:
    """Return the height without a legend, in millimetres."""
    if figure.kind == "xy":
        return 0.62 * width
    if figure.strips:
        return 0.85 * width
    names = dict.fromkeys([*(bar.line for bar in figure.bars), *(cell.line for cell in figure.cells)])
    return 14 + 5.0 * len(names) + 2.4 * sum("\n" in _wrapped(name) for name in names)


def _draw_points(axes: Axes, figure: Figure, width: float) -> None:
    _scale(axes, figure, "x")
    _scale(axes, figure, "y")
    met: dict[str, int] = {}
    for series in figure.series:
        if series.points:
            _draw_series(axes, series, met.get(series.method, 0))
            met[series.method] = met.get(series.method, 0) + 1
    _limit(axes, figure.x, axes.set_xlim)
    _limit(axes, figure.y, axes.set_ylim)
    if figure.x.ticks:
        most = max(2, int(width / _TICK_MM))
        kept = figure.x.ticks[:: -(-len(figure.x.ticks) // most)]
        axes.set_xticks([at for at, _ in kept], [words.replace(" ", "\n", 1) for _, words in kept])
    axes.grid(color=_FAINT, linewidth=0.4)


def _draw_series(axes: Axes, series: Series, turn: int) -> None:
    """Draw a series; ``turn`` others of its method, with the same colour and marker, came before it."""
    colour, marker = (
        (mark_of(series.method).light, SHAPES[mark_of(series.method).marker]) if series.method else (_GREY, "")
    )
    xs, ys = [point.x for point in series.points], [point.y for point in series.points]
    style = _DASHES if series.dashed else _STYLES[turn % len(_STYLES)] if series.method else "solid"
    drawn: dict[str, Any] = {"color": colour, "label": _cut(series.name), "zorder": 3}
    if series.look in ("guide", "steps"):
        steps: dict[str, Any] = {"drawstyle": "steps-post"} if series.look == "steps" else {}
        axes.plot(xs, ys, linestyle=style, linewidth=0.8, **{**drawn, "zorder": 2}, **steps)
        return
    ended = [point for point in series.points if point.lo is not None and point.hi is not None]
    if series.look == "band":
        axes.fill_between(
            [point.x for point in ended], [point.lo or 0.0 for point in ended], [point.hi or 0.0 for point in ended],
            color=colour, alpha=0.15, linewidth=0,
        )  # fmt: skip
        axes.plot(xs, ys, linestyle=style, **drawn)
        return
    axes.vlines(
        [point.x for point in ended], [point.lo or 0.0 for point in ended], [point.hi or 0.0 for point in ended],
        color=colour, linewidth=0.9, zorder=3,
    )  # fmt: skip
    fill = _FILLS[turn % len(_FILLS)]
    axes.plot(
        xs, ys, marker, linestyle=style if series.look == "line" else "none", markersize=4.2, markeredgewidth=0.7,
        fillstyle="left" if fill == "left" else "full", markerfacecolor="white" if fill == "none" else colour,
        markerfacecoloralt="white", markeredgecolor="white" if fill == "full" else colour, **{**drawn, "zorder": 4},
    )  # fmt: skip


def _draw_bars(axes: Axes, figure: Figure) -> None:
    lines = list(dict.fromkeys(bar.line for bar in figure.bars))
    own = {bar.part for bar in figure.bars if bar.line.split(" · ")[0] == bar.part} - _PARTS.keys()
    parts = [part for part in dict.fromkeys(bar.part for bar in figure.bars) if part not in own]
    colours = {part: mark_of(part).light for part in own} | _part_colours(parts)
    alone = len({bar.line for bar in figure.bars}) == len(figure.bars) and bool(own)
    told: set[str] = set()
    for bar in figure.bars:
        place = len(lines) - 1 - lines.index(bar.line)
        axes.barh(
            place, bar.size, left=bar.start, height=0.66, color=colours[bar.part], linewidth=0.4, edgecolor="white",
            hatch="////" if bar.provenance in _HATCHED else None, zorder=3,
            label=None if alone or bar.part in told else _cut(bar.part),
        )  # fmt: skip
        told.add(bar.part)
        if bar.lo is not None and bar.hi is not None and _ends_line(bar, figure.bars):
            axes.hlines(place, bar.lo, bar.hi, color=INK[0], linewidth=0.8, zorder=4)
    axes.set_yticks(range(len(lines)), [_wrapped(line) for line in reversed(lines)])
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.grid(axis="x", color=_FAINT, linewidth=0.4)
    _scale(axes, figure, "x")
    _limit(axes, figure.x, axes.set_xlim)


def _draw_cells(axes: Axes, figure: Figure) -> None:
    cells = heat_cells(figure)
    lines = list(dict.fromkeys(cell.line for cell in cells))
    places = list(dict.fromkeys(cell.at for cell in cells))
    values = [[float("nan")] * len(places) for _ in lines]
    for cell in cells:
        if cell.value is not None:
            values[lines.index(cell.line)][places.index(cell.at)] = cell.value
    low, high = figure.x.least, figure.x.most
    image = axes.imshow(values, cmap="Blues", aspect="auto", vmin=low, vmax=high)
    axes.set_xticks(*_thinned(places))
    axes.set_yticks(*(_thinned(lines) if figure.strips else (range(len(lines)), [_wrapped(line) for line in lines])))
    if len(places) <= 8:
        middle = ((low or 0.0) + (high if high is not None else 1.0)) / 2
        for down, row in enumerate(values):
            for across, value in enumerate(row):
                if value == value:  # not NaN: a cell without a value stays empty
                    ink = "white" if value > middle else INK[0]
                    axes.text(across, down, number(value), ha="center", va="center", fontsize=6, color=ink)
    bar = axes.get_figure().colorbar(image, ax=axes, pad=0.02)  # type: ignore[union-attr]  # it is in a figure
    bar.set_label(_better(figure.x))
    bar.outline.set_visible(False)


def _thinned(places: list[str]) -> tuple[list[int], list[str]]:
    every = -(-len(places) // 8)
    kept = list(range(0, len(places), every))
    return kept, [_cut(places[place], 12) for place in kept]


def _ends_line(bar: Bar, bars: tuple[Bar, ...]) -> bool:
    """Whether an interval belongs to a whole line: where parts follow one another, theirs would hide each other."""
    return sum(other.line == bar.line for other in bars) == 1


def _part_colours(parts: Sequence[str]) -> dict[str, str]:
    """Return a colour for each part, lighter ones from the ninth on."""
    others = [part for part in parts if part not in _PARTS]
    free = {part: COLOURS[place % len(COLOURS)][place // len(COLOURS) % 2] for place, part in enumerate(others)}
    return {part: _PARTS.get(part) or free[part] for part in parts}


def _scale(axes: Axes, figure: Figure, side: str) -> None:
    """Name an axis, and label a logarithmic one with plain numbers."""
    axis: Axis = getattr(figure, side)
    getattr(axes, f"set_{side}label")(textwrap.fill(_better(axis), 52 if side == "x" else 30))
    if not axis.log:
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{side}scale")("log")
    its = axes.xaxis if side == "x" else axes.yaxis
    its.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if _decades(figure, side) < 2 else (1.0,)))
    its.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    its.set_minor_formatter(NullFormatter())


def _decades(figure: Figure, side: str) -> float:
    values = [getattr(point, side) for series in figure.series for point in series.points]
    positive = [value for value in values if value > 0]
    return math.log10(max(positive) / min(positive)) if positive else 0.0


def _better(axis: Axis) -> str:
    return f"{axis.label} ({axis.better} is better)" if axis.better else axis.label


def _limit(axes: Axes, axis: Axis, limit: Callable[..., Any]) -> None:
    low, high = axes.get_xlim() if limit == axes.set_xlim else axes.get_ylim()
    least = low if axis.least is None else min(low, axis.least) if axis.least else axis.least
    limit(least if least < low or axis.least == 0 else low, high if axis.most is None else max(high, axis.most))


def _wrapped(label: str) -> str:
    """Write a long label on two lines."""
    return "\n".join(two_lines(label, _LINE))


def _cut(label: str, most: int = _MOST) -> str:
    return shortened(label, most)
