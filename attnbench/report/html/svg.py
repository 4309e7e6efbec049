"""Figures as SVG text that needs no script: what is shown before a script draws them anew, and where there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from attnbench.report.data.figure import Axis, Figure, Series, heat_cells
from attnbench.report.data.page import MethodMark
from attnbench.report.marks import PART_COLOURS
from attnbench.report.words import number, shortened, two_lines

WIDTH = 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 26, 44
_ROW = 26
_MOST_BARS = 40
_LETTERS, _SHORT = 34, 7
_END_LETTERS, _MOST_ENDS, _LINE = 28, 24, 14.0

HATCHED = ("modelled", "ablated", "instrumented", "floor")


def svg_of(figure: Figure, methods: Sequence[MethodMark]) -> str:
    """Return a figure as an SVG element without inline styles; its classes are those of the page's style sheet."""
    classes = {mark.name: (f"c{place}", mark.marker) for place, mark in enumerate(methods)}
    if figure.kind == "bars":
        return _bars(figure, classes)
    return _heat(figure) if figure.kind == "heat" else _points(figure, classes)


Classes = Mapping[str, tuple[str, str]]


class _Scale:
    """From values to places, linear or logarithmic, with ticks."""

    def __init__(self, values: Sequence[float], axis: Axis, start: float, end: float) -> None:
        low = min([*values, *([] if axis.least is None else [axis.least])])
        high = max([*values, *([] if axis.most is None else [axis.most])])
        self.log = axis.log and low > 0
        if low == high:
            low, high = (
                (low / 1.5, high * 1.5) if self.log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
            )
        a, b = self._warp(low), self._warp(high)
        pad = 0.06 * (b - a)
        self.a, self.b = (a if axis.least is not None else a - pad), b + pad
        self.start, self.end, self.shown = start, end, axis.shown

    def _warp(self, value: float) -> float:
        return math.log(value) if self.log else value

    def __call__(self, value: float) -> float:
        return self.start + (self._warp(self.shown(value)) - self.a) / (self.b - self.a) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        low, high = (math.exp(self.a), math.exp(self.b)) if self.log else (self.a, self.b)
        if self.log and high / low >= 4:
            steps, found = ([1] if high / low > 500 else [1, 2, 5]), []
            for digits in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
                found += [step * 10.0**digits for step in steps if low <= step * 10.0**digits <= high]
            return found
        rough = (high - low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        width = next(each * unit for each in (1, 2, 5, 10) if each * unit >= rough * 0.999)
        first = math.ceil(low / width)
        return [round(at * width, 12) for at in range(first, math.floor(high / width + 1e-9) + 1)]


FILLS = ("", " hollow", " holed")
"""How the markers of one method differ in a figure: those of its first series are solid."""

DASHES = ("", " dash1", " dash2", " dash3")
"""How its lines differ."""


def _in_turn(figure: Figure) -> list[tuple[Series, int]]:
    """Return each series with the number of those of the same method before it."""
    met: dict[str, int] = {}
    found = []
    for series in figure.series:
        turn = met.get(series.method, 0) if series.method else 0
        met[series.method] = turn + 1
        found.append((series, turn))
    return found


def _marking(marker: str, turn: int, r: float) -> str:
    hollow, holed = (turn % len(FILLS) == place for place in (1, 2))
    return marker_path(marker, r * 0.88 if hollow else r) + (marker_path("circle", r * 0.4) if holed else "")


def _tick(x: float, y: float, words: str) -> str:
    """Return the words of a tick, moved inwards where the picture ends."""
    half = len(words) * 3.3
    return _text(max(half, min(x, WIDTH - half)), y, words, "tick", "middle")


def _open(figure: Figure, height: float) -> str:
    words = escape(f"{figure.title}. {figure.words}", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{words}">'


def _text(x: float, y: float, words: str, name: str, anchor: str = "start") -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _axes(figure: Figure, x: _Scale, y: _Scale | None, box: tuple[float, float, float, float]) -> list[str]:
    top, bottom, left, right = box
    found = []
    named = _named_ticks(figure.x, x)
    for at in [at for at, _ in named] or x.ticks:
        found.append(f'<path class="grid" d="M{x(at):.1f},{top}V{bottom:.1f}"/>')
        found += [] if named else [_tick(x(at), bottom + 16, f"{at:,g}")]
    for at, words in named:
        for line, text in enumerate(words.split(" ", 1)):
            found.append(_tick(x(at), bottom + 14 + 12 * line, text))
    down = 36 + (_SECOND_LINE if named else 0)
    found.append(_text(right, bottom + down, figure.x.label, "axis", "end"))
    if y is None:
        return found
    for at in y.ticks:
        found.append(f'<path class="grid" d="M{left},{y(at):.1f}H{right}"/>')
        found.append(_text(left - 7, y(at) + 4, f"{at:,g}", "tick", "end"))
    return [*found, _text(2, 13, figure.y.label, "axis")]


_SECOND_LINE = 14
_TICK = 84
"""Width of a tick in words."""


def _named_ticks(axis: Axis, scale: _Scale) -> list[tuple[float, str]]:
    """Return the ticks that have words, as many as have room."""
    found: list[tuple[float, str]] = []
    for at, words in axis.ticks:
        if not found or scale(at) - scale(found[-1][0]) >= _TICK:
            found.append((at, words))
    return found


def _points(figure: Figure, classes: Classes) -> str:
    height = 400
    every = [point for series in figure.series for point in series.points]
    named = _named_at_ends(figure)
    letters = min(max((len(each.name) for each in named), default=0), _END_LETTERS)
    right = WIDTH - (letters * 6.6 + 24 if named else _RIGHT)
    x = _Scale([figure.x.shown(point.x) for point in every], figure.x, _LEFT, right)
    ends = [value for point in every for value in (point.y, point.lo, point.hi) if value is not None]
    bottom = height - _BOTTOM - (_SECOND_LINE if figure.x.ticks else 0)
    y = _Scale(ends, figure.y, bottom, _TOP)
    found = [_open(figure, height), *_axes(figure, x, y, (_TOP, bottom, _LEFT, right))]
    for series, turn in _in_turn(figure):
        found += _series(series, x, y, classes, turn, named=series in named)
    turns = {series.name: turn for series, turn in _in_turn(figure)}
    found += _names_at_ends(named, y, classes, turns, letters, (_TOP, bottom, right))
    return "".join([*found, "</svg>"])


def _named_at_ends(figure: Figure) -> list[Series]:
    """Return the series that are named in the margin, where no line crosses a name: all but those of a trade-off."""
    if figure.section == "trade-off":
        return []
    return [each for each in figure.series if each.look != "steps"][:_MOST_ENDS]


def _names_at_ends(
    named: Sequence[Series],
    y: _Scale,
    classes: Classes,
    turns: Mapping[str, int],
    letters: int,
    box: tuple[float, float, float],
) -> list[str]:
    top, bottom, right = box
    ordered = sorted(named, key=lambda each: y(each.points[-1].y))
    found = []
    for each, at in zip(ordered, _spread([y(each.points[-1].y) for each in ordered], top, bottom), strict=True):
        if each.method in classes:
            name, marker = classes[each.method]
            where, turn = f"translate({right + 10:.1f},{at:.1f})", turns.get(each.name, 0)
            look = f"end mark {name}{FILLS[turn % len(FILLS)]}"
            found.append(f'<path class="{look}" d="{_marking(marker, turn, 4)}" transform="{where}"/>')
        told = shortened(each.name, letters)
        found.append(_text(right + 18, at + 4, told, "word" if each.method else "guide-word"))
    return found


def _spread(ends: Sequence[float], top: float, bottom: float) -> list[float]:
    """Return rising places moved apart by at least a line, within top and bottom."""
    found: list[float] = []
    for end in ends:
        found.append(max(end, found[-1] + _LINE) if found else max(end, top))
    below = bottom
    for place in range(len(found) - 1, -1, -1):
        found[place] = min(found[place], below)
        below = found[place] - _LINE
    return found


def _series(series: Series, x: _Scale, y: _Scale, classes: Classes, turn: int, *, named: bool = False) -> list[str]:
    name, marker = classes.get(series.method, ("guide", "circle"))
    path = [(x(point.x), y(point.y)) for point in series.points]
    found = []
    if series.look != "points" and len(path) > 1:
        steps = series.look == "steps"
        rest = "".join(f"H{a:.1f}V{b:.1f}" if steps else f"L{a:.1f},{b:.1f}" for a, b in path[1:])
        dashed = " dashed" if series.dashed else DASHES[turn % len(DASHES)]
        found.append(f'<path class="line {series.look} {name}{dashed}" d="M{path[0][0]:.1f},{path[0][1]:.1f}{rest}"/>')
    if series.look in ("points", "line"):
        for point, (a, b) in zip(series.points, path, strict=True):
            if point.lo is not None and point.hi is not None:
                found.append(f'<path class="whisker {name}" d="M{a:.1f},{y(point.lo):.1f}V{y(point.hi):.1f}"/>')
            look, where = (
                f"mark {name}{FILLS[turn % len(FILLS)]}{' apart' * point.apart}",
                f"translate({a:.1f},{b:.1f})",
            )
            found.append(f'<path class="{look}" d="{_marking(marker, turn, 5)}" transform="{where}"/>')
    if series.look == "steps" or named:
        return found
    a, b = path[-1]
    right = a > WIDTH * 0.6
    found.append(_text(a - 9 if right else a + 9, b - 7, series.name, "word", "end" if right else "start"))
    return found


def marker_path(marker: str, r: float) -> str:
    """Return the outline of a marker around the origin."""
    corners = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "triangle": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
        "diamond": ((0, -1.3), (1.15, 0), (0, 1.3), (-1.15, 0)),
        "nabla": ((0, 1.15), (1.1, -0.85), (-1.1, -0.85)),
        "plus": tuple(_cross(0.0)),
        "cross": tuple(_cross(math.pi / 4)),
        "hexagon": ((-1.15, 0), (-0.58, -1), (0.58, -1), (1.15, 0), (0.58, 1), (-0.58, 1)),
    }.get(marker)
    if corners is None:
        return f"M{-r},0a{r},{r} 0 1,0 {2 * r},0a{r},{r} 0 1,0 {-2 * r},0z"
    return "M" + "L".join(f"{r * a:.2f},{r * b:.2f}" for a, b in corners) + "z"


def _cross(turn: float) -> list[tuple[float, float]]:
    arm, end = 0.42, 1.2
    quarter = [(-arm, -end), (arm, -end), (arm, -arm)]
    found = []
    for side in range(4):
        angle = turn + side * math.pi / 2
        c, s = math.cos(angle), math.sin(angle)
        found += [(a * c - b * s, a * s + b * c) for a, b in quarter]
    return found


def _bars(figure: Figure, classes: Classes) -> str:
    lines = list(dict.fromkeys(bar.line for bar in figure.bars))[:_MOST_BARS]
    letters = min(max(map(len, lines)), _LETTERS)
    left, right, top = _names_room(letters), WIDTH - 62, 8
    bottom = top + len(lines) * _ROW
    shown = [bar for bar in figure.bars if bar.line in set(lines)]
    x = _Scale([0.0, *(value for bar in shown for value in (bar.start, bar.start + bar.size))], figure.x, left, right)
    found = [_open(figure, bottom + 42), *_axes(figure, x, None, (top, bottom, left, right))]
    for place, line in enumerate(lines):
        found += _name(line, letters, left - 8, top + place * _ROW + _ROW / 2)
    totals = dict.fromkeys(lines, 0.0)
    reach = dict.fromkeys(lines, left)
    for bar in shown:
        a, b = x(bar.start), x(bar.start + bar.size)
        at = top + lines.index(bar.line) * _ROW
        name = classes[bar.part][0] if bar.part in classes else f"p-{bar.part if bar.part in PART_COLOURS else 'other'}"
        box = f'x="{min(a, b):.1f}" y="{at + 5}" width="{max(0.8, abs(b - a)):.1f}" height="16"'
        found.append(f'<rect class="bar {name}" {box}/>')
        found += [f'<rect fill="url(#hatch)" {box}/>'] if bar.provenance in HATCHED else []
        totals[bar.line] += bar.size
        reach[bar.line] = max(reach[bar.line], a, b)
    for place, line in enumerate(lines):
        found.append(_text(reach[line] + 6, top + place * _ROW + 17, number(totals[line]), "tick"))
    return "".join([*found, "</svg>"])


def _heat(figure: Figure) -> str:
    cells = heat_cells(figure)
    lines, across = (list(dict.fromkeys(each)) for each in zip(*((c.line, c.at) for c in cells), strict=True))
    letters = min(max(map(len, lines)), 30)
    left, top, row = _names_room(letters), 24, min(_ROW, max(8, 546 // len(lines)))
    wide = min(120.0, (WIDTH - left - 8) / len(across))
    found = [_open(figure, top + len(lines) * row + 12)]
    found += [_tick(left + (place + 0.5) * wide, 15, at) for place, at in enumerate(across) if wide > 52]
    found += [
        text
        for at, line in enumerate(lines)
        if at % math.ceil(14 / row) == 0
        for text in _name(line, letters, left - 8, top + at * row + row / 2)
    ]
    for cell in cells:
        if cell.value is not None:
            x, y = left + across.index(cell.at) * wide, top + lines.index(cell.line) * row
            found.append(
                f'<rect class="heat" x="{x + 1:.1f}" y="{y + 1}" width="{max(1.0, wide - 2):.1f}" height="{row - 2}" '
                f'fill-opacity="{0.06 + 0.84 * min(1.0, cell.value):.3f}"/>'
            )
    return "".join([*found, "</svg>"])


def _names_room(letters: int) -> float:
    """Return the room of names of lines: short ones may have wide letters alone."""
    return max(letters, _SHORT) * 6.6 + 12


def _name(text: str, letters: int, x: float, middle: float) -> list[str]:
    """Return the name of a line, on two lines where it is long."""
    first, *rest = two_lines(text, letters)
    if not rest:
        return [_text(x, middle + 4, first, "word", "end")]
    return [_text(x, middle - 1, first, "word small", "end"), _text(x, middle + 10, rest[0], "word small", "end")]
