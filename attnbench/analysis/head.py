"""Measures of one head: from the sums of its rows to figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attnbench.analysis.stream import HeadMap
from attnbench.kernels.grid import Grid, Layout, coordinates
from attnbench.kernels.partition import partition_cuboids
from attnbench.kernels.selection import pool_blocks, score_blocks

SHARES = (0.5, 0.9)
"""Of a head's weight, for which (query, block) pairs are counted."""
SINKS = 1000
"""One key in so many may be a sink."""
PLACED = {"same_place": "temporal", "same_frame": "spatial", "own_block_3d": "local"}
"""What a head's class is decided by, and the class."""
GLOBAL_BELOW = 2.0
"""A head none of whose lifts exceeds this is global."""


def distances(found: HeadMap, grid: Grid) -> dict[str, Tensor]:
    """Return the weight at each distance on each axis: dt [m, T], dy [m, H] and dx [m, W]."""
    own = coordinates(grid, found.frames.device)[found.places.to(found.frames.device)]
    return {
        name: _folded(mass, own[:, axis])
        for axis, (name, mass) in enumerate((("dt", found.frames), ("dy", found.rows), ("dx", found.columns)))
    }


def _folded(mass: Tensor, own: Tensor) -> Tensor:
    side = mass.shape[1]
    apart = (torch.arange(side, device=mass.device)[None] - own[:, None]).abs()
    return torch.zeros_like(mass).scatter_add_(1, apart, mass)


def mean_distance(mass: Tensor) -> Tensor:
    """Return each query's mean distance [m] from its weight at each distance."""
    return mass @ torch.arange(mass.shape[1], device=mass.device, dtype=mass.dtype)


def own_masses(found: HeadMap, grid: Grid, cuboids: Mapping[str, tuple[int, int, int]]) -> dict[str, Tensor]:
    """Return each video query's weight [m] on its place, its frame and its block of each partition."""
    device = found.frames.device
    frame = (found.places // (grid.h * grid.w)).to(device)
    masses = {"same_place": found.same_place, "same_frame": found.frames.gather(1, frame[:, None]).squeeze(1)}
    for name, cuboid in cuboids.items():
        own = partition_cuboids(Layout(grid), cuboid, device).own[found.places.to(device)]
        masses[f"own_block_{name}"] = found.blocks[name].gather(1, own[:, None]).squeeze(1)
    return masses


def token_shares(grid: Grid, cuboids: Mapping[str, tuple[int, int, int]]) -> dict[str, float]:
    """Return the share of the video tokens that is at a token's place, in its frame and in its block, on average."""
    shares = {"same_place": 1 / (grid.h * grid.w), "same_frame": 1 / grid.t}
    for name, cuboid in cuboids.items():
        sizes = partition_cuboids(Layout(grid), cuboid, torch.device("cpu")).sizes.double()
        shares[f"own_block_{name}"] = float(sizes.square().sum()) / grid.tokens**2
    return shares


def head_class(lifts: Mapping[str, float]) -> tuple[str, float]:
    """Return the class of a head, and the largest lift over the second.

    Args:
        lifts: weight over share of the tokens, of each of PLACED.
    """
    ranked = sorted(((lifts[name], word) for name, word in PLACED.items()), reverse=True)
    (largest, word), (second, _) = ranked[:2]
    margin = largest / second if second > 0 else math.inf
    return (word if largest > GLOBAL_BELOW else "global"), min(margin, 1e6)


def pairs_needed(mass: Tensor, shares: Sequence[float], groups: int = 0) -> Tensor:
    """Return the smallest fraction of (query, block) pairs that holds a share of the weight of all of them.

    Args:
        mass: [m, blocks], which adds up to 1 for each query.
        shares: of the weight, in (0, 1].
        groups: 0, or how many groups of queries, dealt out in turn, are also left out one after the other.

    Returns:
        float64 [1 + groups, shares]: of all queries, and without each group. Pairs are sorted once for all.
    """
    ranked, order = mass.double().flatten().sort(descending=True)
    group = order // mass.shape[1] % groups if groups else None
    rows = []
    for left_out in range(-1, groups):
        kept = ranked if left_out < 0 or group is None else ranked[group != left_out]
        reached = kept.cumsum(0)
        wanted = reached[-1] * torch.tensor(shares, dtype=torch.float64, device=mass.device) - 1e-12
        rows.append((torch.searchsorted(reached, wanted) + 1).double() / len(kept))
    return torch.stack(rows).clamp_max_(1)


def query_importance(q: Tensor, k: Tensor, layout: Layout, cuboid: tuple[int, int, int]) -> Tensor:
    """Return how much each video query asks of the blocks it likes best, [T·H·W].

    The similarities of all video queries and block means of a head are scaled from their smallest, 0, to their largest,
    and to add up to 1. A query has the sum of its largest quarter, of at least one block. If all are equal, each
    block of each query has the same share.

    Args:
        q, k: [N, head_dim].
        layout: the tokens.
        cuboid: block (t, h, w), clipped to the grid.
    """
    video = layout.video
    partition = partition_cuboids(Layout(layout.grid), cuboid, q.device)
    means = pool_blocks(k[None, None, video], partition.order, partition.offsets)
    scores = score_blocks(q[None, None, video].to(means.dtype), means)[0, 0]
    scores = scores - scores.min()
    largest = scores.max()
    if bool(largest > 0):
        scores = scores / largest  # of huge scores the sum would overflow
        shares = scores / scores.sum(dtype=torch.float64)
    else:
        shares = torch.full_like(scores, 1 / scores.numel())
    best = max(1, round(partition.blocks / 4))
    return shares.topk(best, dim=1).values.sum(1)


def sink_mass(found: HeadMap, q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Return each query's weight [N] on the keys that receive the most of all queries, one in SINKS and at least one.

    Args:
        found: of the head, with all queries. A sample of them would choose keys by what few queries like.
        q, k: [N, head_dim].
        scale: factor of the scores.
    """
    keys = found.received.topk(max(1, k.shape[0] // SINKS)).indices
    scores = q.to(found.lse.dtype) @ k[keys].to(found.lse.dtype).T * scale
    return (scores - found.lse[:, None]).clamp_max_(0).exp().sum(1)
