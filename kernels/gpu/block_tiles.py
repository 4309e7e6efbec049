"""Tiles of block patterns: lists of work from kept blocks, made on the device without waiting for it.

Query blocks are cut into tiles and laid out one after another, so each block starts a new tile. Every row of kept
blocks becomes runs of neighbouring blocks, which all tiles of the row share. Key tiles are the same with the sides
exchanged: runs of places that keep a key block. Heads that share the pattern share the lists; only records repeat.
Within a head, tiles are sorted by their steps, in descending order and in ascending order by turns. For thread blocks
that take every n-th tile, they change places with neighbours, so that each has an equal share.

A list has space for the most runs that a row can have. Unused space is neither written nor read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from attnbench.kernels.gpu.balance import even_out, rounded_up, share_out
from attnbench.kernels.gpu.block_states import (
    classify_blocks,
    offset_rows,
    rows_of_order,
    shared,
    warps_for,
)
from attnbench.kernels.gpu.mask_words import words_for_keys, words_for_queries
from attnbench.kernels.gpu.widen import ceil_div, jit, power_of_2, tile_size, width_for
from attnbench.kernels.gpu.work import KEYS, PLACES, ROWS, KeyTiles, Tiles
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.witness import launched

SMALL_ROWS = 64


@dataclass(frozen=True, eq=False)
class BlockWork:
    """The layout that forward, dQ, and dK and dV share.

    Attributes:
        plan: the plan.
        states: uint8 [B or 1, H or 1, q blocks, k blocks] (expanded): 0 dropped, 1 kept whole, 2 kept in part.
        queries: int32 [orders · room], see ``Tiles``.
        first: int32 [1 or B · H, q blocks + 1], the first tile of each query block, and the number of tiles.
        room: number of places of one order. Place p of order i is at i · room + p.
        rows: query rows in a tile.
    """

    plan: Plan
    states: Tensor
    queries: Tensor
    first: Tensor
    room: int
    rows: int

    @property
    def sheets(self) -> int:
        """Number of heads with kept blocks of their own: 1 or B · H."""
        return self.states.shape[0] * self.states.shape[1]

    @property
    def orders(self) -> int:
        """Number of heads with a layout of queries of their own: 1 or B · H."""
        return len(self.queries) // self.room


def sizes_of(plan: Plan) -> tuple[int, int]:
    """Return the rows in a tile and the keys in a step for a plan of whole blocks."""
    n, (lines, columns) = plan.layout.tokens, plan.pattern.keep.shape[2:]
    rows = tile_size(n, lines, ROWS)
    # Small tiles leave room for two thread blocks on a multiprocessor, which steps of 128 keys would take away.
    return rows, tile_size(n, columns, KEYS if rows > SMALL_ROWS else SMALL_ROWS)


def lay_out(plan: Plan) -> BlockWork:
    """Cut the query blocks of a plan into tiles, and classify its blocks by the rule or band, if there is one."""
    pattern = plan.pattern
    assert isinstance(pattern, BlockPattern)
    n, blocks, device = plan.layout.tokens, pattern.keep.shape[2], plan.device
    rows = sizes_of(plan)[0]
    capacity = blocks + n // rows
    capacity += capacity % 2  # room for pairs
    first = _number(pattern.q_offsets, rows, plan)
    order, orders, order_row = rows_of_order(plan.q_order)
    order_row, orders = order_row * (orders > 1), max(orders, len(first))
    queries = torch.full((orders * capacity * rows,), -1, dtype=torch.int32, device=device)
    splits = min(64, ceil_div(capacity, blocks))
    launched("triton:place_queries")
    _place_queries[(blocks, splits, orders)](
        offset_rows(pattern.q_offsets, plan), first, order, queries, capacity * rows, order_row,
        (blocks + 1) * (len(first) > 1), ORDER=order is not None, ROWS=rows, num_warps=4,
    )  # fmt: skip
    states = pattern.keep.view(torch.uint8) if pattern.elements is None else classify_blocks(plan)
    if not shared(plan):
        states = states.expand(plan.batch, plan.heads, -1, -1)
    return BlockWork(plan, states, queries, first, capacity * rows, rows)


def tiles_of(work: BlockWork, *, masked: bool = False, programs: int | None = None) -> Tiles:
    """List the tiles of a plan and the keys they keep. With ``masked``, say in words what its rule keeps.

    With ``programs``, so many thread blocks that take tiles by turns get equal shares.
    """
    plan = work.plan
    pattern, columns = plan.pattern, work.states.shape[3]
    keys = sizes_of(plan)[1]
    most = most_runs(plan, columns)
    chunks = _number(pattern.k_offsets, KEYS, plan)[0] if masked else None
    offsets = offset_rows(pattern.k_offsets, plan)
    runs = _list_runs(work.states, offsets, offsets, 1, 0, keys, most, chunks, empty=pattern.k_offsets.dim() == 3)
    records, count = record_tiles(work, work.first, runs.counts, runs.segments, most, work.rows, programs)
    masks = None if chunks is None else words_for_queries(plan, chunks)
    return Tiles(work.queries, records, count, runs.segments, work.rows, keys, masks=masks, chunk_of=runs.chunk_of)


def record_tiles(
    work: BlockWork, first: Tensor, counts: Tensor, segments: Tensor, most: int, rows: int, programs: int | None = None
) -> tuple[Tensor, Tensor]:
    """Record the tiles of all heads, those of each sorted by their steps.

    Args:
        work: the layout that the tiles belong to.
        first: int32 [1 or sheets, lines + 1], the first tile of each line of lists, and the number of tiles.
        counts: int32 [sheets, lines, 2], runs and steps of each line.
        segments: the runs, with space for ``most`` per line.
        rows: rows in a tile.
        programs: thread blocks that take tiles by turns and get equal shares.

    Returns:
        records and count, as in ``Tiles``.
    """
    lines, heads, own = first.shape[1] - 1, work.plan.batch * work.plan.heads, len(first) > 1
    records = torch.empty(heads * (work.room // rows), 8, dtype=torch.int32, device=first.device)
    count = torch.empty(1, dtype=torch.int32, device=first.device)
    begins = pad(first[:, -1].cumsum(0, dtype=torch.int32), (1, 0)) if own else first
    launched("triton:record_tiles")
    _record_tiles[(lines, heads)](
        first, begins, counts, segments, records, count, lines, most, int(work.sheets > 1), int(work.orders > 1),
        work.room, heads if programs is None else int(heads == 1), OWN=own, ROWS=rows,
        WIDTH=power_of_2(lines), num_warps=4,
    )  # fmt: skip
    return records if programs is None else even_out(records, count, programs), count


def key_tiles_of(work: BlockWork, kv_heads: int, *, masked: bool = False, programs: int | None = None) -> KeyTiles:
    """List the key tiles of a plan and the places of queries that keep them.

    ``kv_heads`` is the number of heads of k that the kernel gets: that of k, or H if each head has its own key order.
    With ``masked``, say in words what the rule of the plan keeps. With ``programs``, so many thread blocks that take
    tiles by turns get equal shares.
    """
    plan = work.plan
    pattern, heads = plan.pattern, plan.batch * plan.heads
    states = work.states.transpose(-1, -2).contiguous()
    lines = states.shape[2]
    sheets = max(work.sheets, work.orders)
    if sheets > 1:
        states = states.expand(plan.batch, plan.heads, -1, -1)
    room, most = work.room if work.orders > 1 else 0, states.shape[3]  # there can be padding between any two blocks
    offsets, empty = offset_rows(pattern.q_offsets, plan), pattern.q_offsets.dim() == 3
    runs = _list_runs(states, work.first, offsets, work.rows, room, PLACES, most, empty=empty)
    keys = tile_size(plan.layout.tokens, lines, KEYS)
    first = _number(pattern.k_offsets, keys, plan)
    capacity = rounded_up(lines + plan.layout.tokens // keys, programs)
    records = torch.zeros(heads, capacity, 8, dtype=torch.int32, device=plan.device)
    launched("triton:record_keys")
    _record_keys[(lines, plan.batch * kv_heads)](
        offset_rows(pattern.k_offsets, plan), first, runs.counts, records, lines, most, capacity, int(sheets > 1),
        plan.heads // kv_heads, (lines + 1) * (len(first) > 1),
        KEYS=keys, WIDTH=power_of_2(lines), num_warps=4,
    )  # fmt: skip
    if programs is not None:
        records = share_out(records, plan.heads // kv_heads, programs)
    masks = words_for_keys(plan, work.first[0]) if masked else None
    return KeyTiles(work.queries, records, runs.segments, keys, masks)


def most_runs(plan: Plan, columns: int) -> int:
    """Return the most runs that a line of this many blocks can have."""
    # With a rule or a band, a run also ends where whole blocks end and blocks kept in part begin.
    return columns if plan.pattern.elements is not None else (columns + 1) // 2


@dataclass(frozen=True, eq=False)
class _Runs:
    """Runs of every line: segments as in ``Tiles``; runs and steps of each line, int32 [sheets, lines, 2]; chunks."""

    segments: Tensor
    counts: Tensor
    chunk_of: Tensor | None


def _list_runs(
    states: Tensor, origins: Tensor, offsets: Tensor, unit: int, room: int, step: int, most: int,
    chunks: Tensor | None = None, *, empty: bool,
) -> _Runs:  # fmt: skip
    """List the runs of every line of ``states``. Column c begins at ``origins[c] · unit`` and is as long as its block.

    Origins and offsets are [1 or sheets, columns + 1]. With ``empty``, columns may have no tokens; these are in no run.

    There is space for ``most`` runs per line. With ``chunks``, the first chunk of each column, blocks that are kept in
    part are runs of their own.
    """
    lines, columns = states.shape[2:]
    sheets = states.shape[0] * states.shape[1]
    segments = torch.empty(sheets * lines * most + 1, 2, dtype=torch.int32, device=states.device)
    counts = torch.empty(sheets, lines, 2, dtype=torch.int32, device=states.device)
    chunk_of = None if chunks is None else torch.empty(len(segments), dtype=torch.int32, device=states.device)
    width = power_of_2(columns)
    launched("triton:list_line")
    _list_line[(lines, sheets)](
        states, origins, offsets, chunks, segments, counts, chunk_of, *states.stride(), states.shape[1], columns, most,
        room, (columns + 1) * (len(origins) > 1), (columns + 1) * (len(offsets) > 1), EMPTY=empty, UNIT=unit, STEP=step,
        WIDTH=width, MASKED=chunks is not None, num_warps=warps_for(width),
    )  # fmt: skip
    return _Runs(segments, counts, chunk_of)


def _number(offsets: Tensor, size: int, plan: Plan) -> Tensor:
    """Return the first tile, of ``size`` tokens, of each block, and the number of tiles, int32 [rows, blocks + 1]."""
    rows = offset_rows(offsets, plan)
    blocks = rows.shape[1] - 1
    first = torch.empty(rows.shape, dtype=torch.int32, device=offsets.device)
    launched("triton:number_tiles")
    _number_tiles[(len(rows),)](rows, first, blocks, SIZE=size, WIDTH=width_for(blocks, 4096), num_warps=4)
    return first


@jit
def _number_tiles(
    offsets: tl.tensor, first: tl.tensor, blocks: tl.tensor, SIZE: tl.constexpr, WIDTH: tl.constexpr
) -> None:
    """Write the first tile, of SIZE tokens, of each block of a row, followed by the number of tiles."""
    offsets += tl.program_id(0) * (blocks + 1)
    first += tl.program_id(0) * (blocks + 1)
    tiles = tl.full([], 0, tl.int32)
    for begin in range(0, blocks, WIDTH):
        block = begin + tl.arange(0, WIDTH)
        inside = block < blocks
        size = tl.load(offsets + block + 1, mask=inside, other=0) - tl.load(offsets + block, mask=inside, other=0)
        needed = ((size + SIZE - 1) // SIZE).to(tl.int32)
        tl.store(first + block, tiles + tl.cumsum(needed, 0) - needed, mask=inside)
        tiles += tl.sum(needed, 0)
    tl.store(first + blocks, tiles)


@jit
def _place_queries(
    offsets: tl.tensor, first: tl.tensor, order: tl.tensor, queries: tl.tensor, room: tl.tensor, order_row: tl.tensor,
    block_row: tl.tensor, ORDER: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """Write the tokens of a block's tiles, followed by -1."""
    block, sheet = tl.program_id(0), tl.program_id(2).to(tl.int64)
    offsets += sheet * block_row
    first += sheet * block_row
    start, end = tl.load(offsets + block).to(tl.int32), tl.load(offsets + block + 1).to(tl.int32)
    begin = tl.load(first + block)
    row = tl.arange(0, ROWS)
    for tile in range(tl.program_id(1), tl.load(first + block + 1) - begin, tl.num_programs(1)):
        position = start + tile * ROWS + row
        token = position
        if ORDER:
            token = tl.load(order + sheet * order_row + position, mask=position < end, other=0).to(tl.int32)
        place = sheet * room + (begin + tile) * ROWS + row
        tl.store(queries + place, tl.where(position < end, token, -1))


