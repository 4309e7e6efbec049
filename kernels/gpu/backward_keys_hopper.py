"""Gradients of keys and values on Hopper, in Gluon: two warpgroups compute, one gathers, two warps load.

A key tile is 128 keys, 64 for each computing warpgroup. It stays in shared memory while the queries that keep it pass
by, 64 in a step. Scores are computed transposed, so that probabilities and their gradients are left operands as they
lie in registers. dK of the previous step runs while P is computed, and dV runs while dS is computed. More work in
flight would need more registers than there are, and ptxas would then wait after every instruction (its warning C7512).
Queries and dO are gathered by cp.async, three steps in flight, together with their log-sum-exp (base 2) and delta.
Absent queries have a log-sum-exp of +inf.
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

from attnbench.kernels.gpu.hopper import multiprocessors
from attnbench.kernels.gpu.key_tiles_hopper import gather, load, statistics
from attnbench.kernels.gpu.launch import box
from attnbench.kernels.gpu.launch import launch as prepared
from attnbench.kernels.gpu.masks_hopper import (
    AHEAD,
    WORDS,
    hide,
    load_half_words,
    mask_arguments,
    stop_of,
    word_rows,
)
from attnbench.kernels.gpu.work import KEYS, LOG2_E, PLACES, KeyTiles, RuleArrays

STAGES = 4
REGISTERS = 224


def launch(
    q: Tensor, k: Tensor, v: Tensor, d_output: Tensor, lse: Tensor, delta: Tensor, key_tiles: KeyTiles, scale: float,
    token_of: Tensor | None, dk: Tensor, dv: Tensor, rule: RuleArrays | None = None,
) -> None:  # fmt: skip
    """Compute the gradients of keys and values.

    Arguments are those of ``backward_keys``, head_dim 64 or 128; a rule has ``ahead``.
    """
    batch, heads, n, d = q.shape
    kv_heads = k.shape[1]
    tiles = key_tiles.records.shape[1]
    total = batch * kv_heads * tiles
    programs = min(total, multiprocessors(k.device))
    token_row = token_of.stride(0) if token_of is not None and token_of.dim() == 2 else 0
    (words, rows_of, _, chunks), axes = mask_arguments(key_tiles.masks, rule, key_tiles.queries)
    tokens = key_tiles.queries if token_of is None else token_of
    prepared(
        _backward_keys, (programs,),
        (q, d_output, lse, delta, key_tiles.queries, key_tiles.records, key_tiles.segments, words, rows_of, dk, dv,
         tokens),
        (chunks, token_row, *q.stride()[:3], *d_output.stride()[:3], heads, heads // kv_heads, n, k.shape[2],
         tiles, total, scale, scale * LOG2_E),
        boxes=(box(k.view(-1, d), KEYS, d), box(v.view(-1, d), KEYS, d)), KEYS=KEYS, STEP=PLACES, D=d, STAGES=STAGES,
        REGISTERS=REGISTERS, ORDERED=token_of is not None, MASKED=axes, num_warps=4,
    )  # fmt: skip


@gluon.jit
def _steps_of(records, first_head, kv_group, tile, tiles):
    """Return the steps of all query heads of a kv head over one key tile."""
    steps = 0
    for head in range(first_head, first_head + kv_group):
        steps += gl.load(records + (head * tiles + tile) * 8 + 4)
    return steps


@gluon.jit
def _narrow(x, DTYPE: gl.constexpr):
    """Convert float32 two numbers at a time.

    If a result has two uses, the compiler emits single conversions, which run at the throughput of exponentials."""
    if DTYPE == gl.bfloat16:
        return gl.inline_asm_elementwise("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", [x], gl.bfloat16, True, 2)
    else:
        return gl.inline_asm_elementwise("cvt.rn.f16x2.f32 $0, $2, $1;", "=r,r,r", [x], gl.float16, True, 2)


@gluon.jit
def _probabilities(
    s, stats, stage, word, words, last, scale2, STEP: gl.constexpr, SCORES: gl.constexpr, COLUMNS: gl.constexpr,
    WEIGHTS: gl.constexpr, DTYPE: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Return P of a step, transposed, as a left operand."""
    lse = stats.index(stage * 2).load(COLUMNS)
    p = gl.exp2(s * scale2 - gl.expand_dims(lse, 0))
    if MASKED == AHEAD:
        p = _hide_from_earlier(p, word, words, STEP, SCORES, COLUMNS)
    elif MASKED:  # noqa: SIM102, a constexpr: only such an if is left out when compiled
        if last < 0:
            p = hide(p, word, 0.0, STEP, SCORES)
    return gl.convert_layout(_narrow(p, DTYPE), WEIGHTS)


