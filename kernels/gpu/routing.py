"""Routes: for every block, the ascending list of queries that chose it, cut into tiles.

With groups of G blocks, a list belongs to a group and a pattern of its blocks, so that all queries of a tile share
exactly the same blocks. G = 1 is the plain case. Lists with many blocks come first, because their tiles are the most
work.

There are four steps. Pack the pairs into bits, transposed so that the queries of a block are neighbours. Count the
queries of each list in every chunk, as prefix sums. Lay the lists out one after another, in tiles, which the last
program of the same launch does. Scatter the queries,
describe the tiles, and record where the partial result of each query and group will be. Launches depend on shapes
alone, and nothing waits for the device. The result does not depend on the order in which programs run.

Predicted for 12 heads of 55,296 queries × 72 blocks with a fifth kept: 48 MB of pairs read once, 6 MB of bits written
once and read twice, and 36 MB of lists written. That is 0.04 ms at 3 TB/s, and three launches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import ceil_div, check_dtype, jit, popcount, width_for
from attnbench.kernels.remember import remembered

TILE = 128
MOST_GROUP = 6
CHUNK = 32  # words of 32 queries


@dataclass(frozen=True, eq=False)
class Routes:
    """Queries by the blocks that they chose, in tiles of ``tile`` queries that chose the same blocks.

    Attributes:
        queries: int32 [capacity · tile], tokens. Tile ``i`` begins at ``i · tile``. A list follows the order of the
            queries, and -1 fills its last tile. Entries after the last tile are undefined.
        tiles: int32 [capacity, 4]: row of ``keep`` (b · H + h), first block of the group, pattern (bit ``i`` is block
            first + i), and where the tile starts in ``queries``. Tiles with many blocks come first. Empty with
            ``runs``.
        count: int32 [1], number of tiles, on the device.
        overflow: int32 [1], 1 if there were more tiles than ``capacity``. The tiles that fit are then correct, and
            others are missing.
        starts: int32 [lists], the first tile of each list, numbered by ``list_of``.
        totals: int32 [lists], the number of queries of each list.
        ranks: int32 [2^group - 1, 3], read by ``list_of``.
        records: int32 [capacity, 8], the tiles in the form of ``work.Tiles``; empty without ``runs``.
        segments: int32, the segments in the form of ``work.Tiles``; with ``runs`` only.
        slots: int32 [rows, groups, N], the place of each query token in a group, or -1; empty without ``runs``.
        group: blocks in a group.
        tile: queries in a tile.
    """

    queries: Tensor
    tiles: Tensor
    count: Tensor
    overflow: Tensor
    starts: Tensor
    totals: Tensor
    ranks: Tensor
    records: Tensor
    segments: Tensor
    slots: Tensor
    group: int
    tile: int

    @property
    def capacity(self) -> int:
        """Number of tiles for which there is space."""
        return len(self.queries) // self.tile


def most_tiles(rows: int, n: int, blocks: int, group: int, tile: int = TILE) -> int:
    """Return the most tiles that ``rows`` heads of ``n`` queries and ``blocks`` blocks can fill."""
    if torch.compiler.is_compiling():
        return rows * _most_tiles_of_head(n, blocks, group, tile)
    return rows * _counted_before(n, blocks, group, tile)


def _most_tiles_of_head(n: int, blocks: int, group: int, tile: int) -> int:
    total = 0
    for first in range(0, blocks, group):
        lists = 2 ** min(group, blocks - first) - 1
        # Each list adds less than a tile to its share of the n queries, and no list is longer than n.
        total += min((n + lists * (tile - 1)) // tile, lists * -(-n // tile))
    return total


_counted_before = lru_cache(256)(_most_tiles_of_head)


def build_routes(
    keep: Tensor,
    group: int = 1,
    *,
    tile: int = TILE,
    capacity: int | None = None,
    runs: tuple[Tensor, Tensor] | None = None,
    order: Tensor | None = None,
    near: Tensor | None = None,
) -> Routes:
    """Collect, for every block or group of blocks, the queries that chose it.

    Args:
        keep: bool [B or 1, H or 1, N, blocks], any strides.
        group: neighbouring blocks that make a group, 1 to 6.
        tile: queries in a tile, a power of two.
        capacity: number of tiles to make space for; by default as many as the shapes can need.
        runs: the keys of each pattern, from ``routed.segments_of``. With it, the tiles are described in the form of
            work.
        order: the query token at each arranged position, int64 [N] or [rows, N]; None for grid order.
        near: int64 [blocks], the block of ``keep`` that is the i-th of the routes; None for the i-th.

    Returns:
        The routes, as tensors on the device of ``keep``.

    Raises:
        BadInput: for another group, tile or capacity.
        Unsupported: for another dtype, or if ``queries`` would have 2^31 entries or more.
    """
    check_dtype("keep", keep, torch.bool)
    if not 1 <= group <= MOST_GROUP:
        raise BadInput(f"group is {group!r}; it must be 1 to {MOST_GROUP}")
    if tile < 1 or tile & (tile - 1):
        raise BadInput(f"tile is {tile!r}; it must be a power of two")
    if capacity is not None and capacity < 1:
        raise BadInput(f"capacity is {capacity!r}; it must be at least 1")
    batch, heads, n, blocks = keep.shape
    rows, groups, patterns = batch * heads, ceil_div(blocks, group), 2**group - 1
    lists = rows * groups * patterns
    capacity = most_tiles(rows, n, blocks, group, tile) if capacity is None else capacity
    if capacity * tile >= 2**31:
        raise Unsupported(f"{capacity} tiles of {tile} queries are too many for 32-bit places; give a capacity")
    words = ceil_div(n, 32)
    chunks = ceil_div(words, CHUNK)

    def ints(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=keep.device)

    bits, before, totals, starts, ends = (
        ints(rows, blocks, words),
        ints(lists, chunks),
        ints(lists),
        ints(lists),
        ints(3),
    )
    queries = ints(capacity * tile)
    described = runs is not None
    tiles, records = ints(0 if described else capacity, 4), ints(capacity if described else 0, 8)
    slots = ints(rows if described else 0, groups, n)
    segments, table = (queries, queries) if runs is None else runs
    ranks = _pattern_ranks(group, keep.device)
    order_row = order.stride(0) if order is not None and order.dim() == 2 else 0
    shape: dict[str, Any] = {"GROUP": group, "CHUNK": CHUNK}

    packed = (keep.view(torch.uint8), bits, ends, bits if near is None else near)
    launch(
        _pack, (ceil_div(words, 4), ceil_div(blocks, 32), rows), packed,
        (*keep.stride(), heads, n, blocks, words), WORDS=4, WIDTH=32, NEAR=near is not None, num_warps=4,
    )  # fmt: skip
    launch(
        _count, (patterns, groups, rows), (bits, ranks, before, totals, starts, ends),
        (words, blocks, chunks, lists, capacity), **shape, CHUNKS=width_for(chunks, 64), TILE=tile,
        WIDTH=width_for(lists, 4096), num_warps=4,
    )  # fmt: skip
    tensors = (bits, ranks, before, totals, starts, segments, table, queries if order is None else order)
    launch(
        _scatter, (chunks, groups, rows), (*tensors, queries, tiles, records, slots),
        (n, words, blocks, chunks, capacity, order_row, 1 if order is None else order.stride(-1)),
        **shape, TILE=tile, ORDER=order is not None, DESCRIBE=described, num_warps=8,
    )  # fmt: skip
    return Routes(queries, tiles, ends[:1], ends[1:2], starts, totals, ranks, records, segments, slots, group, tile)


@remembered(32)
def _pattern_ranks(group: int, device: torch.device) -> Tensor:
    """Return for each pattern, from 1 on: the lists of larger classes, its place in its class, the size of its class.

    A class contains the patterns with the same number of blocks. The result is int32 [2^group - 1, 3].
    """
    patterns = sorted(range(1, 2**group), key=lambda pattern: (-pattern.bit_count(), pattern))
    table = [[0, 0, 0] for _ in patterns]
    for place, pattern in enumerate(patterns):
        same = [i for i, other in enumerate(patterns) if other.bit_count() == pattern.bit_count()]
        table[pattern - 1] = [same[0], place - same[0], len(same)]
    return torch.tensor(table, dtype=torch.int32, device=device)


@jit
def list_of(
    ranks: tl.tensor, pattern: tl.tensor, row: tl.tensor, rows: tl.tensor, group: tl.tensor, groups: tl.tensor
) -> tl.tensor:
    """Return the number of a list.

    Lists are ordered by the class of their pattern, then by row and group, then by pattern.
    """
    ranks += 3 * (pattern - 1)
    larger, place, size = tl.load(ranks), tl.load(ranks + 1), tl.load(ranks + 2)
    return larger * groups * rows + (row * groups + group) * size + place


@jit
def _pack(
    keep: tl.tensor, bits: tl.tensor, ends: tl.tensor, near: tl.tensor, stride_b: tl.tensor, stride_h: tl.tensor,
    stride_n: tl.tensor, stride_k: tl.tensor, heads: tl.tensor, n: tl.tensor, blocks: tl.tensor, words: tl.tensor,
    WORDS: tl.constexpr, WIDTH: tl.constexpr, NEAR: tl.constexpr,
) -> None:  # fmt: skip
    """Write a word for 32 queries and a block. Bit i stands for query i of the 32."""
    if tl.program_id(0) + tl.program_id(1) + tl.program_id(2) == 0:
        tl.store(ends + 2, 0)  # programs of the next launch that have finished
    row = tl.program_id(2).to(tl.int64)
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    lane = tl.arange(0, 32)
    block = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    query = word.to(tl.int64)[:, None, None] * 32 + lane[None, :, None]
    mask = (query < n) & (block < blocks)[None, None, :]
    column = tl.load(near + block, mask=block < blocks, other=0) if NEAR else block
    place = (row // heads) * stride_b + (row % heads) * stride_h + query * stride_n + column[None, None, :] * stride_k
    bit = (tl.load(keep + place, mask=mask, other=0) != 0).to(tl.int32)
    packed = tl.sum(bit << lane[None, :, None], 1)
    place = (row * blocks + block[None, :]) * words + word[:, None]
    tl.store(bits + place, packed, mask=(word < words)[:, None] & (block < blocks)[None, :])


@jit
def _matching(
    bits: tl.tensor, at: tl.tensor, row: tl.tensor, group: tl.tensor, pattern: tl.tensor, words: tl.tensor,
    blocks: tl.tensor, GROUP: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return words of the queries that chose exactly the blocks of ``pattern`` in this group."""
    match = tl.full(at.shape, -1, tl.int32)
    for i in tl.static_range(GROUP):
        block = group * GROUP + i
        word = tl.load(bits + (row * blocks + block) * words + at, mask=(at < words) & (block < blocks), other=0)
        match = match & tl.where((pattern >> i) & 1 != 0, word, ~word)
    return tl.where(at < words, match, 0)


