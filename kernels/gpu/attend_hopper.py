"""Attention over tiles on Hopper, in Gluon: two warpgroups compute, one gathers queries, one warp loads keys.

A tile is 128 gathered queries and the segments of keys that all of them keep. Thread blocks are persistent and walk the
tiles. Separate warps gather the queries of the next tile into the other of two buffers, and load K and V by TMA in two
stages; neither waits for the other. Each computing warpgroup owns 64 queries. It issues S = Q Kᵀ of the next keys, then
P V of the last ones, and computes the softmax of S while P V runs. At the end of a tile, the same pair spans two tiles,
so the tensor cores do not run empty. Two more warps arrange keys and values one head ahead of those that read them; see
``arrange_hopper``. Scores are in base 2: ``scale`` includes log2(e).

A tile may be a pair of small ones, whose rows keep different keys of each segment. Each warpgroup then hides the keys
that its rows do not keep. Scores of a step beyond its segment are hidden as well. But all 128 rows of V take part with
weights of 0, so an infinity or a NaN there reaches the output. The Triton kernel in ``attend`` does not read such rows.
"""

from __future__ import annotations

import torch
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

from attnbench.kernels.ablation import UP_TO, Part
from attnbench.kernels.gpu.arrange_hopper import arrange_rows, wait_for_head
from attnbench.kernels.gpu.hopper import multiprocessors
from attnbench.kernels.gpu.key_rows import KeyRows, RawKeys
from attnbench.kernels.gpu.launch import box
from attnbench.kernels.gpu.launch import launch as prepared
from attnbench.kernels.gpu.masks_hopper import (
    AHEAD,
    BETWEEN,
    hide,
    hide_ahead,
    hide_beside,
    load_words,
    mask_arguments,
    next_part,
    rows_of_queries,
    stop_of,
)
from attnbench.kernels.gpu.work import KEYS, LOG2_E, ROWS, RuleArrays, Tiles

STAGES = 2
REGISTERS = 224  # of each computing warpgroup: with 232 the other warps spill, with 216 these


