"""Sliding window: a query keeps the keys near it, on the grid (3-D half-widths) or in raster order (1-D half-width).

The window is cut off at the edges of the grid, so tokens there keep fewer keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.methods.kit import (
    BadInput,
    BlockPattern,
    Call,
    DensitySetting,
    Grid,
    Layout,
    Method,
    Partition,
    Plan,
    Rule,
    Source,
    as_ints,
    band,
    bounding_boxes,
    main,
    nearest,
    partition_cuboids,
    partition_ranges,
    quoted,
    remembered,
    window,
)

Triple = tuple[int, int, int]

DEFAULT_DENSITY = 0.2
_TILE = 128
"""Tokens of a block, at most: engines work on tiles of so many queries and keys, or on more."""

_PARTLY = 1.3
"""How many times as long a pair of tiles takes that is kept in part: measured on an H200, see kernels/NOTES.md."""


@dataclass(frozen=True)
class SlidingWindow:
    """Settings, of which at most one may be given.

    Attributes:
        window: half-widths (t, h, w) in tokens; by default those that come nearest to density .2 (``default_window``).
        width: half-width in raster order.
    """

    window: Triple | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.width is not None:
            raise BadInput(f"window is {quoted(self.window)} and width is {quoted(self.width)}; give one of them")
        if self.window is not None:
            object.__setattr__(self, "window", as_ints("window", self.window, length=3, low=0))
        if self.width is not None:
            object.__setattr__(self, "width", as_ints("width", self.width, low=0))


def resolve(settings: SlidingWindow, layout: Layout) -> SlidingWindow:
    """Choose the default half-widths if none are given."""
    if settings.window is None and settings.width is None:
        return SlidingWindow(window=default_window(layout.grid))
    return settings


def default_window(grid: Grid) -> Triple:
    """Return the half-widths that come nearest to density .2 and cover about the same fraction of each axis.

    A fraction f is raised in small steps. For each f, every rounding of (f·T, f·H, f·W) up or down is tried.
    """
    shape, _ = Layout(grid).numbers
    return _default_window(*shape)


@remembered(32)
def _default_window(*sides: int) -> Triple:
    grid = Grid(*sides)
    best: tuple[float, Triple] | None = None
    for step in range(501):
        choices = [{int(step / 500 * n), min(int(step / 500 * n) + 1, n - 1)} for n in grid.shape]
        for t in choices[0]:
            for h in choices[1]:
                for w in choices[2]:
                    miss = abs(_density(grid, (t, h, w)) - DEFAULT_DENSITY)
                    if best is None or (miss, (t, h, w)) < best:
                        best = (miss, (t, h, w))
    assert best is not None
    return best[1]


def _density(grid: Grid, half: Triple) -> float:
    """Return the fraction of pairs within the half-widths."""
    density = 1.0
    for n, side in zip(grid.shape, half, strict=True):
        density *= _axis_density(n, side)
    return density


def _axis_density(n: int, half: int) -> float:
    """Return the fraction of pairs within w of each other on an axis of n tokens: n(2w + 1) - w(w + 1) of n²."""
    w = min(half, n - 1)
    return (n * (2 * w + 1) - w * (w + 1)) / n**2


def plan(settings: SlidingWindow, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep the blocks that the window touches, with the window as element rule, for the whole batch and all heads."""
    settings = resolve(settings, call.layout)
    rule = _rule(settings.window, settings.width)
    partition, keep = _blocks(settings.window, settings.width, *call.layout.numbers, q.device)
    pattern = BlockPattern(partition.offsets, partition.offsets, keep, rule)
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, partition.order, partition.order)


def _rule(half: Triple | None, width: int | None) -> Rule:
    if width is not None:
        return band(width)
    assert half is not None
    return window(*half)


