"""The settings by which a method keeps more or less: what a sweep over density turns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Layout
from attnbench.methods import get_method, make_settings
from attnbench.methods.vmoba import cuboid

_STEPS = 400


@dataclass(frozen=True, slots=True)
class Knob:
    """How a method is brought near a density.

    Attributes:
        moves: settings that the sweep sets, so that the user cannot.
        turn: (layout, other settings as given, density in (0, 1]) -> the settings to add.
    """

    moves: tuple[str, ...]
    turn: Callable[[Layout, Mapping[str, Any], float], dict[str, Any]]


def turn(name: str, given: Mapping[str, Any], layout: Layout, density: float) -> dict[str, Any]:
    """Return settings of method ``name`` that keep about ``density`` of the pairs: those given, and its knob.

    Raises:
        BadInput: for a method without a knob, a density out of (0, 1], or a knob that is given as a setting.
    """
    knob = get_knob(name)
    if not 0 < density <= 1:
        raise BadInput(f"density {density!r} must be above 0 and at most 1")
    taken = [setting for setting in knob.moves if setting in given]
    if taken:
        raise BadInput(f"{name}.{taken[0]}={given[taken[0]]!r}: the sweep over density sets it; leave it out")
    return {**given, **knob.turn(layout, given, density)}


def get_knob(name: str) -> Knob:
    """Return the knob of a method.

    Raises:
        BadInput: if there is no such method, or none of its settings is known to move its density.
    """
    get_method(name)
    if name not in KNOBS:
        raise BadInput(
            f"method {name!r} has no setting that a sweep over density could turn; those that have one: "
            f"{', '.join(KNOBS)}"
        )
    return KNOBS[name]


def nearest(axes: Sequence[Sequence[tuple[int, float]]], density: float) -> tuple[int, ...]:
    """Choose a size for each axis so that the product of their densities is nearest to ``density``.

    Args:
        axes: for each axis its sizes and their densities, both rising.

    Only sizes that keep about the same fraction of each axis are combined: a fraction is raised in small steps, and on
    each axis the sizes next to it, below and above, are tried.
    """
    best: tuple[float, tuple[int, ...]] | None = None
    for step in range(_STEPS + 1):
        fraction = step / _STEPS
        for combination in itertools.product(*(_around(sizes, fraction) for sizes in axes)):
            product = math.prod(kept for _, kept in combination)
            candidate = (abs(math.log(product / density)), tuple(size for size, _ in combination))
            if best is None or candidate < best:
                best = candidate
    assert best is not None
    return best[1]


def _around(sizes: Sequence[tuple[int, float]], fraction: float) -> list[tuple[int, float]]:
    below = [size for size in sizes if size[1] <= fraction]
    above = [size for size in sizes if size[1] >= fraction]
    return [*below[-1:], *above[:1]]


def _moba(layout: Layout, given: Mapping[str, Any], density: float) -> dict[str, Any]:
    method = get_method("moba")
    settings = method.resolve(make_settings(method, given), layout)
    return {"topk": _share(-(-layout.grid.tokens // settings.block_size), density)}


def _vmoba(layout: Layout, given: Mapping[str, Any], density: float) -> dict[str, Any]:
    if given.get("select") != "topk":
        return {"threshold": density}
    method = get_method("vmoba")
    settings = method.resolve(make_settings(method, given), layout)
    blocks = []
    for kind in range(3):
        sides = cuboid(settings.partition, layout.grid, kind)
        blocks.append(math.prod(-(-n // side) for n, side in zip(layout.grid.shape, sides, strict=True)))
    return {"topk": [_share(count, density) for count in blocks]}


def _share(blocks: int, density: float) -> int:
    return max(1, min(blocks, round(density * blocks)))


def _sliding_window(layout: Layout, given: Mapping[str, Any], density: float) -> dict[str, Any]:
    return {"window": list(nearest([_windows(side) for side in layout.grid.shape], density))}


def _windows(tokens: int) -> list[tuple[int, float]]:
    """Half-widths of an axis of n tokens and the fraction of its pairs within them: n(2w + 1) - w(w + 1) of n²."""
    n = tokens
    return [(w, (n * (2 * w + 1) - w * (w + 1)) / n**2) for w in range(n)]


def _sta(layout: Layout, given: Mapping[str, Any], density: float) -> dict[str, Any]:
    method = get_method("sta")
    tile = method.resolve(make_settings(method, given), layout).tile
    axes = [_tile_windows(n, size) for n, size in zip(layout.grid.shape, tile, strict=True)]
    return {"window": list(nearest(axes, density))}


def _tile_windows(tokens: int, tile: int) -> list[tuple[int, float]]:
    """Windows of an axis in tiles, odd or all of them, and the fraction of its pairs that they keep."""
    lengths = [min(tile, tokens - start) for start in range(0, tokens, tile)]
    tiles = len(lengths)
    found = []
    for size in [*range(1, tiles, 2), tiles]:
        pairs = 0
        for place, length in enumerate(lengths):
            first = min(max(place - size // 2, 0), tiles - size)
            pairs += length * sum(lengths[first : first + size])
        found.append((size, pairs / tokens**2))
    return found


KNOBS: dict[str, Knob] = {
    "vmoba": Knob(("threshold", "topk"), _vmoba),
    "moba": Knob(("topk",), _moba),
    "sliding-window": Knob(("window", "width"), _sliding_window),
    "sta": Knob(("window",), _sta),
}
"""By method: the threshold or top-k of vmoba (as its ``select`` says), the top-k of moba, the windows of the others."""
