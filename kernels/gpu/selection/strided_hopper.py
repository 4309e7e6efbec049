"""Scores of groups on Hopper, in Gluon: two warpgroups multiply 64 × 256 groups each, one warp loads rows.

A tile is a matrix product over ``stride`` · D channels, in steps of 64, and an epilogue of as many exponentials as the
tile has scores. The warpgroups share the rows of keys, and each goes on by itself as far as the stages reach, so that
one can multiply while the other reduces. Thread blocks are persistent, and rows of the next tile are loaded meanwhile.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from attnbench.kernels.gpu.hopper import multiprocessors
from attnbench.kernels.gpu.launch import box, launch
from attnbench.kernels.gpu.widen import ceil_div

PARTS = 2
QUERIES = 64
KEYS = 256
DEPTH = 64
"""Warpgroups that multiply, groups of queries of each, groups of keys of a tile, and channels of a step."""

STAGES = 4
REGISTERS = 216  # of the second multiplying warpgroup

LOG2_E = gl.constexpr(1.4426950408889634)


def score_groups(
    q_rows: Tensor, k_rows: Tensor, places: tuple[int, ...], sums: Tensor, stride: int, each: int, dim: int,
    scale: float,
) -> None:  # fmt: skip
    """Write the log-sum-exp of each group of queries and block of keys; see ``strided._score``.

    Args:
        q_rows, k_rows: [rows, columns] of ``strided._rows_of_groups``, bfloat16 or float16.
        places: rows of a batch item and of a head, columns of a head and of a token, of queries and of keys; then the
            number of query heads, and how many share a key head.
        sums: float32 [B · heads, groups, blocks], written.
        stride: tokens of a group.
        each: groups of a block, a power of two from 2 to ``KEYS``.
        dim: channels of a token, a multiple of ``DEPTH``.
        scale: factor of the scores.
    """
    items, groups, blocks = sums.shape
    across, down = ceil_div(groups, KEYS), ceil_div(groups, PARTS * QUERIES)
    launch(
        _score_tiles, (multiprocessors(sums.device),), (sums,),
        (*places, groups, blocks, across, down, items * across * down, scale),
        boxes=(box(q_rows, QUERIES, DEPTH), box(k_rows, KEYS, DEPTH)), STRIDE=stride, EACH=each, DIM=dim, PARTS=PARTS,
        QUERIES=QUERIES, KEYS=KEYS, DEPTH=DEPTH, STAGES=STAGES, REGISTERS=REGISTERS, num_warps=4,
    )  # fmt: skip


@gluon.jit
def _place(tile, across, down, QUERIES: gl.constexpr, KEYS: gl.constexpr):
    """Return the head of a tile, and its first groups of queries and of keys."""
    return tile // (across * down), tile // across % down * QUERIES, tile % across * KEYS


@gluon.jit
def _load(
    q_rows, k_rows, q_smem, k_smem, full, empty, q_item, q_of_head, q_column, q_pitch, k_item, k_of_head, k_column,
    k_pitch, heads, group, across, down, tiles, STRIDE: gl.constexpr, DIM: gl.constexpr, PARTS: gl.constexpr,
    QUERIES: gl.constexpr, KEYS: gl.constexpr, DEPTH: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Copy the rows of each step to the next stage."""
    PIECES: gl.constexpr = DIM // DEPTH
    step = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        row, q_first, k_first = _place(tile, across, down, PARTS * QUERIES, KEYS)
        item, q_at = row // heads, row % heads
        k_at = q_at // group
        q_row, k_row = item * q_item + q_at * q_of_head + q_first, item * k_item + k_at * k_of_head + k_first
        for i in range(STRIDE * PIECES):
            token, channel = i // PIECES, i % PIECES * DEPTH
            stage = step % STAGES
            mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
            mbarrier.expect(full.index(stage), PARTS * q_rows.block_type.nbytes + k_rows.block_type.nbytes)
            q_channel = q_at * q_column + (STRIDE - 1 - token) * q_pitch + channel
            k_channel = k_at * k_column + token * k_pitch + channel
            tma.async_copy_global_to_shared(k_rows, [k_row, k_channel], full.index(stage), k_smem.index(stage))
            for part in gl.static_range(PARTS):
                tma.async_copy_global_to_shared(
                    q_rows, [q_row + part * QUERIES, q_channel], full.index(stage), q_smem.index(stage * PARTS + part)
                )
            step += 1


