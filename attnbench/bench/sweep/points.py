"""From what the user asked to the points of a sweep, each the request of an ordinary run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from attnbench.bench.jobs import make_agenda
from attnbench.bench.request import Request
from attnbench.bench.sweep.knobs import get_density_setting, turn, with_density_setting
from attnbench.inputs.presets import MODELS
from attnbench.inputs.shapes import DEFAULT_MODEL, Shape, resolve_shape
from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.kernels.grid import Grid, Layout
from attnbench.machine.device import resolve_device
from attnbench.methods.entries import Entry, distinct
from attnbench.methods.registry import BUILT_IN, DEFAULT
from attnbench.results.plans import Planned
from attnbench.results.records.cells import Record

Over = Literal["tokens", "density", "frames"]
OVERS: tuple[Over, ...] = ("tokens", "density", "frames")

COUNT = 5
"""Points of a sweep unless they are listed."""

CPU_TOKENS = 16_384
"""On a CPU no default reaches beyond this many tokens: one dense call of one head takes about a second there."""

SPAN = {"cpu": 8, "cuda": 16}
"""How many times the largest sequence is as long as the smallest, by default."""

MOST = 10**12
"""No point lies beyond this many tokens or frames, which no machine holds."""

DENSITIES = (0.05, 0.5)
"""The default ends of a sweep over density."""

SCHEMA_VERSION = 1


class Point(Record):
    """One run of a sweep."""

    name: str = Field(description="folder of the run, within that of the sweep")
    request: Request = Field(description="what `attnbench run` would be asked for")


class Sweep(Planned):
    """A sweep: what is varied, and its points."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="version of this file")
    over: Over = Field(description="what is varied: tokens, density or frames")
    points: tuple[Point, ...] = Field(description="runs, in the order in which they are made")


def default_methods(over: str, every: bool = False) -> list[str]:
    """Return the methods that a sweep over ``over`` measures where none is named; dense attention is beside them.

    Args:
        over: what is varied.
        every: all built-in methods that it can vary, in the place of the usual ones.
    """
    names = [name for name in (BUILT_IN if every else DEFAULT) if name != "full"]
    return with_density_setting(names) if over == "density" else names


