"""Gradient of queries on Hopper, in Gluon: two warpgroups compute, one gathers queries and dO, one warp loads keys.

A tile is 128 gathered queries, 64 for each computing warpgroup, and keys pass by in steps of 64. A step issues S and
dP, then dS K of the previous step, which runs while dS of this step is computed. No left operand is computed while a
product that takes it is open, because ptxas would wait after every instruction (its warning C7513). Queries and dO of
the next tile are gathered into the other of two buffers, with their log-sum-exp (base 2) and delta.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from attnbench.kernels.gpu.hopper import multiprocessors
from attnbench.kernels.gpu.launch import box
from attnbench.kernels.gpu.launch import launch as prepared
from attnbench.kernels.gpu.masks_hopper import (
    AHEAD,
    hide,
    hide_ahead,
    load_half_words,
    mask_arguments,
    next_part,
    rows_of_queries,
    stop_of,
)
from attnbench.kernels.gpu.work import KEYS, LOG2_E, ROWS, RuleArrays, Tiles

STEP = 64
STAGES = 3
REGISTERS = 224


def launch(
    q: Tensor, k: Tensor, v: Tensor, d_output: Tensor, lse: Tensor, delta: Tensor, tiles: Tiles, scale: float,
    result: Tensor, direct: bool, rule: RuleArrays | None = None,
) -> None:  # fmt: skip
    """Compute the gradients of queries.

    Arguments are those of ``backward_queries``, head_dim 64 or 128; a rule has ``ahead``.

    ``result`` is rows [places, D], or with ``direct`` dq [B, H, N, D]; unit last stride.
    """
    assert (tiles.rows, tiles.keys) == (ROWS, KEYS)
    d = k.shape[3]
    out_strides = result.stride()[:3] if direct else (0, 0, result.stride(0))
    masks, axes = mask_arguments(tiles.masks, rule, tiles.queries, tiles.chunk_of)
    prepared(
        _backward_queries, (multiprocessors(k.device),),
        (q, d_output, lse, delta, tiles.queries, tiles.records, tiles.count, tiles.segments, *masks[:3], result),
        (masks[3], *q.stride()[:3], *d_output.stride()[:3], *out_strides, q.shape[1], q.shape[1] // k.shape[1],
         q.shape[2], k.shape[2], scale, scale * LOG2_E),
        boxes=(box(k.view(-1, d), STEP, d), box(v.view(-1, d), STEP, d)), ROWS=ROWS, KEYS=KEYS, STEP=STEP, D=d,
        STAGES=STAGES, REGISTERS=REGISTERS, DIRECT=direct, MASKED=axes, num_warps=4,
    )  # fmt: skip


@gluon.jit
def _advance(
    segments, segment, start, end, left, STEP: gl.constexpr, KEYS: gl.constexpr, MASKED: gl.constexpr
):  # fmt: skip
    """Step to the next keys. A segment takes whole multiples of KEYS, as the record counts them."""
    start += STEP
    left -= STEP
    if left <= 0:
        segment += 1
        start = gl.load(segments + segment * 2)
        end = gl.load(segments + segment * 2 + 1)
        left = _length(start, end, KEYS, MASKED)
    return segment, start, end, left


@gluon.jit
def _length(start, end, KEYS: gl.constexpr, MASKED: gl.constexpr):
    return (stop_of(end, MASKED) - start + KEYS - 1) // KEYS * KEYS


@gluon.jit
def _probabilities(
    s, lse, start, end, word, scale2, STEP: gl.constexpr, SCORES: gl.constexpr, MASKED: gl.constexpr
):  # fmt: skip
    """Return P of a step in float32; 0 for keys beyond the segment, and for those that the words do not keep."""
    p = gl.exp2(s * scale2 - gl.expand_dims(lse, 1))
    if MASKED == AHEAD:
        p = hide_ahead(p, word, start, stop_of(end, MASKED), 0.0, STEP, SCORES)
    elif MASKED:
        if end < 0:
            p = hide(p, word, 0.0, STEP, SCORES)
        elif start + STEP > end:
            p = _hide_beyond(p, start, end, STEP, SCORES)
    elif start + STEP > end:
        p = _hide_beyond(p, start, end, STEP, SCORES)
    return p


@gluon.jit
def _hide_beyond(p, start, end, STEP: gl.constexpr, SCORES: gl.constexpr):
    key = start + gl.arange(0, STEP, gl.SliceLayout(0, SCORES))
    return gl.where(gl.expand_dims(key, 0) < end, p, 0.0)


@gluon.jit
def _compute(
    q_smem, do_smem, stats, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty, queries, records, tiles,
    segments, words, rows_of, chunk_of, chunks, result, out_batch, out_head, out_token, heads, scale, scale2,
    PART: gl.constexpr, ROWS: gl.constexpr, KEYS: gl.constexpr, STEP: gl.constexpr, D: gl.constexpr,
    STAGES: gl.constexpr, DTYPE: gl.constexpr, DIRECT: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    HALF: gl.constexpr = ROWS // 2
    SCORES: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, STEP, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, D, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=2)
    LINES: gl.constexpr = gl.SliceLayout(1, SCORES)
    zero = gl.full([HALF, STEP], 0.0, gl.float32, SCORES)
    column = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, OUT)), 0)
    step = 0
    turn = 0
    for tile in range(gl.program_id(0), gl.load(tiles), gl.num_programs(0)):
        record = records + tile * 8
        head = gl.load(record)
        place = gl.load(record + 1) + PART * HALF
        segment = gl.load(record + 2)
        start = gl.load(record + 3)
        end = gl.load(record + 4)
        count = gl.load(record + 5) * (KEYS // STEP)
        left = _length(start, end, KEYS, MASKED)
        at_words = rows_of_queries(words, rows_of, queries, head, place, chunks, MASKED)
        buffer = turn & 1
        mbarrier.wait(q_full.index(buffer), (turn >> 1) & 1)
        rows = q_smem.index(buffer * 2 + PART)
        grads = do_smem.index(buffer * 2 + PART)
        lse = stats.index(buffer * 4 + PART).load(LINES)
        delta = stats.index(buffer * 4 + 2 + PART).load(LINES)
        total = gl.full([HALF, D], 0.0, gl.float32, OUT)
        if count > 0:
            stage = step % STAGES
            half = next_part(chunk_of, segment, True, 0, 2, MASKED)
            word = load_half_words(words, at_words, half, MASKED)
            mbarrier.wait(k_full.index(stage), (step // STAGES) & 1)
            s = warpgroup_mma(rows, k_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
            mbarrier.wait(v_full.index(stage), (step // STAGES) & 1)
            dp = warpgroup_mma(grads, v_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
            s = warpgroup_mma_wait(1, deps=[s])
            p = _probabilities(s, lse, start, end, word, scale2, STEP, SCORES, MASKED)
            dp = warpgroup_mma_wait(0, deps=[dp])
            mbarrier.arrive(v_empty.index(stage), count=1)
            ds = gl.convert_layout((p * (dp - gl.expand_dims(delta, 1))).to(DTYPE), WEIGHTS)
            for _ in range(1, count):
                last = stage
                step += 1
                stage = step % STAGES
                before = segment
                segment, start, end, left = _advance(segments, segment, start, end, left, STEP, KEYS, MASKED)
                half = next_part(chunk_of, segment, segment > before, half, 2, MASKED)
                word = load_half_words(words, at_words, half, MASKED)
                mbarrier.wait(k_full.index(stage), (step // STAGES) & 1)
                s = warpgroup_mma(rows, k_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
                mbarrier.wait(v_full.index(stage), (step // STAGES) & 1)
                dp = warpgroup_mma(grads, v_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
                acc = warpgroup_mma(ds, k_smem.index(last), total, is_async=True)
                s = warpgroup_mma_wait(2, deps=[s])
                p = _probabilities(s, lse, start, end, word, scale2, STEP, SCORES, MASKED)
                dp = warpgroup_mma_wait(1, deps=[dp])
                mbarrier.arrive(v_empty.index(stage), count=1)
                new_ds = gl.convert_layout((p * (dp - gl.expand_dims(delta, 1))).to(DTYPE), WEIGHTS)
                total, ds = warpgroup_mma_wait(0, deps=[acc, ds])
                mbarrier.arrive(k_empty.index(last), count=1)
                ds = new_ds
            acc = warpgroup_mma(ds, k_smem.index(stage), total, is_async=True)
            total, ds = warpgroup_mma_wait(0, deps=[acc, ds])
            mbarrier.arrive(k_empty.index(stage), count=1)
            step += 1
        mbarrier.arrive(q_empty.index(buffer), count=1)
        turn += 1
        at = place + gl.arange(0, HALF, gl.SliceLayout(1, OUT))
        if DIRECT:
            token = gl.load(queries + at)
            base = result + (head // heads).to(gl.int64) * out_batch + (head % heads).to(gl.int64) * out_head
            where = base + gl.expand_dims(token.to(gl.int64) * out_token, 1) + column
            gl.store(where, (total * scale).to(DTYPE), mask=gl.expand_dims(token, 1) >= 0)
        else:
            where = result + gl.expand_dims(at.to(gl.int64) * out_token, 1) + column
            gl.store(where, (total * scale).to(DTYPE))


@gluon.jit
def _gather(
    q_smem, do_smem, stats, q_full, q_empty, q, d_output, lse, delta, queries, records, tiles, q_batch, q_head, q_token,
    do_batch, do_head, do_token, heads, n, ROWS: gl.constexpr, D: gl.constexpr,
):  # fmt: skip
    """Copy the queries of each tile, and their dO, log-sum-exp and delta, to its buffer."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    FLAT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    HALF: gl.constexpr = ROWS // 2
    row = gl.arange(0, HALF, gl.SliceLayout(1, LAYOUT))
    column = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, LAYOUT)), 0)
    flat = gl.arange(0, HALF, FLAT)
    turn = 0
    for tile in range(gl.program_id(0), gl.load(tiles), gl.num_programs(0)):
        head = gl.load(records + tile * 8)
        place = gl.load(records + tile * 8 + 1)
        q_row = q + (head // heads).to(gl.int64) * q_batch + (head % heads).to(gl.int64) * q_head
        do_row = d_output + (head // heads).to(gl.int64) * do_batch + (head % heads).to(gl.int64) * do_head
        lse_row = lse + head.to(gl.int64) * n
        delta_row = delta + head.to(gl.int64) * n
        buffer = turn & 1
        mbarrier.wait(q_empty.index(buffer), ((turn >> 1) & 1) ^ 1)
        for part in gl.static_range(2):
            token = gl.load(queries + place + part * HALF + row)
            token = gl.expand_dims(gl.maximum(token, 0).to(gl.int64), 1)
            slot = buffer * 2 + part
            async_copy.async_copy_global_to_shared(q_smem.index(slot), q_row + (token * q_token + column))
            async_copy.async_copy_global_to_shared(do_smem.index(slot), do_row + (token * do_token + column))
            token = gl.load(queries + place + part * HALF + flat)
            row_lse = gl.load(lse_row + token, mask=token >= 0, other=-float("inf"))
            empty = row_lse == -float("inf")
            row_delta = gl.load(delta_row + token, mask=token >= 0, other=0.0)
            stats.index(buffer * 4 + part).store(gl.where(empty, float("inf"), row_lse * 1.4426950408889634))
            stats.index(buffer * 4 + 2 + part).store(gl.where(empty, 0.0, row_delta))
        async_copy.commit_group()
        async_copy.wait_group(0)
        fence_async_shared()
        gl.thread_barrier()
        mbarrier.arrive(q_full.index(buffer), count=1)
        turn += 1


@gluon.jit
def _load(
    k_rows, v_rows, k_smem, v_smem, k_full, k_empty, v_full, v_empty, records, tiles, segments, kv_group, tokens,
    KEYS: gl.constexpr, STEP: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Copy the keys and values of each step to the next stage."""
    step = 0
    for tile in range(gl.program_id(0), gl.load(tiles), gl.num_programs(0)):
        record = records + tile * 8
        base = (gl.load(record) // kv_group) * tokens
        segment = gl.load(record + 2)
        start = gl.load(record + 3)
        end = gl.load(record + 4)
        left = _length(start, end, KEYS, MASKED)
        for _ in range(gl.load(record + 5) * (KEYS // STEP)):
            stage = step % STAGES
            phase = ((step // STAGES) & 1) ^ 1
            mbarrier.wait(k_empty.index(stage), phase)
            mbarrier.expect(k_full.index(stage), k_rows.block_type.nbytes)
            tma.async_copy_global_to_shared(k_rows, [base + start, 0], k_full.index(stage), k_smem.index(stage))
            mbarrier.wait(v_empty.index(stage), phase)
            mbarrier.expect(v_full.index(stage), v_rows.block_type.nbytes)
            tma.async_copy_global_to_shared(v_rows, [base + start, 0], v_full.index(stage), v_smem.index(stage))
            step += 1
            segment, start, end, left = _advance(segments, segment, start, end, left, STEP, KEYS, MASKED)


@gluon.jit
def _backward_queries(
    k_rows, v_rows, q, d_output, lse, delta, queries, records, tiles, segments, words, rows_of, chunk_of, result,
    chunks, q_batch, q_head, q_token, do_batch, do_head, do_token, out_batch, out_head, out_token, heads, kv_group, n,
    tokens, scale, scale2, ROWS: gl.constexpr, KEYS: gl.constexpr, STEP: gl.constexpr, D: gl.constexpr,
    STAGES: gl.constexpr, REGISTERS: gl.constexpr, DIRECT: gl.constexpr, MASKED: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    DTYPE: gl.constexpr = k_rows.dtype
    HALF: gl.constexpr = ROWS // 2
    GATHERED: gl.constexpr = gl.NVMMASharedLayout.get_default_for([HALF, D], DTYPE)
    q_smem = gl.allocate_shared_memory(DTYPE, [4, HALF, D], GATHERED)
    do_smem = gl.allocate_shared_memory(DTYPE, [4, HALF, D], GATHERED)
    stats = gl.allocate_shared_memory(gl.float32, [8, HALF], gl.SwizzledSharedLayout(1, 1, 1, order=[0]))
    k_smem = gl.allocate_shared_memory(DTYPE, [STAGES, STEP, D], k_rows.layout)
    v_smem = gl.allocate_shared_memory(DTYPE, [STAGES, STEP, D], v_rows.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(q_full.index(i), count=1)
        mbarrier.init(q_empty.index(i), count=2)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=2)
        mbarrier.init(v_empty.index(i), count=2)
    fence_async_shared()
    gl.thread_barrier()
    gl.warp_specialize(
        [
            (_compute, (q_smem, do_smem, stats, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty,
                        queries, records, tiles, segments, words, rows_of, chunk_of, chunks, result, out_batch,
                        out_head, out_token, heads, scale, scale2, 0, ROWS, KEYS, STEP, D, STAGES, DTYPE, DIRECT,
                        MASKED)),
            (_compute, (q_smem, do_smem, stats, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty,
                        queries, records, tiles, segments, words, rows_of, chunk_of, chunks, result, out_batch,
                        out_head, out_token, heads, scale, scale2, 1, ROWS, KEYS, STEP, D, STAGES, DTYPE, DIRECT,
                        MASKED)),
            (_gather, (q_smem, do_smem, stats, q_full, q_empty, q, d_output, lse, delta, queries, records, tiles,
                       q_batch, q_head, q_token, do_batch, do_head, do_token, heads, n, ROWS, D)),
            (_load, (k_rows, v_rows, k_smem, v_smem, k_full, k_empty, v_full, v_empty, records, tiles, segments,
                     kv_group, tokens, KEYS, STEP, STAGES, MASKED)),
        ],
        [4, 4, 1],
        [REGISTERS, 488 - 2 * REGISTERS, 24],
    )  # fmt: skip
