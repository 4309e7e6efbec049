"""The measures of attention itself, head by head: what ``attnbench analyze`` says of every call."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from attnbench.analysis.call import Estimate, Finding, Seen
from attnbench.analysis.estimates import GROUPS, gini, of_groups, of_mean, of_statistic
from attnbench.analysis.head import (
    SHARES,
    distances,
    head_class,
    mean_distance,
    own_masses,
    pairs_needed,
    query_importance,
    sink_mass,
    token_shares,
)
from attnbench.analysis.stream import HeadMap
from attnbench.kernels.grid import Grid

MAP = 8
"""Rows and columns of a map of query importance, at most."""


def measure_attention(seen: Seen) -> Iterator[Finding]:
    """Yield the measures of every head's map by itself."""
    if not seen.exact:
        reason = f"which keys receive most can only be told from all queries: --queries {seen.call.layout.tokens}"
        yield Finding.skipped("sink_mass", reason, queries=len(seen.queries))
    for head, found in enumerate(seen.maps):
        yield from _head(seen, head, found)


def _head(seen: Seen, head: int, found: HeadMap) -> Iterator[Finding]:
    call, cuboids, n = seen.call, seen.cuboids, len(seen.queries)
    layout, (q, k, _) = call.layout, call.head(head)
    grid, tokens = layout.grid, layout.tokens

    def each(measure: str, values: Tensor, of: int = tokens) -> Finding:
        return told(measure, of_mean(values, of), head, n)

    yield each("entropy", found.entropy)
    yield each("entropy_normalised", found.entropy / math.log(max(2, tokens)))
    yield each("energy", found.energy)
    if seen.exact:
        yield each("sink_mass", sink_mass(found, q, k, call.scale))
    if layout.text != (0, 0):
        yield each("text_mass", found.text_mass, grid.tokens)
    yield from _places(found, grid, cuboids, head, n)
    for kind, cuboid in cuboids.items():
        yield from _concentration(found.blocks[kind], kind, grid, head, n)
        yield from _importance(query_importance(q, k, layout, cuboid), kind, grid, head)


def _concentration(mass: Tensor, kind: str, grid: Grid, head: int, n: int) -> Iterator[Finding]:
    """Yield how few pairs of a query and a block hold most of the weight."""
    sampled = 2 * GROUPS <= len(mass) < grid.tokens
    needed = pairs_needed(mass, SHARES, GROUPS if sampled else 0).cpu()
    for share, (value, *without) in zip(SHARES, needed.T.tolist(), strict=True):
        if sampled:
            figure = of_groups(value, without, len(mass), grid.tokens)
        elif len(mass) < grid.tokens:
            figure = Estimate(value, -math.inf, math.inf)
        else:
            figure = Estimate(value, value, value)
        yield told(f"pairs_needed_{100 * share:.0f}_{kind}", figure, head, n)


def _places(
    found: HeadMap, grid: Grid, cuboids: Mapping[str, tuple[int, int, int]], head: int, n: int
) -> Iterator[Finding]:
    """Yield where the weight of a head is: by distance, on its own place, frame and blocks, and its class."""
    apart = distances(found, grid)
    for (axis, mass), name in zip(apart.items(), ("frame", "row", "column"), strict=True):
        yield told(f"mean_{axis}", of_mean(mean_distance(mass), grid.tokens), head, n)
        curve = mass.double().mean(0)
        here = of_mean(mass[:, 0], grid.tokens)
        yield told(f"{name}_mass", here, head, n, points=curve, shape=f"{axis}={len(curve)}")
    first = of_mean(found.frames[:, 0], grid.tokens)
    yield told("first_frame_mass", first, head, n)
    lifts = {}
    shares = token_shares(grid, cuboids)
    masses = own_masses(found, grid, cuboids)
    for name, mass in masses.items():
        here = of_mean(mass, grid.tokens)
        yield told(f"{name}_mass", here, head, n)
        share = shares[name]
        lifts[name] = here.value / share
        yield told(f"{name}_lift", Estimate(lifts[name], here.lo / share, here.hi / share), head, n)
    word, _ = head_class(lifts)

    def margin_of(at: Tensor) -> float:
        return head_class({name: float(masses[name][at].double().mean()) / shares[name] for name in masses})[1]

    yield told("class_margin", of_statistic(margin_of, len(found.frames), grid.tokens), head, n, label=word)


def _importance(values: Tensor, kind: str, grid: Grid, head: int) -> Iterator[Finding]:
    """Yield how unequal the importance of queries is. It is known of all of them, so that this is exact."""
    values, n = values.double().cpu(), len(values)
    spread = gini(values)
    mean = float(values.mean())
    relative = values.view(1, *grid.shape).mean(1) / mean if mean > 0 else values.new_ones(1, grid.h, grid.w)
    size = (min(MAP, grid.h), min(MAP, grid.w))
    points = adaptive_avg_pool2d(relative, size).flatten()
    exact = Estimate(spread, spread, spread)
    yield told(
        f"importance_gini_{kind}", exact, head, n, points=points.round(decimals=4), shape=f"h={size[0]},w={size[1]}"
    )
    cv = float(values.std(correction=0)) / mean if mean > 0 else 0.0
    yield told(f"importance_cv_{kind}", Estimate(cv, cv, cv), head, n)


def told(
    measure: str,
    figure: Estimate,
    head: int | None,
    queries: int,
    *,
    points: Tensor | None = None,
    **more: Any,
) -> Finding:
    """Return a figure as a finding; an interval without ends is none, and says why. ``more`` are fields of it."""
    bounded = math.isfinite(figure.lo) and math.isfinite(figure.hi)
    return Finding(
        measure, figure.value, figure.lo if bounded else None, figure.hi if bounded else None, head,
        queries=queries, points=() if points is None else tuple(points.tolist()),
        reason="" if bounded else f"{queries} queries are too few for an interval", **more,
    )  # fmt: skip
