"""BSA, bidirectional sparse attention: tiles leave out queries that resemble their centre, and keys by a mass.

Of each tile, the queries are kept that resemble its centre least. A query that is left out computes nothing and gets
the output of the nearest kept one of its tile. Key tiles are ranked by the mean of the kept queries against the means
of all keys. The published port takes only grids of whole tiles. Here tiles at the edges are as short as they are, keep
int(share · size) queries, at least one, and have their token ⌊size/2⌋ as centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench.methods.kit import (
    BlockPattern,
    BranchCall,
    Call,
    DensitySetting,
    Grid,
    Layout,
    Method,
    Plan,
    Recipe,
    Source,
    Training,
    as_density,
    as_ints,
    keep_text,
    main,
    partition_cuboids,
    phase,
    remembered,
    row_ops,
    score_means,
    selection_ops,
    split_flops,
    split_unlike,
)

TILE = (4, 4, 4)


@dataclass(frozen=True)
class BSA(Recipe):
    """Settings.

    Attributes:
        query_share: the share of a tile's queries that are kept, in (0, 1].
        mass: the softmax mass that a tile keeps, with the tile that reaches it; in (0, 1].
        least: how many key tiles it keeps at least.
    """

    query_share: float = 0.5
    mass: float = 0.9
    least: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("query_share", "mass"):
            object.__setattr__(self, name, as_density(name, getattr(self, name)))
        object.__setattr__(self, "least", as_ints("least", self.least))


@dataclass(frozen=True, eq=False)
class Tiles:
    """How the tiles of a grid are split into two query blocks each.

    Attributes:
        centres: int64 [tiles], a place in the tile.
        counts: int64 [tiles], how many queries are kept.
        size: tokens of the largest tile.
        q_offsets: of two query blocks a tile, the kept ones and the others, if there are any; text is a block each.
        tile_of: int64 [q blocks], the block of the partition that each query block belongs to.
        computed: bool [q blocks], whether the block is not left out.
    """

    centres: Tensor
    counts: Tensor
    size: int
    q_offsets: Tensor
    tile_of: Tensor
    computed: Tensor


def plan(settings: BSA, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Order the queries of each tile of a head, those that are kept first, and cut the key tiles by mass."""
    partition = partition_cuboids(call.layout, TILE, q.device)
    tiles = _tiles(settings.query_share, *call.layout.numbers, q.device)
    (text, _), batch, heads = partition.text, *q.shape[:2]
    means, order, source = split_unlike(
        q, partition.order, partition.offsets, tiles.centres, tiles.counts, first=text, size=tiles.size
    )
    keys = selection_ops.pool_means(k, partition.order, partition.offsets)[:, :, partition.video]
    scores = score_means(means, keys)
    shares = row_ops.row_shares(scores, q.shape[3] ** -0.5)
    video = row_ops.cut_mass_row(shares, settings.mass, crossing="in", least=settings.least)
    with phase("select"):
        keep = keep_text(partition, video)[:, :, tiles.tile_of] & tiles.computed[:, None]
    pattern = BlockPattern(tiles.q_offsets, partition.offsets, keep)
    flops = split_flops(q.shape) + selection_ops.pooling_flops(k.shape)
    flops += selection_ops.scoring_flops(means.shape, keys.shape[2])
    return Plan(call.layout, batch, heads, pattern, order, partition.order, flops, kept=source)


def finish(settings: BSA, call: BranchCall, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
    """Give every query that was left out the output of its source."""
    source: Tensor = call.plan.kept
    return output.gather(2, source[..., None].expand_as(output))


@remembered(16)
def _tiles(share: float, shape: tuple[int, int, int], text: tuple[int, int], device: torch.device) -> Tiles:
    partition = partition_cuboids(Layout(Grid(*shape), text), TILE, torch.device("cpu"))
    sizes, blocks = partition.sizes, torch.arange(partition.blocks)
    is_tile = torch.zeros_like(blocks, dtype=torch.bool)
    is_tile[partition.video] = True
    counts = torch.where(is_tile, (share * sizes.double()).long().clamp(min=1), sizes)
    lengths = torch.stack([counts, sizes - counts], 1).flatten()
    there = lengths > 0
    of_tiles = sizes[partition.video]
    return Tiles(
        centres=(of_tiles // 2).to(device),
        counts=counts[partition.video].to(device),
        size=int(of_tiles.max()),
        q_offsets=pad(lengths[there].cumsum(0), (1, 0)).to(device),
        tile_of=blocks.repeat_interleave(2)[there].to(device),
        computed=(torch.arange(len(lengths))[there] % 2 == 0).to(device),
    )


def mass_at(settings: BSA, layout: Layout, density: float) -> dict[str, float]:
    """Use as mass the density over the share of queries."""
    return {"mass": min(1.0, density / settings.query_share)}


def twin(settings: BSA, layout: Layout, layer: int) -> tuple[BSA, Layout]:
    """Up to 3 × 2 × 2 tiles, as ragged as the original."""
    sides = []
    for side, size, most in zip(layout.grid.shape, TILE, (3, 2, 2), strict=True):
        tiles = -(-side // size)
        sides.append(side - max(0, tiles - most) * size)
    return settings, Layout(Grid(*sides), layout.few_text)


METHOD = Method(
    name="bsa",
    summary="bidirectional sparse attention: tiles leave out queries that resemble their centre, and keys by a mass",
    source=Source(
        "Bidirectional Sparse Attention for Faster Video Diffusion Training (2025)",
        "https://arxiv.org/abs/2509.01085",
        "the rule of github.com/hao-ai-lab/FastVideo at 2f3d407, attention/backends/bsa_attn.py",
    ),
    settings=BSA,
    plan=plan,
    twin=twin,
    finish=finish,
    density_setting=DensitySetting(("mass",), mass_at),
    training=Training(),
)

if __name__ == "__main__":
    main(METHOD)