@gluon.jit
def _hide_from_earlier(p, word, queries, STEP: gl.constexpr, SCORES: gl.constexpr, COLUMNS: gl.constexpr):
    """Hide the keys of rows from queries that do not see so far ahead. The first query of a step sees least."""
    first, place, keys, least = word
    if first + 64 > least:
        key = first + gl.arange(0, 64, gl.SliceLayout(1, SCORES))
        limit = gl.load(queries + place + gl.arange(0, STEP, COLUMNS)) + keys
        p = gl.where(gl.expand_dims(key, 1) < gl.expand_dims(limit, 0), p, 0.0)
    return p


@gluon.jit
def _word(words, rows, place, chunks, MASKED: gl.constexpr):
    """Return the words of a step; without words, what ``_hide_from_earlier`` needs."""
    if MASKED == AHEAD:
        return (rows[0], place, chunks, gl.load(words + place) + chunks)
    else:
        return load_half_words(words, rows, place >> 6, MASKED)


@gluon.jit
def _rows(rows_of, begin, end, chunks, MASKED: gl.constexpr, HALF: gl.constexpr):
    if MASKED == 0:
        return (0, 0, 0)
    elif MASKED == AHEAD:
        return (begin, 0, 0)
    else:
        row = begin + gl.arange(0, HALF, gl.SliceLayout(1, WORDS))
        return word_rows(rows_of, gl.where(row < end, row, -1), chunks, MASKED)


@gluon.jit
def _segment(segments, segment, MASKED: gl.constexpr):
    """Return the first place and the end of a segment; the end is negative if it is masked."""
    if MASKED == 0:
        return 0, 0
    else:
        return gl.load(segments + segment * 2), gl.load(segments + segment * 2 + 1)


@gluon.jit
def _following(segments, first, place, last, segment, left, steps, STEP: gl.constexpr, MASKED: gl.constexpr):
    """Step to the next places. All query heads of a kv head have the same segments, of ``steps`` steps."""
    if MASKED == 0:
        return place, last, segment, left
    else:
        left -= 1
        place += STEP
        if left == 0:
            left = steps
            segment = first
            place, last = _segment(segments, segment, MASKED)
        elif place >= stop_of(last, MASKED):
            segment += 1
            place, last = _segment(segments, segment, MASKED)
        return place, last, segment, left


@gluon.jit
def _gradient(
    p, dp, stats, stage, SCORES: gl.constexpr, COLUMNS: gl.constexpr, WEIGHTS: gl.constexpr, DTYPE: gl.constexpr
):  # fmt: skip
    """Return dS of a step, transposed, as a left operand."""
    delta = stats.index(stage * 2 + 1).load(COLUMNS)
    p = gl.convert_layout(p, SCORES).to(gl.float32)
    return gl.convert_layout((p * (dp - gl.expand_dims(delta, 0))).to(DTYPE), WEIGHTS)


