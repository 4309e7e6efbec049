"""Where a method begins to beat the dense baseline: curves of speed-up and translation, and where speed-up passes 1.

Points have the means over layers and the intervals that every report has; see ``attnbench.results.speedups``. They
cover the noise within the runs, not what differs from run to run.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from attnbench.kernels.errors import BadInput
from attnbench.results.crossings import BreakEven, break_even
from attnbench.results.frames import plain_rows
from attnbench.results.layers import mean_rounds, weighted_mean
from attnbench.results.records import cells as schema
from attnbench.results.speedups import Ratio, Timings, paired_timings

if TYPE_CHECKING:
    import pandas as pd

Axis = Literal["tokens", "density"]

SAME = ("device", "model", "batch", "heads", "kv_heads", "head_dim", "dtype", "direction", "inputs", "step")
"""What the points of a curve must share; over density also the grid."""

_NEEDED = ("method", "run_id", "layer", "verdict", "tokens", "grid", "density", "samples_ms", "baseline_ms")
_SEED = 20240


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One run of a curve.

    Attributes:
        x: tokens, or density.
        tokens: length of the sequence, text included.
        density: mean over the layers of the curve, weighted like all means by how many layers of the model are alike.
        engines: the engines that ran the layers, each named once.
        heads_timed: heads that were timed.
        baseline: method/engine of the dense baseline.
        latency_ms: median over the rounds of the mean over the layers.
        speedup: baseline_ms / latency_ms.
        translation: speedup × density.
        interval: "bootstrap95", or "min-max" where a series has fewer than six samples.
        dense_samples: samples of the dense baseline that the interval covers; 0 if only its median is known.
        model: whose shape it is; None for a grid alone.
        latency_eager_ms: wall clock of a call among back-to-back ones, mean over the layers; None where it is not
            known, and on a CPU, where it says the same as the latency.
        baseline_eager_ms: the same of the dense baseline.
        speedup_eager: their ratio. It rests on one measurement, so it has no interval.
    """

    x: float
    tokens: int
    grid: str
    density: float
    engines: tuple[str, ...]
    heads_timed: int | None
    baseline: str
    latency_ms: float
    baseline_ms: float
    speedup: Ratio
    translation: Ratio
    interval: schema.Interval
    dense_samples: int
    model: str | None = None
    latency_eager_ms: float | None = None
    baseline_eager_ms: float | None = None
    speedup_eager: float | None = None


