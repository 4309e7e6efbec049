"""Routed attention: gather the queries of each block, or group of blocks, attend, and merge by log-sum-exp.

Queries that chose the same pattern of a group of blocks share a tile, so a tile computes exactly what its queries keep.
A query then also has one partial result per group instead of one per block: 10.9 instead of 14.5 with 72 blocks,
density .2 and groups of 4. If all heads at once could need more partial results than a budget allows, a few heads are
processed at a time. The bound follows from shapes alone and holds whatever is selected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.arrange import arrange_both, padded_width
from attnbench.kernels.gpu.attend import attend_tiles
from attnbench.kernels.gpu.hopper import is_hopper
from attnbench.kernels.gpu.key_rows import fits_in_place
from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.routing import Routes, build_routes, most_tiles
from attnbench.kernels.gpu.rule_arrays import rows_of, rule_arrays
from attnbench.kernels.gpu.slots import MERGED_ROWS, MOST_AT_ONCE, present, slot_of_turn
from attnbench.kernels.gpu.widen import ceil_div, jit, width_for
from attnbench.kernels.gpu.work import KEYS, ROWS, Tiles
from attnbench.kernels.pattern import RoutedPattern
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan
from attnbench.kernels.remember import capturing, kept_with, remembered

Result = TypeVar("Result")

PARTIAL_BUDGET = 850 * 2**20
"""Bytes of partial results, for the worst selection, above which a small device processes fewer heads at a time."""

PARTIAL_SHARE = 20
"""Share of a large device's memory that is the budget, 4 GiB of 80: fewer turns mean fewer launches."""

FEW_BLOCKS = 12
"""Up to this many blocks are not grouped: with 8 blocks, groups of 2 took 0.1 ms more than they saved in the merge."""

GROUP = 4

MOST_ROWS = 2**15
"""Most heads of all batch items in a turn: a grid has fewer than 2^16 programs on all axes but the first."""


def group_of(blocks: int) -> int:
    """Return the number of neighbouring blocks in a group."""
    return 1 if blocks <= FEW_BLOCKS else GROUP


def bytes_per_head(tokens: int, blocks: int, head_dim: int) -> int:
    """Return the most bytes that the partial results of one head can take, with 2 bytes per number."""
    return most_tiles(1, tokens, blocks, group_of(blocks), ROWS) * ROWS * (2 * padded_width(head_dim) + 4)


_scarce: set[torch.device] = set()
"""Devices whose memory did not suffice for a large budget of partial results."""


def most_partial(device: torch.device) -> int:
    """Return the bytes of partial results, for the worst selection, that a turn may take."""
    if device.type != "cuda" or device in _scarce:
        return PARTIAL_BUDGET
    return max(PARTIAL_BUDGET, _memory(device) // PARTIAL_SHARE)


@cache
def _memory(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).total_memory)


def with_less_where_scarce(run: Callable[[], Result], device: torch.device) -> Result:
    """Run something in turns. If memory does not suffice, run it again, and from then on, in more turns."""
    try:
        return run()
    except torch.OutOfMemoryError:
        if most_partial(device) == PARTIAL_BUDGET:
            raise
        _scarce.add(device)
    return run()


