"""Figures of a report for papers: drawn by matplotlib at the width of a column, without a title."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from attnbench.report.data.figure import Axis, Bar, Figure, Series, heat_cells
from attnbench.report.marks import COLOURS, INK, PART_COLOURS, SHAPES, mark_of
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
_GUIDES: tuple[Any, ...] = ((0, (4, 3)), (0, (1, 1.5)), (0, (7, 2, 1, 2)))
"""Guide lines that are dashed."""

_GREY, _FAINT = "#5b6672", "#dfe3e8"
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

_LETTER_MM, _NUMBER_MM = 1.35, 7.0
"""Width of a letter of a name, and of a number in a cell of a map."""

_WITHIN_ONE = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Ticks of an axis that holds less than a power of ten."""

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
    elif figure.kind == "bars":
        _draw_bars(axes, figure)
    else:
        _draw_cells(axes, figure, width)
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
            kind = series.method or ("dashed" if series.dashed else "plain")
            _draw_series(axes, series, figure.x, met.get(kind, 0))
            met[kind] = met.get(kind, 0) + 1
    if figure.section == "roofline":
        _name_phases(axes, figure)
    _limit(axes, figure.x, axes.set_xlim)
    _limit(axes, figure.y, axes.set_ylim)
    if figure.x.ticks:
        most = max(2, int(width / _TICK_MM))
        kept = figure.x.ticks[:: -(-len(figure.x.ticks) // most)]
        axes.set_xticks([at for at, _ in kept], [words.replace(" ", "\n", 1) for _, words in kept])
    axes.grid(color=_FAINT, linewidth=0.4)


def _draw_series(axes: Axes, series: Series, across: Axis, turn: int) -> None:
    """Draw a series; ``turn`` others of its method, with the same colour and marker, came before it."""
    colour, marker = (
        (mark_of(series.method).light, SHAPES[mark_of(series.method).marker]) if series.method else (_GREY, "")
    )
    xs, ys = [across.shown(point.x) for point in series.points], [point.y for point in series.points]
    style = _GUIDES[turn % len(_GUIDES)] if series.dashed else _STYLES[turn % len(_STYLES)]
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
        [across.shown(point.x) for point in ended], [point.lo or 0.0 for point in ended],
        [point.hi or 0.0 for point in ended], color=colour, linewidth=0.9, zorder=3,
    )  # fmt: skip
    fill = _FILLS[turn % len(_FILLS)]
    for point in series.points:
        if across.shown(point.x) < point.x:
            beyond = f"{number(point.x)} →"
            axes.annotate(
                beyond, (across.shown(point.x), point.y), (-4, 4), textcoords="offset points", ha="right", fontsize=6
            )
    hollow = [place for place, point in enumerate(series.points) if point.apart]
    if hollow:
        axes.plot(
            [xs[place] for place in hollow], [ys[place] for place in hollow], marker, linestyle="none", markersize=4.2,
            markeredgewidth=0.7, markerfacecolor="white", markeredgecolor=colour, zorder=5,
            label=None if len(hollow) < len(series.points) else drawn["label"],
        )  # fmt: skip
        if len(hollow) == len(series.points):
            drawn["label"] = None
    axes.plot(
        xs, ys, marker, linestyle=style if series.look == "line" else "none", markersize=4.2, markeredgewidth=0.7,
        fillstyle="left" if fill == "left" else "full", markerfacecolor="white" if fill == "none" else colour,
        markerfacecoloralt="white", markeredgecolor="white" if fill == "full" else colour, **{**drawn, "zorder": 4},
    )  # fmt: skip


def _name_phases(axes: Axes, figure: Figure) -> None:
    """Write the phase of a point, which follows the name of its method, at the first of those that are near it."""
    named: list[tuple[str, float, float]] = []
    for point in (point for series in figure.series if series.method for point in series.points):
        word, x, y = point.label.rpartition(": ")[2], math.log10(point.x), math.log10(point.y)
        if not any(word == other and math.hypot(x - a, y - b) < 1 for other, a, b in named):
            named.append((word, x, y))
            axes.annotate(word, (point.x, point.y), (5, 3), textcoords="offset points", fontsize=6)


def _draw_bars(axes: Axes, figure: Figure) -> None:
    lines = list(dict.fromkeys(bar.line for bar in figure.bars))
    own = {bar.part for bar in figure.bars if bar.line.split(" · ")[0] == bar.part} - PART_COLOURS.keys()
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
        if alone:
            end = max(bar.start + bar.size, bar.start, bar.hi or 0.0)
            axes.annotate(number(bar.size), (end, place), (3, 0), textcoords="offset points", va="center", fontsize=6)
        if bar.lo is not None and bar.hi is not None and _ends_line(bar, figure.bars):
            axes.hlines(place, bar.lo, bar.hi, color=INK[0], linewidth=0.8, zorder=4)
    axes.set_yticks(range(len(lines)), [_wrapped(line) for line in reversed(lines)])
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.grid(axis="x", color=_FAINT, linewidth=0.4)
    _scale(axes, figure, "x")
    if alone:
        axes.margins(x=0.14)  # the numbers
    _limit(axes, figure.x, axes.set_xlim)


def _draw_cells(axes: Axes, figure: Figure, width: float) -> None:
    cells = heat_cells(figure)
    lines = list(dict.fromkeys(cell.line for cell in cells))
    places = list(dict.fromkeys(cell.at for cell in cells))
    values = [[float("nan")] * len(places) for _ in lines]
    for cell in cells:
        if cell.value is not None:
            values[lines.index(cell.line)][places.index(cell.at)] = cell.value
    low, high = figure.x.least, figure.x.most
    image = axes.imshow(values, cmap="Blues", aspect="auto", vmin=low, vmax=high)
    room = _room(lines, width) / len(places)
    axes.set_xticks(*_thinned(places, room))
    axes.set_yticks(
        *(_thinned(lines, math.inf) if figure.strips else (range(len(lines)), [_wrapped(line) for line in lines]))
    )
    if room >= _NUMBER_MM:
        middle = ((low or 0.0) + (high if high is not None else 1.0)) / 2
        for down, row in enumerate(values):
            for across, value in enumerate(row):
                if value == value:  # not NaN: a cell without a value stays empty
                    ink = "white" if value > middle else INK[0]
                    axes.text(across, down, number(value), ha="center", va="center", fontsize=6, color=ink)
    bar = axes.get_figure().colorbar(image, ax=axes, pad=0.02)  # type: ignore[union-attr]  # it is in a figure
    bar.set_label(_better(figure.x))
    bar.outline.set_visible(False)


def _room(lines: Sequence[str], width: float) -> float:
    """Return about how many millimetres of the width the cells of a map have, beside names and the scale of colours."""
    names = max(len(part) for line in lines for part in _wrapped(line).split("\n"))
    return max(10.0, width - _LETTER_MM * names - 18)


def _thinned(places: list[str], room: float) -> tuple[list[int], list[str]]:
    """Return which places are named, eight at most, and as many as have room of so many millimetres each."""
    words = [_cut(place, 12) for place in places]
    every = max(-(-len(places) // 8), math.ceil((max(map(len, words)) + 1) * _LETTER_MM / room))
    kept = list(range(0, len(places), every))
    return kept, [words[place] for place in kept]


def _ends_line(bar: Bar, bars: tuple[Bar, ...]) -> bool:
    """Whether an interval belongs to a whole line: where parts follow one another, theirs would hide each other."""
    return sum(other.line == bar.line for other in bars) == 1


def _part_colours(parts: Sequence[str]) -> dict[str, str]:
    """Return the colour of each part, the same in every figure; those that have none get one in turn."""
    others = [part for part in parts if part not in PART_COLOURS]
    free = {part: COLOURS[place % len(COLOURS)][place // len(COLOURS) % 2] for place, part in enumerate(others)}
    return {part: PART_COLOURS.get(part) or free[part] for part in parts}


def _scale(axes: Axes, figure: Figure, side: str) -> None:
    """Name an axis, and label a logarithmic one with plain numbers."""
    axis: Axis = getattr(figure, side)
    getattr(axes, f"set_{side}label")(
        textwrap.fill(_better(axis), (52 if figure.kind == "xy" else 34) if side == "x" else 30)
    )
    if not axis.log:
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{side}scale")("log")
    its = axes.xaxis if side == "x" else axes.yaxis
    decades = _decades(figure, side)
    its.set_major_locator(LogLocator(subs=_WITHIN_ONE if decades < 1 else (1.0, 2.0, 5.0) if decades < 2 else (1.0,)))
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
