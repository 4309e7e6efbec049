"""What methods and budgets kept of attention, and what replacing it cost, as figures: of each run of an analysis."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from attnbench.report.data.figure import Axis, Figure, Heat, Point, Series, Strip
from attnbench.report.words import listed, number
from attnbench.results.records.analysis import AnalysisRow
from attnbench.results.records.cells import settings_of

SECTION = "analysis"
PARTITIONS = ("1d", "2d", "3d")
BUDGETS = {"topk_query": "as many for every query", "minmax_head": "the best of the head"}
"""The budgets that are compared, by rule."""

Group = Mapping[str, Sequence[AnalysisRow]]


def kept_figures(rows: Sequence[AnalysisRow]) -> list[Figure]:
    """Return the figures of each run."""
    runs: dict[str, list[AnalysisRow]] = {}
    for row in rows:
        if row.value is not None:
            runs.setdefault(row.run_id, []).append(row)
    found: list[Figure] = []
    for place, (run, own) in enumerate(runs.items()):
        option = f"{own[0].model}, {run}" if len(runs) > 1 else ""
        for figure in (each for make in _MAKERS for each in make(own, f"{SECTION}-{place}", option)):
            which = f", {figure.option}" if figure.option else ""
            found.append(replace(figure, option=f"{figure.title}{which}"))
    return found


def _recall(rows: Sequence[AnalysisRow], name: str, option: str) -> Iterator[Figure]:
    """Yield recall against density, of all queries and of the tenth of which least is kept."""
    for measure, which, title in (
        ("mass_recall", "of all queries", "Weight that methods keep"),
        ("mass_recall_worst_tenth", "of the tenth of the queries of which least is kept", "Queries that keep least"),
    ):
        by_method = _by_method(rows, measure)
        if not by_method:
            continue
        points = {who: Point(_density(own), _mean(own), label=who) for who, own in by_method.items()}
        best = max(points, key=lambda who: points[who].y)
        yield Figure(
            f"{name}-{measure.replace('_', '-')}", SECTION, "xy", title,
            f"Share of full attention's weight on the pairs that are kept, {which}; mean over heads, layers and steps.",
            f"{best} keeps most: {number(points[best].y)} of the weight with {number(points[best].x)} of the pairs.",
            Axis("density", least=0.0, most=1.0), Axis("share of the weight", better="higher", least=0.0, most=1.0),
            series=tuple(Series(who, (point,), by_method[who][0].method) for who, point in points.items()),
            option=option,
        )  # fmt: skip


def _lost(rows: Sequence[AnalysisRow], name: str, option: str) -> Iterator[Figure]:
    """Yield where weight is lost: by distance in frames, and for each method by the place of the query."""
    rows = [row for row in rows if row.points]
    curves = {who: _curve(own) for who, own in _by_method(rows, "mass_lost").items()}
    if curves:
        far = {who: curve for who, curve in curves.items() if sum(curve) > 0}
        told = [f"{who} {number(1 - curve[0] / sum(curve))}" for who, curve in far.items()]
        yield Figure(
            f"{name}-lost", SECTION, "xy", "How far the lost weight is",
            "Weight on pairs that are left out, by frames between query and key; mean over heads, layers and steps.",
            f"Share of the loss that is in other frames than the query's: {listed(told) or 'none'}.",
            Axis("frames between query and key"), Axis("share of the weight", better="lower", least=0.0), option=option,
            series=tuple(
                Series(who, tuple(Point(float(t), y) for t, y in enumerate(curve)), rows_of[0].method, "line")
                for (who, curve), rows_of in zip(curves.items(), _by_method(rows, "mass_lost").values(), strict=True)
            ),
        )  # fmt: skip
    for place, (who, own) in enumerate(_by_method(rows, "mass_recall").items()):
        mean, width = _curve(own), int(own[0].shape.rpartition("=")[2])
        lines = [tuple(mean[start : start + width]) for start in range(0, len(mean), width)]
        yield Figure(
            f"{name}-places-{place}", SECTION, "heat", "Where queries keep least",
            "Share of the weight that is kept, by the query's place in a frame; mean over heads, layers and steps.",
            f"{who}: from {number(min(mean))} to {number(max(mean))}.", Axis("share of the weight"),
            strips=tuple(Strip(f"rows {line + 1}", values) for line, values in enumerate(lines)),
            places=tuple(f"columns {column + 1}" for column in range(width)),
            option=f"{option}: {who}" if option else who,
        )  # fmt: skip


def _budgets(rows: Sequence[AnalysisRow], name: str, option: str) -> Iterator[Figure]:
    """Yield what a budget of the head and a fixed one hold at one density, from the worst tenth of the queries on."""
    compared = (row.budget for row in rows if row.measure.startswith("global_gain_"))
    for place, density in enumerate(dict.fromkeys(each for each in compared if each is not None)):
        for kind in PARTITIONS:
            series = []
            for rule, words in BUDGETS.items():
                own = [
                    row for row in rows
                    if row.measure == f"cut_recall_{rule}_{kind}" and row.budget == density and row.points
                ]  # fmt: skip
                if own:
                    points = tuple(Point(tenth + 1.0, y) for tenth, y in enumerate(_curve(own)))
                    series.append(Series(words, points, look="line"))
            if len(series) == len(BUDGETS):
                worst = [each.points[0].y for each in series]
                which = f"{kind.upper()} blocks, density {density:g}"
                yield Figure(
                    f"{name}-budgets-{place}-{kind}", SECTION, "xy", "One budget for the head, or one for each query",
                    "Weight that queries hold if they keep the blocks that score best, at the same density. Queries of "
                    "each head are ordered by what they hold; mean over heads, layers and steps.",
                    f"The tenth of the queries that is served worst holds {number(worst[1])} with a budget of the head "
                    f"and {number(worst[0])} with a fixed one.",
                    Axis("tenth of the queries, worst first"), Axis("share of the weight", least=0.0, most=1.0),
                    series=tuple(series), option=f"{option}: {which}" if option else which,
                )  # fmt: skip


def _perturbed(rows: Sequence[AnalysisRow], name: str, option: str) -> Iterator[Figure]:
    """Yield what replacing the attention of each layer, and of all, costs in PSNR."""
    own = [row for row in rows if row.measure == "perturbed_psnr" and row.step is None]
    if not own:
        return
    cells = tuple(
        Heat(row.method, "all layers" if row.layer is None else f"layer {row.layer}", row.value)
        for row in sorted(own, key=lambda row: (row.method, row.layer is None, row.layer or 0))
    )
    least = min(cells, key=lambda cell: cell.value or 0.0)
    yield Figure(
        f"{name}-perturbed", SECTION, "heat", "What replacing attention costs",
        "PSNR against the clip with full attention. identity: each token attends to itself; uniform: to all alike.",
        f"Least with {least.line} in {least.at}: {number(least.value or 0.0)} dB.", Axis("PSNR, dB", better="higher"),
        cells=cells, option=option,
    )  # fmt: skip


def _entropy_and_cost(rows: Sequence[AnalysisRow], name: str, option: str) -> Iterator[Figure]:
    """Yield what replacing the attention of each layer costs, by the entropy of its maps."""
    entropies: dict[int | None, list[float]] = {}
    for row in rows:
        if row.measure == "entropy_normalised":
            entropies.setdefault(row.layer, []).append(row.value or 0.0)
    series: dict[str, list[Point]] = {}
    for row in rows:
        if row.measure == "perturbed_psnr" and row.step is None and row.layer is not None and row.layer in entropies:
            entropy = statistics.fmean(entropies[row.layer])
            point = Point(entropy, row.value or 0.0, row.lo, row.hi, f"{row.method}, layer {row.layer}")
            series.setdefault(row.method, []).append(point)
    if not series:
        return
    told = [
        f"{number(row.value)} for {row.method}" for row in rows
        if row.measure == "spearman_entropy_psnr" and row.step is None
    ]  # fmt: skip
    yield Figure(
        f"{name}-entropy-cost", SECTION, "xy", "Whether entropy tells what a layer's attention is worth",
        "PSNR against the clip with full attention if the attention of one layer is replaced, by the mean entropy of "
        "its maps. identity: each token attends to itself; uniform: to all alike.",
        f"Rank correlation over layers: {listed(told)}." if told else "There are too few layers for a correlation.",
        Axis("entropy / ln N, mean over heads and steps"), Axis("PSNR, dB", better="higher"),
        series=tuple(Series(who, tuple(points)) for who, points in series.items()), option=option,
    )  # fmt: skip


_MAKERS: tuple[Callable[[Sequence[AnalysisRow], str, str], Iterable[Figure]], ...] = (
    _recall, _lost, _budgets, _perturbed, _entropy_and_cost,
)  # fmt: skip


def _by_method(rows: Sequence[AnalysisRow], measure: str) -> dict[str, list[AnalysisRow]]:
    """Return the rows of a measure by method, with its settings where it has several."""
    own = [row for row in rows if row.measure == measure and row.method]
    several = {method for method in {row.method for row in own} if len(_settings(own, method)) > 1}
    found: dict[str, list[AnalysisRow]] = {}
    for row in own:
        settings = ", ".join(f"{name}={value}" for name, value in (settings_of(row.settings) or {}).items())
        name = f"{row.method} {settings}".strip() if row.method in several else row.method
        found.setdefault(name, []).append(row)
    return found


def _settings(rows: Sequence[AnalysisRow], method: str) -> set[str]:
    return {row.settings for row in rows if row.method == method}


def _curve(rows: Sequence[AnalysisRow]) -> list[float]:
    """Return the mean of the points of rows."""
    return [statistics.fmean(column) for column in zip(*(row.points for row in rows), strict=True)]


def _mean(rows: Sequence[AnalysisRow]) -> float:
    return statistics.fmean(row.value or 0.0 for row in rows)


def _density(rows: Sequence[AnalysisRow]) -> float:
    return statistics.fmean(row.density or 0.0 for row in rows)
