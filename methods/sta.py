"""STA, Sliding Tile Attention: a query tile keeps a window of tiles around it, shifted to lie inside the grid.

Tokens are arranged tile by tile. Along each axis, the window is centred on the query tile. Near an edge, the centre is
clamped so that the whole window stays on the grid. So every tile is kept or dropped as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import index

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
    Source,
    as_ints,
    keep_text,
    main,
    nearest,
    partition_cuboids,
    remembered,
    shrink_axis,
)

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class STA:
    """Settings.

    Attributes:
        tile: tokens of a tile along (t, h, w), clipped to the grid.
        window: tiles that a query tile keeps along (t, h, w), clipped to the grid. Each is odd, or at least the number
            of tiles of the grid.
    """

    tile: Triple = (6, 8, 8)
    window: Triple = (3, 3, 3)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tile", as_ints("tile", self.tile, length=3))
        object.__setattr__(self, "window", as_ints("window", self.window, length=3))


def resolve(settings: STA, layout: Layout) -> STA:
    """Clip the tile to the grid and check that the window has a centre.

    Raises:
        BadInput: for a window side that is even and does not cover the grid.
    """
    tile: Triple = tuple(map(min, settings.tile, layout.grid.shape))  # type: ignore[assignment]  # three of them
    for axis, size, tiles in zip("thw", settings.window, _counts(layout.grid, tile), strict=True):
        if size % 2 == 0 and size < tiles:
            raise BadInput(
                f"window is {settings.window}: its side {size} along {axis} is even and has no centre tile; "
                f"it must be odd, or at least the {tiles} tiles of the grid"
            )
    return replace(settings, tile=tile)


def plan(settings: STA, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep tiles by their clamped distance along each axis, the same for every batch item and head."""
    settings = resolve(settings, call.layout)
    t, h, w = settings.tile
    partition, keep = _tiles((index(t), index(h), index(w)), settings.window, *call.layout.numbers, q.device)
    pattern = BlockPattern(partition.offsets, partition.offsets, keep)
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, partition.order, partition.order)


@remembered(8)
def _tiles(
    tile: Triple, window: Triple, shape: Triple, text: tuple[int, int], device: torch.device
) -> tuple[Partition, Tensor]:
    """Return the tiles of the grid, and which tiles each one keeps, bool [1, 1, tiles, tiles]."""
    layout = Layout(Grid(*shape), text)
    partition = partition_cuboids(layout, tile, device)
    counts = _counts(layout.grid, tile)
    t, h, w = (_axis(tiles, size, device) for tiles, size in zip(counts, window, strict=True))
    video = (t[:, None, None, :, None, None] & h[:, None, None, :, None]) & w[:, None, None, :]
    tiles = counts[0] * counts[1] * counts[2]
    return partition, keep_text(partition, video.reshape(1, 1, tiles, tiles))


def _counts(grid: Grid, tile: Triple) -> Triple:
    t, h, w = (-(-side // size) for side, size in zip(grid.shape, tile, strict=True))
    return t, h, w


def _axis(tiles: int, size: int, device: torch.device) -> Tensor:
    """Return which key tiles each query tile keeps along one axis, bool [tiles, tiles]."""
    index = torch.arange(tiles, device=device)
    if size >= tiles:
        return torch.ones(tiles, tiles, dtype=torch.bool, device=device)
    reach = size // 2
    centre = index.clamp(reach, tiles - 1 - reach)
    return (centre[:, None] - index).abs() <= reach


def window_at(settings: STA, layout: Layout, density: float) -> dict[str, Triple]:
    """Choose windows that cover about the same fraction of each axis: odd, or all tiles."""
    t, h, w = nearest([_windows(n, size) for n, size in zip(layout.grid.shape, settings.tile, strict=True)], density)
    return {"window": (t, h, w)}


def _windows(tokens: int, tile: int) -> list[tuple[int, float]]:
    """Return the possible windows of one axis in tiles, and the fraction of its pairs that each one keeps."""
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


def twin(settings: STA, layout: Layout, layer: int) -> tuple[STA, Layout]:
    """Keep each axis just as ragged, with up to 4 tiles of at most 3 tokens, and whole only if it is kept whole."""
    axes = [
        shrink_axis(n, b, most_blocks=4, most_block=3) for n, b in zip(layout.grid.shape, settings.tile, strict=True)
    ]
    grid, tile = (tuple(side) for side in zip(*axes, strict=True))
    text = layout.few_text
    window = []
    for size, tiles, (length, block) in zip(settings.window, _counts(layout.grid, settings.tile), axes, strict=True):
        largest = (-(-length // block) - 2) | 1  # odd, and less than all tiles
        window.append(size if size >= tiles else min(size, largest))
    return STA(tile, tuple(window)), Layout(Grid(*grid), text)  # type: ignore[arg-type]  # three of each


METHOD = Method(
    name="sta",
    summary="sliding tile attention: whole tiles within a window of tiles",
    source=Source(
        "Fast Video Generation with Sliding Tile Attention (ICML 2025)", "https://arxiv.org/abs/2502.04507", "section 3"
    ),
    settings=STA,
    plan=plan,
    resolve=resolve,
    twin=twin,
    density_setting=DensitySetting(("window",), window_at),
    depends_on_qk=False,
    plans_shards=True,
)

if __name__ == "__main__":
    main(METHOD)
