"""Routed attention: gather the queries of each block, or group of blocks, attend, and merge by log-sum-exp.

Queries that chose the same pattern of a group of blocks share a tile, so a tile computes exactly what its queries keep.
Grouping also means that a query has one partial result a group instead of one a block: with 72 blocks at density .2 it
is 10.9 instead of 14.5 with groups of 4. Heads are taken a few at a time, so that partial results stay below a budget
whatever is selected; the bound follows from shapes alone, and nothing can overflow.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.arrange import arrange
from attnbench.kernels.gpu.attend import KEYS, ROWS, Tiles, attend_tiles
from attnbench.kernels.gpu.routing import Routes, build_routes, most_tiles
from attnbench.kernels.gpu.widen import jit
from attnbench.kernels.pattern import RoutedPattern
from attnbench.kernels.plan import Plan

PARTIAL_BUDGET = 2**30
"""Bytes of partial results, at the worst selection, above which heads are taken fewer at a time."""

FEW_BLOCKS = 12
"""Up to so many blocks are not grouped: at 8 blocks groups of 2 took 0.1 ms more than they saved in the merge."""

GROUP = 4


def group_of(blocks: int) -> int:
    """Return how many neighbouring blocks make a group."""
    return 1 if blocks <= FEW_BLOCKS else GROUP


def bytes_per_head(tokens: int, blocks: int, head_dim: int) -> int:
    """Return the most bytes that the partial results of one head can take, at 2 bytes a number."""
    return most_tiles(1, tokens, blocks, group_of(blocks), ROWS) * ROWS * (2 * head_dim + 4)


def attend_routed(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> tuple[Tensor, Tensor]:
    """Run a routed plan.

    Args:
        q: [B, H, N, D] with unit last stride, D 64 or 128, bfloat16 or float16. k, v: [B, KV heads, N, D].
        plan: a plan of a RoutedPattern without a rule, its offsets and order shared by all heads.

    Returns:
        output [B, H, N, D] in grid order, and the log-sum-exp float32 [B, H, N]. Queries without a block give 0 and
        -inf.
    """
    pattern = plan.pattern
    assert isinstance(pattern, RoutedPattern)
    batch, heads, n, d = q.shape
    blocks = pattern.keep.shape[3]
    k, v = arrange(k, plan.k_order), arrange(v, plan.k_order)
    keep = pattern.keep.expand(batch, heads, n, blocks)
    segments, table = _segments(pattern.k_offsets, group_of(blocks))
    output = torch.empty(batch, heads, n, d, dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, n, dtype=torch.float32, device=q.device)
    kv_group = heads // k.shape[1]
    at_once = max(1, min(heads, PARTIAL_BUDGET // bytes_per_head(n, blocks, d)))
    at_once = at_once // kv_group * kv_group or at_once
    if at_once < kv_group:
        at_once = max(part for part in range(1, at_once + 1) if kv_group % part == 0)
    for b in range(batch):
        for first in range(0, heads, at_once):
            some = slice(first, first + at_once)
            kv = slice(first // kv_group, -(-min(first + at_once, heads) // kv_group))
            one = slice(b, b + 1)
            routes = build_routes(keep[one, some], group_of(blocks), tile=ROWS)
            tiles, slots = _describe(routes, len(range(heads)[some]), segments, table, n, blocks)
            partial, partial_lse = attend_tiles(q[one, some], k[one, kv], v[one, kv], tiles, scale)
            _merge_heads(slots, partial, partial_lse, output[b, some], lse[b, some])
    return output, lse


def _describe(routes: Routes, rows: int, segments: Tensor, table: Tensor, n: int, blocks: int) -> tuple[Tiles, Tensor]:
    """Turn routes into records, and note for every (head, query, group) where its partial result will be."""
    groups = triton.cdiv(blocks, routes.group)
    records = torch.empty(routes.capacity, 8, dtype=torch.int32, device=segments.device)
    slots = torch.full((rows, n, groups), -1, dtype=torch.int32, device=segments.device)
    programs = min(routes.capacity, 2048)
    _describe_tiles[(programs,)](
        routes.tiles, routes.queries, routes.count, table, segments, records, slots, n, groups,
        GROUP=routes.group, ROWS=ROWS, num_warps=4,
    )  # fmt: skip
    return Tiles(routes.queries, records, routes.count, segments), slots


@lru_cache(maxsize=32)
def _cached_segments(offsets: tuple[int, ...], group: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """List the segments of every (group, pattern): runs of neighbouring blocks, in the arranged order.

    Returns:
        segments int32 [segments + 1, 2], and int32 [groups, 2^group, 2]: first segment and steps of 128 keys.
    """
    blocks = len(offsets) - 1
    pairs: list[tuple[int, int]] = []
    table = []
    for first in range(0, blocks, group):
        rows = []
        for pattern in range(2**group):
            begin, steps = len(pairs), 0
            chosen = [first + i for i in range(group) if pattern >> i & 1 and first + i < blocks]
            for block in chosen:
                if block - 1 in chosen:
                    pairs[-1] = (pairs[-1][0], offsets[block + 1])
                else:
                    pairs.append((offsets[block], offsets[block + 1]))
            steps = sum(-(-(end - start) // KEYS) for start, end in pairs[begin:])
            rows.append((begin, steps))
        table.append(rows)
    pairs.append((0, 0))
    segments = torch.tensor(pairs, dtype=torch.int32, device=device)
    return segments, torch.tensor(table, dtype=torch.int32, device=device)


_seen: dict[tuple[int, int], tuple[Tensor, tuple[Tensor, Tensor]]] = {}


def _segments(offsets: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Return the segments of a partition; partitions are cached objects, so its offsets are read only once."""
    key = (id(offsets), group)
    if key not in _seen or _seen[key][0] is not offsets:
        if len(_seen) > 64:
            _seen.clear()
        _seen[key] = (offsets, _cached_segments(tuple(offsets.tolist()), group, offsets.device))
    return _seen[key][1]


