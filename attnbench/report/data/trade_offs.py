"""Speed-up against what it costs, for each selection; and break-even curves over lengths."""

from __future__ import annotations

from collections.abc import Sequence

from attnbench.report.data.figure import Axis, Figure, Point, Series
from attnbench.report.data.selections import SELECTED_BY, Choice, Selection
from attnbench.report.words import DIRECTIONS, file_name, number, times
from attnbench.results.crossings import crossings

COSTS = {
    "error": ("approximation_error", "relative error of the output, against full attention", "lower"),
    "recall": ("mass_recall", "share of full attention's weights that is kept", "higher"),
    "density": ("density", "density: share of pairs kept", "lower"),
}
"""What a speed-up is drawn against: the column, its words, and which way is better."""

_SHAPE = ("grid",)


def trade_offs(selection: Selection) -> list[Figure]:
    """Return speed-up against error, recall and density: a figure each, if two methods or settings have both."""
    found = []
    for name, (column, label, better) in COSTS.items():
        drawn = [each for each in selection.choices if each.speedup and getattr(each.row, column) is not None]
        if not any(not each.is_dense for each in drawn):
            continue
        found.append(
            Figure(
                name=f"trade-off-{name}-{selection.name}",
                section="trade-off",
                kind="xy",
                title=f"Speed-up against {name}",
                caption=_CAPTIONS[name],
                words=_words(drawn, column, name),
                x=Axis(label, better=better),  # type: ignore[arg-type]  # one of the two words
                y=Axis("speed-up over the dense baseline, ×", log=True, better="higher"),
                series=(*_methods(drawn, column), *_guides(drawn, column, name, better)),
                selections=(selection.place,),
                option=name,
            )
        )
    return found


def break_even(selections: Sequence[Selection]) -> list[Figure]:
    """Return speed-up over the length of the sequence, by GPU time and by wall clock, for what differs by it alone."""
    families: dict[tuple[object, ...], list[Selection]] = {}
    for each in selections:
        key = tuple(getattr(each.first, name) for name in SELECTED_BY if name not in _SHAPE)
        families.setdefault(key, []).append(each)
    found = []
    for mine in families.values():
        if len({each.first.tokens for each in mine}) < 2:
            continue
        for clock, title in (("GPU time", "by GPU time"), ("wall clock", "by wall clock")):
            series = _curves(mine, clock)
            if not series:
                continue
            first = mine[0].first
            found.append(
                Figure(
                    name=file_name("break-even", title, mine[0].family),
                    section="break-even",
                    kind="xy",
                    title=f"Speed-up over the length of the sequence, {title}",
                    caption=f"{DIRECTIONS[first.direction].capitalize()}, {first.inputs} inputs. Above 1 a method is "
                    "faster than the dense baseline of its run. Lines join one method with the same settings given.",
                    words=_curve_words(series),
                    x=Axis("tokens", log=True),
                    y=Axis("speed-up over the dense baseline, ×", log=True, better="higher"),
                    series=(*series, _line("as fast as dense", _ends(series), 1.0)),
                    selections=tuple(each.place for each in mine),
                    option=title,
                )
            )
    return found


_CAPTIONS = {
    "error": "Up and to the left is better. Several settings of a method are joined. The thin line is the frontier: "
    "nothing is faster at no more error. Whiskers are the intervals of the table.",
    "recall": "Up and to the right is better. Several settings of a method are joined. The thin line is the frontier: "
    "nothing is faster at no less recall.",
    "density": "The dotted line is ideal: every skipped pair saves its share of the time. What is below it is lost to "
    "choosing pairs, gathering and kernels.",
}


def _methods(drawn: Sequence[Choice], column: str) -> list[Series]:
    """Return a series a method and engine: its settings, ordered along x."""
    groups: dict[tuple[str, str], list[Choice]] = {}
    for each in drawn:
        groups.setdefault((each.row.method, each.row.engine), []).append(each)
    found = []
    for (method, _), mine in groups.items():
        points = sorted((_point(each, column) for each in mine), key=lambda point: point.x)
        found.append(Series(_name(mine), tuple(points), method, "line" if len(points) > 1 else "points"))
    return found