def launch(
    q: Tensor, keys: KeyRows, source: RawKeys | None, tiles: Tiles, scale: float, output: Tensor, lse: Tensor,
    direct: bool, part: Part = "whole", rule: RuleArrays | None = None,
) -> None:  # fmt: skip
    """Attend to each tile's segments.

    Args:
        q: [B, H, N, D] with unit last stride, D 64 or 128, bfloat16 or float16.
        keys: k and v with the same D and dtype, aligned to 16 bytes.
        source: keys and values with which they are filled on the way, see ``attend.attend_tiles``; or None.
        tiles: tiles of 128 rows with steps of 128 keys. If segments are masked, ``tiles.masks`` says what they keep.
        scale: factor of the scores, greater than 0.
        output: rows [places, D], or with ``direct`` [B, H, N, D]; unit last stride.
        lse: float32 [places], log2-sum-exp2, or with ``direct`` [B, H, N], natural, contiguous.
        direct: write each row where its query token is.
        part: the build of the kernel, see ``ablation``. Only "whole" has meaningful results.
        rule: what decides in masked segments if there are no ``tiles.masks``; one with ``ahead``.
    """
    assert (tiles.rows, tiles.keys) == (ROWS, KEYS)
    heads, n, d = q.shape[1:]
    out_strides = output.stride()[:3] if direct else (0, 0, output.stride(0))
    programs = multiprocessors(q.device)
    visible = tiles.segments if tiles.visible is None else tiles.visible
    masks, axes = mask_arguments(tiles.masks, rule, tiles.queries, tiles.chunk_of)
    kv_rows = len(q) * keys.kv_heads
    if source is None:
        k, v, order, progress = keys.k, keys.v, tiles.segments, tiles.segments
        group, strides = 1, (0, 0, 0, 0, 0, 0, 0)
    else:
        k, v, order, group = source.k, source.v, source.order, source.heads // source.k.shape[1]
        strides = (*k.stride()[:3], *v.stride()[:3], order.stride(1) if order.dim() == 3 else 0)
        progress = torch.zeros(kv_rows, dtype=torch.int32, device=q.device)
    prepared(
        attend_tiles, (programs,),
        (q, tiles.queries, tiles.records, tiles.count, tiles.segments, visible, *masks[:3], output, lse, k, v,
         order, progress),
        (masks[3], kv_rows, order.shape[-1], group, *strides, *q.stride()[:3], *out_strides, keys.batch,
         keys.head, keys.column, heads, keys.kv_heads, heads // keys.kv_heads, n, scale * LOG2_E),
        boxes=(box(keys.k, KEYS, d), box(keys.v, KEYS, d)), ROWS=ROWS, KEYS=KEYS, D=d, STAGES=STAGES,
        REGISTERS=REGISTERS, DIRECT=direct, PAIRED=tiles.visible is not None, MASKED=axes,
        ARRANGE=source is not None, UP_TO=UP_TO[part], num_warps=4,
    )  # fmt: skip


@gluon.jit
def _advance(segments, segment, start, end, KEYS: gl.constexpr, RULE: gl.constexpr):
    """Step to the next keys, in the segment or at the beginning of the next one."""
    start += KEYS
    if start >= stop_of(end, RULE):
        segment += 1
        start = gl.load(segments + segment * 2)
        end = gl.load(segments + segment * 2 + 1)
    return segment, start, end


@gluon.jit
def _softmax(s, top, total, scale, OUT: gl.constexpr, WEIGHTS: gl.constexpr, DTYPE: gl.constexpr):
    new = gl.maximum(top, gl.max(s, 1) * scale)
    anchor = gl.where(new == -float("inf"), 0.0, new)
    p = gl.exp2(s * scale - gl.expand_dims(anchor, 1))
    decay = gl.exp2(top - anchor)
    total = total * decay + gl.sum(p, 1)
    return gl.convert_layout(p.to(DTYPE), WEIGHTS), new, total, gl.convert_layout(decay, gl.SliceLayout(1, OUT))


@gluon.jit
def _limits(visible, segment, end, PART: gl.constexpr, PAIRED: gl.constexpr):
    """Return the limits of the keys that this half of a tile keeps in a segment."""
    if PAIRED:
        return gl.load(visible + segment * 4 + PART * 2), gl.load(visible + segment * 4 + PART * 2 + 1)
    else:
        return 0, end


@gluon.jit
def _hide(
    s, start, low, high, end, word, KEYS: gl.constexpr, SCORES: gl.constexpr, PAIRED: gl.constexpr,
    MASKED: gl.constexpr,
):  # fmt: skip
    key = gl.expand_dims(gl.arange(0, KEYS, gl.SliceLayout(0, SCORES)), 0)
    low -= start
    high -= start
    if PAIRED:
        # If blocks have 64 tokens, most pairs hide half a step, whose keys are known at compile time.
        if (low <= 0) & (high == KEYS // 2):
            s = gl.where(key < KEYS // 2, s, -float("inf"))
        elif (low == KEYS // 2) & (high >= KEYS):
            s = gl.where(key >= KEYS // 2, s, -float("inf"))
        elif (low > 0) | (high < KEYS):
            s = gl.where((key >= low) & (key < high), s, -float("inf"))
    elif MASKED == AHEAD:
        s = hide_ahead(s, word, start, stop_of(end, MASKED), -float("inf"), KEYS, SCORES)
    elif MASKED:
        if end < 0:  # the words also hide what is beyond the segment
            if MASKED == BETWEEN:
                s = hide_beside(s, word, start, -end, -float("inf"), KEYS, SCORES)
            else:
                s = hide(s, word, -float("inf"), KEYS, SCORES)
        elif high < KEYS:
            s = gl.where(key < high, s, -float("inf"))
    elif high < KEYS:
        s = gl.where(key < high, s, -float("inf"))
    return s


@gluon.jit
def _rest_of_tile(
    q, k_smem, v_smem, k_full, k_empty, v_full, v_empty, acc, p, top, total, step, segments, visible, words, chunk_of,
    at, chunk, segment, start, end, count, scale, SCORES: gl.constexpr, OUT: gl.constexpr, WEIGHTS: gl.constexpr,
    HALF: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr, DTYPE: gl.constexpr, PART: gl.constexpr,
    PAIRED: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Process a tile's keys from the second step on. The caller computes P V of the last step."""
    zero = gl.full([HALF, KEYS], 0.0, gl.float32, SCORES)
    for _ in range(1, count):
        last, last_phase = step % STAGES, (step // STAGES) & 1
        step += 1
        stage = step % STAGES
        before = segment
        segment, start, end = _advance(segments, segment, start, end, KEYS, MASKED)
        chunk = next_part(chunk_of, segment, segment > before, chunk, 1, MASKED)
        word = load_words(words, at, chunk, MASKED)
        low, high = _limits(visible, segment, stop_of(end, MASKED), PART, PAIRED)
        mbarrier.wait(k_full.index(stage), (step // STAGES) & 1)
        s = warpgroup_mma(q, k_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(last), last_phase)
        acc = warpgroup_mma(p, v_smem.index(last), acc, is_async=True)
        s = warpgroup_mma_wait(1, deps=[s])
        mbarrier.arrive(k_empty.index(stage), count=1)
        s = _hide(s, start, low, high, end, word, KEYS, SCORES, PAIRED, MASKED)
        new_p, top, total, decay = _softmax(s, top, total, scale, OUT, WEIGHTS, DTYPE)
        if start < 0:  # never taken; ends the basic block, or ptxas moves the wait for P V ahead of the softmax
            mbarrier.arrive(k_empty.index(stage), count=1)
        acc, p, new_p = warpgroup_mma_wait(0, deps=[acc, p, new_p])
        mbarrier.arrive(v_empty.index(last), count=1)
        acc = acc * gl.expand_dims(decay, 1)
        p = new_p
    return acc, p, top, total, step


@gluon.jit
def _write(
    acc, top, total, output, lse, queries, head, place, o_batch, o_head, o_token, heads, tokens, SCORES: gl.constexpr,
    OUT: gl.constexpr, HALF: gl.constexpr, D: gl.constexpr, DTYPE: gl.constexpr, DIRECT: gl.constexpr,
    ARRANGE: gl.constexpr,
):  # fmt: skip
    """Write the rows of a tile, 16 bytes a thread where ``_arrange`` leaves the shared memory to exchange them."""
    WHOLE: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    WRITTEN: gl.constexpr = OUT if ARRANGE else WHOLE
    inverse = gl.convert_layout(1.0 / gl.where(total > 0, total, 1.0), gl.SliceLayout(1, OUT))
    rows = gl.convert_layout((acc * gl.expand_dims(inverse, 1)).to(DTYPE), WRITTEN)
    column = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, WRITTEN)), 0)
    place_out = place + gl.arange(0, HALF, gl.SliceLayout(1, WRITTEN))
    place_lse = place + gl.arange(0, HALF, gl.SliceLayout(1, SCORES))
    sums = top + gl.log2(total)
    if DIRECT:
        token = gl.load(queries + place_out)
        base = output + (head // heads).to(gl.int64) * o_batch + (head % heads).to(gl.int64) * o_head
        where = base + gl.expand_dims(token.to(gl.int64) * o_token, 1) + column
        gl.store(where, rows, mask=gl.expand_dims(token, 1) >= 0)
        token = gl.load(queries + place_lse)
        natural = gl.where(total > 0, sums * 0.6931471805599453, -float("inf"))
        gl.store(lse + head.to(gl.int64) * tokens + token, natural, mask=token >= 0)
    else:
        gl.store(output + gl.expand_dims(place_out.to(gl.int64) * o_token, 1) + column, rows)
        gl.store(lse + place_lse, sums)


@gluon.jit
def _record(records, tile, PART: gl.constexpr, HALF: gl.constexpr):
    """Read the record of a tile. A tile without steps gets one step without keys, which leaves its rows empty."""
    record = records + tile * 8
    count = gl.load(record + 5)
    start = gl.where(count > 0, gl.load(record + 3), 0)
    end = gl.where(count > 0, gl.load(record + 4), 0)
    return gl.load(record), gl.load(record + 1) + PART * HALF, gl.load(record + 2), start, end, gl.maximum(count, 1)


@gluon.jit
def _first_chunk(chunk_of, segment, end, MASKED: gl.constexpr):
    if MASKED == 0 or MASKED >= AHEAD:
        return 0
    else:  # the segment of a tile without steps is not written
        return gl.load(chunk_of + segment, mask=end != 0, other=0)


@gluon.jit
def _compute(
    q_smem, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty, output, lse, queries, records, tiles,
    segments, visible, words, rows_of, chunk_of, chunks, o_batch, o_head, o_token, heads, tokens, scale,
    PART: gl.constexpr, ROWS: gl.constexpr, KEYS: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr,
    DTYPE: gl.constexpr, DIRECT: gl.constexpr, PAIRED: gl.constexpr, MASKED: gl.constexpr, ARRANGE: gl.constexpr,
):  # fmt: skip
    SCORES: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, KEYS, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, D, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=2)
    HALF: gl.constexpr = ROWS // 2
    count_tiles = gl.load(tiles)
    first = gl.program_id(0)
    hop = gl.num_programs(0)
    if first < count_tiles:
        zero = gl.full([HALF, KEYS], 0.0, gl.float32, SCORES)
        head, place, segment, start, end, count = _record(records, first, PART, HALF)
        low, high = _limits(visible, segment, stop_of(end, MASKED), PART, PAIRED)
        at = rows_of_queries(words, rows_of, queries, head, place, chunks, MASKED)
        chunk = _first_chunk(chunk_of, segment, end, MASKED)
        word = load_words(words, at, chunk, MASKED)
        step = 0
        turn = 0
        q = q_smem.index(PART)
        mbarrier.wait(q_full.index(0), 0)
        mbarrier.wait(k_full.index(0), 0)
        s = warpgroup_mma(q, k_smem.index(0).permute((1, 0)), zero, use_acc=False, is_async=True)
        s = warpgroup_mma_wait(0, deps=[s])
        mbarrier.arrive(k_empty.index(0), count=1)
        s = _hide(s, start, low, high, end, word, KEYS, SCORES, PAIRED, MASKED)
        top = gl.full([HALF], -float("inf"), gl.float32, gl.SliceLayout(1, SCORES))
        total = gl.full([HALF], 0.0, gl.float32, gl.SliceLayout(1, SCORES))
        acc = gl.full([HALF, D], 0.0, gl.float32, OUT)
        p, top, total, _decay = _softmax(s, top, total, scale, OUT, WEIGHTS, DTYPE)
        acc, p, top, total, step = _rest_of_tile(
            q, k_smem, v_smem, k_full, k_empty, v_full, v_empty, acc, p, top, total, step, segments, visible, words,
            chunk_of, at, chunk, segment, start, end, count, scale, SCORES, OUT, WEIGHTS, HALF, KEYS, STAGES, DTYPE,
            PART, PAIRED, MASKED,
        )  # fmt: skip
        mbarrier.arrive(q_empty.index(0), count=1)
        for tile in range(first + hop, count_tiles, hop):
            this_head, this_place, segment, start, end, count = _record(records, tile, PART, HALF)
            low, high = _limits(visible, segment, stop_of(end, MASKED), PART, PAIRED)
            at = rows_of_queries(words, rows_of, queries, this_head, this_place, chunks, MASKED)
            chunk = _first_chunk(chunk_of, segment, end, MASKED)
            word = load_words(words, at, chunk, MASKED)
            turn += 1
            buffer = turn & 1
            last, last_phase = step % STAGES, (step // STAGES) & 1
            step += 1
            stage = step % STAGES
            q = q_smem.index(buffer * 2 + PART)
            mbarrier.wait(q_full.index(buffer), (turn >> 1) & 1)
            mbarrier.wait(k_full.index(stage), (step // STAGES) & 1)
            s = warpgroup_mma(q, k_smem.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
            mbarrier.wait(v_full.index(last), last_phase)
            acc = warpgroup_mma(p, v_smem.index(last), acc, is_async=True)
            s = warpgroup_mma_wait(1, deps=[s])
            mbarrier.arrive(k_empty.index(stage), count=1)
            s = _hide(s, start, low, high, end, word, KEYS, SCORES, PAIRED, MASKED)
            old_top, old_total = top, total
            top = gl.full([HALF], -float("inf"), gl.float32, gl.SliceLayout(1, SCORES))
            total = gl.full([HALF], 0.0, gl.float32, gl.SliceLayout(1, SCORES))
            new_p, top, total, _decay = _softmax(s, top, total, scale, OUT, WEIGHTS, DTYPE)
            acc, p, new_p = warpgroup_mma_wait(0, deps=[acc, p, new_p])
            mbarrier.arrive(v_empty.index(last), count=1)
            _write(acc, old_top, old_total, output, lse, queries, head, place, o_batch, o_head, o_token, heads, tokens,
                   SCORES, OUT, HALF, D, DTYPE, DIRECT, ARRANGE)  # fmt: skip
            head, place = this_head, this_place
            acc = gl.full([HALF, D], 0.0, gl.float32, OUT)
            p = new_p
            acc, p, top, total, step = _rest_of_tile(
                q, k_smem, v_smem, k_full, k_empty, v_full, v_empty, acc, p, top, total, step, segments, visible,
                words, chunk_of, at, chunk, segment, start, end, count, scale, SCORES, OUT, WEIGHTS, HALF, KEYS,
                STAGES, DTYPE, PART, PAIRED, MASKED,
            )  # fmt: skip
            mbarrier.arrive(q_empty.index(buffer), count=1)
        mbarrier.wait(v_full.index(step % STAGES), (step // STAGES) & 1)
        acc = warpgroup_mma(p, v_smem.index(step % STAGES), acc, is_async=True)
        acc, p = warpgroup_mma_wait(0, deps=[acc, p])
        mbarrier.arrive(v_empty.index(step % STAGES), count=1)
        _write(acc, top, total, output, lse, queries, head, place, o_batch, o_head, o_token, heads, tokens, SCORES, OUT,
               HALF, D, DTYPE, DIRECT, ARRANGE)  # fmt: skip


@gluon.jit
def _without_values(
    q_smem, k_smem, q_full, q_empty, k_full, k_empty, lse, queries, records, tiles, segments, visible, words, rows_of,
    chunk_of, chunks, tokens, scale, PART: gl.constexpr, ROWS: gl.constexpr, KEYS: gl.constexpr, D: gl.constexpr,
    STAGES: gl.constexpr, DTYPE: gl.constexpr, DIRECT: gl.constexpr, PAIRED: gl.constexpr, MASKED: gl.constexpr,
    UP_TO: gl.constexpr,
):  # fmt: skip
    """Replace ``_compute`` in the builds without values; UP_TO is as in ``ablation.UP_TO``."""
    SCORES: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, KEYS, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, D, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=2)
    HALF: gl.constexpr = ROWS // 2
    step = 0
    turn = 0
    for tile in range(gl.program_id(0), gl.load(tiles), gl.num_programs(0)):
        head, place, segment, start, end, count = _record(records, tile, PART, HALF)
        at = rows_of_queries(words, rows_of, queries, head, place, chunks, MASKED)
        chunk = _first_chunk(chunk_of, segment, end, MASKED)
        buffer = turn & 1
        q = q_smem.index(buffer * 2 + PART)
        mbarrier.wait(q_full.index(buffer), (turn >> 1) & 1)
        s = gl.full([HALF, KEYS], 0.0, gl.float32, SCORES)
        top = gl.full([HALF], -float("inf"), gl.float32, gl.SliceLayout(1, SCORES))
        total = gl.full([HALF], 0.0, gl.float32, gl.SliceLayout(1, SCORES))
        last = step + count
        for _ in range(count):
            stage = step % STAGES
            mbarrier.wait(k_full.index(stage), (step // STAGES) & 1)
            s = warpgroup_mma(q, k_smem.index(stage).permute((1, 0)), s, use_acc=UP_TO == 1, is_async=True)
            s = warpgroup_mma_wait(0, deps=[s])
            mbarrier.arrive(k_empty.index(stage), count=1)
            if UP_TO == 2:
                low, high = _limits(visible, segment, stop_of(end, MASKED), PART, PAIRED)
                word = load_words(words, at, chunk, MASKED)
                s = _hide(s, start, low, high, end, word, KEYS, SCORES, PAIRED, MASKED)
                _p, top, total, _decay = _softmax(s, top, total, scale, OUT, WEIGHTS, DTYPE)
            step += 1
            before = segment
            segment, start, end = _advance(segments, segment, start, end, KEYS, MASKED)
            if step < last:
                chunk = next_part(chunk_of, segment, segment > before, chunk, 1, MASKED)
        mbarrier.arrive(q_empty.index(buffer), count=1)
        turn += 1
        sums = gl.max(s, 1) * scale if UP_TO == 1 else top + gl.log2(total)
        at = place + gl.arange(0, HALF, gl.SliceLayout(1, SCORES))
        if DIRECT:
            token = gl.load(queries + at)
            gl.store(lse + head.to(gl.int64) * tokens + token, sums * 0.6931471805599453, mask=token >= 0)
        else:
            gl.store(lse + at, sums)


@gluon.jit
def _gather(
    q_smem, q_full, q_empty, q, queries, records, tiles, q_batch, q_head, q_token, heads, ROWS: gl.constexpr,
    D: gl.constexpr,
):  # fmt: skip
    """Copy the queries of each tile to its buffer. Places of -1 become zeros."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    PIECE: gl.constexpr = 16
    HALF: gl.constexpr = ROWS // 2
    row = gl.arange(0, PIECE, gl.SliceLayout(1, LAYOUT))
    column = gl.arange(0, D, gl.SliceLayout(0, LAYOUT))
    turn = 0
    for tile in range(gl.program_id(0), gl.load(tiles), gl.num_programs(0)):
        head = gl.load(records + tile * 8)
        place = gl.load(records + tile * 8 + 1)
        base = q + (head // heads).to(gl.int64) * q_batch + (head % heads).to(gl.int64) * q_head
        buffer = turn & 1
        mbarrier.wait(q_empty.index(buffer), ((turn >> 1) & 1) ^ 1)
        for piece in gl.static_range(ROWS // PIECE):
            token = gl.load(queries + place + piece * PIECE + row)
            where = base + gl.expand_dims(token.to(gl.int64) * q_token, 1) + gl.expand_dims(column, 0)
            rows = gl.load(where, mask=gl.expand_dims(token, 1) >= 0, other=0.0)
            q_smem.index(buffer * 2 + piece * PIECE // HALF).slice(piece * PIECE % HALF, PIECE).store(rows)
        fence_async_shared()
        gl.thread_barrier()
        mbarrier.arrive(q_full.index(buffer), count=1)
        turn += 1


@gluon.jit
def _load(
    k_rows, v_rows, k_smem, v_smem, k_full, k_empty, v_full, v_empty, records, tiles, segments, progress, all_heads,
    places, row_batch, row_head, column_head, kv_heads, kv_group, KEYS: gl.constexpr, STAGES: gl.constexpr,
    ARRANGE: gl.constexpr, MASKED: gl.constexpr, UP_TO: gl.constexpr,
):  # fmt: skip
    """Copy the keys and values of each step to the next stage."""
    step = 0
    arranged = 0
    following = 0
    for tile in range(gl.program_id(0), gl.load(tiles), gl.num_programs(0)):
        head, _place, segment, start, end, count = _record(records, tile, 0, 0)
        kv_head = head // kv_group
        if ARRANGE:
            arranged = wait_for_head(progress, kv_head, arranged, places, KEYS)
        base = kv_head // kv_heads * row_batch + kv_head % kv_heads * row_head
        column = kv_head % kv_heads * column_head
        for _ in range(count):
            stage = step % STAGES
            phase = ((step // STAGES) & 1) ^ 1
            mbarrier.wait(k_empty.index(stage), phase)
            mbarrier.expect(k_full.index(stage), k_rows.block_type.nbytes)
            tma.async_copy_global_to_shared(k_rows, [base + start, column], k_full.index(stage), k_smem.index(stage))
            if UP_TO == 3:
                mbarrier.wait(v_empty.index(stage), phase)
                mbarrier.expect(v_full.index(stage), v_rows.block_type.nbytes)
                to = v_smem.index(stage)
                if ARRANGE:  # noqa: SIM102, a constexpr: only such an if is left out when compiled
                    if start + KEYS > places:  # rows of the next head get weights of 0, but 0 · NaN is NaN
                        after = gl.minimum(kv_head + 1, all_heads - 1)
                        following = wait_for_head(progress, after, following, places, KEYS)
                tma.async_copy_global_to_shared(v_rows, [base + start, column], v_full.index(stage), to)
            step += 1
            segment, start, end = _advance(segments, segment, start, end, KEYS, MASKED)


@gluon.jit
def _arrange(
    k, v, order, progress, k_rows, v_rows, buffer, tiles, all_heads, places, kv_heads, group, k_batch, k_head, k_token,
    v_batch, v_head, v_token, order_row, row_batch, row_head, KEYS: gl.constexpr, D: gl.constexpr,
    ARRANGE: gl.constexpr,
):  # fmt: skip
    if ARRANGE:
        arrange_rows(k, v, order, progress, k_rows, v_rows, buffer, tiles, all_heads, places, kv_heads, group, k_batch,
                     k_head, k_token, v_batch, v_head, v_token, order_row, row_batch, row_head, KEYS, D)  # fmt: skip


@gluon.jit
def _work(
    q_smem, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty, output, lse, queries, records, tiles,
    segments, visible, words, rows_of, chunk_of, chunks, o_batch, o_head, o_token, heads, tokens, scale,
    PART: gl.constexpr, ROWS: gl.constexpr, KEYS: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr,
    DTYPE: gl.constexpr, DIRECT: gl.constexpr, PAIRED: gl.constexpr, MASKED: gl.constexpr, ARRANGE: gl.constexpr,
    UP_TO: gl.constexpr,
):  # fmt: skip
    if UP_TO == 3:
        _compute(q_smem, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty, output, lse, queries,
                 records, tiles, segments, visible, words, rows_of, chunk_of, chunks, o_batch, o_head, o_token, heads,
                 tokens, scale, PART, ROWS, KEYS, D, STAGES, DTYPE, DIRECT, PAIRED, MASKED, ARRANGE)  # fmt: skip
    else:
        _without_values(q_smem, k_smem, q_full, q_empty, k_full, k_empty, lse, queries, records, tiles, segments,
                        visible, words, rows_of, chunk_of, chunks, tokens, scale, PART, ROWS, KEYS, D, STAGES, DTYPE,
                        DIRECT, PAIRED, MASKED, UP_TO)  # fmt: skip


@gluon.jit
def attend_tiles(
    k_rows, v_rows, q, queries, records, tiles, segments, visible, words, rows_of, chunk_of, output, lse, k, v, order,
    progress, chunks, all_heads, places, group, k_batch, k_head, k_token, v_batch, v_head, v_token, order_row, q_batch,
    q_head, q_token, o_batch, o_head, o_token, row_batch, row_head, column_head, heads, kv_heads, kv_group, tokens,
    scale, ROWS: gl.constexpr, KEYS: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, REGISTERS: gl.constexpr,
    DIRECT: gl.constexpr, PAIRED: gl.constexpr, MASKED: gl.constexpr, ARRANGE: gl.constexpr, UP_TO: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    """Run ``launch``: ``k_rows`` and ``v_rows`` are TMA descriptors of boxes of a step; k to order_row, its source."""
    DTYPE: gl.constexpr = k_rows.dtype
    HALF: gl.constexpr = ROWS // 2
    q_smem = gl.allocate_shared_memory(DTYPE, [4, HALF, D], gl.NVMMASharedLayout.get_default_for([HALF, D], DTYPE))
    K_LAYOUT: gl.constexpr = gl.NVMMASharedLayout.get_default_for([KEYS, D], DTYPE)
    k_smem = gl.allocate_shared_memory(DTYPE, [STAGES, KEYS, D], K_LAYOUT)
    v_smem = gl.allocate_shared_memory(DTYPE, [STAGES, KEYS, D], K_LAYOUT)
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
    buffer = gl.allocate_shared_memory(DTYPE, [KEYS, D], K_LAYOUT) if ARRANGE else k_smem
    gl.warp_specialize(
        [
            (_work, (q_smem, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty, output, lse, queries,
                     records, tiles, segments, visible, words, rows_of, chunk_of, chunks, o_batch, o_head, o_token,
                     heads, tokens, scale, 0, ROWS, KEYS, D, STAGES, DTYPE, DIRECT, PAIRED, MASKED, ARRANGE, UP_TO)),
            (_work, (q_smem, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty, output, lse, queries,
                     records, tiles, segments, visible, words, rows_of, chunk_of, chunks, o_batch, o_head, o_token,
                     heads, tokens, scale, 1, ROWS, KEYS, D, STAGES, DTYPE, DIRECT, PAIRED, MASKED, ARRANGE, UP_TO)),
            (_gather, (q_smem, q_full, q_empty, q, queries, records, tiles, q_batch, q_head, q_token, heads, ROWS, D)),
            (_load, (k_rows, v_rows, k_smem, v_smem, k_full, k_empty, v_full, v_empty, records, tiles, segments,
                     progress, all_heads, places, row_batch, row_head, column_head, kv_heads, kv_group, KEYS, STAGES,
                     ARRANGE, MASKED, UP_TO)),
            (_arrange, (k, v, order, progress, k_rows, v_rows, buffer, tiles, all_heads, places, kv_heads, group,
                        k_batch, k_head, k_token, v_batch, v_head, v_token, order_row, row_batch, row_head, KEYS, D,
                        ARRANGE)),
        ],
        [4, 4, 1, 2],
        [REGISTERS, 32, 32, 32],
    )  # fmt: skip
