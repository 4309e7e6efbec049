"""Where a method begins to beat the dense baseline: curves of speed-up and translation, and where speed-up passes 1.

Intervals rest on the samples: the median of every series is resampled; at a point where a series has fewer than six
samples, the extremes are taken instead. They cover the noise within the runs, not what differs from run to run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from attnbench.kernels.errors import BadInput
from attnbench.results.bootstrap import generator_of
from attnbench.results.crossings import BreakEven, break_even
from attnbench.results.frames import plain_rows
from attnbench.results.records import cells as schema
from attnbench.results.speedups import Ratio, is_few, log_speedups, speedup_of

if TYPE_CHECKING:
    import pandas as pd

Axis = Literal["tokens", "density"]
Floats = npt.NDArray[np.float64]

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
        density: mean over the layers of the curve.
        engines: the engines that ran the layers, each named once.
        heads_timed: heads that were timed.
        baseline: method/engine of the dense baseline.
        latency_ms: mean over the layers of the median latencies.
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
    """A point before its interval: the dense samples, and those of each layer."""

    dense: Floats
    dense_known: bool
    layers: tuple[Floats, ...]
    rows: tuple[dict[str, Any], ...]
    x: float

    @property
    def few(self) -> bool:
        return is_few((self.dense, *self.layers) if self.dense_known else self.layers)


def curves(table: pd.DataFrame, axis: Axis = "tokens") -> list[Curve]:
    """Return the curves of a results table, a run to a point, in the order of the methods.

    A method measured in several layers has a curve for their mean, then one for each. Dense attention has none. Cells
    without a latency are left out; a mean needs all layers.

    Args:
        table: rows as ``attnbench.load_results`` gives them. A column ``baseline_samples_ms`` (a list a row) lets the
            intervals cover the noise of the dense baseline too; without it the row of the baseline itself is used
            where the table has one, and otherwise its median.
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
    generator = generator_of(_SEED)
    draws = [log_speedups(point.dense, point.layers, point.few, generator) for point in measured]
    points = tuple(map(_point, measured))
    x = np.asarray([point.x for point in points], dtype=np.float64)
    value = np.log([point.speedup.value for point in points])
    if any(point.few for point in measured):
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
    dense, known = _dense_samples(cells[0], rows)
    layers = tuple(np.asarray(row["samples_ms"], dtype=np.float64) for row in cells)
    density = float(np.mean([row["density"] for row in cells]))
    return _Measured(dense, known, layers, tuple(cells), density if axis == "density" else float(cells[0]["tokens"]))


def _dense_samples(row: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[Floats, bool]:
    """Return the samples of the dense baseline of ``row`` and whether they are all of them, or just the median."""
    own = row.get("baseline_samples_ms")
    if not _is_list(own):
        same = [
            other["samples_ms"]
            for other in rows
            if other["run_id"] == row["run_id"] and f"{other['method']}/{other.get('engine')}" == row.get("baseline")
        ]
        own = next((samples for samples in same if _is_list(samples)), None)
    return np.asarray(own or [row["baseline_ms"]], dtype=np.float64), own is not None


def _point(point: _Measured) -> CurvePoint:
    speedup = speedup_of(point.dense, point.layers, point.few)
    first = point.rows[0]
    density = float(np.mean([row["density"] for row in point.rows]))
    heads = first.get("heads_timed")
    return CurvePoint(
        x=point.x,
        tokens=int(first["tokens"]),
        grid=str(first["grid"]),
        density=density,
        engines=tuple(dict.fromkeys(str(row.get("engine")) for row in point.rows)),
        heads_timed=None if heads is None else int(heads),
        baseline=str(first.get("baseline")),
        latency_ms=float(np.mean([np.median(series) for series in point.layers])),
        baseline_ms=float(np.median(point.dense)),
        speedup=speedup,
        translation=Ratio(speedup.value * density, speedup.lo * density, speedup.hi * density),
        interval="min-max" if point.few else "bootstrap95",
        dense_samples=point.dense.size if point.dense_known else 0,
        model=None if first.get("model") is None else str(first["model"]),
        **_eager(point.rows),
    )


def _eager(rows: tuple[dict[str, Any], ...]) -> dict[str, float]:
    """Return the fields of a point by wall clock, none if a layer lacks them or the samples are of a wall clock too."""
    own = [float(row["latency_eager_ms"]) for row in rows if row.get("latency_eager_ms") is not None]
    dense = rows[0].get("baseline_eager_ms")
    if dense is None or len(own) < len(rows) or any(row.get("timer") == "wall" for row in rows):
        return {}
    mean = float(np.mean(own))
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
