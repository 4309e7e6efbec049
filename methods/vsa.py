"""VSA, Video Sparse Attention: each tile keeps the key tiles whose means score highest, beside a coarse branch.

The fine branch is exact attention over the tiles that were kept; the coarse one attends from tile to tile by means, and
is multiplied by a learned gate, 1 if none is given. Tiles at the edges are short, and their means are those of their
tokens. Text is dense, and takes no part in the coarse branch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from attnbench.methods.coarse import Tiles, add_coarse, check_gate, coarse_flops, gate_of
from attnbench.methods.kit import (
    BlockPattern,
    BranchCall,
    Call,
    Layout,
    Method,
    Partition,
    Plan,
    Recipe,
    Source,
    Training,
    as_density,
    as_ints,
    fit,
    keep_text,
    main,
    partition_cuboids,
    row_ops,
    score_block_pairs,
    shrink_grid,
)

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class VSA(Recipe):
    """Settings.

    Attributes:
        tile: tokens of a tile along (t, h, w).
        density: share of the video tiles that a tile keeps, rounded up.
    """

    tile: Triple = (4, 4, 4)
    density: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "tile", as_ints("tile", self.tile, length=3))
        object.__setattr__(self, "density", as_density("density", self.density))


def resolve(settings: VSA, layout: Layout) -> VSA:
    """Cut the default tile off at the grid.

    Raises:
        BadInput: for a chosen tile that is larger than the grid.
    """
    return replace(settings, tile=fit("tile", settings.tile, VSA.tile, layout.grid.shape))


def plan(settings: VSA, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Score tile means, keep the best tiles of each row, and count the branch."""
    check_gate(call.params, q)
    settings = resolve(settings, call.layout)
    partition = partition_cuboids(call.layout, settings.tile, q.device)
    made = keep_best_tiles(q, k, call.layout, partition, settings.density)
    branch = coarse_flops(q.shape, k.shape, _tiles(partition, call.layout), made.pattern.keep.shape[3])
    return replace(made, branch_flops=branch)


def keep_best_tiles(q: Tensor, k: Tensor, layout: Layout, partition: Partition, density: float) -> Plan:
    """Keep the best video tiles of each row, rounded up and at least one, and all text.

    Args:
        q: [B, H, N, D].
        k: [B, KV heads, N, D].
        layout: N is its number of tokens.
        partition: its tiles.
        density: share of the video tiles.
    """
    scores, flops = score_block_pairs(q, k, partition, partition)
    tiles = scores.shape[3]
    keep = row_ops.cut_top_k_row(scores, max(1, min(math.ceil(density * tiles), tiles)))
    pattern = BlockPattern(partition.offsets, partition.offsets, keep_text(partition, keep))
    return Plan(layout, q.shape[0], q.shape[1], pattern, partition.order, partition.order, flops)


def finish(settings: VSA, call: BranchCall, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
    """Add the coarse branch over the video tiles, times the gate."""
    partition = partition_cuboids(call.layout, resolve(settings, call.layout).tile, q.device)
    tiles = _tiles(partition, call.layout)
    return add_coarse(output, q, k, v, tiles, gate_of(call.params), call.scale)


def _tiles(partition: Partition, layout: Layout) -> Tiles:
    return Tiles(partition.order, partition.offsets, partition.video, layout.video, partition.own)


def twin(settings: VSA, layout: Layout, layer: int) -> tuple[VSA, Layout]:
    """Up to 3 × 3 × 3 small tiles, as ragged as before."""
    small, tile = shrink_grid(layout, settings.tile)
    return replace(settings, tile=tile), small


METHOD = Method(
    name="vsa",
    summary="tiles keep the key tiles whose means score highest, beside a gated coarse branch over the means",
    source=Source(
        "VSA: Faster Video Diffusion with Trainable Sparse Attention (NeurIPS 2025)",
        "https://arxiv.org/abs/2505.13389",
        "section 2; the rule of github.com/hao-ai-lab/FastVideo at 2f3d407",
    ),
    settings=VSA,
    plan=plan,
    resolve=resolve,
    twin=twin,
    finish=finish,
    params_by_head=("gate",),
    density_setting="density",
    training=Training("its gate is 1, the value without training"),
)

if __name__ == "__main__":
    main(METHOD)