@gluon.jit
def _multiply(
    q_smem, k_smem, full, empty, never, sums, groups, blocks, across, down, tiles, scale, PART: gl.constexpr,
    PARTS: gl.constexpr, STEPS: gl.constexpr, EACH: gl.constexpr, QUERIES: gl.constexpr, KEYS: gl.constexpr,
    STAGES: gl.constexpr,
):  # fmt: skip
    """Multiply query groups of each tile by its key groups, and reduce each row of scores by block."""
    COLUMNS: gl.constexpr = min(KEYS // EACH, 32)
    SCORES: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, KEYS, 16])
    WRITTEN: gl.constexpr = gl.BlockedLayout([1, 1], [32 // COLUMNS, COLUMNS], [4, 1], [1, 0])
    step = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        row, q_first, k_first = _place(tile, across, down, PARTS * QUERIES, KEYS)
        q_first += PART * QUERIES
        total = gl.full([QUERIES, KEYS], 0.0, gl.float32, SCORES)
        for i in range(STEPS):
            stage = step % STAGES
            mbarrier.wait(full.index(stage), (step // STAGES) & 1)
            total = warpgroup_mma(
                q_smem.index(stage * PARTS + PART), k_smem.index(stage).permute((1, 0)), total, use_acc=i > 0,
                is_async=True,
            )  # fmt: skip
            total = warpgroup_mma_wait(1, deps=[total])
            mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1, pred=i > 0)
            step += 1
        total = warpgroup_mma_wait(0, deps=[total])
        mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1)
        # Returns at once, as nobody arrives. It ends the basic block: otherwise ptxas moves the arrival behind the
        # epilogue.
        mbarrier.wait(never, 1)
        scores = total * scale
        if k_first + KEYS > groups:
            # Rows after the last group of a head are those of another head. As groups of padding, they score 0.
            k_group = k_first + gl.arange(0, KEYS, gl.SliceLayout(0, SCORES))
            scores = gl.where(gl.expand_dims(k_group < groups, 0), scores, 0.0)
        scores = gl.reshape(scores, [QUERIES, KEYS // EACH, EACH])
        highest = gl.max(scores, 2)
        total = gl.sum(gl.exp2((scores - gl.expand_dims(highest, 2)) * LOG2_E), 2)
        # Four threads have the same result; shared memory deals it to one of them each.
        value = gl.convert_layout(highest, WRITTEN) + gl.log(gl.convert_layout(total, WRITTEN))
        q_group = q_first + gl.arange(0, QUERIES, gl.SliceLayout(1, WRITTEN))
        column = k_first // EACH + gl.arange(0, KEYS // EACH, gl.SliceLayout(0, WRITTEN))
        at = (row.to(gl.int64) * groups + gl.expand_dims(q_group, 1)) * blocks + gl.expand_dims(column, 0)
        mask = gl.expand_dims(q_group < groups, 1) & gl.expand_dims(column < blocks, 0)
        gl.store(sums + at, value, mask=mask)


@gluon.jit
def _score_tiles(
    q_rows, k_rows, sums, q_item, q_of_head, q_column, q_pitch, k_item, k_of_head, k_column, k_pitch, heads, group,
    groups, blocks, across, down, tiles, scale, STRIDE: gl.constexpr, EACH: gl.constexpr, DIM: gl.constexpr,
    PARTS: gl.constexpr, QUERIES: gl.constexpr, KEYS: gl.constexpr, DEPTH: gl.constexpr, STAGES: gl.constexpr,
    REGISTERS: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Run ``score_groups``: ``q_rows`` and ``k_rows`` are TMA descriptors of boxes of a step."""
    DTYPE: gl.constexpr = q_rows.dtype
    STEPS: gl.constexpr = STRIDE * (DIM // DEPTH)
    q_smem = gl.allocate_shared_memory(
        DTYPE, [STAGES * PARTS, QUERIES, DEPTH], gl.NVMMASharedLayout.get_default_for([QUERIES, DEPTH], DTYPE)
    )
    k_smem = gl.allocate_shared_memory(
        DTYPE, [STAGES, KEYS, DEPTH], gl.NVMMASharedLayout.get_default_for([KEYS, DEPTH], DTYPE)
    )
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    never = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(never, count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=PARTS)
    fence_async_shared()
    gl.thread_barrier()
    gl.warp_specialize(
        [
            (_multiply, (q_smem, k_smem, full, empty, never, sums, groups, blocks, across, down, tiles, scale, 0, PARTS,
                         STEPS, EACH, QUERIES, KEYS, STAGES)),
            (_multiply, (q_smem, k_smem, full, empty, never, sums, groups, blocks, across, down, tiles, scale, 1, PARTS,
                         STEPS, EACH, QUERIES, KEYS, STAGES)),
            (_load, (q_rows, k_rows, q_smem, k_smem, full, empty, q_item, q_of_head, q_column, q_pitch, k_item,
                     k_of_head, k_column, k_pitch, heads, group, across, down, tiles, STRIDE, DIM, PARTS, QUERIES, KEYS,
                     DEPTH, STAGES)),
        ],
        [4, 1],
        [REGISTERS, 32],
    )  # fmt: skip