@remembered(8)
def _blocks(
    half: Triple | None, width: int | None, shape: Triple, text: tuple[int, int], device: torch.device
) -> tuple[Partition, Tensor]:
    """Return the blocks of the grid, and which pairs of them a window touches, bool [1, 1, blocks, blocks]."""
    layout, rule = Layout(Grid(*shape), text), _rule(half, width)
    if half is None:
        partition = partition_ranges(layout, _TILE, device)
    else:
        partition = partition_cuboids(layout, best_block(Grid(*shape), half), device)
    where = rule.positions(layout, device)
    where = where if partition.order is None else where[partition.order]
    block = torch.repeat_interleave(partition.sizes)
    is_text = (block < partition.video.start) | (block >= partition.video.stop)
    boxes = bounding_boxes(where, is_text, partition.offsets)
    some, _ = rule.classify((boxes.low[:, None], boxes.high[:, None]), (boxes.low[None], boxes.high[None]))
    keep = some | boxes.text[:, None] | boxes.text[None]
    return partition, keep[None, None]


def best_block(grid: Grid, half: Triple) -> Triple:
    """Return the cuboid of at most 128 tokens with which a window touches the fewest pairs of tiles.

    Each block takes a tile of its own, so cuboids that divide the grid badly cost more. A pair of tiles that the window
    keeps in part counts 1.3 times.
    """
    return _best_block(*Layout(grid).numbers[0], *half)


@remembered(32)
def _best_block(*numbers: int) -> Triple:
    sides, half = numbers[:3], numbers[3:]
    axes = [
        {size: _touched(n, size, reach) for size in range(1, min(n, _TILE) + 1)}
        for n, reach in zip(sides, half, strict=True)
    ]
    best: tuple[float, Triple] | None = None
    for t, at_t in axes[0].items():
        for h, at_h in axes[1].items():
            for w, at_w in axes[2].items():
                if t * h * w > _TILE:
                    break
                touched, whole = at_t[0] * at_h[0] * at_w[0], at_t[1] * at_h[1] * at_w[1]
                cost = whole + _PARTLY * (touched - whole)
                if best is None or cost < best[0]:
                    best = (cost, (t, h, w))
    assert best is not None
    return best[1]


def _touched(n: int, size: int, half: int) -> tuple[int, int]:
    """Count the pairs of blocks on an axis of n tokens that a window touches, and those that it keeps whole."""
    ends = [(start, min(start + size, n) - 1) for start in range(0, n, size)]
    touched = whole = 0
    for first, last in ends:
        for key_first, key_last in ends:
            touched += first - half <= key_last and key_first <= last + half
            whole += max(last - key_first, key_last - first) <= half
    return touched, whole


def window_at(settings: SlidingWindow, layout: Layout, density: float) -> dict[str, Triple]:
    """Choose half-widths that cover about the same fraction of each axis."""
    axes = [[(half, _axis_density(side, half)) for half in range(side)] for side in layout.grid.shape]
    t, h, w = nearest(axes, density)
    return {"window": (t, h, w)}


def twin(settings: SlidingWindow, layout: Layout, layer: int) -> tuple[SlidingWindow, Layout]:
    """A grid of at most 6 × 7 × 19 tokens that is ragged in the blocks used here, with half-widths in proportion."""
    sides = [min(n, most) for n, most in zip(layout.grid.shape, (6, 7, 19), strict=True)]
    text = layout.few_text
    small = Layout(Grid(*sides), text)
    if settings.width is not None:
        share = settings.width / layout.grid.tokens
        return SlidingWindow(width=round(share * small.grid.tokens)), small
    assert settings.window is not None
    t, h, w = (
        min(n - 1, round(half * n / whole))
        for half, n, whole in zip(settings.window, sides, layout.grid.shape, strict=True)
    )
    return SlidingWindow(window=(t, h, w)), small


METHOD = Method(
    name="sliding-window",
    summary="keys within half-widths of the query, on the grid or in raster order",
    source=Source(
        "Longformer: The Long-Document Transformer (2020)", "https://arxiv.org/abs/2004.05150", "section 3.1 (1-D)"
    ),
    settings=SlidingWindow,
    plan=plan,
    resolve=resolve,
    twin=twin,
    density_setting=DensitySetting(("window", "width"), window_at),
    depends_on_qk=False,
    plans_shards=True,
)

if __name__ == "__main__":
    main(METHOD)