def make_sweep(
    over: str,
    request: Request,
    *,
    values: Sequence[float] | None = None,
    low: float | None = None,
    high: float | None = None,
    count: int | None = None,
) -> Sweep:
    """Return the sweep that these options ask for; every point is checked as a run would be.

    Args:
        over: tokens: the grid of ``request`` scaled along all three axes; frames: its frames, 4k+1; density: a setting
            of each method turned, on the grid of ``request``.
        request: what the points share. On a CPU the heads default to 1, so that every point times the same heads.
        values: the points: tokens, frames or densities.
        low: the smallest point, without ``values``.
        high: the largest.
        count: how many from ``low`` to ``high``, each the same factor from the next; default 5. Points that come out
            equal count once.

    Raises:
        BadInput: quoting what cannot be used.
    """
    if over not in OVERS:
        raise unknown_name("--over", over, OVERS)
    if values is not None and (low, high, count) != (None, None, None):
        raise BadInput("--points already says the points: leave out --from, --to and --count")
    for option, given in (*(("--points", value) for value in values or ()), ("--from", low), ("--to", high)):
        if given is not None and not math.isfinite(given):
            raise BadInput(f"{option} {given:g} must be a finite number")
        if given is not None and given > MOST:
            raise BadInput(f"{option} {given:g} must be at most {MOST:,}")
    if over == "frames" and request.frames is not None:
        raise BadInput(f"--frames {request.frames}: the sweep over frames sets it; give --to {request.frames}")
    if over == "density":
        for entry in request.methods:
            get_density_setting(entry.method)
    kind = "cuda" if resolve_device(request.device).type == "cuda" else "cpu"
    shape = _shape(request)
    if kind == "cpu" and request.heads is None and request.kv_heads is None:
        request = request.model_copy(update={"heads": 1})
    if over == "density":
        if kind == "cpu" and (request.res, request.grid, request.frames, request.height, request.model) == (None,) * 5:
            small = scaled(shape.grid, CPU_TOKENS)
            request, shape = _on(request, shape, small), _shape(_on(request, shape, small))
        chosen = _spread("density", values, low, high, count, DENSITIES, DENSITIES[1] / DENSITIES[0])
        points = _density_points(request, shape.layout, chosen)
    elif over == "tokens":
        end = min(shape.grid.tokens, CPU_TOKENS) if kind == "cpu" else shape.grid.tokens
        chosen = _spread("tokens", values, low, high, count, (end / SPAN[kind], end), SPAN[kind])
        grids = dict.fromkeys(scaled(shape.grid, _whole("tokens", value, 8)) for value in chosen)
        points = [Point(name=f"tokens-{grid.tokens}", request=_on(request, shape, grid)) for grid in grids]
    else:
        area = shape.grid.h * shape.grid.w
        end_t = min(shape.grid.t, max(2, CPU_TOKENS // area)) if kind == "cpu" else shape.grid.t
        rule = MODELS[shape.model or DEFAULT_MODEL].rule
        begin = rule.nearest(max(2, end_t / SPAN[kind]))
        if values is None:
            low, high = (None if end is None else rule.token_frames(_whole_frames(end)) for end in (low, high))
            spread = _spread("frames", None, low, high, count, (begin, rule.nearest(end_t)), SPAN[kind])
            lengths = dict.fromkeys(rule.nearest(t) for t in spread)
        else:
            lengths = dict.fromkeys(rule.token_frames(_whole_frames(value)) for value in values)
        points = [
            Point(
                name=f"frames-{round(rule.frames_of(t))}",
                request=_on(request, shape, Grid(t, shape.grid.h, shape.grid.w)),
            )
            for t in lengths
        ]
    for point in points:
        make_agenda(point.request)
    return Sweep(over=over, points=tuple(points))


def scaled(grid: Grid, tokens: int) -> Grid:
    """Return a grid of about ``tokens`` tokens with the proportions of ``grid``; no side falls below 2, or its own."""
    factor = (tokens / grid.tokens) ** (1 / 3)
    return Grid(*(max(min(2, side), round(side * factor)) for side in grid.shape))


def _shape(request: Request) -> Shape:
    return resolve_shape(
        res=request.res, frames=request.frames, height=request.height, width=request.width, model=request.model,
        grid=request.grid, text_tokens=request.text_tokens, heads=request.heads, kv_heads=request.kv_heads,
        head_dim=request.head_dim, batch=request.batch,
    )  # fmt: skip


def _on(request: Request, shape: Shape, grid: Grid) -> Request:
    """Return the request on another grid, its model named, so that heads, layers and text tokens stay."""
    return request.model_copy(
        update={
            "res": None, "frames": None, "height": None, "width": None, "grid": str(grid), "model": shape.model,
            "text_tokens": "{}+{}".format(*shape.layout.text) if request.text_tokens is not None else None,
        }
    )  # fmt: skip


def _density_points(request: Request, layout: Layout, densities: Sequence[float]) -> list[Point]:
    """Return a point for each density at which at least one method has settings that no earlier point has."""
    points: dict[str, Point] = {}
    seen: list[Entry] = []
    for density in densities:
        turned = [Entry(each.method, turn(each.method, each.settings, layout, density)) for each in request.methods]
        methods = [entry for entry in distinct(turned) if entry not in seen]
        seen += methods
        if methods:
            label = f"density-{density:.4g}"
            points[label] = Point(name=label, request=request.model_copy(update={"methods": methods}))
    return list(points.values())


def _spread(
    what: str,
    values: Sequence[float] | None,
    low: float | None,
    high: float | None,
    count: int | None,
    default: tuple[float, float],
    span: float,
) -> list[float]:
    """Return the points asked for, or ``count`` of them, equally far apart on a logarithmic scale."""
    if values is not None:
        if not values:
            raise BadInput("--points names no point; list some, as --points 4000,8000,16000")
        return sorted(set(values))
    if high is None:
        high = default[1] if low is None or low < default[1] else low * span
    if low is None:
        low = default[0] if default[0] < high else high / span
    if not 0 < low <= high < math.inf:
        raise BadInput(f"--from {low:g} and --to {high:g}: {what} must rise from a number above 0")
    number = COUNT if count is None else count
    if number < 1:
        raise BadInput(f"--count {number} must be at least 1")
    if number == 1 or low == high:
        return [high]
    return [low * (high / low) ** (place / (number - 1)) for place in range(number)]


def _whole(what: str, value: float, least: int) -> int:
    number = round(value)
    if number < least:
        raise BadInput(f"{what} {value:g} must be at least {least}")
    return number


def _whole_frames(value: float) -> int | float:
    """Return a number of frames as it is checked: a whole one as an int."""
    return int(value) if value == int(value) else value
