"""The whole backward pass on Hopper in one kernel, in Gluon: five products for each kept pair.

As ``backward_keys_hopper``, and dS of a step goes to shared memory besides: from there it is the left operand of dK,
and, turned, of dQ, whose columns the two computing warpgroups share. dQ of a step is added to float32 in memory, so its
sums depend on the order in which that happens. A step takes P while dK and dQ of the step before run, and dS while its
own dV runs.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from attnbench.kernels.gpu.key_tiles_hopper import (
    gather,
    load,
    prepare,
    probabilities,
    statistics,
    steps_of,
    write_rows,
)
from attnbench.kernels.gpu.work import KeyTiles

STAGES = 3
REGISTERS = 224


def launch(
    q: Tensor, k: Tensor, v: Tensor, d_output: Tensor, lse: Tensor, delta: Tensor, key_tiles: KeyTiles, scale: float,
    token_of: Tensor | None, dk: Tensor, dv: Tensor, dq: Tensor,
) -> None:  # fmt: skip
    """Differentiate; arguments as of ``backward_keys``, without a rule, head_dim 64 or 128.

    ``dq`` is float32 [B, H, N, D], contiguous; the gradient of the queries is added to it.
    """
    given = (q, k, v, d_output, lse, delta, key_tiles, scale, token_of)
    programs, arguments, constants = prepare(*given, (dk, dv, dq))
    _backward[(programs,)](*arguments, **constants, STAGES=STAGES, REGISTERS=REGISTERS, num_warps=4)


@gluon.jit
def _gradient(p, dp, stats, stage, count, SCORES: gl.constexpr, COLUMNS: gl.constexpr, DTYPE: gl.constexpr):
    """Return dS of a step, turned; 0 in rows from ``count`` on, which are keys of the next block and part of no dQ."""
    delta = stats.index(stage * 2 + 1).load(COLUMNS)
    p = gl.convert_layout(p, SCORES).to(gl.float32)
    ds = (p * (dp - gl.expand_dims(delta, 0))).to(DTYPE)
    if count < ds.shape[0]:
        row = gl.arange(0, ds.shape[0], gl.SliceLayout(1, SCORES))
        ds = gl.where(gl.expand_dims(row, 1) < count, ds, 0.0)
    return ds


@gluon.jit
def _add_rows(dq_row, token, dq_sum, scale, D: gl.constexpr, DQ: gl.constexpr):
    """Add half of the columns of a step's dQ to its rows; a row of -1 is none."""
    column = gl.expand_dims(gl.arange(0, D // 2, gl.SliceLayout(0, DQ)), 0)
    where = dq_row + gl.expand_dims(token.to(gl.int64) * D, 1) + column
    gl.atomic_add(where, dq_sum * scale, mask=gl.expand_dims(token, 1) >= 0, sem="relaxed")


@gluon.jit
def _compute(
    k_smem, v_smem, q_smem, do_smem, ds_smem, rows, stats, kv_full, kv_empty, q_full, q_empty, ds_full, ds_empty,
    records, dk, dv, dq, token_of, token_row, kv_group, tokens, tiles, total, scale, scale2, PART: gl.constexpr,
    STEP: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, ORDERED: gl.constexpr, DTYPE: gl.constexpr,
):  # fmt: skip
    HALF: gl.constexpr = 64
    SCORES: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, STEP, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, D, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=2)
    COLUMNS: gl.constexpr = gl.SliceLayout(0, SCORES)
    DQ: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, D // 2, 16])
    zero_dq = gl.full([STEP, D // 2], 0.0, gl.float32, DQ)
    zero = gl.full([HALF, STEP], 0.0, gl.float32, SCORES)
    step = 0
    turn = 0
    for work in range(gl.program_id(0), total, gl.num_programs(0)):
        kv_head = work // tiles
        tile = work % tiles
        first_head = kv_head * kv_group
        record = records + (first_head * tiles + tile) * 8
        begin = gl.load(record)
        end = gl.load(record + 1)
        if begin < end:
            steps = steps_of(records, first_head, kv_group, tile, tiles)
            keys = k_smem.slice(PART * HALF, HALF)
            values = v_smem.slice(PART * HALF, HALF)
            columns = k_smem.slice(PART * (D // 2), D // 2, 1)
            dk_sum = gl.full([HALF, D], 0.0, gl.float32, OUT)
            dv_sum = gl.full([HALF, D], 0.0, gl.float32, OUT)
            dq_row = dq + PART * (D // 2)
            mbarrier.wait(kv_full, turn & 1)
            if steps > 0:
                stage = step % STAGES
                mbarrier.wait(q_full.index(stage), (step // STAGES) & 1)
                s = warpgroup_mma(keys, q_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
                s = warpgroup_mma_wait(0, deps=[s])
                p = probabilities(s, stats, stage, scale2, COLUMNS, WEIGHTS, DTYPE)
                dp = warpgroup_mma(values, do_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
                dv_acc = warpgroup_mma(p, do_smem.index(stage), dv_sum, is_async=True)
                dp, p = warpgroup_mma_wait(1, deps=[dp, p])
                ds = _gradient(p, dp, stats, stage, end - begin - PART * HALF, SCORES, COLUMNS, DTYPE)
                slot = step & 1
                mbarrier.wait(ds_empty.index(slot), ((step >> 1) & 1) ^ 1)
                ds_smem.index(slot).slice(PART * HALF, HALF).store(ds)
                fence_async_shared()
                mbarrier.arrive(ds_full.index(slot), count=1)
                dv_sum, p = warpgroup_mma_wait(0, deps=[dv_acc, p])
                for _ in range(1, steps):
                    last = stage
                    old = step & 1
                    old_phase = (step >> 1) & 1
                    step += 1
                    stage = step % STAGES
                    mbarrier.wait(q_full.index(stage), (step // STAGES) & 1)
                    s = warpgroup_mma(keys, q_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
                    dk_acc = warpgroup_mma(
                        ds_smem.index(old).slice(PART * HALF, HALF), q_smem.index(last), dk_sum, is_async=True
                    )
                    mbarrier.wait(ds_full.index(old), old_phase)
                    dq_acc = warpgroup_mma(
                        ds_smem.index(old).permute((1, 0)), columns, zero_dq, use_acc=False, is_async=True
                    )
                    s = warpgroup_mma_wait(2, deps=[s])
                    p = probabilities(s, stats, stage, scale2, COLUMNS, WEIGHTS, DTYPE)
                    dk_sum, dq_sum = warpgroup_mma_wait(0, deps=[dk_acc, dq_acc])
                    token = rows.index(last).load(gl.SliceLayout(1, DQ))
                    mbarrier.arrive(q_empty.index(last), count=1)
                    mbarrier.arrive(ds_empty.index(old), count=1)
                    _add_rows(dq_row, token, dq_sum, scale, D, DQ)
                    dp = warpgroup_mma(values, do_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
                    dv_acc = warpgroup_mma(p, do_smem.index(stage), dv_sum, is_async=True)
                    dp, p = warpgroup_mma_wait(1, deps=[dp, p])
                    ds = _gradient(p, dp, stats, stage, end - begin - PART * HALF, SCORES, COLUMNS, DTYPE)
                    slot = step & 1
                    mbarrier.wait(ds_empty.index(slot), ((step >> 1) & 1) ^ 1)
                    ds_smem.index(slot).slice(PART * HALF, HALF).store(ds)
                    fence_async_shared()
                    mbarrier.arrive(ds_full.index(slot), count=1)
                    dv_sum, p = warpgroup_mma_wait(0, deps=[dv_acc, p])
                old = step & 1
                mbarrier.wait(ds_full.index(old), (step >> 1) & 1)
                dk_acc = warpgroup_mma(
                    ds_smem.index(old).slice(PART * HALF, HALF), q_smem.index(stage), dk_sum, is_async=True
                )
                dq_acc = warpgroup_mma(
                    ds_smem.index(old).permute((1, 0)), columns, zero_dq, use_acc=False, is_async=True
                )
                dk_sum, dq_sum = warpgroup_mma_wait(0, deps=[dk_acc, dq_acc])
                token = rows.index(stage).load(gl.SliceLayout(1, DQ))
                mbarrier.arrive(ds_empty.index(old), count=1)
                mbarrier.arrive(q_empty.index(stage), count=1)
                _add_rows(dq_row, token, dq_sum, scale, D, DQ)
                step += 1
            mbarrier.arrive(kv_empty, count=1)
            turn += 1
            write_rows(dk, dv, dk_sum * scale, dv_sum, begin + PART * HALF, end, kv_head, token_of, token_row, tokens,
                       OUT, HALF, D, ORDERED, DTYPE)  # fmt: skip


@gluon.jit
def _backward(
    k_rows, v_rows, q, d_output, lse, delta, queries, records, segments, dk, dv, dq, token_of, token_row, q_batch,
    q_head, q_token, do_batch, do_head, do_token, heads, kv_group, n, tokens, tiles, total, scale, scale2,
    KEYS: gl.constexpr, STEP: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, REGISTERS: gl.constexpr,
    ORDERED: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    DTYPE: gl.constexpr = k_rows.dtype
    ROWS: gl.constexpr = gl.NVMMASharedLayout.get_default_for([STEP, D], DTYPE)
    k_smem = gl.allocate_shared_memory(DTYPE, [KEYS, D], k_rows.layout)
    v_smem = gl.allocate_shared_memory(DTYPE, [KEYS, D], v_rows.layout)
    ds_smem = gl.allocate_shared_memory(
        DTYPE, [2, KEYS, STEP], gl.NVMMASharedLayout.get_default_for([KEYS, STEP], DTYPE)
    )
    rows = gl.allocate_shared_memory(gl.int32, [STAGES, STEP], gl.SwizzledSharedLayout(1, 1, 1, order=[0]))
    ds_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    ds_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    q_smem = gl.allocate_shared_memory(DTYPE, [STAGES, STEP, D], ROWS)
    do_smem = gl.allocate_shared_memory(DTYPE, [STAGES, STEP, D], ROWS)
    stats = gl.allocate_shared_memory(gl.float32, [2 * STAGES, STEP], gl.SwizzledSharedLayout(1, 1, 1, order=[0]))
    kv_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    kv_empty = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    q_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(kv_full, count=1)
    mbarrier.init(kv_empty, count=2)
    for i in gl.static_range(2):
        mbarrier.init(ds_full.index(i), count=2)
        mbarrier.init(ds_empty.index(i), count=2)
    for i in gl.static_range(STAGES):
        mbarrier.init(q_full.index(i), count=2)
        mbarrier.init(q_empty.index(i), count=2)
    fence_async_shared()
    gl.thread_barrier()
    gl.warp_specialize(
        [
            (_compute, (k_smem, v_smem, q_smem, do_smem, ds_smem, rows, stats, kv_full, kv_empty, q_full, q_empty,
                        ds_full, ds_empty, records, dk, dv, dq, token_of, token_row, kv_group, tokens, tiles, total,
                        scale, scale2, 0, STEP, D, STAGES, ORDERED, DTYPE)),
            (_compute, (k_smem, v_smem, q_smem, do_smem, ds_smem, rows, stats, kv_full, kv_empty, q_full, q_empty,
                        ds_full, ds_empty, records, dk, dv, dq, token_of, token_row, kv_group, tokens, tiles, total,
                        scale, scale2, 1, STEP, D, STAGES, ORDERED, DTYPE)),
            (gather, (q_smem, do_smem, q_full, q_empty, q, d_output, queries, records, segments, q_batch, q_head,
                       q_token, do_batch, do_head, do_token, heads, kv_group, tiles, total, STEP, D, STAGES)),
            (load, (k_rows, v_rows, k_smem, v_smem, kv_full, kv_empty, records, kv_group, tokens, tiles, total)),
            (statistics, (stats, rows, q_full, q_empty, lse, delta, queries, records, segments, kv_group, n, tiles,
                          total, STEP, STAGES, True)),
        ],
        [4, 4, 1, 1],
        [REGISTERS, 488 - 2 * REGISTERS, 24, 24],
    )  # fmt: skip