def turns(
    batch: int, heads: int, kv_group: int, bytes_a_head: int, budget: int, *, whole: bool = False
) -> list[tuple[slice, slice]]:
    """Return the batch items and heads of each turn, so that a turn needs at most ``budget`` bytes.

    A turn takes several items with all their heads, or whole groups of a kv head of one item. If the budget holds only
    a part of a group, a turn takes a part that divides the group or, with ``whole``, the group nevertheless.
    """
    fit = max(1, min(budget // bytes_a_head, MOST_ROWS))
    if fit >= heads:
        return [(items, slice(0, heads)) for items in _equal(batch, fit // heads)]
    at_once = -(-heads // -(-heads // fit))
    if at_once >= kv_group or whole:
        at_once = max(1, at_once // kv_group) * kv_group
    else:
        at_once = max(part for part in range(1, at_once + 1) if kv_group % part == 0)
    some = [slice(first, min(first + at_once, heads)) for first in range(0, heads, at_once)]
    return [(slice(b, b + 1), own) for b in range(batch) for own in some]


def _equal(count: int, most: int) -> list[slice]:
    """Cut a range into as few equal parts of at most ``most`` as possible."""
    size = -(-count // -(-count // most))
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def rows_of_turn(heads: int, items: slice, some: slice) -> slice:
    """Return the rows b · H + h of a turn, which are consecutive."""
    return slice(items.start * heads + some.start, (items.stop - 1) * heads + some.stop)


def attend_routed(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, *, hopper: bool | None = None
) -> tuple[Tensor, Tensor]:
    """Run a routed plan.

    Args:
        q: [B, H, N, D] with unit last stride, D up to 128, bfloat16 or float16. k, v: [B, KV heads, N, D], likewise.
        plan: a plan of a RoutedPattern, its offsets shared by all heads.
        scale: factor of the scores.
        hopper: run the Gluon kernel if it fits; by default on Hopper.

    Returns:
        output [B, H, N, D] in grid order, and the log-sum-exp float32 [B, H, N]. Queries without a block give 0 and
        -inf.
    """
    return with_less_where_scarce(lambda: _attend_in_turns(q, k, v, plan, scale, hopper), q.device)


def _attend_in_turns(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, hopper: bool | None
) -> tuple[Tensor, Tensor]:
    batch, heads, n, d = q.shape
    blocks, width = plan.pattern.keep.shape[3], padded_width(d)
    hopper = is_hopper(q.device) if hopper is None else hopper
    with phase("index"):
        rule = rule_arrays(plan)
        keys = clustered(plan)
    with phase("permute"):
        if not (hopper and keys.k_order is None and fits_in_place(q, k, v, scale, rule, ROWS, KEYS)):
            k, v = arrange_both(k, v, keys.k_order, width)
    output = torch.empty(batch, heads, n, d, dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, n, dtype=torch.float32, device=q.device)
    kv_group, everything = heads // k.shape[1], slice(0, batch * heads)
    for items, some in turns(batch, heads, kv_group, bytes_per_head(n, blocks, d), most_partial(q.device)):
        kv, rows = slice(some.start // kv_group, -(-some.stop // kv_group)), rows_of_turn(heads, items, some)
        with phase("index"):
            routes = routes_of(plan, keys, items, some)
            own_rule = rows_of(rule, rows)
        with phase("attend"):
            own = (q, k, v) if rows == everything else (q[items, some], k[items, kv], v[items, kv])
            partial, partial_lse = attend_tiles(*own, tiles_of(routes), scale, rule=own_rule, hopper=hopper)
        with phase("merge"):
            into = (output.view(-1, n, d), lse.view(-1, n))
            if rows != everything:
                into = (into[0][rows], into[1][rows])
            _merge_heads(routes.slots, partial, partial_lse, *into)
        del routes, partial, partial_lse  # freed before those of the next heads are made
    return output, lse


def executed_pairs(plan: Plan) -> int:
    """Count the pairs that ``attend_routed`` computes, including tiles that are not full. This waits for the device."""
    pattern = plan.pattern
    assert isinstance(pattern, RoutedPattern)
    batch, heads, blocks = plan.batch, plan.heads, pattern.keep.shape[3]
    keys, keep = clustered(plan), pattern.keep
    runs, total = segments_of(keys.offsets, group_of(blocks)), 0
    for b in range(keep.shape[0]):
        for h in range(keep.shape[1]):
            own = keep[b : b + 1, h : h + 1]
            routes = build_routes(own, group_of(blocks), tile=ROWS, runs=runs, near=keys.near)
            total += int(tiles_of(routes).steps()) * ROWS * KEYS
    return total * (batch // keep.shape[0]) * (heads // keep.shape[1])


def order_of_rows(order: Tensor | None, items: slice, some: slice) -> Tensor | None:
    """Return the order of some heads of some batch items: [N] if all share it, otherwise [rows, N]."""
    return order[items, some].flatten(0, 1) if order is not None and order.dim() == 3 else order


def routes_of(plan: Plan, keys: Clustered, items: slice, some: slice) -> Routes:
    """Return the routes of some heads of some batch items over ``clustered`` keys, in the form of work for the kernels.

    Routes of all heads are kept as long as the kept pairs, so that the backward pass finds those of the forward pass. A
    CUDA graph makes its own, because it may be replayed after others are gone, or with other pairs in the same tensor.
    """
    pattern = plan.pattern
    group = group_of(pattern.keep.shape[3])
    tensors = (pattern.keep, keys.offsets, plan.q_order, keys.near)
    whole = rows_of_turn(plan.heads, items, some) == slice(0, plan.batch * plan.heads)

    def make() -> Routes:
        runs = segments_of(keys.offsets, group, masked=pattern.rule is not None)
        keep = pattern.keep
        if not whole or keep.shape[:2] != (plan.batch, plan.heads):
            keep = keep.expand(plan.batch, plan.heads, -1, -1)[items, some]
        order = order_of_rows(plan.q_order, items, some)
        return build_routes(keep, group, tile=ROWS, runs=runs, order=order, near=keys.near)

    if capturing() or not whole:
        return make()
    return kept_with(tensors, ("routes", plan.batch, plan.heads, group, pattern.rule is not None), make)


@dataclass(frozen=True, eq=False)
class Clustered:
    """Keys in the order in which the kernels take their blocks.

    Attributes:
        k_order: the key token at each position, as in ``Plan``.
        offsets: int64 [blocks + 1], where each block begins there.
        near: int64 [blocks], the number in the plan's pattern of each of these blocks; None if it is the same.
    """

    k_order: Tensor | None
    offsets: Tensor
    near: Tensor | None


def clustered(plan: Plan) -> Clustered:
    """Return keys whose neighbouring blocks are near each other, where groups of them share tiles."""
    pattern, order = plan.pattern, plan.k_order
    assert isinstance(pattern, RoutedPattern)
    near, offsets = pattern.near, pattern.k_offsets
    own = order is not None and order.dim() > 1
    if near is None or own or pattern.rule is not None or group_of(len(near)) == 1:
        return Clustered(order, offsets.contiguous(), None)

    def make() -> Clustered:
        sizes = offsets.diff()[near]
        edges = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
        n = plan.layout.tokens
        at = torch.arange(n, device=near.device)
        at += torch.repeat_interleave(offsets[near] - edges[:-1], sizes, output_size=n)
        return Clustered(at if order is None else order[at], edges, near.contiguous())

    # Plans that share ``near`` may have orders of their own, and a captured graph reads what was made for one of them.
    return kept_with((near, offsets) if order is None else (order, near, offsets), "clustered", make)


def tiles_of(routes: Routes) -> Tiles:
    """Return routes as the work of the attention kernels."""
    return Tiles(routes.queries, routes.records, routes.count, routes.segments)


def segments_of(offsets: Tensor, group: int, *, masked: bool = False) -> tuple[Tensor, Tensor]:
    """List the segments of every (group, pattern): runs of neighbouring blocks, in the arranged order.

    They are kept as long as the offsets.

    Args:
        offsets: int64 [blocks + 1].
        group: number of neighbouring blocks in a group.
        masked: mark every segment as one in which the element rule decides.

    Returns:
        segments int32 [segments + 1, 2] as in ``Tiles``, and int32 [groups, 2^group, 2]: for every pattern its first
        segment, and its steps of 128 keys.
    """
    return kept_with((offsets,), ("segments", group, masked), lambda: _segments(offsets, group, masked))


def _segments(offsets: Tensor, group: int, masked: bool) -> tuple[Tensor, Tensor]:
    blocks = offsets.shape[0] - 1
    groups = ceil_div(blocks, group)
    runs = _runs(group, offsets.device)
    first = torch.arange(groups, device=offsets.device) * group
    edges = offsets[(first[:, None, None, None] + runs).clamp_(max=blocks)]
    steps = ((edges[..., 1] - edges[..., 0] + KEYS - 1) // KEYS).sum(-1)
    patterns, most = runs.shape[:2]
    begin = torch.arange(0, groups * patterns * most, most, device=offsets.device).view(groups, patterns)
    if masked:
        edges = torch.stack([edges[..., 0], -edges[..., 1]], -1)
    segments = torch.nn.functional.pad(edges.view(-1, 2), (0, 0, 0, 1))
    return segments.int(), torch.stack([begin, steps], -1).int()


@remembered(32)
def _runs(group: int, device: torch.device) -> Tensor:
    """List the runs of neighbouring bits of every pattern, int64 [2^group, runs, 2]: first bit, last bit + 1.

    Patterns with fewer runs are padded with empty ones.
    """
    most = (group + 1) // 2
    table = []
    for pattern in range(2**group):
        runs: list[list[int]] = []
        for bit in range(group):
            if pattern >> bit & 1:
                if runs and runs[-1][1] == bit:
                    runs[-1][1] = bit + 1
                else:
                    runs.append([bit, bit + 1])
        table.append(runs + [[0, 0]] * (most - len(runs)))
    return torch.tensor(table, device=device)


def _merge_heads(slots: Tensor, partial: Tensor, partial_lse: Tensor, output: Tensor, lse: Tensor) -> None:
    """Merge the partial results of every query into output [H, N, D] and lse [H, N]."""
    heads, groups, n = slots.shape
    launch(
        _merge, (ceil_div(n, MERGED_ROWS), heads), (slots, partial, partial_lse, output, lse),
        (n, groups, output.stride(0), output.stride(1), lse.stride(0)),
        ROWS=MERGED_ROWS, D=partial.shape[1], HEAD_DIM=output.shape[2], GROUPS=width_for(groups, MOST_AT_ONCE),
        num_warps=1,
    )  # fmt: skip


@jit
def _merge(
    slots: tl.tensor, partial: tl.tensor, partial_lse: tl.tensor, output: tl.tensor, lse: tl.tensor, n: tl.tensor,
    groups: tl.tensor, out_head: tl.tensor, out_token: tl.tensor, lse_head: tl.tensor, ROWS: tl.constexpr,
    D: tl.constexpr, HEAD_DIM: tl.constexpr, GROUPS: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)
    inside = row < n
    slots += head * groups * n
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, D], tl.float32)
    for first in range(0, groups, GROUPS):
        slot_of, turn_of, turns = present(slots, row, n, first, groups, GROUPS)
        for i in tl.range(0, turns, num_stages=3):
            slot = slot_of_turn(slot_of, turn_of, i)
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
    tl.store(where, result.to(output.dtype.element_ty), mask=inside[:, None] & (column < HEAD_DIM)[None])
    finite = tl.log2(tl.where(total > 0, total, 1.0))
    value = tl.where(total > 0, (top + finite) * 0.6931471805599453, -float("inf"))
    tl.store(lse + head * lse_head + row, value, mask=inside)
