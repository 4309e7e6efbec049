"""The judge of a curve: where a method begins to beat the dense baseline, in words for terminal and page alike."""

from __future__ import annotations

from collections.abc import Sequence

from attnbench.inputs.shapes import frames_at
from attnbench.kernels.grid import Grid
from attnbench.report.words import INTERVALS, number
from attnbench.results.break_even import Curve
from attnbench.results.crossings import BreakEven


def label(curve: Curve) -> str:
    """Return the name of a curve: "vmoba, mean of layers 0, 1, 2", "vmoba layer 1", "sta"."""
    if curve.layer is None:
        return f"{curve.method}, mean of layers {', '.join(map(str, curve.layers))}"
    return curve.method if len(curve.layers) == 1 else f"{curve.method} layer {curve.layer}"


def shown(curves: Sequence[Curve]) -> list[Curve]:
    """Return the curves to show first: the mean of a method with several layers, otherwise its only layer."""
    with_mean = {curve.method for curve in curves if curve.layer is None}
    return [curve for curve in curves if curve.layer is None or curve.method not in with_mean]


def sentence(curve: Curve, over: str) -> str:
    """Say where a method begins to beat the dense baseline, or that it does not, in one sentence.

    A point whose interval holds 1 is neither faster nor slower.
    """
    found, name = curve.break_even, label(curve)
    if found.outcome == "none":
        return f"{name}: no point has a latency and a dense baseline."
    first, last = (_place(curve, over, point.x) for point in (curve.points[0], curve.points[-1]))
    alone = len(curve.points) == 1
    measured = f"at {first}, the only point" if alone else f"from {first} to {last}"
    unclear = [point.x for point in curve.points if point.speedup.side == "unclear"]
    doubt = "" if not unclear else f"; the interval holds 1 at {_listed(curve, over, unclear)}"
    sides = {point.speedup.side for point in curve.points}
    if sides == {"unclear"}:
        return (
            f"{name} is neither clearly faster nor clearly slower than the dense baseline: the interval holds 1 "
            f"{measured if alone else 'everywhere measured, ' + measured}."
        )
    if found.outcome in ("faster", "slower"):
        if not alone:
            ends = f"from {first} on" if found.outcome == "faster" else f"up to {last}"
            measured = f"everywhere measured, {measured if curve.axis == 'density' else ends}"
        return f"{name} is {found.outcome} than the dense baseline {measured}{doubt}."
    if "faster" not in sides:
        return f"{name} is nowhere clearly faster than the dense baseline{doubt}; measured {measured}."
    if found.outcome == "several":
        return (
            f"{name} has no one break-even: its speed-up passes 1 at {_listed(curve, over, found.crossings)}"
            f"{_interval(curve, over)}{doubt}; measured {measured}."
        )
    if "slower" not in sides:
        clear = [point.x for point in curve.points if point.speedup.side == "faster"]
        return (
            f"{name} is faster than the dense baseline at {_listed(curve, over, clear)}, and nowhere clearly slower"
            f"{doubt}; measured {measured}."
        )
    assert found.at is not None
    side = _side(curve, over, found, found.at)
    return f"{name} beats the dense baseline {side}{_interval(curve, over)}{doubt}; measured {measured}."


def wall_clock_sentence(curve: Curve, over: str) -> str:
    """Say the same of calls back to back, by wall clock: what a caller without a CUDA graph sees. "" if not known."""
    found = curve.break_even_eager
    began = f"{label(curve)}, calls back to back by wall clock:"
    if found.outcome == "none":
        return ""
    if found.outcome == "several":
        return f"{began} no one break-even, the speed-up passes 1 at {_listed(curve, over, found.crossings)}."
    if found.at is None:
        return f"{began} {found.outcome} than the dense baseline everywhere measured."
    return f"{began} faster than the dense baseline {_side(curve, over, found, found.at)}."


def _side(curve: Curve, over: str, found: BreakEven, x: float) -> str:
    """Return on which side of a crossing a method is faster: "from 9,000 tokens on", "below density 0.3"."""
    at = _place(curve, over, x)
    if curve.axis == "density":
        return f"{found.faster} {at}"
    return f"from {at} on" if found.faster == "above" else f"up to {at} only"


def notes(curves: Sequence[Curve]) -> list[str]:
    """Return what a reader must know besides the figures."""
    if not curves:
        return ["full attention is the dense baseline of every point and has no curve: its latencies are in the rows"]
    said = []
    points = [point for curve in curves for point in curve.points]
    if points:
        said.append(f"speed-up: dense baseline over method, medians, and the interval: {_kinds(curves)}")
    baselines = {point.baseline for point in points}
    if len(baselines) > 1:
        said.append(f"the dense baseline is not the same at every point: {', '.join(sorted(baselines))}")
    engines = {curve.method: {point.engines for point in curve.points} for curve in curves}
    said += [
        f"{method} ran on different engines at different points: {', '.join(sorted({name for e in own for name in e}))}"
        for method, own in engines.items()
        if len({name for names in own for name in names}) > 1
    ]
    heads = sorted({point.heads_timed for point in points if point.heads_timed is not None})
    if len(heads) > 1:
        said.append(f"heads timed differ from point to point: {', '.join(map(str, heads))}; give --heads")
    if any(point.speedup_eager is not None for point in points):
        said.append("by wall clock: calls back to back, measured once a point, so there is no interval")
    if any(not point.dense_samples for point in points):
        said.append("some intervals leave out the noise of the dense baseline, of which only the median is known")
    said += [f"left out: {curve.method} {reason}" for curve in shown(curves) for reason in curve.left_out]
    return said


def _kinds(curves: Sequence[Curve]) -> str:
    kinds = dict.fromkeys(INTERVALS[point.interval] for curve in curves for point in curve.points)
    return " or ".join(kinds)


def _interval(curve: Curve, over: str) -> str:
    found: BreakEven = curve.break_even
    if found.interval is None:
        return ""
    kind = "95 % interval" if found.interval == "bootstrap95" else "by the ends of the points' intervals"
    if found.lo is None and found.hi is None:
        return f" ({kind}: all that was measured, and beyond)"
    low = "below what was measured" if found.lo is None else _bare(curve, over, found.lo)
    high = "beyond what was measured" if found.hi is None else _bare(curve, over, found.hi)
    return f" ({kind}: {low} to {high})"


def _listed(curve: Curve, over: str, values: Sequence[float]) -> str:
    parts = [_bare(curve, over, value) for value in values]
    joined = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"density {joined}" if curve.axis == "density" else f"{joined} {'frames' if over == 'frames' else 'tokens'}"


def _place(curve: Curve, over: str, x: float) -> str:
    if curve.axis == "density":
        return f"density {_bare(curve, over, x)}"
    tokens = f"{round(x):,} tokens"
    return f"{tokens} ({_bare(curve, over, x)} frames)" if over == "frames" else tokens


def _bare(curve: Curve, over: str, x: float) -> str:
    if curve.axis == "density":
        return number(x)
    if over != "frames":
        return f"{round(x):,}"
    first = curve.points[0]
    grid = Grid.of(first.grid)
    return f"{frames_at(x, first.tokens - grid.tokens, grid, first.model):.3g}"
