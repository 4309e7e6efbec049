"""Sol-Attn: blocks that score far above their row's mean are attended exactly, all others by one summary each.

A block of queries keeps the key blocks whose means score more than ``tau`` deviations above the mean of the row, and
its neighbours. Every other block counts, for each query, as so many keys like its mean key, with its mean value, in
the same softmax. Means and deviations are those of the video's blocks, cut from its first token on. Text is dense.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import index
from statistics import NormalDist

import torch
from torch import Tensor

from attnbench.methods.kit import (
    BlockPattern,
    BranchCall,
    Call,
    DensitySetting,
    Grid,
    Layout,
    Method,
    Partition,
    Plan,
    Recipe,
    Source,
    add_summaries,
    as_choice,
    as_flag,
    as_ints,
    as_number,
    coordinates,
    fit,
    keep_text,
    main,
    partition_in_order,
    partition_ranges,
    remembered,
    row_ops,
    score_means,
    selection_ops,
)

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class SolAttn(Recipe):
    """Settings.

    Attributes:
        tau: how many deviations a score must be above the mean of its row.
        spread: the variance of a row: "diagonal", as if the channels of the mean keys were independent, or "exact".
        order: "morton", in which tokens near each other on the grid stay near, or "raster".
        near: blocks whose index differs by at most this are kept.
        block: tokens of a block.
        summaries: whether dropped blocks count by their summaries; False leaves the exact part alone.
    """

    tau: float = 1.0
    spread: str = "diagonal"
    order: str = "morton"
    near: int = 1
    block: int = 64
    summaries: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "tau", as_number("tau", self.tau))
        as_choice("spread", self.spread, ("diagonal", "exact"))
        as_choice("order", self.order, ("morton", "raster"))
        object.__setattr__(self, "near", as_ints("near", self.near, low=0))
        object.__setattr__(self, "block", as_ints("block", self.block))
        as_flag("summaries", self.summaries)


def resolve(settings: SolAttn, layout: Layout) -> SolAttn:
    """Cut the default block off at the size of the grid.

    Raises:
        BadInput: for a chosen block that is larger than the grid.
    """
    return replace(settings, block=fit("block", settings.block, SolAttn.block, (layout.grid.tokens,)))


def plan(settings: SolAttn, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Score block means, and cut each row above its mean."""
    settings = resolve(settings, call.layout)
    partition = _partition(settings, call.layout, q.device)
    ops, scale = selection_ops, q.shape[3] ** -0.5
    queries, keys = (ops.pool_means(x, partition.order, partition.offsets)[:, :, partition.video] for x in (q, k))
    scores = score_means(queries, keys)
    variances = None
    if settings.spread == "diagonal":
        of_keys = keys.var(2, correction=0, keepdim=True).repeat_interleave(q.shape[1] // k.shape[1], 1)
        variances = (queries.square() * of_keys).mean(-1)
    keep = row_ops.cut_above_mean_row(scores, settings.tau, scale=scale, variances=variances, near=settings.near)
    pattern = BlockPattern(partition.offsets, partition.offsets, keep_text(partition, keep))
    flops = ops.pooling_flops(q.shape) + ops.pooling_flops(k.shape) + ops.scoring_flops(queries.shape, keys.shape[2])
    branch = 0
    if settings.summaries:
        branch = 2 * ops.pooling_flops(k.shape) + 4 * math.prod(q.shape) * pattern.keep.shape[3]
    return Plan(
        call.layout, q.shape[0], q.shape[1], pattern, partition.order, partition.order, flops, branch_flops=branch
    )


def finish(settings: SolAttn, call: BranchCall, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
    """Join what was attended exactly with the summaries of all other blocks."""
    if not settings.summaries:
        return output
    pattern = call.plan.pattern
    assert isinstance(pattern, BlockPattern)
    assert call.lse is not None
    keys, values = (selection_ops.pool_means(x, call.plan.k_order, pattern.k_offsets) for x in (k, v))
    return add_summaries(output, call.lse, q, keys, values, pattern, call.plan.q_order, call.scale)


def _partition(settings: SolAttn, layout: Layout, device: torch.device) -> Partition:
    if settings.order == "raster":
        return partition_ranges(layout, settings.block, device)
    return _morton(index(settings.block), *layout.numbers, device)


@remembered(8)
def _morton(size: int, shape: Triple, text: tuple[int, int], device: torch.device) -> Partition:
    """Return ranges of the order by interleaved bits of x, y and t, of which x has the lowest."""
    layout = Layout(Grid(*shape), text)
    places = coordinates(layout.grid, device).flip(1)  # x, y, t
    bits = torch.arange(max(shape).bit_length(), device=device)
    spread = (places[:, None] >> bits[:, None] & 1) << (3 * bits[:, None] + torch.arange(3, device=device))
    return partition_in_order(layout, spread.sum((1, 2)).argsort(stable=True), size)


def tau_at(settings: SolAttn, layout: Layout, density: float) -> dict[str, float]:
    """Choose the deviations above which so many scores would lie if they were normal."""
    return {"tau": NormalDist().inv_cdf(1 - min(density, 1 - 1e-9))}


def twin(settings: SolAttn, layout: Layout, layer: int) -> tuple[SolAttn, Layout]:
    """A small part of the grid in up to 8 small blocks, of which the last is short if it was, with the nearest kept."""
    t, h, w = (min(side, most) for side, most in zip(layout.grid.shape, (3, 5, 6), strict=True))
    n = t * h * w
    block = min(settings.block, max(1, n // 7))
    is_whole = layout.grid.tokens % settings.block == 0
    while block > 1 and (n % block == 0) != is_whole:
        block -= 1
    return replace(settings, block=block, near=min(settings.near, 1)), Layout(Grid(t, h, w), layout.few_text)


METHOD = Method(
    name="sol-attn",
    summary="blocks far above their row's mean score are attended exactly, all others by one summary each",
    source=Source(
        "Sol-Attn (2026)",
        "https://arxiv.org/abs/2607.24027",
        "techniques/sparse_backends/sol_attn of github.com/NVlabs/Sana, branch sol-engine",
    ),
    settings=SolAttn,
    plan=plan,
    resolve=resolve,
    twin=twin,
    finish=finish,
    density_setting=DensitySetting(("tau",), tau_at),
    needs_lse=True,
    has_gradient=False,
)

if __name__ == "__main__":
    main(METHOD)
