"""Speed-up against what it costs, for each selection."""

from __future__ import annotations

from collections.abc import Sequence

from attnbench.report.data.figure import Axis, Figure, Point, Series, level
from attnbench.report.data.selections import Choice, Selection
from attnbench.report.words import number, times

COSTS = {
    "error": ("approximation_error", "relative error of the output, against full attention", "lower"),
    "recall": ("mass_recall", "share of full attention's weights that is kept", "higher"),
    "density": ("density", "density: share of pairs kept", "lower"),
}
"""What a speed-up is drawn against: the column, its words, and which way is better."""


def trade_offs(selection: Selection) -> list[Figure]:
    """Return speed-up against error, recall and density: a figure each, if two methods or settings have both."""
    found = []
    for name, (column, label, better) in COSTS.items():
        drawn = [each for each in selection.choices if each.speedup and getattr(each.row, column) is not None]
        if not any(not each.is_dense for each in drawn):
            continue
        cut = _cut([float(getattr(each.row, column)) for each in drawn]) if name == "error" else None
        found.append(
            Figure(
                name=f"trade-off-{name}-{selection.name}",
                section="trade-off",
                kind="xy",
                title=f"Speed-up against {name}",
                caption=_caption(drawn, name, cut),
                words=_words(drawn, column, name),
                x=Axis(label, better=better, cut=cut),  # type: ignore[arg-type]  # one of the two words
                y=Axis("speed-up over the dense baseline, ×", log=True, better="higher"),
                series=(*_methods(drawn, column), *_guides(drawn, column, name, better)),
                selections=(selection.place,),
                option=name,
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


_APART = (
    "Hollow markers with a dotted outline: the error is not one that a clip would see, for want of training or because "
    "of a state made on these inputs."
)
_FEW_BEYOND, _FAR = 8, 1.6
"""One of so many points may lie beyond the end of the axis, if it lies so many times as far out as the rest."""


def _caption(drawn: Sequence[Choice], name: str, cut: float | None) -> str:
    apart = [_APART] if any(map(_is_apart, drawn)) else []
    apart += ["The frontier leaves them out."] if apart and name != "density" else []
    beyond = ["Points at the right edge, with an arrow, lie beyond it."] if cut is not None else []
    return " ".join([_CAPTIONS[name], *apart, *beyond])


def _is_apart(choice: Choice) -> bool:
    return bool(choice.traits)


def _cut(places: Sequence[float]) -> float | None:
    """Return where the axis ends, so that a few points far out do not squeeze the others; None: at the last point."""
    ordered = sorted(places)
    for beyond in range(len(ordered) // _FEW_BEYOND, 0, -1):
        inside, first = ordered[-beyond - 1], ordered[-beyond]
        if inside > 0 and first > _FAR * inside:
            return 1.06 * inside
    return None


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
    return Point(x, ratio.value, ratio.lo, ratio.hi, choice.label, row.row_id, apart=_is_apart(choice))


def _guides(drawn: Sequence[Choice], column: str, name: str, better: str) -> list[Series]:
    places = [float(getattr(each.row, column)) for each in drawn]
    low, high = min(places), max(places)
    if name == "density":
        least = min(place for place in places if place > 0)
        ideal = [least * (1 / least) ** (step / 24) for step in range(25)]
        return [Series("ideal: 1 / density", tuple(Point(x, 1 / x) for x in ideal), look="guide", dashed=True)]
    sparse = [each for each in drawn if not each.is_dense and not _is_apart(each)]
    sign = 1 if better == "lower" else -1
    ordered = sorted(sparse, key=lambda each: (sign * float(getattr(each.row, column)), -_value(each)))
    best, frontier = 0.0, []
    for each in ordered:
        if _value(each) > best:
            best = _value(each)
            frontier.append(Point(float(getattr(each.row, column)), best, row=each.row.row_id))
    return [
        *([Series("frontier", tuple(frontier), look="steps")] if frontier else []),
        level("dense", (low, high), 1.0),
    ]


def _value(choice: Choice) -> float:
    return choice.speedup.value if choice.speedup else 0.0


def _words(drawn: Sequence[Choice], column: str, name: str) -> str:
    parts = [
        f"{each.label}: {name} {number(getattr(each.row, column))}, speed-up {times(each.speedup.value)}"
        for each in drawn[:24]
        if each.speedup
    ]
    more = f"; and {len(drawn) - 24} more" if len(drawn) > 24 else ""
    return f"Speed-up against {name}. {'; '.join(parts)}{more}."
