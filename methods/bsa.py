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
    as_density,
    as_ints,
    main,
    partition_cuboids,
    phase,
    remembered,
    row_ops,
    selection_ops,
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
    """The tiles of a grid, padded to one size. P is the most tokens of a tile.

    Attributes:
        tokens: int64 [tiles, P], the tokens of each tile in its order; padding repeats the first.
        real: bool [tiles, P].
        centre: int64 [tiles], a place in the tile.
        kept: int64 [tiles], how many queries are kept.
        q_offsets: of two query blocks a tile, the kept ones and the others, if there are any; text is a block each.
        tile_of: int64 [q blocks], the tile of each query block; -1 for text.
        computed: bool [q blocks], whether the block is not left out.
    """

    tokens: Tensor
    real: Tensor
    centre: Tensor
    kept: Tensor
    q_offsets: Tensor
    tile_of: Tensor
    computed: Tensor


def plan(settings: BSA, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Order the queries of each tile of a head, those that are kept first, and cut the key tiles by mass."""
    partition = partition_cuboids(call.layout, TILE, q.device)
    tiles = _tiles(settings.query_share, *call.layout.numbers, q.device)
    (before, after), batch, heads = call.layout.text, *q.shape[:2]
    with phase("pool"):
        queries = q[:, :, tiles.tokens].to(torch.promote_types(q.dtype, torch.float32))  # [B, H, tiles, P, D]
        kept, ranked = _least_like_centre(queries, tiles)
        means = torch.where(kept[..., None], queries, 0).sum(3) / tiles.kept[:, None]
        keys = selection_ops.pool_means(k, partition.order, partition.offsets)[:, :, partition.video]
    scores, _ = selection_ops.score_blocks(means, keys)
    shares = row_ops.row_shares(scores, q.shape[3] ** -0.5)
    video = row_ops.cut_mass_row(shares, settings.mass, crossing="in", least=settings.least)
    with phase("select"):
        by_tile = pad(video, partition.text, value=True)
        keep = torch.where((tiles.tile_of < 0)[:, None], True, by_tile[:, :, tiles.tile_of]) & tiles.computed[:, None]
        order = tiles.tokens.expand_as(ranked).gather(3, ranked)[..., tiles.real]
        rank = torch.arange(call.layout.tokens, device=q.device).expand(batch, heads, -1)
        order = torch.cat([rank[..., :before], order, rank[..., call.layout.tokens - after :]], -1)
        source = _scattered(rank, tiles, _nearest_kept(kept, tiles))
    pattern = BlockPattern(tiles.q_offsets, partition.offsets, keep)
    flops = selection_ops.pooling_flops(q.shape) + selection_ops.pooling_flops(k.shape) + 4 * q.numel()
    flops += selection_ops.scoring_flops(means.shape, keys.shape[2])
    return Plan(call.layout, batch, heads, pattern, order, partition.order, flops, kept=source)


def finish(settings: BSA, call: BranchCall, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
    """Give every query that was left out the output of its source."""
    source: Tensor = call.plan.kept
    return output.gather(2, source[..., None].expand_as(output))


def _least_like_centre(queries: Tensor, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """Return the kept places, bool [B, H, tiles, P], and the places of each tile, the kept ones first, in order."""
    centre = queries.gather(3, tiles.centre[:, None, None].expand(*queries.shape[:3], 1, queries.shape[4]))
    alike = torch.nn.functional.cosine_similarity(queries, centre, dim=-1).masked_fill(~tiles.real, torch.inf)
    by_likeness = alike.argsort(dim=-1, stable=True)
    place = torch.arange(alike.shape[-1], device=alike.device)
    rank = torch.empty_like(by_likeness).scatter_(-1, by_likeness, place.expand_as(by_likeness))
    kept = rank < tiles.kept[:, None]
    group = torch.where(kept, 0, torch.where(tiles.real, 1, 2)) * len(place) + place
    return kept, group.argsort(-1)


def _nearest_kept(kept: Tensor, tiles: Tiles) -> Tensor:
    """Return for each place the nearest kept place of its tile, the earlier of two, int64 [B, H, tiles, P]."""
    size = kept.shape[-1]
    place = torch.arange(size, device=kept.device).expand_as(kept)
    earlier = torch.where(kept, place, -2 * size).cummax(-1).values
    later = torch.where(kept, place, 3 * size).flip(-1).cummin(-1).values.flip(-1)
    return torch.where(place - earlier <= later - place, earlier, later)


def _scattered(rank: Tensor, tiles: Tiles, nearest: Tensor) -> Tensor:
    """Return the token whose output each token takes, int64 [B, H, N]."""
    tokens = tiles.tokens.expand_as(nearest)
    source = tokens.gather(3, nearest)[..., tiles.real]
    return rank.clone().scatter_(2, tiles.tokens[tiles.real].expand_as(source), source)


@remembered(16)
def _tiles(share: float, shape: tuple[int, int, int], text: tuple[int, int], device: torch.device) -> Tiles:
    layout = Layout(Grid(*shape), text)
    partition = partition_cuboids(layout, TILE, torch.device("cpu"))
    sizes, (before, after) = partition.sizes[partition.video], text
    starts = partition.offsets[:-1][partition.video]
    place = torch.arange(int(sizes.max()))
    real = place < sizes[:, None]
    at = starts[:, None] + torch.where(real, place, 0)
    tokens = at if partition.order is None else partition.order[at]
    kept = (share * sizes.double()).long().clamp(min=1)
    lengths = torch.stack([kept, sizes - kept], 1).flatten()
    there = lengths > 0
    ends = [lengths.new_tensor([n]) for n in (before, after)]
    lengths = torch.cat([ends[0][ends[0] > 0], lengths[there], ends[1][ends[1] > 0]])
    padding = (int(before > 0), int(after > 0))
    computed = pad(torch.arange(2 * len(sizes))[there] % 2 == 0, padding, value=True)
    tile_of = pad(torch.arange(len(sizes)).repeat_interleave(2)[there], padding, value=-1)
    parts = (tokens, real, sizes // 2, kept, pad(lengths.cumsum(0), (1, 0)), tile_of, computed)
    return Tiles(*(part.to(device) for part in parts))


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
)

if __name__ == "__main__":
    main(METHOD)
