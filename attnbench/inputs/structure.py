"""Measures of how structured inputs are: attention near the query, and agreement of neighbouring queries."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, coordinates
from attnbench.kernels.pattern import RoutedPattern
from attnbench.kernels.plan import Plan


def locality(
    q: Tensor, k: Tensor, grid: Grid, *, half_widths: tuple[int, int, int] = (2, 4, 4), queries: int = 64, seed: int = 0
) -> float:
    """Return the share of full attention's mass within a window around the query, the mean over sampled queries.

    Args:
        q, k: one head, [T·H·W, head_dim] in grid order; scores are scaled by 1/√head_dim and computed in float64.
        grid: the token grid.
        half_widths: half-widths (t, h, w) of the window, which is cut off at the edges of the grid.
        queries: number of queries that are sampled, without replacement; all of them if there are fewer.
        seed: seed of the sample.
    """
    where = coordinates(grid, q.device)
    rows = torch.randperm(grid.tokens, generator=torch.Generator().manual_seed(seed))[:queries].to(q.device)
    mass = torch.softmax(q[rows].double() @ k.double().T * q.shape[1] ** -0.5, dim=1)
    near = ((where[rows][:, None] - where).abs() <= torch.tensor(half_widths, device=q.device)).all(dim=2)
    return float((mass * near).sum(dim=1).mean())


def union_density(plan: Plan, *, tile: int = 128) -> float:
    """Return the fraction of pairs that are computed if ``tile`` queries share every key block that one of them keeps.

    Queries are taken in the order of the keys, so that a tile holds neighbours of the same block as far as possible.
    The last tile may be smaller. The result is the density if all queries of a tile agree, and 1 if each tile needs
    everything.

    Raises:
        BadInput: if the plan's pattern is not routed, or has a rule.
    """
    pattern = plan.pattern
    if not isinstance(pattern, RoutedPattern) or pattern.rule is not None:
        raise BadInput(f"a {type(pattern).__name__} has no union density: it needs a RoutedPattern without a rule")
    sizes = pattern.k_offsets.diff()
    pairs = 0
    for batch in range(plan.batch):
        for head in range(plan.heads):
            keep = plan.keep_of(batch, head)
            q_order, k_order = plan.order_of("q", batch, head), plan.order_of("k", batch, head)
            by_token = keep if q_order is None else torch.empty_like(keep).index_copy_(0, q_order, keep)
            rows = by_token if k_order is None else by_token[k_order]
            pairs += sum(int((part.any(dim=0) * sizes).sum()) * len(part) for part in torch.split(rows, tile))
    return pairs / (plan.batch * plan.heads * plan.layout.tokens**2)
