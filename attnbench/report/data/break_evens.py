"""Speed-up over the length of the sequence, for selections that differ by their grid alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from attnbench.report.clip_quality import effective_settings
from attnbench.report.data.figure import Axis, Figure, Point, Series, level
from attnbench.report.data.selections import SELECTED_BY, Choice, Selection, told_apart
from attnbench.report.words import DIRECTIONS, file_name, times
from attnbench.results.crossings import crossings
from attnbench.results.speedups import charged_ms

_SHAPE = ("grid",)
_EAGER = "wall clock"
_MEANINGS = {
    "GPU time": "GPU time is what the device needs for one call; launching it is not in it.",
    "call time": "Call time is that of one call by itself.",
    _EAGER: "Wall clock is that of calls back to back, so it holds what the CPU takes to launch them.",
}


@dataclass
class _Curve:
    """A method with the settings that were given for it, over lengths; ``longest``: where it was measured last."""

    longest: Choice
    points: list[Point] = field(default_factory=list)

    @property
    def several(self) -> bool:
        """Whether it was measured at more than one length."""
        return len({point.x for point in self.points}) > 1


def break_even(selections: Sequence[Selection]) -> list[Figure]:
    """Return speed-up over the length of the sequence, by the time of a call and by wall clock.

    A figure joins selections that differ by their grid alone. What was measured at one length only is a point; where
    that is so of everything, there is no figure.
    """
    families: dict[tuple[object, ...], list[Selection]] = {}
    for each in selections:
        key = tuple(getattr(each.first, name) for name in SELECTED_BY if name not in _SHAPE)
        families.setdefault(key, []).append(each)
    found = []
    for mine in families.values():
        by_gpu = any(row.timer in ("events", "graph") for each in mine for row in each.rows)
        for clock in ("GPU time" if by_gpu else "call time", _EAGER):
            curves = _curves(mine, clock)
            if not any(curve.several for curve in curves):
                continue
            series, first = _series(curves), mine[0].first
            alone = [] if all(curve.several for curve in curves) else ["Points alone were measured at one length only."]
            found.append(
                Figure(
                    name=file_name("break-even", f"by {clock}", mine[0].family),
                    section="break-even",
                    kind="xy",
                    title=f"Speed-up over the length of the sequence, by {clock}",
                    caption=" ".join(
                        [
                            f"{DIRECTIONS[first.direction].capitalize()}, {first.inputs} inputs. Above 1 a method is "
                            "faster than the dense baseline of its run. Lines join one method with the same settings.",
                            *alone, _MEANINGS[clock],
                        ]
                    ),
                    words=_words(series),
                    x=Axis("tokens", log=True),
                    y=Axis("speed-up over the dense baseline, ×", log=True, better="higher"),
                    series=(*series, level("as fast as dense", _ends(series), 1.0)),
                    selections=tuple(each.place for each in mine),
                    option=f"by {clock}",
                )
            )  # fmt: skip
    return found


def _curves(selections: Sequence[Selection], clock: str) -> list[_Curve]:
    found: dict[tuple[object, ...], _Curve] = {}
    for each in sorted(selections, key=lambda one: one.first.tokens):
        for choice in each.choices:
            row = choice.row
            point = None if choice.is_dense else _point(each, choice, clock)
            if point is not None:
                settings = effective_settings(row.method, row.settings_asked)
                key: tuple[object, ...] = (row.method, settings, row.density_asked, row.engine_asked)
                if key in found and any(known.x == point.x for known in found[key].points):
                    key = *key, row.settings_asked  # the same cell, asked for in other words
                curve = found.setdefault(key, _Curve(choice))
                curve.longest = choice
                curve.points.append(point)
    return list(found.values())


def _series(curves: Sequence[_Curve]) -> list[Series]:
    """Return the series, each with the shortest name that tells it from the others of the figure."""
    names = told_apart([curve.longest.row for curve in curves])
    found = []
    for curve in sorted(curves, key=lambda curve: not curve.several):
        row = curve.longest.row
        points = tuple(replace(point, label=names[row.row_id]) for point in curve.points)
        found.append(Series(names[row.row_id], points, row.method, "line" if curve.several else "points"))
    return found


def _point(selection: Selection, choice: Choice, clock: str) -> Point | None:
    row, ratio = choice.row, choice.speedup
    if clock != _EAGER:
        return None if ratio is None else Point(row.tokens, ratio.value, ratio.lo, ratio.hi, row=row.row_id)
    dense = selection.case.dense_row(row)
    eager_ms = row.baseline_eager_ms or (None if dense is None else dense.latency_eager_ms)
    if eager_ms is None or row.latency_eager_ms is None:
        return None
    return Point(row.tokens, eager_ms / charged_ms(row, row.latency_eager_ms), row=row.row_id)


def _ends(series: Sequence[Series]) -> tuple[float, float]:
    places = [point.x for each in series for point in each.points]
    return min(places), max(places)


def _words(series: Sequence[Series]) -> str:
    parts = []
    for each in series:
        first, last = each.points[0], each.points[-1]
        if first.x == last.x:
            parts.append(f"{each.name}: {times(first.y)} at {first.x:,.0f} tokens alone")
            continue
        at = crossings([point.x for point in each.points], [point.y for point in each.points])
        told = f", breaking even at {', '.join(f'{round(x):,}' for x in at)} tokens" if at else ""
        parts.append(f"{each.name}: {times(first.y)} at {first.x:,.0f} tokens, {times(last.y)} at {last.x:,.0f}{told}")
    return f"{'; '.join(parts)}."