_NOT_KNOWN = BreakEven("none")


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one method, in one layer or as the mean over its layers, by rising x.

    Attributes:
        layer: None for the mean over ``layers``.
        layers: all layers in which the method was measured.
        left_out: points without a latency, and why.
        break_even_eager: the break-even by wall clock, of the points that have ``speedup_eager``.
    """

    method: str
    layer: int | None
    layers: tuple[int, ...]
    axis: Axis
    points: tuple[CurvePoint, ...]
    break_even: BreakEven
    left_out: tuple[str, ...] = ()
    break_even_eager: BreakEven = _NOT_KNOWN


@dataclass(frozen=True)
class _Measured:
    """A point before its interval: what its speed-up rests on, and the rows of its layers with their weights."""

    timings: Timings
    rows: tuple[dict[str, Any], ...]
    weights: tuple[int, ...]
    x: float

    def mean(self, name: str) -> float:
        return weighted_mean([float(row[name]) for row in self.rows], self.weights)


def curves(table: pd.DataFrame, axis: Axis = "tokens") -> list[Curve]:
    """Return the curves of a results table, a run to a point, in the order of the methods.

    A method measured in several layers has a curve for their mean, then one for each. Dense attention has none. Cells
    without a latency are left out; a mean needs all layers.

    Args:
        table: rows as ``attnbench.load_results`` gives them. A column ``baseline_samples_ms``, a list a row as long as
            ``samples_ms``, holds the samples of the dense baseline in the same rounds, None where a round has none. A
            column ``rounds`` numbers the rounds, where layers do not all have the same ones. Without samples of the
            baseline in the same rounds, its own row is used where the table has one, and otherwise its median.
        axis: "tokens" or "density".

    Raises:
        BadInput: if columns are missing, or rows that no curve can hold together are mixed.
    """
    rows = _checked(table, axis)
    found = []
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != "full"):
        mine = [row for row in rows if row["method"] == method]
        layers = tuple(sorted({int(row["layer"]) for row in mine}))
        sets: list[tuple[int, ...]] = [layers] if len(layers) > 1 else []
        for chosen in [*sets, *((layer,) for layer in layers)]:
            curve = _curve(method, chosen, mine, rows, axis)
            found.append(dataclasses.replace(curve, layers=layers))
    return found


def _curve(
    method: str, layers: tuple[int, ...], mine: list[dict[str, Any]], rows: list[dict[str, Any]], axis: Axis
) -> Curve:
    measured, left_out = [], []
    for run in dict.fromkeys(row["run_id"] for row in mine):
        cells = {int(row["layer"]): row for row in mine if row["run_id"] == run and int(row["layer"]) in layers}
        without = [row for row in cells.values() if not _timed(row)]
        missing = [layer for layer in layers if layer not in cells]
        if not without and not missing:
            measured.append(_measure([cells[layer] for layer in layers], rows, axis))
            continue
        for row in without:
            reason = row.get("reason") or ("no dense baseline" if row["verdict"] == "ok" else "no reason recorded")
            left_out.append(f"layer {row['layer']} at {int(row['tokens']):,} tokens: {row['verdict']}: {reason}")
        if missing and cells:
            tokens = int(next(iter(cells.values()))["tokens"])
            left_out += [f"layer {layer} at {tokens:,} tokens: not measured" for layer in missing]
    measured.sort(key=lambda point: point.x)
    draws = [point.timings.log_draws(_SEED + place) for place, point in enumerate(measured)]
    points = tuple(map(_point, measured))
    x = np.asarray([point.x for point in points], dtype=np.float64)
    value = np.log([point.speedup.value for point in points])
    if any(point.timings.is_few for point in measured):
        band = [[point.speedup.lo, point.speedup.hi] for point in points]
        found = break_even(x, value, np.log(np.transpose(band)), "band")
    else:
        found = break_even(x, value, np.stack(draws, axis=1) if draws else np.empty((0, 0)), "bootstrap95")
    layer = layers[0] if len(layers) == 1 else None
    return Curve(method, layer, layers, axis, points, found, tuple(left_out), _by_wall_clock(points))


def _by_wall_clock(points: Iterable[CurvePoint]) -> BreakEven:
    known = [(point.x, point.speedup_eager) for point in points if point.speedup_eager is not None]
    x, ratio = np.asarray(known, dtype=np.float64).reshape(-1, 2).T
    return dataclasses.replace(break_even(x, np.log(ratio), np.empty((0, len(x))), "band"), interval=None)


def _measure(cells: list[dict[str, Any]], rows: list[dict[str, Any]], axis: Axis) -> _Measured:
    known = [int(row["layers_alike"]) for row in cells if row.get("layers_alike") is not None]
    weights = tuple(known) if len(known) == len(cells) else (1,) * len(cells)
    timings = _timings(cells, rows, weights)
    found = _Measured(timings, tuple(cells), weights, float(cells[0]["tokens"]))
    return dataclasses.replace(found, x=found.mean("density")) if axis == "density" else found


def _timings(cells: list[dict[str, Any]], rows: list[dict[str, Any]], weights: tuple[int, ...]) -> Timings:
    """Return what the speed-up of a point rests on, paired by round where the baseline's samples are known by round."""
    own = [dict(zip(_rounds(row), row["samples_ms"], strict=True)) for row in cells]
    beside: list[Any] = [row.get("baseline_samples_ms") for row in cells]
    dense = [
        {number: ms for number, ms in zip(_rounds(row), each, strict=True) if ms is not None}
        if _is_list(each) and len(each) == len(row["samples_ms"])
        else {}
        for row, each in zip(cells, beside, strict=True)
    ]
    rounds = mean_rounds(own, dense, weights).values()
    if (paired := paired_timings(rounds)) is not None:
        return paired
    first = cells[0]
    same = [
        other["samples_ms"]
        for other in rows
        if other["run_id"] == first["run_id"] and f"{other['method']}/{other.get('engine')}" == first.get("baseline")
    ]
    apart = next((each for each in [*beside, *same] if _is_list(each)), [first["baseline_ms"]])
    return Timings([mine for mine, _ in rounds], apart, paired=False)


