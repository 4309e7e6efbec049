"""Backward pass of routed attention.

Gradients of queries use the tiles of the forward pass: a partial row for each (query, group), then their sum. Gradients
of keys use the same lists inverted: the queries of a block are the lists of all patterns that contain it, up to 2^(G -
1) segments of places. They need no partial results, so all batch items, or at least whole groups of a kv head, are
processed at once, and nothing is added up between turns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.arrange import arrange_both, padded_width
from attnbench.kernels.gpu.backward import backward_keys, backward_queries, delta_of, sum_groups
from attnbench.kernels.gpu.balance import rounded_up, share_out
from attnbench.kernels.gpu.hopper import is_hopper, multiprocessors
from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.routed import (
    Clustered,
    bytes_per_head,
    clustered,
    group_of,
    most_partial,
    order_of_rows,
    routes_of,
    rows_of_turn,
    tiles_of,
    turns,
    with_less_where_scarce,
)
from attnbench.kernels.gpu.routing import Routes, list_of, most_tiles
from attnbench.kernels.gpu.rule_arrays import rows_of, rule_arrays
from attnbench.kernels.gpu.slots import MERGED_ROWS, MOST_AT_ONCE, present, slot_of_turn
from attnbench.kernels.gpu.widen import ceil_div, jit, power_of_2, width_for
from attnbench.kernels.gpu.work import KEYS, PLACES, ROWS, KeyTiles, RuleArrays
from attnbench.kernels.pattern import RoutedPattern
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan


def backward_routed(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, output: Tensor, lse: Tensor, d_output: Tensor,
    d_lse: Tensor | None, *, hopper: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients (dq, dk, dv) of ``attend_routed``, in the shapes and dtypes of q, k and v.

    Args:
        q, k, v, plan, scale: as given to ``attend_routed``.
        output, lse: what it returned.
        d_output: [B, H, N, D], any strides.
        d_lse: [B, H, N], any strides; None if the log-sum-exp has no gradient.
        hopper: run the Gluon kernels if they fit; by default on Hopper.
    """
    pattern = plan.pattern
    assert isinstance(pattern, RoutedPattern)
    d, kv_heads, width = q.shape[3], k.shape[1], padded_width(q.shape[3])
    d_output = d_output if d_output.stride(-1) == 1 else d_output.contiguous()
    with phase("attend"):
        delta = delta_of(output, d_output, d_lse)
    with phase("permute"):
        keys = clustered(plan)
        k, v = arrange_both(k, v, keys.k_order, width)
    hopper = is_hopper(q.device) if hopper is None else hopper
    with phase("index"):
        rule = rule_arrays(plan)
    given = _Given(q, k, v, d_output, lse, delta, plan, keys, scale, rule, hopper)
    dk, dv = (torch.empty(*k.shape[:3], d, dtype=k.dtype, device=k.device) for _ in range(2))
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    with_less_where_scarce(lambda: _differentiate_queries(given, dq), q.device)
    with_less_where_scarce(lambda: _differentiate_keys(given, dk, dv), q.device)
    with phase("merge"):
        return dq, sum_groups(dk, kv_heads), sum_groups(dv, kv_heads)


MOST_ROUNDS = 48
"""Rounds of key tiles up to which thread blocks get equal shares. The more rounds, the more equal they are anyway."""


