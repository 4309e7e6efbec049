"""RainFusion 2.0: tokens tile by tile, in blocks that keep the blocks of largest shares; the first frame stays dense.

Flavour "mindie" is the code of the authors' company. Where the sides of a frame are multiples of 8, every frame is
arranged in tiles of 8 × 8. Otherwise the first frame stays in raster order, and each later one is its tiles, then the
rows below them, then the columns beside them. The blocks of the first frame come first, are kept by all and keep all.
Flavour "lightx2v" is the port of that name: tiles of 2 × 8 × 8 of the frames after the first, then the rows of all of
them, then the columns, and the first frame at the end.

Blocks are ranges of the arranged tokens, which may cross frames. Text follows behind the video in blocks of its own,
which stay dense but take part in the ranking: they may take the place of video blocks. A row keeps what has at least
the k-th largest share, k = ⌈density · blocks⌉; the blocks of the first frame come on top. So the density of the plan
is higher than ``density``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import index

import torch
from torch import Tensor

from attnbench.methods.kit import (
    BlockPattern,
    Call,
    Grid,
    Layout,
    Method,
    Partition,
    Plan,
    Recipe,
    Source,
    as_choice,
    as_density,
    as_flag,
    as_ints,
    coordinates,
    fit,
    main,
    phase,
    remembered,
    row_ops,
    score_block_pairs,
)

TILE = 8


@dataclass(frozen=True)
class RainFusion2(Recipe):
    """Settings.

    Attributes:
        density: the share of the blocks that a row keeps, in (0, 1], before the first frame is added.
        block: tokens of a block in the arranged order.
        protect_first_frame: the blocks of the first frame are kept by all and keep all.
        flavour: "mindie" or "lightx2v".
    """

    density: float = 0.2
    block: int = 128
    protect_first_frame: bool = True
    flavour: str = "mindie"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "density", as_density("density", self.density))
        object.__setattr__(self, "block", as_ints("block", self.block))
        as_flag("protect_first_frame", self.protect_first_frame)
        as_choice("flavour", self.flavour, ("mindie", "lightx2v"))


def resolve(settings: RainFusion2, layout: Layout) -> RainFusion2:
    """Check the block.

    Raises:
        BadInput: for a chosen block that is larger than the grid.
    """
    fit("block", settings.block, RainFusion2.block, (layout.grid.tokens,))
    return settings


def plan(settings: RainFusion2, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Pool q and k by blocks, text included, and keep the largest shares of each row."""
    settings = resolve(settings, call.layout)
    grid = call.layout.grid
    partition = _partition(settings.flavour, index(settings.block), *call.layout.numbers, q.device)
    scores, flops = score_block_pairs(q, k, partition, partition)
    shares = row_ops.row_shares(scores, q.shape[3] ** -0.5)
    blocks = shares.shape[3]
    best = row_ops.cut_top_k_row(shares, min(blocks, math.ceil(settings.density * blocks)))
    with phase("select"):
        least = shares.masked_fill(~best, torch.inf).amin(-1, keepdim=True)
        keep = shares >= least  # equal shares are all kept
        for dense in _dense(settings, grid, blocks):
            keep[..., dense] = True
            keep[..., dense, :] = True
    pattern = BlockPattern(partition.offsets, partition.offsets, keep)
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, partition.order, partition.order, flops)


def _dense(settings: RainFusion2, grid: Grid, blocks: int) -> list[slice]:
    """Return the blocks that are kept by all and keep all: those of the first frame, and of text."""
    frame, video = grid.h * grid.w, -(-grid.tokens // settings.block)
    found = [slice(video, blocks)]
    if settings.protect_first_frame and settings.flavour == "mindie":
        found.append(slice(0, -(-frame // settings.block)))
    elif settings.protect_first_frame:
        found.append(slice((grid.tokens - frame) // settings.block, video))
    return found


@remembered(8)
def _partition(
    flavour: str, block: int, shape: tuple[int, int, int], text: tuple[int, int], device: torch.device
) -> Partition:
    """Return the arranged tokens, those of text behind those of the video, each in ranges of ``block``."""
    layout = Layout(Grid(*shape), text)
    place = coordinates(layout.grid, device)
    video = torch.argsort(_mindie(place, shape) if flavour == "mindie" else _lightx2v(place, shape), stable=True)
    ends = torch.arange(layout.tokens, device=device)
    order = torch.cat([video + text[0], ends[: text[0]], ends[layout.video.stop :]])
    n = layout.grid.tokens
    starts = [*range(0, n, block), *range(n, layout.tokens, block), layout.tokens]
    offsets = torch.tensor(starts, device=device)
    number = torch.repeat_interleave(offsets.diff())
    own = torch.empty_like(number).scatter_(0, order, number)[layout.video]
    return Partition(order, offsets, own)


def _mindie(place: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return a number by which the tokens are sorted, int64 [T·H·W]; equal numbers stay in raster order."""
    t = place[:, 0]
    number = _tile_or_rest(place, shape)
    if shape[1] % TILE or shape[2] % TILE:
        number = torch.where(t == 0, 0, number)
    return t * _most(shape) + number


def _lightx2v(place: Tensor, shape: tuple[int, int, int]) -> Tensor:
    t = place[:, 0]
    number = _tile_or_rest(place, shape)
    tiled = number < _tiles(shape)
    number = torch.where(tiled, (t - 1) // 2 * _most(shape) + number, shape[0] * _most(shape) + number)
    return torch.where(t == 0, 2 * shape[0] * _most(shape), number)


def _tile_or_rest(place: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Number the tiles of a frame; the rows below them come next, and the columns beside them last."""
    _, h, w = place.unbind(1)
    rows, columns = shape[1] // TILE, shape[2] // TILE
    number = torch.where(w // TILE < columns, h // TILE * columns + w // TILE, rows * columns + 1)
    return torch.where(h // TILE < rows, number, rows * columns)


def _tiles(shape: tuple[int, int, int]) -> int:
    return (shape[1] // TILE) * (shape[2] // TILE)


def _most(shape: tuple[int, int, int]) -> int:
    return _tiles(shape) + 2


def twin(settings: RainFusion2, layout: Layout, layer: int) -> tuple[RainFusion2, Layout]:
    """Up to 3 frames of up to one tile and 3 tokens on a side, in blocks that are short at the end if they were."""

    def side(length: int) -> int:
        return length if length < TILE else TILE + min(length % TILE, 3)

    grid = Grid(min(layout.grid.t, 3), side(layout.grid.h), side(layout.grid.w))
    sizes = [size for size in range(min(settings.block, 24), 0, -1) if not grid.tokens % size]
    whole = layout.grid.tokens % settings.block == 0
    block = sizes[0] if whole else min(settings.block, 24, grid.tokens)
    return replace(settings, block=block), Layout(grid, layout.few_text)


METHOD = Method(
    name="rainfusion2",
    summary="rainfusion 2.0: blocks of tiles with the largest shares of each row, and a dense first frame",
    source=Source(
        "RainFusion2.0: Temporal-Spatial Awareness and Hardware-Efficient Block-wise Sparse Attention (2025)",
        "https://arxiv.org/abs/2512.24086",
        "the rule of github.com/Ascend/MindIE-SD at 3066189, and of github.com/ModelTC/LightX2V at f8aee98",
    ),
    settings=RainFusion2,
    plan=plan,
    resolve=resolve,
    twin=twin,
    density_setting="density",
    text_competes=True,
)

if __name__ == "__main__":
    main(METHOD)
