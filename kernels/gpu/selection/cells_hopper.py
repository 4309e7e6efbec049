"""Scores of cells on Hopper, in Gluon: the keys of a tile stay in shared memory, and queries pass by.

Two warpgroups multiply 64 cells of queries each by 128 of keys, with three products in TF32, in the order of
``cells._scores_side_by_side``: the results are the same to the last bit. The keys lie there split in two. Queries are
split in registers, so that half as many bytes pass. One warp loads: the queries of each step, and the next keys as soon
as the last step has used the old ones.
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
KEYS = 128
DEPTH = 32
"""Warpgroups that multiply, cells of queries of each, cells of keys of a tile, and channels of a step."""

STAGES = 5
REGISTERS = 232  # of the second multiplying warpgroup


def score_cells(
    queries: Tensor, k_large: Tensor, k_small: Tensor, scores: Tensor, group: int, rows: int, columns: int,
    q_cells: int, k_cells: int, scale: float,
) -> None:  # fmt: skip
    """Write the log-sum-exp over all pairs of cells of each block pair.

    Args:
        queries: float32 [rows of all heads, channels], in tiles of ``QUERIES`` blocks; see ``cells._in_tiles``.
        k_large, k_small: what TF32 holds of the keys and what is missing, in tiles of ``KEYS`` cells.
        scores: float32 [B, H, q blocks, k blocks], written.
        group: how many heads share a key head.
        rows, columns: cells of queries and of keys of a head.
        q_cells, k_cells: cells of a block, of keys a power of two from 2 to 16.
        scale: factor of the dot products.
    """
    batch, heads, q_blocks, k_blocks = scores.shape
    across, down = ceil_div(k_blocks * k_cells, KEYS), ceil_div(q_blocks, PARTS * QUERIES)
    tiles = batch * heads * across * down
    keys = [box(x, KEYS, DEPTH) for x in (k_large, k_small)]
    launch(
        _score_cells, (min(tiles, multiprocessors(scores.device)),), (scores,),
        (group, rows, columns, q_cells, q_blocks, k_blocks, across, down, tiles, scale),
        boxes=(box(queries, QUERIES, DEPTH), *keys), K_CELLS=k_cells, CHUNKS=queries.shape[1] // DEPTH, PARTS=PARTS,
        QUERIES=QUERIES, KEYS=KEYS, DEPTH=DEPTH, STAGES=STAGES, REGISTERS=REGISTERS, num_warps=4,
    )  # fmt: skip


@gluon.jit
def _share(tiles):
    """Return the tiles of a program, from the first to before the last: neighbours, which have the same keys."""
    return gl.program_id(0) * tiles // gl.num_programs(0), (gl.program_id(0) + 1) * tiles // gl.num_programs(0)


@gluon.jit
def _place(tile, across, down):
    """Return the head of a tile, and the indices of its keys and of its queries."""
    return tile // (across * down), tile // down % across, tile % down


@gluon.jit
def _load(
    q_rows, k_rows, rest_rows, q_smem, k_smem, full, empty, k_full, k_empty, group, q_cells, q_tiles, across, down,
    tiles, CHUNKS: gl.constexpr, PARTS: gl.constexpr, QUERIES: gl.constexpr, KEYS: gl.constexpr, DEPTH: gl.constexpr,
    STAGES: gl.constexpr,
):  # fmt: skip
    """Copy the queries of each step to the next stage, and the keys of a tile, piece by piece, to their places."""
    first, last = _share(tiles)
    step = 0
    turn = 0
    for tile in range(first, last):
        head, k_tile, q_tile = _place(tile, across, down)
        others = (tile == first) | (q_tile == 0)
        q_row = (head * q_tiles + q_tile * PARTS) * q_cells * QUERIES
        k_row = (head // group * across + k_tile) * KEYS
        for i in range(q_cells * CHUNKS):
            chunk = i % CHUNKS
            if others & (i < CHUNKS):
                mbarrier.wait(k_empty.index(chunk), (turn & 1) ^ 1)
                mbarrier.expect(k_full.index(chunk), 2 * k_rows.block_type.nbytes)
                where = [k_row, chunk * DEPTH]
                tma.async_copy_global_to_shared(k_rows, where, k_full.index(chunk), k_smem.index(chunk * 2))
                tma.async_copy_global_to_shared(rest_rows, where, k_full.index(chunk), k_smem.index(chunk * 2 + 1))
            stage = step % STAGES
            mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
            mbarrier.expect(full.index(stage), PARTS * q_rows.block_type.nbytes)
            for part in gl.static_range(PARTS):
                row = q_row + (part * q_cells + i // CHUNKS) * QUERIES
                tma.async_copy_global_to_shared(
                    q_rows, [row, chunk * DEPTH], full.index(stage), q_smem.index(stage * PARTS + part)
                )
            step += 1
        turn += others.to(gl.int32)


@gluon.jit
def _add_cell(highest, total, score):
    """Add one pair of cells of each block pair to its maximum and sum, as ``cells._add_cell``."""
    higher = gl.maximum(highest, score)
    base = gl.where(higher > -float("inf"), higher, 0.0)
    return higher, total * gl.exp(highest - base) + gl.exp(score - base)


@gluon.jit
def _add_cells(highest, total, score, CELLS: gl.constexpr, ROWS: gl.constexpr, BLOCKS: gl.constexpr):
    """Add [ROWS, CELLS · BLOCKS] pairs of cells in the order of ``cells._add_cells``."""
    if CELLS == 1:
        highest, total = _add_cell(highest, total, gl.convert_layout(score, highest.type.layout))
    else:
        HALF: gl.constexpr = CELLS // 2
        left, right = gl.split(gl.permute(gl.reshape(score, [ROWS, 2, HALF * BLOCKS]), (0, 2, 1)))
        highest, total = _add_cells(highest, total, left, HALF, ROWS, BLOCKS)
        highest, total = _add_cells(highest, total, right, HALF, ROWS, BLOCKS)
    return highest, total


@gluon.jit
def _multiply(
    q_smem, k_smem, full, empty, k_full, k_empty, scores, rows, columns, q_cells, q_blocks, k_blocks, across, down,
    tiles, scale, PART: gl.constexpr, K_CELLS: gl.constexpr, CHUNKS: gl.constexpr, PARTS: gl.constexpr,
    QUERIES: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Multiply each cell of a tile's queries by its cells of keys, and add them up by block pair."""
    BLOCKS: gl.constexpr = KEYS // K_CELLS
    SCORES: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, KEYS, 8])
    SUMS: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCKS, 8])
    CELLS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=SCORES, k_width=1)
    first, last = _share(tiles)
    zero = gl.full([QUERIES, KEYS], 0.0, gl.float32, SCORES)
    step = 0
    turn = -1
    for tile in range(first, last):
        head, k_tile, q_tile = _place(tile, across, down)
        turn += ((tile == first) | (q_tile == 0)).to(gl.int32)
        is_last = (tile + 1 == last) | (q_tile + 1 == down)  # with these keys
        q_first = (q_tile * PARTS + PART) * QUERIES
        highest = gl.full([QUERIES, BLOCKS], -float("inf"), gl.float32, SUMS)
        total = gl.full([QUERIES, BLOCKS], 0.0, gl.float32, SUMS)
        for cell in range(q_cells):
            score = zero
            for chunk in range(CHUNKS):
                stage = step % STAGES
                mbarrier.wait(full.index(stage), (step // STAGES) & 1)
                x = q_smem.index(stage * PARTS + PART).load(CELLS)
                gl.thread_barrier()
                mbarrier.arrive(empty.index(stage), count=1)
                step += 1
                # To the nearest, and away from zero between two, as ``cells._tile_rows`` splits the keys.
                large = ((x.to(gl.int32, bitcast=True) + 0x1000) & -0x2000).to(gl.float32, bitcast=True)
                small = x - large
                mbarrier.wait(k_full.index(chunk), turn & 1)
                y = k_smem.index(chunk * 2).permute((1, 0))
                y_rest = k_smem.index(chunk * 2 + 1).permute((1, 0))
                product = warpgroup_mma(small, y, zero, use_acc=False, is_async=True)
                product = warpgroup_mma(large, y_rest, product, is_async=True)
                product, large, small = warpgroup_mma_wait(0, deps=[product, large, small])
                product = gl.where(product == product, product, 0.0)
                product = warpgroup_mma(large, y, product, is_async=True)
                product, large = warpgroup_mma_wait(0, deps=[product, large])
                mbarrier.arrive(k_empty.index(chunk), count=1, pred=is_last & (cell + 1 == q_cells))
                score += product
            score = score * scale
            if ((q_first + QUERIES) * q_cells > rows) | ((k_tile + 1) * KEYS > columns):
                place = gl.arange(0, KEYS, gl.SliceLayout(0, SCORES))
                row = (q_first + gl.arange(0, QUERIES, gl.SliceLayout(1, SCORES))) * q_cells + cell
                column = (k_tile * BLOCKS + place % BLOCKS) * K_CELLS + place // BLOCKS
                exists = gl.expand_dims(row < rows, 1) & gl.expand_dims(column < columns, 0)
                score = gl.where(exists, score, -float("inf"))
            highest, total = _add_cells(highest, total, score, K_CELLS, QUERIES, BLOCKS)
        i = q_first + gl.arange(0, QUERIES, gl.SliceLayout(1, SUMS))
        j = k_tile * BLOCKS + gl.arange(0, BLOCKS, gl.SliceLayout(0, SUMS))
        inside = gl.expand_dims(i < q_blocks, 1) & gl.expand_dims(j < k_blocks, 0)
        at = (head.to(gl.int64) * q_blocks + gl.expand_dims(i, 1)) * k_blocks + gl.expand_dims(j, 0)
        gl.store(scores + at, highest + gl.log(gl.where(inside, total, 1.0)), mask=inside)


@gluon.jit
def _score_cells(
    q_rows, k_rows, rest_rows, scores, group, rows, columns, q_cells, q_blocks, k_blocks, across, down, tiles, scale,
    K_CELLS: gl.constexpr, CHUNKS: gl.constexpr, PARTS: gl.constexpr, QUERIES: gl.constexpr, KEYS: gl.constexpr,
    DEPTH: gl.constexpr, STAGES: gl.constexpr, REGISTERS: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Run ``score_cells``: TMA gives queries by ``q_rows``, and both parts of keys by ``k_rows`` and ``rest_rows``."""
    q_smem = gl.allocate_shared_memory(
        gl.float32, [STAGES * PARTS, QUERIES, DEPTH], gl.NVMMASharedLayout.get_default_for([QUERIES, DEPTH], gl.float32)
    )
    k_smem = gl.allocate_shared_memory(
        gl.float32, [CHUNKS * 2, KEYS, DEPTH], gl.NVMMASharedLayout.get_default_for([KEYS, DEPTH], gl.float32)
    )
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [CHUNKS, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [CHUNKS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=PARTS)
    for i in gl.static_range(CHUNKS):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=PARTS)
    fence_async_shared()
    gl.thread_barrier()
    q_tiles = (q_blocks + QUERIES - 1) // QUERIES
    gl.warp_specialize(
        [
            (_multiply, (q_smem, k_smem, full, empty, k_full, k_empty, scores, rows, columns, q_cells, q_blocks,
                         k_blocks, across, down, tiles, scale, 0, K_CELLS, CHUNKS, PARTS, QUERIES, KEYS, STAGES)),
            (_multiply, (q_smem, k_smem, full, empty, k_full, k_empty, scores, rows, columns, q_cells, q_blocks,
                         k_blocks, across, down, tiles, scale, 1, K_CELLS, CHUNKS, PARTS, QUERIES, KEYS, STAGES)),
            (_load, (q_rows, k_rows, rest_rows, q_smem, k_smem, full, empty, k_full, k_empty, group, q_cells, q_tiles,
                     across, down, tiles, CHUNKS, PARTS, QUERIES, KEYS, DEPTH, STAGES)),
        ],
        [4, 1],
        [REGISTERS, 32],
    )  # fmt: skip
