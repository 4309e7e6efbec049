"""Choose pairs by q and k: pool, score, cut. Rows are single queries or blocks of queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.kernels import selection_ops as ops
from attnbench.kernels.cell_scores import score_means
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Layout
from attnbench.kernels.partition import Partition
from attnbench.kernels.phases import phase
from attnbench.kernels.shard import Shard


@dataclass(frozen=True, slots=True)
class Cut:
    """The rule that decides how many pairs are kept besides each query's own block.

    Attributes:
        select: "threshold" on the shares of the scores, or "topk", a number of blocks.
        scope: "head" ranks all pairs of a head together, "query" those of each query separately.
        amount: the threshold in (0, 1], or the number of blocks of a query, its own included.
        causal: keep only blocks up to the query's own; possible with "topk" only.

    Raises:
        BadInput: for other words, an amount out of range, or a causal threshold.
    """

    select: str
    scope: str
    amount: float
    causal: bool = False

    def __post_init__(self) -> None:
        if self.select not in ("threshold", "topk") or self.scope not in ("head", "query"):
            raise BadInput(f"a cut by {self.select!r} of a {self.scope!r}; use threshold or topk, of a head or query")
        if self.select == "threshold" and not 0 < self.amount <= 1:
            raise BadInput(f"threshold is {self.amount!r}; it must be a number above 0 and at most 1")
        if self.select == "topk" and (self.amount < 1 or self.amount != int(self.amount)):
            raise BadInput(f"topk is {self.amount!r}; it must be a whole number of at least 1")
        if self.causal and self.select == "threshold":
            raise BadInput("a causal cut by threshold has no shares: later blocks score -inf; cut by topk")


def route(
    q: Tensor, k: Tensor, layout: Layout, partition: Partition, cut: Cut, shard: Shard | None = None
) -> tuple[Tensor, int]:
    """Score the video queries against the means of the video blocks, and cut the scores.

    On CUDA, in half precision or float32, kernels run that never wait for the device; otherwise torch runs. No gradient
    is recorded.

    Args:
        q: [B, H, N, D], any strides with the last 1; with ``shard``, the queries that it has.
        k: [B, KV heads, N, D], likewise; KV heads divides H.
        layout: N is its number of tokens.
        partition: of that layout, on the device of q and k.
        cut: how many pairs are kept.
        shard: which queries there are, if not all. A cut of whole heads is made by one process for each head, from the
            scores of all.

    Returns:
        The kept pairs, bool [B, H, T·H·W, video blocks], queries in grid order, and the floating-point operations spent
        on means and scores, 2 for a multiply-add. Queries that are not in the shard keep nothing.
    """
    own = partition.own
    with torch.no_grad():
        means = ops.pool_means(k, partition.order, partition.offsets)
        if partition.text[0] or partition.text[1]:  # torch 2.11 cannot trace a comparison of remembered tuples
            means = means[:, :, partition.video]
        queries = q
        if shard is not None or layout.text != (0, 0):
            queries = q[:, :, layout.video if shard is None else shard.rows(layout)]
        flops = ops.pooling_flops(k.shape) + ops.scoring_flops(queries.shape, means.shape[2])
        if shard is None:
            scores, extremes = ops.score_blocks(queries, means, by_block=cut.scope == "query")
            return _cut(scores, own, extremes, cut), flops
        mine = shard.video(layout)
        scores = _scores_of_any(queries, means)
        if cut.scope == "head":
            whole = shard.whole_heads(scores)
            kept = shard.own_rows(_cut(whole, own, None, cut) if whole.numel() else whole.bool())
        else:
            kept = _cut(scores, own[mine], None, cut) if scores.numel() else scores.bool()
        routes = torch.zeros(*q.shape[:2], len(own), means.shape[2], dtype=torch.bool, device=q.device)
        routes[:, :, mine] = kept
        return routes, flops


def _scores_of_any(queries: Tensor, means: Tensor) -> Tensor:
    """Return the scores of queries [B, H, rows, D]; a shard may have no video, and so no rows."""
    if queries.shape[2] == 0:
        return means.new_empty(*queries.shape[:3], means.shape[2])
    return ops.score_blocks(queries, means)[0]


def _cut(scores: Tensor, own: Tensor, extremes: Tensor | None, cut: Cut) -> Tensor:
    if cut.causal:
        with phase("select"):
            later = torch.arange(scores.shape[-1], device=scores.device) > own[:, None]
            scores.masked_fill_(later, -torch.inf)
        extremes = None  # those of the scores before
    if cut.scope == "head":
        if cut.select == "threshold":
            return ops.cut_threshold_head(scores, own, extremes, cut.amount)
        return ops.cut_top_k_head(scores, own, extremes, int(cut.amount))
    if cut.select == "threshold":
        return ops.cut_threshold_query(scores, own, cut.amount)
    return ops.cut_top_k_query(scores, own, int(cut.amount))


def score_block_pairs(q: Tensor, k: Tensor, q_partition: Partition, k_partition: Partition) -> tuple[Tensor, int]:
    """Score the means of the query blocks against the means of the key blocks, without text blocks.

    Plain dot products, without softmax or 1/√d; ``row_ops`` cuts them. No gradient is recorded.

    Args:
        q: [B, H, N, D], any strides with the last 1.
        k: [B, KV heads, N, D], likewise; KV heads divides H.
        q_partition: blocks of the queries, on the device of q and k.
        k_partition: blocks of the keys.

    Returns:
        Scores [B, H, video blocks of q, video blocks of k] in float32, or in float64 for float64 tensors, and the
        floating-point operations spent on means and scores, 2 for a multiply-add.
    """
    with torch.no_grad():
        queries = ops.pool_means(q, q_partition.order, q_partition.offsets)[:, :, q_partition.video]
        keys = ops.pool_means(k, k_partition.order, k_partition.offsets)[:, :, k_partition.video]
        scores = score_means(queries, keys)
    flops = ops.pooling_flops(q.shape) + ops.pooling_flops(k.shape)
    return scores, flops + ops.scoring_flops(queries.shape, keys.shape[2])