@dataclass(frozen=True, eq=False)
class _Given:
    """The tensors of a backward pass, with k and v arranged."""

    q: Tensor
    k: Tensor
    v: Tensor
    d_output: Tensor
    lse: Tensor
    delta: Tensor
    plan: Plan
    keys: Clustered
    scale: float
    rule: RuleArrays | None
    hopper: bool

    @property
    def blocks(self) -> int:
        return self.plan.pattern.keep.shape[3]

    @property
    def kv_group(self) -> int:
        return self.q.shape[1] // self.k.shape[1]

    def kv_of(self, some: slice) -> slice:
        """Return the kv heads that some heads use."""
        return slice(some.start // self.kv_group, -(-some.stop // self.kv_group))

    def tensors(self, items: slice, some: slice) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return q, k, v, dO, log-sum-exp and delta of some heads of some batch items."""
        kv = self.kv_of(some)
        q, d_output, lse, delta = (x[items, some] for x in (self.q, self.d_output, self.lse, self.delta))
        return q, self.k[items, kv], self.v[items, kv], d_output, lse, delta

    def rule_of(self, items: slice, some: slice) -> RuleArrays | None:
        """Return the rule of some heads of some batch items."""
        return rows_of(self.rule, rows_of_turn(self.plan.heads, items, some))


def _differentiate_queries(given: _Given, dq: Tensor) -> None:
    """Write dq [B, H, N, D], a few heads or batch items at a time, so that partial results fit the budget."""
    batch, heads, n, d = given.q.shape
    budget = most_partial(dq.device)
    for items, some in turns(batch, heads, given.kv_group, bytes_per_head(n, given.blocks, d), budget):
        with phase("index"):
            routes = routes_of(given.plan, given.keys, items, some)
        with phase("attend"):
            partial = backward_queries(
                *given.tensors(items, some), tiles_of(routes), given.scale, rule=given.rule_of(items, some),
                hopper=given.hopper,
            )  # fmt: skip
        with phase("merge"):
            _sum_partial(routes.slots, partial, dq.view(-1, n, d)[rows_of_turn(heads, items, some)])
        del routes, partial  # freed before those of the next heads are made


def _differentiate_keys(given: _Given, dk: Tensor, dv: Tensor) -> None:
    """Write dk and dv [B, KV heads, N, D]. Only lists are needed, so many heads fit at once."""
    batch, heads, n = given.q.shape[:3]
    lists = 4 * ROWS * most_tiles(1, n, given.blocks, group_of(given.blocks), ROWS)
    for items, some in turns(batch, heads, given.kv_group, lists, most_partial(dk.device), whole=True):
        kv = given.kv_of(some)
        with phase("index"):
            routes = routes_of(given.plan, given.keys, items, some)
            masked, rows = given.rule is not None, (items.stop - items.start) * (kv.stop - kv.start)
            key_tiles = key_tiles_of(
                routes, given.keys.offsets, n, given.kv_group, masked=masked, programs=_takers(given, rows)
            )
        with phase("attend"):
            backward_keys(
                *given.tensors(items, some), key_tiles, given.scale, rule=given.rule_of(items, some),
                token_of=order_of_rows(given.keys.k_order, items, kv), out=(dk[items, kv], dv[items, kv]),
                hopper=given.hopper,
            )  # fmt: skip


def _takers(given: _Given, rows: int) -> int | None:
    """Return how many thread blocks take key tiles by turns, if equal shares are worth the time that they cost."""
    n = given.q.shape[2]
    if not given.hopper or given.rule is not None or not given.q.is_cuda or keys_of_a_tile(n, given.blocks) < KEYS:
        return None
    programs = multiprocessors(given.q.device)
    rounds = rows * rounded_up(given.blocks + n // KEYS, programs) // programs
    return programs if rounds <= MOST_ROUNDS else None


def keys_of_a_tile(n: int, blocks: int) -> int:
    """Return the most keys of a tile: a power of two that holds a block of mean size, up to 128."""
    enough: int = power_of_2(n // blocks)
    return min(KEYS, max(16, enough))


def key_tiles_of(
    routes: Routes, offsets: Tensor, n: int, kv_group: int = 1, *, masked: bool = False, programs: int | None = None
) -> KeyTiles:
    """List, for the keys of every block, the places of the queries that chose it, blocks with many queries first.

    Args:
        routes: the routes of some heads, in whole groups of ``kv_group``.
        offsets: int64 [blocks + 1], where each block begins in the arranged order.
        n: number of tokens.
        kv_group: number of query heads that share a kv head.
        masked: mark every segment as one in which the element rule decides.
        programs: thread blocks that take tiles by turns and get equal shares.
    """
    blocks = len(offsets) - 1
    patterns = len(routes.ranks)
    rows = len(routes.totals) // (ceil_div(blocks, routes.group) * patterns)
    half = (patterns + 1) // 2
    keys = keys_of_a_tile(n, blocks)
    capacity = rounded_up(blocks + n // keys, programs)
    segments = torch.empty(rows * blocks * half + 1, 2, dtype=torch.int32, device=offsets.device)
    found = torch.empty(rows, blocks, 3, dtype=torch.int32, device=offsets.device)
    records = torch.zeros(rows, capacity, 8, dtype=torch.int32, device=offsets.device)
    launch(
        _list_places, (blocks, rows), (routes.starts, routes.totals, routes.ranks, segments, found),
        (blocks, ceil_div(blocks, routes.group)),
        GROUP=routes.group, HALF=half, TILE=routes.tile, STEP=PLACES, SIGN=-1 if masked else 1, num_warps=1,
    )  # fmt: skip
    launch(
        _lay_key_tiles, (blocks, rows), (offsets, found, records), (capacity, kv_group), HALF=half, KEYS=keys,
        WIDTH=width_for(blocks, 256), num_warps=1,
    )  # fmt: skip
    if programs is not None:
        records = share_out(records, kv_group, programs)
    return KeyTiles(routes.queries, records, segments, keys)


@jit
def _list_places(
    starts: tl.tensor, totals: tl.tensor, ranks: tl.tensor, segments: tl.tensor, found: tl.tensor, blocks: tl.tensor,
    groups: tl.tensor, GROUP: tl.constexpr, HALF: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr,
    SIGN: tl.constexpr,
) -> None:  # fmt: skip
    """Write the lists that contain a block, without empty ones, and their number, queries and steps."""
    block, row = tl.program_id(0), tl.program_id(1)
    bit = block % GROUP
    member = tl.arange(0, HALF)
    pattern = ((member >> bit) << (bit + 1)) | (1 << bit) | (member & ((1 << bit) - 1))
    number = list_of(ranks, pattern, row, tl.num_programs(1), block // GROUP, groups)
    total = tl.load(totals + number)
    start = tl.load(starts + number) * TILE
    some = (total > 0).to(tl.int32)
    at = segments + ((row * blocks + block) * HALF + tl.cumsum(some, 0) - some) * 2
    tl.store(at, start, mask=total > 0)
    tl.store(at + 1, SIGN * (start + total), mask=total > 0)
    tl.store(found + (row * blocks + block) * 3, tl.sum(some, 0))
    tl.store(found + (row * blocks + block) * 3 + 1, tl.sum(total, 0))
    tl.store(found + (row * blocks + block) * 3 + 2, tl.sum((total + STEP - 1) // STEP, 0))


@jit
def _lay_key_tiles(
    offsets: tl.tensor, found: tl.tensor, records: tl.tensor, capacity: tl.tensor, kv_group: tl.tensor,
    HALF: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Write the records of a block's tiles, after those of all blocks with more queries."""
    block, row, blocks = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    first_row = row // kv_group * kv_group
    own = tl.full([], 0, tl.int32)
    for shared in range(first_row, first_row + kv_group):
        own += tl.load(found + (shared * blocks + block) * 3 + 1)
    tile = tl.full([], 0, tl.int32)
    for first in range(0, blocks, WIDTH):
        other = first + tl.arange(0, WIDTH)
        inside = other < blocks
        queries = tl.zeros([WIDTH], tl.int32)
        for shared in range(first_row, first_row + kv_group):
            queries += tl.load(found + (shared * blocks + other) * 3 + 1, mask=inside, other=0)
        size = tl.load(offsets + other + 1, mask=inside, other=0) - tl.load(offsets + other, mask=inside, other=0)
        before = (queries > own) | ((queries == own) & (other < block))
        tile += tl.sum(tl.where(before & inside, (size + KEYS - 1) // KEYS, 0).to(tl.int32), 0)
    end = tl.load(offsets + block + 1).to(tl.int32)
    number = tl.load(found + (row * blocks + block) * 3)
    steps = tl.load(found + (row * blocks + block) * 3 + 2)
    for start in range(tl.load(offsets + block).to(tl.int32), end, KEYS):
        record = records + (row * capacity + tile) * 8
        tl.store(record, start)
        tl.store(record + 1, tl.minimum(start + KEYS, end))
        tl.store(record + 2, (row * blocks + block) * HALF)
        tl.store(record + 3, number)
        tl.store(record + 4, steps)
        tile += 1


def _sum_partial(slots: Tensor, partial: Tensor, result: Tensor) -> None:
    """Add the partial rows of every query into result [H, N, D]."""
    heads, groups, n = slots.shape
    d = result.shape[2]
    launch(
        _sum_rows, (ceil_div(n, MERGED_ROWS), heads), (slots, partial, result),
        (n, groups, result.stride(0), result.stride(1)), ROWS=MERGED_ROWS, D=d, WIDTH=power_of_2(d),
        GROUPS=width_for(groups, MOST_AT_ONCE), num_warps=1,
    )  # fmt: skip


@jit
def _sum_rows(
    slots: tl.tensor, partial: tl.tensor, result: tl.tensor, n: tl.tensor, groups: tl.tensor, out_head: tl.tensor,
    out_token: tl.tensor, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = row < n
    slots += head * groups * n
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(0, groups, GROUPS):
        slot_of, turn_of, turns = present(slots, row, n, first, groups, GROUPS)
        for i in tl.range(0, turns, num_stages=3):
            slot = slot_of_turn(slot_of, turn_of, i)
            there = (slot >= 0)[:, None] & (column < D)[None]
            at = partial + slot.to(tl.int64)[:, None] * D + column[None]
            acc += tl.load(at, mask=there, other=0.0).to(tl.float32)
    where = result + head * out_head + row.to(tl.int64)[:, None] * out_token + column[None]
    tl.store(where, acc.to(result.dtype.element_ty), mask=inside[:, None] & (column < D)[None])
