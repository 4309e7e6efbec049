"""The loading warps of the Gluon kernel over key tiles: keys, gathered queries, and their statistics."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from attnbench.kernels.gpu.masks_hopper import stop_of


@gluon.jit
def advance(segments, place, last, segment, STEP: gl.constexpr, MASKED: gl.constexpr):
    """Step to the next places, in the segment or at the beginning of the next one."""
    place += STEP
    if place >= last:
        segment += 1
        place = gl.load(segments + segment * 2)
        last = stop_of(gl.load(segments + segment * 2 + 1), MASKED)
    return place, last, segment


@gluon.jit
def gather(
    q_smem, do_smem, q_full, q_empty, q, d_output, queries, records, segments, q_batch, q_head, q_token, do_batch,
    do_head, do_token, heads, kv_group, tiles, total, STEP: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr,
    MASKED: gl.constexpr,
):  # fmt: skip
    """Copy the queries of each step and their dO to the next stage. Tokens are read one step ahead.

    A step is handed over when the copies of STAGES - 2 later steps have been requested. One more would need a stage
    that only becomes free after the waiting step was handed over.
    """
    LAG: gl.constexpr = STAGES - 2
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    row = gl.arange(0, STEP, gl.SliceLayout(1, LAYOUT))
    column = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, LAYOUT)), 0)
    step = 0
    for work in range(gl.program_id(0), total, gl.num_programs(0)):
        kv_head = work // tiles
        tile = work % tiles
        first_head = kv_head * kv_group
        record = records + (first_head * tiles + tile) * 8
        if gl.load(record) < gl.load(record + 1):
            for head in range(first_head, first_head + kv_group):
                record = records + (head * tiles + tile) * 8
                segment = gl.load(record + 2)
                steps = gl.load(record + 4)
                place = gl.load(segments + segment * 2)
                last = stop_of(gl.load(segments + segment * 2 + 1), MASKED)
                q_row = q + (head // heads).to(gl.int64) * q_batch + (head % heads).to(gl.int64) * q_head
                do_row = d_output + (head // heads).to(gl.int64) * do_batch + (head % heads).to(gl.int64) * do_head
                token = gl.load(queries + place + row, mask=(place + row < last) & (steps > 0), other=0)
                for i in range(steps):
                    stage = step % STAGES
                    mbarrier.wait(q_empty.index(stage), ((step // STAGES) & 1) ^ 1)
                    at = gl.expand_dims(gl.maximum(token, 0).to(gl.int64), 1)
                    async_copy.async_copy_global_to_shared(q_smem.index(stage), q_row + (at * q_token + column))
                    async_copy.async_copy_global_to_shared(do_smem.index(stage), do_row + (at * do_token + column))
                    async_copy.commit_group()
                    place, last, segment = advance(segments, place, last, segment, STEP, MASKED)
                    token = gl.load(queries + place + row, mask=(place + row < last) & (i + 1 < steps), other=0)
                    if step >= LAG:
                        async_copy.wait_group(LAG)
                        fence_async_shared()
                        gl.thread_barrier()
                        mbarrier.arrive(q_full.index((step - LAG) % STAGES), count=1)
                    step += 1
    async_copy.wait_group(0)
    fence_async_shared()
    gl.thread_barrier()
    for late in range(gl.maximum(step - LAG, 0), step):
        mbarrier.arrive(q_full.index(late % STAGES), count=1)


@gluon.jit
def row_statistics(lse_row, delta_row, token):
    """Return log-sum-exp (base 2) and delta of tokens; +inf and 0 for absent tokens and those that keep nothing."""
    row_lse = gl.load(lse_row + token, mask=token >= 0, other=-float("inf"))
    row_delta = gl.load(delta_row + token, mask=token >= 0, other=0.0)
    empty = row_lse == -float("inf")
    return gl.where(empty, float("inf"), row_lse * 1.4426950408889634), gl.where(empty, 0.0, row_delta)


@gluon.jit
def statistics(
    stats, q_full, q_empty, lse, delta, queries, records, segments, kv_group, n, tiles, total, STEP: gl.constexpr,
    STAGES: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Copy log-sum-exp and delta of the queries of each step to the next stage, read one step ahead."""
    FLAT: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    flat = gl.arange(0, STEP, FLAT)
    step = 0
    for work in range(gl.program_id(0), total, gl.num_programs(0)):
        kv_head = work // tiles
        tile = work % tiles
        first_head = kv_head * kv_group
        record = records + (first_head * tiles + tile) * 8
        if gl.load(record) < gl.load(record + 1):
            for head in range(first_head, first_head + kv_group):
                record = records + (head * tiles + tile) * 8
                segment = gl.load(record + 2)
                steps = gl.load(record + 4)
                place = gl.load(segments + segment * 2)
                last = stop_of(gl.load(segments + segment * 2 + 1), MASKED)
                lse_row = lse + head.to(gl.int64) * n
                delta_row = delta + head.to(gl.int64) * n
                token = gl.load(queries + place + flat, mask=(place + flat < last) & (steps > 0), other=-1)
                row_lse, row_delta = row_statistics(lse_row, delta_row, token)
                for i in range(steps):
                    stage = step % STAGES
                    place, last, segment = advance(segments, place, last, segment, STEP, MASKED)
                    token = gl.load(queries + place + flat, mask=(place + flat < last) & (i + 1 < steps), other=-1)
                    mbarrier.wait(q_empty.index(stage), ((step // STAGES) & 1) ^ 1)
                    stats.index(stage * 2).store(row_lse)
                    stats.index(stage * 2 + 1).store(row_delta)
                    gl.thread_barrier()
                    mbarrier.arrive(q_full.index(stage), count=1)
                    row_lse, row_delta = row_statistics(lse_row, delta_row, token)
                    step += 1


@gluon.jit
def load(
    k_rows, v_rows, k_smem, v_smem, kv_full, kv_empty, records, kv_group, tokens, tiles, total,
):  # fmt: skip
    """Copy the keys and values of each tile as soon as the previous tile no longer needs their space."""
    turn = 0
    for work in range(gl.program_id(0), total, gl.num_programs(0)):
        kv_head = work // tiles
        record = records + (kv_head * kv_group * tiles + work % tiles) * 8
        begin = gl.load(record)
        if begin < gl.load(record + 1):
            at = kv_head * tokens + begin
            mbarrier.wait(kv_empty, (turn & 1) ^ 1)
            mbarrier.expect(kv_full, 2 * k_rows.block_type.nbytes)
            tma.async_copy_global_to_shared(k_rows, [at, 0], kv_full, k_smem)
            tma.async_copy_global_to_shared(v_rows, [at, 0], kv_full, v_smem)
            turn += 1
