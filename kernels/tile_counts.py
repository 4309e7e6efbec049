"""Count the tiles that our attention kernels would run for a plan, with torch alone.

The kernels make their lists of tiles on the GPU. Here, the numbers are computed from the plan, with the sizes of tiles
and steps from the modules of the kernels. Only whether small tiles run in pairs, as they may on Hopper, is read from
the lists themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan


@dataclass(frozen=True, slots=True)
class TileWork:
    """Tiles of all batch items and heads.

    Attributes:
        rows: query places in a tile.
        keys: keys in a step.
        groups: number of groups of key blocks, each of which gives a query a partial result; 0 if rows are written
            directly.
        tiles: number of tiles.
        steps: number of steps of ``keys`` keys, summed over the tiles.
        entries: number of places that hold a query.
        segments: number of runs of neighbouring kept blocks in the lists of a plan of whole blocks; 0 for a routed
            plan.
        lists: how many heads have lists of their own: B · H, or fewer if heads share them.
        active_queries: number of (head, query) pairs whose query is read by at least one tile.
        active_keys: number of (kv head, key) pairs whose key is read by at least one tile. If each query head has its
            own key order, query heads count instead of kv heads.
    """

    rows: int
    keys: int
    groups: int
    tiles: int
    steps: int
    entries: int
    segments: int
    lists: int
    active_queries: int
    active_keys: int

    @property
    def executed_pairs(self) -> int:
        """Number of pairs that are computed, including those in tiles and steps that are not full."""
        return self.steps * self.rows * self.keys


def tile_work(plan: Plan, kv_heads: int) -> TileWork:
    """Count the tiles of a plan. This waits for the device.

    Args:
        plan: any plan.
        kv_heads: heads of k and v; divides the heads of the plan.
    """
    if isinstance(plan.pattern, RoutedPattern):
        return _routed(plan, plan.pattern, kv_heads)
    return _blocked(plan, plan.pattern, kv_heads)


def _routed(plan: Plan, pattern: RoutedPattern, kv_heads: int) -> TileWork:
    from attnbench.kernels.gpu.routed import clustered, group_of, segments_of
    from attnbench.kernels.gpu.work import KEYS, ROWS

    keep, n = pattern.keep, plan.layout.tokens
    blocks = keep.shape[3]
    group = group_of(blocks)
    keys = clustered(plan)
    table = segments_of(keys.offsets, group)[1]
    groups, patterns = table.shape[:2]
    # Queries that chose the same blocks of a group form a list. Bit i of a code says that block i of the group is kept.
    bits = 2 ** torch.arange(group, device=keep.device)
    base = torch.arange(groups, device=keep.device) * patterns
    tiles = steps = entries = 0
    for sheet in keep.flatten(0, 1):
        taken = sheet if keys.near is None else sheet[:, keys.near]
        padded = torch.nn.functional.pad(taken, (0, groups * group - blocks)).view(n, groups, group)
        codes = (padded * bits).sum(-1) + base
        lists = torch.bincount(codes.flatten(), minlength=groups * patterns).view(groups, patterns)
        lists[:, 0] = 0
        needed = (lists + ROWS - 1) // ROWS
        tiles += int(needed.sum())
        steps += int((needed * table[..., 1]).sum())
        entries += int(lists.sum())
    times = plan.batch * plan.heads // (keep.shape[0] * keep.shape[1])
    return TileWork(
        rows=ROWS,
        keys=KEYS,
        groups=groups,
        tiles=tiles * times,
        steps=steps * times,
        entries=entries * times,
        segments=0,
        lists=plan.batch * plan.heads,
        active_queries=int(keep.any(-1).sum()) * times,
        active_keys=_active_keys(plan, keep.any(2), kv_heads),
    )


def _blocked(plan: Plan, pattern: BlockPattern, kv_heads: int) -> TileWork:
    from attnbench.kernels.gpu.block_tiles import sizes_of
    from attnbench.kernels.gpu.blocked import kind_of
    from attnbench.kernels.gpu.hopper import is_hopper

    n, columns = plan.layout.tokens, pattern.keep.shape[3]
    rows, keys = sizes_of(plan)
    per_line = (pattern.q_offsets.diff() + rows - 1) // rows
    sizes = pattern.k_offsets.diff()
    shape = (plan.batch, plan.heads) if pattern.rule is not None and _own_orders(plan) else pattern.keep.shape[:2]
    masked = kind_of(plan, is_hopper(plan.device)) == "masked"
    steps = segments = 0
    columns_read = torch.zeros(*shape, columns, dtype=torch.bool, device=plan.device)
    for b in range(shape[0]):
        for h in range(shape[1]):
            states = _states(plan, b, h)
            lengths = _run_lengths(states, sizes, alone=(states == 2) & masked)
            steps += int((((lengths + keys - 1) // keys).sum(1) * per_line).sum())
            segments += int((lengths > 0).sum())
            columns_read[b, h] = (states > 0).any(0)
    heads = plan.batch * plan.heads
    tiles, steps = int(per_line.sum()) * heads, steps * (heads // (shape[0] * shape[1]))
    if (paired := _paired(plan)) is not None:
        rows, keys, tiles, steps = paired
    return TileWork(
        rows=rows,
        keys=keys,
        groups=0,
        tiles=tiles,
        steps=steps,
        entries=n * heads,
        segments=segments,
        lists=shape[0] * shape[1],
        active_queries=n * heads,
        active_keys=_active_keys(plan, columns_read, kv_heads),
    )


def _paired(plan: Plan) -> tuple[int, int, int, int] | None:
    """Return rows, keys, tiles and steps if small tiles run in pairs, otherwise None."""
    from attnbench.kernels.gpu.blocked import kind_of, parts_of
    from attnbench.kernels.gpu.hopper import is_hopper

    if kind_of(plan, is_hopper(plan.device)) != "pairs":
        return None
    _, pairs = parts_of(plan, "pairs")
    count = int(pairs.count)
    return (pairs.rows, pairs.keys, count, int(pairs.steps())) if count else None


def _own_orders(plan: Plan) -> bool:
    return any(order is not None and order.dim() == 3 for order in (plan.q_order, plan.k_order))


def arranged_heads(plan: Plan, kv_heads: int) -> int:
    """Return the heads of the arranged keys of a batch item: the query heads if each has its own order."""
    return plan.heads if plan.k_order is not None and plan.k_order.dim() == 3 else kv_heads


def _active_keys(plan: Plan, read: Tensor, kv_heads: int) -> int:
    """Count the keys in blocks of ``read`` [B or 1, H or 1, blocks], once for each head of the arranged keys."""
    kv_rows = arranged_heads(plan, kv_heads)
    read = read.expand(plan.batch, plan.heads, -1).reshape(plan.batch, kv_rows, plan.heads // kv_rows, -1)
    return int((read.any(2) * plan.pattern.k_offsets.diff()).sum())


def _run_lengths(states: Tensor, sizes: Tensor, alone: Tensor) -> Tensor:
    """Return the keys of each run of neighbouring blocks of one state, int64 [lines, columns], followed by zeros.

    A dropped block (state 0) is in no run. Those of ``alone``, bool [lines, columns], are runs of their own.
    """
    before = torch.nn.functional.pad(states, (1, 0))[:, :-1]
    begins = (states > 0) & ((states != before) | alone)
    number = (begins.cumsum(1) - 1).clamp_(min=0)
    return torch.zeros_like(number).scatter_add_(1, number, sizes * (states > 0))


def _states(plan: Plan, b: int, h: int) -> Tensor:
    """Return for every pair of blocks 0 if it is dropped, 1 if it is kept whole, 2 if the rule decides pair by pair."""
    keep, rule = plan.keep_of(b, h), plan.pattern.rule
    if rule is None:
        return keep.long()
    q, k = plan.boxes("q", b, h), plan.boxes("k", b, h)
    some, every = rule.classify((q.low[:, None], q.high[:, None]), (k.low[None], k.high[None]))
    pure = _all_text(plan, "q", b, h)[:, None] | _all_text(plan, "k", b, h)[None]
    mixed = (q.text[:, None] | k.text[None]) & ~pure
    whole = pure | (every & ~mixed)
    return torch.where(keep & whole, 1, torch.where(keep & (some | mixed), 2, 0))


def _all_text(plan: Plan, side: str, b: int, h: int) -> Tensor:
    """Return which blocks of a side hold only text, bool [blocks]."""
    order = plan.order_of(side, b, h)
    text = plan.is_text if order is None else plan.is_text[order]
    offsets = plan.pattern.q_offsets if side == "q" else plan.pattern.k_offsets
    so_far = torch.nn.functional.pad(text.long().cumsum(0), (1, 0))
    return so_far[offsets].diff() == offsets.diff()