@jit
def larger(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Combine for a running maximum."""
    return tl.maximum(a, b)


@jit
def _list_line(
    states: tl.tensor, origins: tl.tensor, offsets: tl.tensor, chunks: tl.tensor, segments: tl.tensor,
    counts: tl.tensor, chunk_of: tl.tensor, batch_stride: tl.tensor, head_stride: tl.tensor, line_stride: tl.tensor,
    column_stride: tl.tensor, heads: tl.tensor, columns: tl.tensor, most: tl.tensor, room: tl.tensor,
    origin_row: tl.tensor, offset_row: tl.tensor, EMPTY: tl.constexpr, UNIT: tl.constexpr, STEP: tl.constexpr,
    WIDTH: tl.constexpr, MASKED: tl.constexpr,
) -> None:  # fmt: skip
    """Write the runs of one line.

    A block joins the previous one if their states are the same and nothing is between them. With MASKED, blocks that
    are kept in part do not join, and the first chunk of each run is written. With EMPTY, blocks may have no tokens.
    """
    line, lines, sheet = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    origins += sheet * origin_row
    offsets += sheet * offset_row
    at = states + (sheet // heads) * batch_stride + (sheet % heads) * head_stride + line.to(tl.int64) * line_stride
    column = tl.arange(0, WIDTH)
    left, inside, right = (column > 0) & (column < columns), column < columns, column + 1 < columns
    state = tl.load(at + column * column_stride, mask=inside, other=0).to(tl.int32)
    previous = tl.load(at + (column - 1) * column_stride, mask=left, other=0).to(tl.int32)
    following = tl.load(at + (column + 1) * column_stride, mask=right, other=0).to(tl.int32)
    opens = tl.load(offsets + column, mask=inside, other=0).to(tl.int32)
    closes = tl.load(offsets + column + 1, mask=inside, other=0).to(tl.int32)
    start = tl.load(origins + column, mask=inside, other=0).to(tl.int32) * UNIT
    end = start + closes - opens
    before = tl.load(origins + column - 1, mask=left, other=0).to(tl.int32) * UNIT
    before_end = before + opens - tl.load(offsets + column - 1, mask=left, other=0).to(tl.int32)
    after = tl.load(origins + column + 1, mask=right, other=0).to(tl.int32) * UNIT
    if EMPTY:
        beyond = tl.load(offsets + column + 2, mask=right, other=0).to(tl.int32)
        state = tl.where(closes > opens, state, 0)
        previous = tl.where(before_end > before, previous, 0)
        following = tl.where(beyond > closes, following, 0)
    alone = (state == 2) if MASKED else (state > 2)
    begins = (state != 0) & ((previous != state) | (before_end != start) | alone)
    ends = (state != 0) & ((following != state) | (after != end) | alone)
    number = tl.cumsum(begins.to(tl.int32), 0) - 1
    entry = segments + ((sheet * lines + line) * most + number) * 2
    if MASKED:
        first_chunk = tl.load(chunks + column, mask=begins, other=0)
        tl.store(chunk_of + (sheet * lines + line) * most + number, first_chunk, mask=begins)
    base = (sheet * room).to(tl.int32)
    tl.store(entry, start + base, mask=begins)
    tl.store(entry + 1, tl.where(state == 2, -(end + base), end + base), mask=ends)
    run = tl.associative_scan(tl.where(begins, start, -1), 0, larger)
    steps = tl.where(ends, (end - run + STEP - 1) // STEP, 0)
    count = counts + (sheet * lines + line) * 2
    tl.store(count, tl.sum(begins.to(tl.int32), 0))
    tl.store(count + 1, tl.sum(steps, 0))


@jit
def _record_tiles(
    first: tl.tensor, begins: tl.tensor, counts: tl.tensor, segments: tl.tensor, records: tl.tensor, count: tl.tensor,
    lines: tl.tensor, most: tl.tensor, own_lists: tl.tensor, own_order: tl.tensor, room: tl.tensor, parity: tl.tensor,
    OWN: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Write the records of one query block and head.

    In every other head, tiles with more steps come first; in the others, tiles with fewer steps. So neighbours in the
    list are alike across heads too. Thread blocks that fetch tiles get equal shares if the last head begins with the
    longest, and those that ``even_out`` serves, if the first head begins with the shortest. With OWN, each head has
    tiles of its own, which begin in the list where ``begins`` says.
    """
    line, row = tl.program_id(0), tl.program_id(1)
    sheet = row.to(tl.int64) * own_lists
    if OWN:
        first += row * (lines + 1)
    other = tl.arange(0, WIDTH)
    inside = other < lines
    theirs = tl.load(counts + (sheet * lines + other) * 2 + 1, mask=inside, other=0)
    mine = tl.load(counts + (sheet * lines + line) * 2 + 1)
    earlier = inside & ((theirs > mine) | ((theirs == mine) & (other < line)))
    sizes = tl.load(first + other + 1, mask=inside, other=0) - tl.load(first + other, mask=inside, other=0)
    begin, total = tl.load(first + line), tl.load(first + lines)
    needed = tl.load(first + line + 1) - begin
    segment = (sheet * lines + line) * most
    start = tl.load(segments + segment * 2, mask=mine > 0, other=0)
    end = tl.load(segments + segment * 2 + 1, mask=mine > 0, other=0)
    rank = tl.sum(tl.where(earlier, sizes, 0), 0)
    falls = (parity + row) % 2 == 1
    head_begin = tl.load(begins + row) if OWN else row * total
    at = head_begin + tl.where(falls, rank, total - rank - needed)
    zero = tl.zeros([32], tl.int32)
    for done in range(0, needed, 32):
        tile = done + tl.arange(0, 32)
        there = tile < needed
        record = records + (at + tile).to(tl.int64) * 8
        tl.store(record, zero + row, mask=there)
        tl.store(record + 1, row * own_order * room + (begin + tile) * ROWS, mask=there)
        tl.store(record + 2, zero + segment.to(tl.int32), mask=there)
        tl.store(record + 3, zero + start, mask=there)
        tl.store(record + 4, zero + end, mask=there)
        tl.store(record + 5, zero + mine, mask=there)
    tl.store(count, tl.load(begins + tl.num_programs(1)) if OWN else total * tl.num_programs(1))


@jit
def _record_keys(
    offsets: tl.tensor, first: tl.tensor, counts: tl.tensor, records: tl.tensor, lines: tl.tensor, most: tl.tensor,
    capacity: tl.tensor, own_lists: tl.tensor, group: tl.tensor, block_row: tl.tensor, KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Write the records of one key block for the query heads of a kv head, blocks with more steps first."""
    line, kv_row = tl.program_id(0), tl.program_id(1)
    offsets += kv_row * block_row  # with blocks of their own, all heads have keys of their own too
    first += kv_row * block_row
    other = tl.arange(0, WIDTH)
    inside = other < lines
    theirs = tl.zeros([WIDTH], tl.int32)
    mine = tl.full([], 0, tl.int32)
    for i in range(group):
        sheet = (kv_row * group + i).to(tl.int64) * own_lists
        theirs += tl.load(counts + (sheet * lines + other) * 2 + 1, mask=inside, other=0)
        mine += tl.load(counts + (sheet * lines + line) * 2 + 1)
    earlier = inside & ((theirs > mine) | ((theirs == mine) & (other < line)))
    sizes = tl.load(first + other + 1, mask=inside, other=0) - tl.load(first + other, mask=inside, other=0)
    at = tl.sum(tl.where(earlier, sizes, 0), 0)
    needed = tl.load(first + line + 1) - tl.load(first + line)
    block_start, block_end = tl.load(offsets + line).to(tl.int32), tl.load(offsets + line + 1).to(tl.int32)
    zero = tl.zeros([32], tl.int32)
    for i in range(group):
        row = kv_row * group + i
        sheet = row.to(tl.int64) * own_lists
        runs = tl.load(counts + (sheet * lines + line) * 2)
        steps = tl.load(counts + (sheet * lines + line) * 2 + 1)
        segment = ((sheet * lines + line) * most).to(tl.int32)
        for done in range(0, needed, 32):
            tile = done + tl.arange(0, 32)
            there = tile < needed
            record = records + (row * capacity + at + tile).to(tl.int64) * 8
            start = block_start + tile * KEYS
            tl.store(record, start, mask=there)
            tl.store(record + 1, tl.minimum(start + KEYS, block_end), mask=there)
            tl.store(record + 2, zero + segment, mask=there)
            tl.store(record + 3, zero + runs, mask=there)
            tl.store(record + 4, zero + steps, mask=there)