def _name(mine: Sequence[Choice]) -> str:
    labels = [each.label.split(" · ") for each in mine]
    shared = [part for part in labels[0] if all(part in label for label in labels)]
    return " · ".join(shared) or mine[0].row.method


def _point(choice: Choice, column: str) -> Point:
    ratio, row = choice.speedup, choice.row
    assert ratio is not None
    x = float(getattr(row, column))
    return Point(x, ratio.value, ratio.lo, ratio.hi, choice.label, row.row_id)


def _guides(drawn: Sequence[Choice], column: str, name: str, better: str) -> list[Series]:
    places = [float(getattr(each.row, column)) for each in drawn]
    low, high = min(places), max(places)
    if name == "density":
        least = min(place for place in places if place > 0)
        ideal = [least * (1 / least) ** (step / 24) for step in range(25)]
        return [Series("ideal: 1 / density", tuple(Point(x, 1 / x) for x in ideal), look="guide", dashed=True)]
    sparse = [each for each in drawn if not each.is_dense]
    sign = 1 if better == "lower" else -1
    ordered = sorted(sparse, key=lambda each: (sign * float(getattr(each.row, column)), -_value(each)))
    best, frontier = 0.0, []
    for each in ordered:
        if _value(each) > best:
            best = _value(each)
            frontier.append(Point(float(getattr(each.row, column)), best))
    return [
        Series("frontier", tuple(frontier), look="steps"),
        _line("dense", (low, high), 1.0),
    ]


def _value(choice: Choice) -> float:
    return choice.speedup.value if choice.speedup else 0.0


def _line(name: str, ends: tuple[float, float], y: float) -> Series:
    return Series(name, (Point(ends[0], y), Point(ends[1], y)), look="guide", dashed=True)


def _words(drawn: Sequence[Choice], column: str, name: str) -> str:
    parts = [
        f"{each.label}: {name} {number(getattr(each.row, column))}, speed-up {times(each.speedup.value)}"
        for each in drawn[:24]
        if each.speedup
    ]
    more = f"; and {len(drawn) - 24} more" if len(drawn) > 24 else ""
    return f"Speed-up against {name}. {'; '.join(parts)}{more}."


def _curves(selections: Sequence[Selection], clock: str) -> list[Series]:
    lines: dict[tuple[str, str | None, float | None, str | None], list[Point]] = {}
    names: dict[tuple[str, str | None, float | None, str | None], Choice] = {}
    for each in sorted(selections, key=lambda one: one.first.tokens):
        for choice in each.choices:
            row = choice.row
            point = None if choice.is_dense else _curve_point(each, choice, clock)
            if point is not None:
                key = (row.method, row.settings_given, row.density_asked, row.engine_asked)
                lines.setdefault(key, []).append(point)
                names.setdefault(key, choice)
    return [
        Series(names[key].label, tuple(points), key[0], "line")
        for key, points in lines.items()
        if len({point.x for point in points}) > 1
    ]


def _curve_point(selection: Selection, choice: Choice, clock: str) -> Point | None:
    row, ratio = choice.row, choice.speedup
    if clock == "GPU time":
        return None if ratio is None else Point(row.tokens, ratio.value, ratio.lo, ratio.hi, choice.label, row.row_id)
    dense = selection.case.dense_row(row)
    eager_ms = row.baseline_eager_ms or (None if dense is None else dense.latency_eager_ms)
    if eager_ms is None or row.latency_eager_ms is None:
        return None
    return Point(row.tokens, eager_ms / row.latency_eager_ms, None, None, choice.label, row.row_id)


def _ends(series: Sequence[Series]) -> tuple[float, float]:
    places = [point.x for each in series for point in each.points]
    return min(places), max(places)


def _curve_words(series: Sequence[Series]) -> str:
    parts = []
    for each in series:
        first, last = each.points[0], each.points[-1]
        at = crossings([point.x for point in each.points], [point.y for point in each.points])
        told = f", breaking even at {', '.join(f'{round(x):,}' for x in at)} tokens" if at else ""
        parts.append(f"{each.name}: {times(first.y)} at {first.x:,.0f} tokens, {times(last.y)} at {last.x:,.0f}{told}")
    return f"{'; '.join(parts)}."
