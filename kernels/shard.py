"""A shard of the queries: which ones a process has, and what it takes to plan and attend for those alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench.kernels.errors import Unsupported
from attnbench.kernels.grid import Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.remember import kept_with


@dataclass(frozen=True, eq=False, slots=True)
class Shard:
    """The queries that a process has, contiguous in the joint order text, video, text.

    Attributes:
        first: their first token.
        stop: the token after their last one.
        whole_heads: rows of video queries [B, H, own rows, blocks] -> all rows of the heads that this process cuts
            [B, heads, T·H·W, blocks], perhaps of no head.
        own_rows: the way back, for what was cut: [B, heads, T·H·W, blocks] -> [B, H, own rows, blocks].
    """

    first: int
    stop: int
    whole_heads: Callable[[Tensor], Tensor]
    own_rows: Callable[[Tensor], Tensor]

    def video(self, layout: Layout) -> slice:
        """Return which video tokens are among the queries, counted from the first video token; perhaps none."""
        before, n = layout.text[0], layout.grid.tokens
        first, stop = (min(max(end - before, 0), n) for end in (self.first, self.stop))
        return slice(first, stop)

    def rows(self, layout: Layout) -> slice:
        """Return where those video tokens are among the queries of the shard."""
        video = self.video(layout)
        first = max(layout.text[0] - self.first, 0)
        return slice(first, first + video.stop - video.start)


def only_queries(plan: Plan, first: int, stop: int) -> Plan:
    """Return the plan in which only the queries from ``first`` to ``stop`` - 1 keep their pairs; the others keep none.

    Blocks of queries are split, so no pair of another query is left in any block.

    Raises:
        Unsupported: for patterns with a band, or whose heads have query blocks or a query order of their own.
    """
    pattern, order = plan.pattern, plan.q_order
    if isinstance(pattern, RoutedPattern):
        at = torch.arange(plan.layout.tokens, device=plan.device) if order is None else order
        mine = (at >= first) & (at < stop)
        return replace(plan, pattern=replace(pattern, keep=pattern.keep & mine[..., None]))
    tensors = (pattern.keep, pattern.q_offsets, pattern.k_offsets, order)
    made, q_order = kept_with(tensors, ("only", first, stop, pattern.rule), lambda: _split(pattern, order, first, stop))
    return replace(plan, pattern=made, q_order=q_order)


def _split(pattern: BlockPattern, order: Tensor | None, first: int, stop: int) -> tuple[BlockPattern, Tensor | None]:
    if pattern.band is not None or pattern.q_offsets.dim() == 3 or (order is not None and order.dim() == 3):
        raise Unsupported("blocks or orders of single heads, and bands, cannot be split by queries: use ulysses")
    offsets = pattern.q_offsets
    if order is None:
        ends = torch.cat([offsets, offsets.new_tensor([first, stop])]).unique()
        block = torch.searchsorted(offsets, ends[:-1], right=True) - 1
        mine = (ends[:-1] >= first) & (ends[:-1] < stop)
    else:  # the queries of the shard come first, block by block, and the others are one block behind them
        own = (order >= first) & (order < stop)
        sizes = torch.bincount(torch.repeat_interleave(offsets.diff())[own], minlength=len(offsets) - 1)
        block = sizes.nonzero().squeeze(1)
        mine = torch.ones_like(block, dtype=torch.bool)
        ends = pad(sizes[block].cumsum(0), (1, 0))
        if stop - first < len(order):
            ends = torch.cat([ends, ends.new_tensor([len(order)])])
            block, mine = pad(block, (0, 1)), pad(mine, (0, 1))
        order = torch.cat([order[own], order[~own]])
    keep = pattern.keep[:, :, block] & mine[:, None]
    full = pattern.is_full and keep.numel() == 1
    return BlockPattern(ends, pattern.k_offsets, keep, pattern.rule, full), order