@jit
def _count(
    bits: tl.tensor, ranks: tl.tensor, before: tl.tensor, totals: tl.tensor, starts: tl.tensor, ends: tl.tensor,
    words: tl.tensor, blocks: tl.tensor, chunks: tl.tensor, lists: tl.tensor, capacity: tl.tensor,
    GROUP: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Count the queries of a list, in total and before each chunk. The last program lays all lists out."""
    pattern, group, row = tl.program_id(0) + 1, tl.program_id(1), tl.program_id(2).to(tl.int64)
    number = list_of(ranks, pattern, row, tl.num_programs(2), group, tl.num_programs(1))
    so_far = tl.full([], 0, tl.int32)
    for first in range(0, chunks, CHUNKS):
        chunk = first + tl.arange(0, CHUNKS)
        at = chunk[:, None] * CHUNK + tl.arange(0, CHUNK)[None, :]
        found = tl.sum(popcount(_matching(bits, at, row, group, pattern, words, blocks, GROUP)), 1)
        tl.store(before + number * chunks + chunk, so_far + tl.cumsum(found, 0) - found, mask=chunk < chunks)
        so_far += tl.sum(found, 0)
    tl.store(totals + number, so_far)
    tl.debug_barrier()
    finished = tl.atomic_add(ends + 2, 1, sem="acq_rel")
    if finished == tl.num_programs(0) * tl.num_programs(1) * tl.num_programs(2) - 1:
        _lay_out(totals, starts, ends, lists, capacity, TILE, WIDTH)


@jit
def _lay_out(
    totals: tl.tensor, starts: tl.tensor, ends: tl.tensor, lists: tl.tensor, capacity: tl.tensor,
    TILE: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Write the first tile of each list, the number of tiles, and whether there are too many."""
    tiles = tl.full([], 0, tl.int32)
    for first in range(0, lists, WIDTH):
        number = first + tl.arange(0, WIDTH)
        # Other programs of this launch wrote them: not from the L1 cache.
        total = tl.load(totals + number, mask=number < lists, other=0, cache_modifier=".cg")
        needed = (total + TILE - 1) // TILE
        tl.store(starts + number, tiles + tl.cumsum(needed, 0) - needed, mask=number < lists)
        tiles += tl.sum(needed, 0)
    tl.store(ends, tl.minimum(tiles, capacity))
    tl.store(ends + 1, (tiles > capacity).to(tl.int32))


@jit
def _scatter(
    bits: tl.tensor, ranks: tl.tensor, before: tl.tensor, totals: tl.tensor, starts: tl.tensor, segments: tl.tensor,
    table: tl.tensor, order: tl.tensor, queries: tl.tensor, tiles: tl.tensor, records: tl.tensor, slots: tl.tensor,
    n: tl.tensor, words: tl.tensor, blocks: tl.tensor, chunks: tl.tensor, capacity: tl.tensor, order_row: tl.tensor,
    order_token: tl.tensor, GROUP: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, ORDER: tl.constexpr,
    DESCRIBE: tl.constexpr,
) -> None:  # fmt: skip
    """Write the queries of a chunk into the lists of a group, and the tiles of every chunks-th of those lists."""
    chunk, group, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    rows, groups = tl.num_programs(2), tl.num_programs(1)
    query = chunk * (CHUNK * 32) + tl.arange(0, CHUNK * 32)
    pattern = tl.zeros([CHUNK * 32], tl.int32)
    for i in tl.static_range(GROUP):
        block = group * GROUP + i
        known = (query < n) & (block < blocks)
        word = tl.load(bits + (row * blocks + block) * words + query // 32, mask=known, other=0)
        pattern = pattern | (((word >> (query % 32)) & 1) << i)
    rank = _rank_in_chunk(pattern, GROUP, CHUNK)
    some = pattern > 0
    number = list_of(ranks, tl.maximum(pattern, 1), row, rows, group, groups)
    rank += tl.load(before + number * chunks + chunk, mask=some, other=0)
    place = tl.load(starts + number, mask=some, other=0).to(tl.int64) * TILE + rank
    fits = some & (place < capacity * TILE)
    token = query
    if ORDER:
        where = order + row * order_row + query.to(tl.int64) * order_token
        token = tl.load(where, mask=query < n, other=0).to(tl.int32)
    tl.store(queries + place, token, mask=fits)
    if DESCRIBE:
        tl.store(slots + (row * groups + group) * n + token, tl.where(fits, place, -1).to(tl.int32), mask=query < n)

    for own in range(chunk + 1, 1 << GROUP, chunks):
        lists = (starts, totals, queries, tiles, records)
        _describe(lists, ranks, segments, table, own, row, group, capacity, GROUP, TILE, DESCRIBE)


@jit
def _describe(
    lists: tl.tensor, ranks: tl.tensor, segments: tl.tensor, table: tl.tensor, pattern: tl.tensor, row: tl.tensor,
    group: tl.tensor, capacity: tl.tensor, GROUP: tl.constexpr, TILE: tl.constexpr, DESCRIBE: tl.constexpr,
) -> None:  # fmt: skip
    """Describe the tiles of a list, and fill its last one."""
    starts, totals, queries, tiles, records = lists
    number = list_of(ranks, pattern, row, tl.num_programs(2), group, tl.num_programs(1))
    start, total = tl.load(starts + number), tl.load(totals + number)
    needed = (total + TILE - 1) // TILE
    if DESCRIBE:
        entry = table + (group * (1 << GROUP) + pattern) * 2
        segment, steps = tl.load(entry), tl.load(entry + 1)
        begin, end = tl.load(segments + segment * 2), tl.load(segments + segment * 2 + 1)
    zeros = tl.zeros([128], tl.int32)
    for first in range(0, needed, 128):
        step = first + tl.arange(0, 128)
        tile = (start + step).to(tl.int64)
        there = (step < needed) & (tile < capacity)
        if DESCRIBE:
            tl.store(records + tile * 8, zeros + row.to(tl.int32), mask=there)
            tl.store(records + tile * 8 + 1, (tile * TILE).to(tl.int32), mask=there)
            tl.store(records + tile * 8 + 2, zeros + segment, mask=there)
            tl.store(records + tile * 8 + 3, zeros + begin, mask=there)
            tl.store(records + tile * 8 + 4, zeros + end, mask=there)
            tl.store(records + tile * 8 + 5, zeros + steps, mask=there)
        else:
            tl.store(tiles + tile * 4, zeros + row.to(tl.int32), mask=there)
            tl.store(tiles + tile * 4 + 1, zeros + group * GROUP, mask=there)
            tl.store(tiles + tile * 4 + 2, zeros + pattern, mask=there)
            tl.store(tiles + tile * 4 + 3, (tile * TILE).to(tl.int32), mask=there)
    rest = total + tl.arange(0, TILE)
    padded = (rest < needed * TILE) & (start + needed <= capacity)
    tl.store(queries + start.to(tl.int64) * TILE + rest, tl.full([TILE], -1, tl.int32), mask=padded)


@jit
def _rank_in_chunk(pattern: tl.tensor, GROUP: tl.constexpr, CHUNK: tl.constexpr) -> tl.tensor:
    """Count, for each query, those before it in the chunk that have its pattern.

    Five patterns are counted at once, in 12 bits each, because a chunk has fewer than 2^12 queries.
    """
    tl.static_assert(CHUNK * 32 < 4096)
    rank = tl.zeros(pattern.shape, tl.int32)
    if GROUP == 1:
        rank = tl.cumsum(pattern, 0) - 1
    else:
        one = tl.full(pattern.shape, 1, tl.int64)
        for first in tl.static_range(1, 1 << GROUP, 5):
            own = (pattern >= first) & (pattern < first + 5)
            shift = tl.where(own, (pattern - first) * 12, 0).to(tl.int64)
            counted = tl.cumsum(tl.where(own, one << shift, 0), 0)
            rank = tl.where(own, ((counted >> shift) & 0xFFF).to(tl.int32) - 1, rank)
    return rank
