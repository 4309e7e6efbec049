"""Small tiles in pairs: two tiles of 64 queries read the keys of both, and each hides those that it does not keep.

A tile of 64 queries uses what it reads for half as many products as a tile of 128, so the L2 cache becomes the limit.
If neighbouring query blocks keep mostly the same key blocks, as in a sliding tile window, the union of two is little
larger than either. The device decides from the steps of both lists whether pairs pay off. The losing kind has no tiles,
so both kernels can be launched without waiting for the decision.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton.language as tl

from attnbench.kernels.gpu.block_tiles import SMALL_ROWS, BlockWork, larger, record_tiles, sizes_of
from attnbench.kernels.gpu.widen import jit, power_of_2
from attnbench.kernels.gpu.work import KEYS, ROWS, Tiles
from attnbench.kernels.plan import Plan
from attnbench.kernels.witness import launched

STEPS_WORTH_A_PAIRED_ONE = 2.4
"""Number of steps of 64 × 64 that take as long as one step of 128 × 128.

It is predicted from computing 420 and 700 TFLOP/s. The rates that were measured since, 440 and 650, make it 2.7."""


def can_pair(plan: Plan) -> bool:
    """Return whether the tiles of a plan can be paired: 64 rows, steps of 64 keys, no element rule, no band."""
    return sizes_of(plan) == (SMALL_ROWS, SMALL_ROWS) and plan.pattern.elements is None


def pair_up(work: BlockWork, tiles: Tiles, programs: int | None = None) -> tuple[Tiles, Tiles]:
    """Return the small tiles and their pairs, of which one kind is empty.

    Args:
        work: the layout of the tiles, for which ``can_pair`` holds.
        tiles: the result of ``tiles_of``.
        programs: thread blocks that take pairs by turns and get equal shares.
    """
    device, heads, (lines, columns) = work.first.device, work.plan.batch * work.plan.heads, work.states.shape[2:]
    pairs, most = work.room // ROWS, columns
    segments = torch.empty(work.sheets * pairs * most + 1, 2, dtype=torch.int32, device=device)
    visible = torch.zeros(work.sheets * pairs * most + 1, 4, dtype=torch.int32, device=device)
    counts = torch.empty(work.sheets, pairs, 2, dtype=torch.int32, device=device)
    launched("triton:list_pairs")
    _list_pairs[(pairs, work.sheets)](
        work.states, work.first, work.plan.pattern.k_offsets, segments, visible, counts, *work.states.stride(),
        work.states.shape[1], lines, columns, most, STEP=KEYS, LINES=power_of_2(lines),
        WIDTH=power_of_2(columns), num_warps=4,
    )  # fmt: skip
    whole = (work.first[:, -1:] + 1) // 2
    first = torch.minimum(torch.arange(pairs + 1, dtype=torch.int32, device=device), whole)
    records, count = record_tiles(work, first, counts, segments, most, ROWS, programs)
    better = tiles.steps() > STEPS_WORTH_A_PAIRED_ONE * counts[..., 1].sum() * (heads // work.sheets)
    plain = replace(tiles, count=torch.where(better, 0, tiles.count))
    return plain, Tiles(work.queries, records, torch.where(better, count, 0), segments, ROWS, KEYS, visible)


@jit
def _list_pairs(
    states: tl.tensor, first: tl.tensor, offsets: tl.tensor, segments: tl.tensor, visible: tl.tensor,
    counts: tl.tensor, batch_stride: tl.tensor, head_stride: tl.tensor, line_stride: tl.tensor,
    column_stride: tl.tensor, heads: tl.tensor, lines: tl.tensor, columns: tl.tensor, most: tl.tensor,
    STEP: tl.constexpr, LINES: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """List the runs of one pair: neighbouring blocks that at least one of the tiles keeps.

    A run ends before a block that a tile keeps again after dropping one, so that within a run each tile keeps the keys
    between two limits.
    """
    pair, pairs, sheet = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    block = tl.arange(0, LINES)
    ends_at = tl.load(first + block + 1, mask=block < lines, other=2147483647)
    a, b = tl.sum((ends_at <= 2 * pair).to(tl.int32), 0), tl.sum((ends_at <= 2 * pair + 1).to(tl.int32), 0)
    at = states + (sheet // heads) * batch_stride + (sheet % heads) * head_stride
    row_a, row_b = at + a.to(tl.int64) * line_stride, at + b.to(tl.int64) * line_stride
    column = tl.arange(0, WIDTH)
    here, left, right = column < columns, (column > 0) & (column < columns), column + 1 < columns
    a_keeps = tl.load(row_a + column * column_stride, mask=here & (a < lines), other=0) != 0
    a_kept = tl.load(row_a + (column - 1) * column_stride, mask=left & (a < lines), other=0) != 0
    a_next = tl.load(row_a + (column + 1) * column_stride, mask=right & (a < lines), other=0) != 0
    b_keeps = tl.load(row_b + column * column_stride, mask=here & (b < lines), other=0) != 0
    b_kept = tl.load(row_b + (column - 1) * column_stride, mask=left & (b < lines), other=0) != 0
    b_next = tl.load(row_b + (column + 1) * column_stride, mask=right & (b < lines), other=0) != 0
    keeps, kept, keeps_next = a_keeps | b_keeps, a_kept | b_kept, a_next | b_next
    stretch = tl.associative_scan(tl.where(keeps & (kept == 0), column, -1), 0, larger)
    a_last = tl.associative_scan(tl.where(a_keeps, column, -1), 0, larger)
    b_last = tl.associative_scan(tl.where(b_keeps, column, -1), 0, larger)
    a_before = tl.associative_scan(tl.where(a_kept, column - 1, -1), 0, larger)
    b_before = tl.associative_scan(tl.where(b_kept, column - 1, -1), 0, larger)
    again = (a_keeps & (a_kept == 0) & (a_before >= stretch)) | (b_keeps & (b_kept == 0) & (b_before >= stretch))
    again_next = (a_next & (a_keeps == 0) & (a_last >= stretch)) | (b_next & (b_keeps == 0) & (b_last >= stretch))
    begins = keeps & ((kept == 0) | again)
    ends = keeps & ((keeps_next == 0) | again_next)
    opens = tl.load(offsets + column, mask=here, other=0).to(tl.int32)
    closes = tl.load(offsets + column + 1, mask=here, other=0).to(tl.int32)
    number = tl.cumsum(begins.to(tl.int32), 0) - 1
    entry = (sheet * pairs + pair) * most + number
    tl.store(segments + entry * 2, opens, mask=begins)
    tl.store(segments + entry * 2 + 1, closes, mask=ends)
    tl.store(visible + entry * 4, opens, mask=a_keeps & ((a_kept == 0) | begins))
    tl.store(visible + entry * 4 + 1, closes, mask=a_keeps & ((a_next == 0) | ends))
    tl.store(visible + entry * 4 + 2, opens, mask=b_keeps & ((b_kept == 0) | begins))
    tl.store(visible + entry * 4 + 3, closes, mask=b_keeps & ((b_next == 0) | ends))
    run = tl.associative_scan(tl.where(begins, opens, -1), 0, larger)
    count = counts + (sheet * pairs + pair) * 2
    tl.store(count, tl.sum(begins.to(tl.int32), 0))
    tl.store(count + 1, tl.sum(tl.where(ends, (closes - run + STEP - 1) // STEP, 0), 0))