@gluon.jit
def _write_rows(
    dk, dv, dk_rows, dv_rows, begin, end, kv_head, token_of, token_row, tokens, OUT: gl.constexpr, HALF: gl.constexpr,
    D: gl.constexpr, ORDERED: gl.constexpr, DTYPE: gl.constexpr,
):  # fmt: skip
    """Write the gradients of the keys from ``begin`` to before ``end`` to their tokens."""
    row = begin + gl.arange(0, HALF, gl.SliceLayout(1, OUT))
    column = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, OUT)), 0)
    there = row < end
    token = row.to(gl.int64)
    if ORDERED:
        token = gl.load(token_of + kv_head.to(gl.int64) * token_row + row, mask=there, other=0)
    at = gl.expand_dims((kv_head.to(gl.int64) * tokens + token) * D, 1) + column
    there = gl.expand_dims(there, 1)
    gl.store(dk + at, dk_rows.to(DTYPE), mask=there)
    gl.store(dv + at, dv_rows.to(DTYPE), mask=there)


@gluon.jit
def _compute(
    k_smem, v_smem, q_smem, do_smem, stats, kv_full, kv_empty, q_full, q_empty, records, segments, words, rows_of,
    chunks, dk, dv, token_of, token_row, kv_group, tokens, tiles, total, scale, scale2, PART: gl.constexpr,
    STEP: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, ORDERED: gl.constexpr, DTYPE: gl.constexpr,
    MASKED: gl.constexpr,
):  # fmt: skip
    HALF: gl.constexpr = 64
    SCORES: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, STEP, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, D, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=2)
    COLUMNS: gl.constexpr = gl.SliceLayout(0, SCORES)
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
            steps = _steps_of(records, first_head, kv_group, tile, tiles)
            keys = k_smem.slice(PART * HALF, HALF)
            values = v_smem.slice(PART * HALF, HALF)
            dk_sum = gl.full([HALF, D], 0.0, gl.float32, OUT)
            dv_sum = gl.full([HALF, D], 0.0, gl.float32, OUT)
            rows = _rows(rows_of, begin + PART * HALF, end, chunks, MASKED, HALF)
            first = gl.load(record + 2)
            segment = first
            each = steps // kv_group
            left = each
            mbarrier.wait(kv_full, turn & 1)
            if steps > 0:
                stage = step % STAGES
                place, last_place = _segment(segments, segment, MASKED)
                word = _word(words, rows, place, chunks, MASKED)
                mbarrier.wait(q_full.index(stage), (step // STAGES) & 1)
                s = warpgroup_mma(keys, q_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
                s = warpgroup_mma_wait(0, deps=[s])
                p = _probabilities(s, stats, stage, word, words, last_place, scale2, STEP, SCORES, COLUMNS, WEIGHTS,
                                   DTYPE, MASKED)  # fmt: skip
                dp = warpgroup_mma(values, do_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
                dv_acc = warpgroup_mma(p, do_smem.index(stage), dv_sum, is_async=True)
                dp, p = warpgroup_mma_wait(1, deps=[dp, p])
                ds = _gradient(p, dp, stats, stage, SCORES, COLUMNS, WEIGHTS, DTYPE)
                dv_sum, p = warpgroup_mma_wait(0, deps=[dv_acc, p])
                for _ in range(1, steps):
                    last = stage
                    step += 1
                    stage = step % STAGES
                    place, last_place, segment, left = _following(
                        segments, first, place, last_place, segment, left, each, STEP, MASKED
                    )  # fmt: skip
                    word = _word(words, rows, place, chunks, MASKED)
                    mbarrier.wait(q_full.index(stage), (step // STAGES) & 1)
                    s = warpgroup_mma(keys, q_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
                    dk_acc = warpgroup_mma(ds, q_smem.index(last), dk_sum, is_async=True)
                    s = warpgroup_mma_wait(1, deps=[s])
                    p = _probabilities(s, stats, stage, word, words, last_place, scale2, STEP, SCORES, COLUMNS, WEIGHTS,
                                       DTYPE, MASKED)  # fmt: skip
                    dk_sum, ds = warpgroup_mma_wait(0, deps=[dk_acc, ds])
                    mbarrier.arrive(q_empty.index(last), count=1)
                    dp = warpgroup_mma(values, do_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
                    dv_acc = warpgroup_mma(p, do_smem.index(stage), dv_sum, is_async=True)
                    dp, p = warpgroup_mma_wait(1, deps=[dp, p])
                    ds = _gradient(p, dp, stats, stage, SCORES, COLUMNS, WEIGHTS, DTYPE)
                    dv_sum, p = warpgroup_mma_wait(0, deps=[dv_acc, p])
                dk_acc = warpgroup_mma(ds, q_smem.index(stage), dk_sum, is_async=True)
                dk_sum, ds = warpgroup_mma_wait(0, deps=[dk_acc, ds])
                mbarrier.arrive(q_empty.index(stage), count=1)
                step += 1
            mbarrier.arrive(kv_empty, count=1)
            turn += 1
            _write_rows(dk, dv, dk_sum * scale, dv_sum, begin + PART * HALF, end, kv_head, token_of, token_row, tokens,
                       OUT, HALF, D, ORDERED, DTYPE)  # fmt: skip


@gluon.jit
def _backward_keys(
    k_rows, v_rows, q, d_output, lse, delta, queries, records, segments, words, rows_of, dk, dv, token_of, chunks,
    token_row, q_batch, q_head, q_token, do_batch, do_head, do_token, heads, kv_group, n, tokens, tiles, total, scale,
    scale2, KEYS: gl.constexpr, STEP: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, REGISTERS: gl.constexpr,
    ORDERED: gl.constexpr, MASKED: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    DTYPE: gl.constexpr = k_rows.dtype
    ROWS: gl.constexpr = gl.NVMMASharedLayout.get_default_for([STEP, D], DTYPE)
    k_smem = gl.allocate_shared_memory(DTYPE, [KEYS, D], k_rows.layout)
    v_smem = gl.allocate_shared_memory(DTYPE, [KEYS, D], v_rows.layout)
    q_smem = gl.allocate_shared_memory(DTYPE, [STAGES, STEP, D], ROWS)
    do_smem = gl.allocate_shared_memory(DTYPE, [STAGES, STEP, D], ROWS)
    stats = gl.allocate_shared_memory(gl.float32, [2 * STAGES, STEP], gl.SwizzledSharedLayout(1, 1, 1, order=[0]))
    kv_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    kv_empty = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    q_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(kv_full, count=1)
    mbarrier.init(kv_empty, count=2)
    for i in gl.static_range(STAGES):
        mbarrier.init(q_full.index(i), count=2)
        mbarrier.init(q_empty.index(i), count=2)
    fence_async_shared()
    gl.thread_barrier()
    gl.warp_specialize(
        [
            (_compute, (k_smem, v_smem, q_smem, do_smem, stats, kv_full, kv_empty, q_full, q_empty, records, segments,
                        words, rows_of, chunks, dk, dv, token_of, token_row, kv_group, tokens, tiles, total, scale,
                        scale2, 0, STEP, D, STAGES, ORDERED, DTYPE, MASKED)),
            (_compute, (k_smem, v_smem, q_smem, do_smem, stats, kv_full, kv_empty, q_full, q_empty, records, segments,
                        words, rows_of, chunks, dk, dv, token_of, token_row, kv_group, tokens, tiles, total, scale,
                        scale2, 1, STEP, D, STAGES, ORDERED, DTYPE, MASKED)),
            (gather, (q_smem, do_smem, q_full, q_empty, q, d_output, queries, records, segments, q_batch, q_head,
                       q_token, do_batch, do_head, do_token, heads, kv_group, tiles, total, STEP, D, STAGES, MASKED)),
            (load, (k_rows, v_rows, k_smem, v_smem, kv_full, kv_empty, records, kv_group, tokens, tiles, total)),
            (statistics, (stats, q_full, q_empty, lse, delta, queries, records, segments, kv_group, n, tiles, total,
                          STEP, STAGES, MASKED)),
        ],
        [4, 4, 1, 1],
        [REGISTERS, 488 - 2 * REGISTERS, 24, 24],
    )  # fmt: skip