def _rounds(row: dict[str, Any]) -> Sequence[int]:
    """Return the rounds of a row's samples; where the table does not say, they are counted."""
    return row["rounds"] if _is_list(row.get("rounds")) else range(len(row["samples_ms"]))


def _point(point: _Measured) -> CurvePoint:
    timings, first = point.timings, point.rows[0]
    speedup, density, heads = timings.speedup(), point.mean("density"), first.get("heads_timed")
    return CurvePoint(
        x=point.x,
        tokens=int(first["tokens"]),
        grid=str(first["grid"]),
        density=density,
        engines=tuple(dict.fromkeys(str(row.get("engine")) for row in point.rows)),
        heads_timed=None if heads is None else int(heads),
        baseline=str(first.get("baseline")),
        latency_ms=statistics.median(timings.own),
        baseline_ms=statistics.median(timings.dense),
        speedup=speedup,
        translation=Ratio(speedup.value * density, speedup.lo * density, speedup.hi * density),
        interval=timings.kind,
        dense_samples=len(timings.dense) if timings.paired or len(timings.dense) > 1 else 0,
        model=None if first.get("model") is None else str(first["model"]),
        **_eager(point),
    )


def _eager(point: _Measured) -> dict[str, float]:
    """Return the fields of a point by wall clock, none if a layer lacks them or the samples are of a wall clock too."""
    rows, dense = point.rows, point.rows[0].get("baseline_eager_ms")
    if dense is None or any(row.get("latency_eager_ms") is None or row.get("timer") == "wall" for row in rows):
        return {}
    mean = point.mean("latency_eager_ms")
    return {"latency_eager_ms": mean, "baseline_eager_ms": float(dense), "speedup_eager": float(dense) / mean}


def _checked(table: pd.DataFrame, axis: Axis) -> list[dict[str, Any]]:
    if axis not in ("tokens", "density"):
        raise BadInput(f"axis {axis!r} must be tokens or density")
    lacking = [name for name in _NEEDED if name not in table.columns]
    if lacking:
        raise BadInput(f"the table has no column {', '.join(lacking)}; give rows as attnbench.load_results does")
    rows = plain_rows(table)
    for name in (*SAME, *(("grid",) if axis == "density" else ())):
        values = list(dict.fromkeys(repr(row.get(name)) for row in rows))
        if len(values) > 1:
            raise BadInput(f"a curve needs one {name}, and the rows have {', '.join(values)}: keep the rows of one")
    seen: set[tuple[object, ...]] = set()
    for row in rows:
        cell = (row["run_id"], row["method"], row["layer"])
        if cell in seen and row["method"] != "full":
            raise BadInput(
                f"run {row['run_id']} has two cells of {row['method']} layer {row['layer']}; "
                "a curve takes one a run: keep the rows of one setting"
            )
        seen.add(cell)
    return rows


def _timed(row: dict[str, Any]) -> bool:
    numbers: Iterable[Any] = (row["baseline_ms"], row["density"], row["tokens"])
    return row["verdict"] == "ok" and _is_list(row["samples_ms"]) and all(number for number in numbers)


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0
