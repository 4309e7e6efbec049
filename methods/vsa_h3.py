"""VSA for MiniMax-H3: the video tiles keep the key tiles that score highest, and all that is in front of the video.

The prefix of text, conditions and audio is the text in front: dense both ways, as the published mode "exempt" has it.
The coarse branch runs only with a gate. It attends over all tiles, those of the prefix too, for which the prefix is
one segment, cut into runs as long as a whole tile; text behind the video likewise.
"""

from __future__ import annotations

from dataclasses import replace
from operator import index

import torch
from torch import Tensor

from attnbench.methods import vsa
from attnbench.methods.coarse import Tiles, add_coarse, check_gate, coarse_flops, gate_of
from attnbench.methods.kit import (
    BranchCall,
    Call,
    Grid,
    Layout,
    Method,
    Plan,
    Source,
    main,
    partition_cuboids,
    remembered,
)
from attnbench.methods.vsa import VSA, keep_best_tiles

Triple = tuple[int, int, int]


def resolve(settings: VSA, layout: Layout) -> VSA:
    """Check the tile. The default stays as it is where the grid is smaller, since the prefix is cut by it too.

    Raises:
        BadInput: for a chosen tile that is larger than the grid.
    """
    vsa.resolve(settings, layout)
    return settings


def plan(settings: VSA, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Score tile means, keep the best video tiles of each row, and count the branch where there is a gate."""
    check_gate(call.params, q)
    settings = resolve(settings, call.layout)
    partition = partition_cuboids(call.layout, settings.tile, q.device)
    made = keep_best_tiles(q, k, call.layout, partition, settings.density)
    if call.params is None:
        return made
    tiles = _tiles(_numbers(settings.tile), *call.layout.numbers, q.device)
    return replace(made, branch_flops=coarse_flops(q.shape, k.shape, tiles, tiles.offsets.shape[0] - 1))


def finish(settings: VSA, call: BranchCall, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
    """Add the coarse branch over all tiles, times the gate; nothing without one."""
    if call.params is None:
        return output
    tiles = _tiles(_numbers(settings.tile), *call.layout.numbers, q.device)
    return add_coarse(output, q, k, v, tiles, gate_of(call.params), call.scale)


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


def twin(settings: VSA, layout: Layout, layer: int) -> tuple[VSA, Layout]:
    """As of vsa, of the tiles as the grid cuts them off."""
    return vsa.twin(vsa.resolve(settings, layout), layout, layer)


METHOD = Method(
    name="vsa-h3",
    summary="video tiles keep the key tiles that score highest and the whole prefix, beside a gated coarse branch",
    source=Source(
        "FastVideo: Video Sparse Attention for MiniMax-H3 (2026)",
        "https://github.com/hao-ai-lab/FastVideo/pull/1695",
        "video_sparse_attn_h3.py at 2f3d407, mode 'exempt'",
    ),
    settings=VSA,
    plan=plan,
    resolve=resolve,
    twin=twin,
    finish=finish,
    params_by_head=("gate",),
    density_setting="density",
)

if __name__ == "__main__":
    main(METHOD)
