"""A figure as data: what is drawn, without how. Pages, papers and CSV files are made of the same figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attnbench.report.data.table import Column, Table, Value

Kind = Literal["xy", "bars", "heat"]
Look = Literal["points", "line", "steps", "guide", "band"]


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: what is measured, with its unit.
        log: whether it is logarithmic.
        better: which way is better, if any is.
        least: a value that the axis reaches at least down to; None: by the data.
        most: likewise up to.
        ticks: values with the words that stand at them; none: by the data.
        cut: where the axis ends though some points lie beyond, which then stand at its edge; None: by the data.
    """

    label: str
    log: bool = False
    better: Literal["", "higher", "lower"] = ""
    least: float | None = None
    most: float | None = None
    ticks: tuple[tuple[float, str], ...] = ()
    cut: float | None = None

    def shown(self, value: float) -> float:
        """Return where a value stands on the axis."""
        return value if self.cut is None else min(value, self.cut)


@dataclass(frozen=True)
class Point:
    """A point, with the interval of y and what a reader sees beside it.

    Attributes:
        x: its place on the x axis.
        y: its place on the y axis.
        lo, hi: ends of the interval of y; None where there is none.
        label: what it is, in a few words.
        row: row_id of what it shows; empty where it shows no row.
        apart: whether it is drawn hollow, for it is not to be compared with the others without more ado.
    """

    x: float
    y: float
    lo: float | None = None
    hi: float | None = None
    label: str = ""
    row: str = ""
    apart: bool = False


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        name: of the series.
        points: in order.
        method: whose colour and marker it has; empty for none.
        look: markers alone, markers joined by a line, a line of steps without markers, a plain guide line, or a band
            between lo and hi around a line.
        dashed: whether its line is dashed.
    """

    name: str
    points: tuple[Point, ...]
    method: str = ""
    look: Look = "points"
    dashed: bool = False


def level(name: str, ends: tuple[float, float], y: float) -> Series:
    """Return a dashed guide line at one height, from one place on the x axis to another."""
    return Series(name, (Point(ends[0], y), Point(ends[1], y)), look="guide", dashed=True)


@dataclass(frozen=True)
class Bar:
    """A part of a bar: it reaches from ``start`` to ``start + size``.

    Attributes:
        line: the bar that it is part of.
        part: its name, which gives it its colour.
        start, size: in the unit of the x axis.
        lo, hi: ends of the interval of its end.
        provenance: how the value is known; modelled and ablated ones are hatched.
        label: what a reader sees beside it.
        row: row_id of what it shows.
    """

    line: str
    part: str
    start: float
    size: float
    lo: float | None = None
    hi: float | None = None
    provenance: str = "measured"
    label: str = ""
    row: str = ""


@dataclass(frozen=True)
class Heat:
    """A cell of a map of values.

    Attributes:
        line: its line, in words.
        at: its place on x, in words.
        value: what it shows; None where there is none.
    """

    line: str
    at: str
    value: float | None


@dataclass(frozen=True)
class Strip:
    """A line of a map with many values: as long as the figure's ``places``, which name them.

    Attributes:
        line: its line, in words.
        values: one at each place.
    """

    line: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: a word for links and files, unique in a report.
        section: the section that it belongs to.
        kind: "xy": points and lines; "bars": horizontal bars with parts; "heat": a map of values.
        title: its heading.
        caption: how to read it.
        words: what it shows, for those who cannot see it.
        x, y: its axes. Bars and maps need no y axis.
        series: of an "xy" figure.
        bars: of a "bars" figure.
        cells: of a "heat" figure.
        strips: whole lines of a "heat" figure, in the place of cells.
        places: what the values of strips are at, in words.
        selections: the selections that it belongs to; none: all.
        device: that it belongs to, where it is not of latencies and so of no one shape.
        option: what distinguishes figures of which one is shown at a time; empty for a figure of its own.
    """

    name: str
    section: str
    kind: Kind
    title: str
    caption: str
    words: str
    x: Axis
    y: Axis = Axis("")
    series: tuple[Series, ...] = ()
    bars: tuple[Bar, ...] = ()
    cells: tuple[Heat, ...] = ()
    selections: tuple[int, ...] = ()
    option: str = ""
    strips: tuple[Strip, ...] = ()
    places: tuple[str, ...] = ()
    device: str = ""


def heat_cells(figure: Figure) -> tuple[Heat, ...]:
    """Return the cells of a map, those of its strips included."""
    spread = (
        Heat(strip.line, at, value)
        for strip in figure.strips
        for at, value in zip(figure.places, strip.values, strict=True)
    )
    return (*figure.cells, *spread)


def table_of(figure: Figure) -> Table:
    """Return the data behind a figure as a table."""
    names: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    if figure.kind == "bars":
        names = ("line", "part", "start", "size", "lo", "hi", "provenance", "label", "row_id")
        rows = tuple(
            (bar.line, bar.part, bar.start, bar.size, bar.lo, bar.hi, bar.provenance, bar.label, bar.row)
            for bar in figure.bars
        )
    elif figure.kind == "heat":
        names = ("line", "at", "value")
        rows = tuple((cell.line, cell.at, cell.value) for cell in heat_cells(figure))
    else:
        names = ("series", "method", "x", "y", "lo", "hi", "label", "row_id")
        rows = tuple(
            (series.name, series.method, point.x, point.y, point.lo, point.hi, point.label, point.row)
            for series in figure.series
            for point in series.points
        )
    meanings = {"x": figure.x.label, "y": figure.y.label, "start": figure.x.label, "size": figure.x.label}
    columns = tuple(Column(name, meanings.get(name, "")) for name in names)
    return Table(figure.name, figure.title, columns, rows)