@jit
def _describe_tiles(
    tiles: tl.tensor, queries: tl.tensor, count: tl.tensor, table: tl.tensor, segments: tl.tensor, records: tl.tensor,
    slots: tl.tensor, n: tl.tensor, groups: tl.tensor, GROUP: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    for tile in range(tl.program_id(0), tl.load(count), tl.num_programs(0)):
        row = tl.load(tiles + tile * 4)
        group = tl.load(tiles + tile * 4 + 1) // GROUP
        pattern = tl.load(tiles + tile * 4 + 2)
        place = tl.load(tiles + tile * 4 + 3)
        entry = table + (group * (1 << GROUP) + pattern) * 2
        segment = tl.load(entry)
        record = records + tile * 8
        tl.store(record, row)
        tl.store(record + 1, place)
        tl.store(record + 2, segment)
        tl.store(record + 3, tl.load(segments + segment * 2))
        tl.store(record + 4, tl.load(segments + segment * 2 + 1))
        tl.store(record + 5, tl.load(entry + 1))
        at = place + tl.arange(0, ROWS)
        query = tl.load(queries + at)
        tl.store(slots + (row.to(tl.int64) * n + query) * groups + group, at, mask=query >= 0)


def _merge_heads(slots: Tensor, partial: Tensor, partial_lse: Tensor, output: Tensor, lse: Tensor) -> None:
    """Merge the partial results of every query into output [H, N, D] and lse [H, N]."""
    heads, n, groups = slots.shape
    few = groups < 4
    rows, warps, stages = (32, 4, 1) if few else (16, 2, 3)
    _merge[(triton.cdiv(n, rows), heads)](
        slots, partial, partial_lse, output, lse, n, groups, output.stride(0), output.stride(1), lse.stride(0),
        ROWS=rows, D=output.shape[2], STAGES=stages, num_warps=warps,
    )  # fmt: skip


@jit
def _merge(
    slots: tl.tensor, partial: tl.tensor, partial_lse: tl.tensor, output: tl.tensor, lse: tl.tensor, n: tl.tensor,
    groups: tl.tensor, out_head: tl.tensor, out_token: tl.tensor, lse_head: tl.tensor, ROWS: tl.constexpr,
    D: tl.constexpr, STAGES: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)
    inside = row < n
    at = slots + (head * n + row) * groups
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, D], tl.float32)
    for group in tl.range(0, groups, num_stages=STAGES):
        slot = tl.load(at + group, mask=inside, other=-1)
        there = slot >= 0
        part_lse = tl.load(partial_lse + slot, mask=there, other=-float("inf"))
        part = tl.load(partial + slot.to(tl.int64)[:, None] * D + column[None], mask=there[:, None], other=0.0)
        new = tl.maximum(top, part_lse)
        anchor = tl.where(new == -float("inf"), 0.0, new)
        decay, weight = tl.exp2(top - anchor), tl.exp2(part_lse - anchor)
        acc = acc * decay[:, None] + part.to(tl.float32) * weight[:, None]
        total = total * decay + weight
        top = new
    result = acc / tl.where(total > 0, total, 1.0)[:, None]
    where = output + head * out_head + row.to(tl.int64)[:, None] * out_token + column[None]
    tl.store(where, result.to(output.dtype.element_ty), mask=inside[:, None])
    finite = tl.log2(tl.where(total > 0, total, 1.0))
    value = tl.where(total > 0, (top + finite) * 0.6931471805599453, -float("inf"))
    tl.store(lse + head * lse_head + row, value, mask=inside)
