"""VSA for MiniMax-H3: the video tiles keep the key tiles that score highest, and all that is in front of the video.

The prefix of text, conditions and audio is the text in front: dense both ways, as the published mode "exempt" has it.
The coarse branch runs only with a gate. It attends over all tiles, those of the prefix too, for which the prefix is
one segment, cut into runs of as many tokens as a tile has; text behind the video likewise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import index

import torch
from torch import Tensor

from attnbench.methods.coarse import Tiles, add_coarse, check_gate, coarse_flops
from attnbench.methods.kit import (
    BranchCall,
    Call,
    Grid,
    Layout,
    Method,
    Plan,
    Recipe,
    Source,
    as_density,
    as_ints,
    fit,
    main,
    partition_cuboids,
    remembered,
    shrink_grid,
)
from attnbench.methods.vsa import keep_best_tiles

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class VSAH3(Recipe):
    """Settings.

    Attributes:
        tile: tokens of a tile along (t, h, w).
        density: share of the video tiles that a video tile keeps, rounded up, besides all text.
    """

    tile: Triple = (4, 4, 4)
    density: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "tile", as_ints("tile", self.tile, length=3))
        object.__setattr__(self, "density", as_density("density", self.density))


def resolve(settings: VSAH3, layout: Layout) -> VSAH3:
    """Cut the default tile off at the grid.

    Raises:
        BadInput: for a chosen tile that is larger than the grid.
    """
    return replace(settings, tile=fit("tile", settings.tile, VSAH3.tile, layout.grid.shape))


def plan(settings: VSAH3, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Score tile means, keep the best video tiles of each row, and count the branch where there is a gate."""
    gate = check_gate(call.params, q)
    settings = resolve(settings, call.layout)
    partition = partition_cuboids(call.layout, settings.tile, q.device)
    made = keep_best_tiles(q, k, call.layout, partition, settings.density)
    if gate is None:
        return made
    tiles = _tiles(_numbers(settings.tile), *call.layout.numbers, q.device)
    return replace(made, branch_flops=coarse_flops(q.shape, k.shape, tiles, tiles.offsets.shape[0] - 1))


def finish(settings: VSAH3, call: BranchCall, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
    """Add the coarse branch over all tiles, times the gate; nothing without one."""
    if call.params is None:
        return output
    tile = resolve(settings, call.layout).tile
    tiles = _tiles(_numbers(tile), *call.layout.numbers, q.device)
    return add_coarse(output, q, k, v, tiles, call.params["gate"], call.scale)


def _numbers(tile: Triple) -> Triple:
    t, h, w = tile
    return index(t), index(h), index(w)


@remembered(8)
def _tiles(tile: Triple, shape: Triple, text: tuple[int, int], device: torch.device) -> Tiles:
    """Return the tiles of all tokens: runs of text of as many tokens as a tile has, and the tiles of the video."""
    layout, size = Layout(Grid(*shape), text), tile[0] * tile[1] * tile[2]
    partition = partition_cuboids(layout, tile, device)
    runs = [torch.full((-(-count // size),), size, device=device) for count in text]
    for run, count in zip(runs, text, strict=True):
        run[-1:] -= len(run) * size - count
    sizes = torch.cat([runs[0], partition.sizes[partition.video], runs[1]])
    tile_of = torch.repeat_interleave(sizes)
    if partition.order is not None:
        tile_of = torch.empty_like(tile_of).scatter_(0, partition.order, tile_of)
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    return Tiles(partition.order, offsets, slice(0, len(sizes)), slice(0, layout.tokens), tile_of)


def twin(settings: VSAH3, layout: Layout, layer: int) -> tuple[VSAH3, Layout]:
    """Up to 3 × 3 × 3 small tiles, as ragged as before."""
    small, tile = shrink_grid(layout, settings.tile)
    return replace(settings, tile=tile), small


METHOD = Method(
    name="vsa-h3",
    summary="video tiles keep the key tiles that score highest and the whole prefix, beside a gated coarse branch",
    source=Source(
        "FastVideo: Video Sparse Attention for MiniMax-H3 (2026)",
        "https://github.com/hao-ai-lab/FastVideo/pull/1695",
        "video_sparse_attn_h3.py at 2f3d407, mode 'exempt'",
    ),
    settings=VSAH3,
    plan=plan,
    resolve=resolve,
    twin=twin,
    finish=finish,
    params_by_head=("gate",),
    density_setting="density",
)

if __name__ == "__main__":
    main(METHOD)
