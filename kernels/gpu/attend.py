"""Attention over tiles of gathered queries and the segments of keys that all queries of a tile keep.

The Triton kernel here runs everywhere; ``attend_hopper`` walks the same tiles. Thread blocks are persistent and take
tiles by ticket, so that tiles with many steps and with few are mixed well.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.ablation import UP_TO, Part, is_recording, note
from attnbench.kernels.gpu.hopper import fits
from attnbench.kernels.gpu.key_rows import RawKeys, key_rows
from attnbench.kernels.gpu.rule_arrays import keeps, rule_arguments
from attnbench.kernels.gpu.shared_memory import takes_large_tiles
from attnbench.kernels.gpu.widen import INTERPRETED, jit
from attnbench.kernels.gpu.work import LOG2_E, RuleArrays, Tiles
from attnbench.kernels.witness import launched


class Tuning(NamedTuple):
    """Launch parameters of the Triton kernel.

    Attributes:
        rows: rows that a program computes at once. A tile with more is computed in parts.
        step: keys in a step. Where that is less than in a step of the tiles, each of those takes several.
        warps: warps of a program.
        stages: stages of the pipeline.
        resident: programs per multiprocessor.
    """

    rows: int
    step: int
    warps: int
    stages: int
    resident: int


def default_tuning(rows: int, keys: int, *, large: bool = True) -> Tuning:
    """Return the launch parameters for tiles with this many rows and keys in a step.

    Args:
        rows: rows of a tile.
        keys: keys in a step.
        large: whether tiles of 128 rows fit into the shared memory.
    """
    if rows > 64 and large:
        return Tuning(rows, keys, warps=8, stages=3, resident=1)
    return Tuning(min(rows, 64), keys if large else min(keys, 64), warps=4, stages=3, resident=4)


def attend_tiles(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: Tiles,
    scale: float,
    *,
    rule: RuleArrays | None = None,
    direct: tuple[Tensor, Tensor] | None = None,
    hopper: bool = False,
    tuning: Tuning | None = None,
    source: RawKeys | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend to each tile's segments.

    Args:
        q: [B, H, N, D], unit last stride, D at most that of k and v.
        k, v: [B, KV heads, N, D] in the arranged order, D a power of two from 16 on, contiguous unless
            ``fits_in_place`` holds. If the D of q is smaller, the columns beyond it are zero.
        tiles: the work, with at least 16 rows and 16 keys in a step.
        scale: factor of the scores.
        rule: the rule that decides in masked segments. Without it, no segment may be masked.
        direct: output [B, H, N, D of q] with unit last stride, and log-sum-exp float32 [B, H, N] (natural logarithm),
            to which each row is written at its token. Every token must have exactly one place.
        hopper: run the Gluon kernel if it fits. It takes positive scales only.
        tuning: launch parameters of the Triton kernel.
        source: keys and values with which k and v are filled, except for the first head of the first item, which is
            already there. Tiles must come head by head, and ``fits_in_place`` must hold for the source. The Gluon
            kernel then runs.

    Returns:
        ``direct``, or without it normalised output rows [places, D of k] in q's dtype and log2-sum-exp2 float32
        [places]. Rows of places without a query, and those after the last tile, are undefined. Rows that keep no pair
        are 0 and minus infinity.
    """
    if is_recording():
        spare = None if direct is None else (torch.empty_like(direct[0]), torch.empty_like(direct[1]))
        note(partial(_launch, q, k, v, tiles, scale, rule, spare, hopper, tuning, source))
    return _launch(q, k, v, tiles, scale, rule, direct, hopper, tuning, source, "whole")


def _launch(
    q: Tensor, k: Tensor, v: Tensor, tiles: Tiles, scale: float, rule: RuleArrays | None,
    direct: tuple[Tensor, Tensor] | None, hopper: bool, tuning: Tuning | None, source: RawKeys | None, part: Part,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run ``attend_tiles`` in one of the builds of ``ablation``."""
    if direct is None:
        places = len(tiles.queries)
        out = torch.empty(places, k.shape[3], dtype=q.dtype, device=q.device)
        out_lse = torch.empty(places, dtype=torch.float32, device=q.device)
        out_strides: tuple[int, ...] = (0, 0, k.shape[3], 0, 0)
    else:
        out, out_lse = direct
        out_strides = (*out.stride()[:3], *out_lse.stride()[:2])
    gluon = hopper and scale > 0 and fits((q,), (k, v), rule, tiles.rows, tiles.keys)
    rows = key_rows(k, v) if gluon else None
    if rows is not None:
        from attnbench.kernels.gpu import attend_hopper

        attend_hopper.launch(q, rows, source, tiles, scale, out, out_lse, direct is not None, part, rule)
        return out, out_lse
    assert source is None
    assert tiles.visible is None
    assert k.is_contiguous()
    assert v.is_contiguous()
    if tuning is None:
        tuning = default_tuning(tiles.rows, tiles.keys, large=takes_large_tiles(q.device))
    part_rows, step, warps, stages, resident = tuning
    programs = 4 if INTERPRETED else resident * torch.cuda.get_device_properties(q.device).multi_processor_count
    ticket = torch.zeros(1, dtype=torch.int32, device=q.device)
    launched("triton:attend_tiles")
    _attend_tiles[(programs,)](
        k, v, q, tiles.queries, tiles.records, tiles.count, ticket, tiles.segments, out, out_lse,
        *rule_arguments(rule), *q.stride()[:3], *out_strides, q.shape[1], q.shape[1] // k.shape[1], k.shape[2],
        scale * LOG2_E, ROWS=part_rows, PARTS=tiles.rows // part_rows, KEYS=tiles.keys, STEP=step, D=k.shape[3],
        HEAD_DIM=q.shape[3], RULE=rule is not None,
        DIRECT=direct is not None, WIDEN=INTERPRETED, UP_TO=UP_TO[part], num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out, out_lse


@jit
def _attend_tiles(
    k: tl.tensor, v: tl.tensor, q: tl.tensor, queries: tl.tensor, records: tl.tensor, tiles: tl.tensor,
    ticket: tl.tensor, segments: tl.tensor, out: tl.tensor, out_lse: tl.tensor, q_packed: tl.tensor,
    q_high: tl.tensor, q_text: tl.tensor, k_packed: tl.tensor, k_low: tl.tensor, k_text: tl.tensor,
    q_rule_row: tl.tensor, k_rule_row: tl.tensor, guard: tl.tensor, q_batch: tl.tensor, q_head: tl.tensor,
    q_token: tl.tensor, out_batch: tl.tensor, out_head: tl.tensor, out_token: tl.tensor, lse_batch: tl.tensor,
    lse_head: tl.tensor, heads: tl.tensor, kv_group: tl.tensor, tokens: tl.tensor, scale: tl.tensor,
    ROWS: tl.constexpr, PARTS: tl.constexpr, KEYS: tl.constexpr, STEP: tl.constexpr, D: tl.constexpr,
    HEAD_DIM: tl.constexpr, RULE: tl.constexpr, DIRECT: tl.constexpr, WIDEN: tl.constexpr, UP_TO: tl.constexpr,
) -> None:  # fmt: skip
    """Run the kernel up to ``UP_TO``, see ``ablation.UP_TO``: 1 scores only, 2 scores and softmax, 3 everything."""
    count_tiles = tl.load(tiles) * PARTS
    row = tl.arange(0, ROWS)
    step = tl.arange(0, STEP)
    column = tl.arange(0, D)
    tile = tl.atomic_add(ticket, 1)
    while tile < count_tiles:
        following = tl.atomic_add(ticket, 1)  # long before it is needed
        record = records + (tile // PARTS).to(tl.int64) * 8
        head = tl.load(record).to(tl.int64)
        place = tl.load(record + 1) + tile % PARTS * ROWS
        segment = tl.load(record + 2)
        start = tl.load(record + 3)
        end = tl.load(record + 4)
        count = tl.load(record + 5) * (KEYS // STEP)
        token = tl.load(queries + place + row)
        real = token >= 0
        where = q + (head // heads) * q_batch + (head % heads) * q_head + token.to(tl.int64)[:, None] * q_token
        if HEAD_DIM == D:
            rows = tl.load(where + column[None], mask=real[:, None], other=0.0)
        else:
            rows = tl.load(where + column[None], mask=real[:, None] & (column < HEAD_DIM)[None], other=0.0)
        k_head = k + (head // kv_group) * tokens * D
        v_head = v + (head // kv_group) * tokens * D
        top = tl.full([ROWS], -float("inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, D if UP_TO == 3 else STEP], tl.float32)
        if WIDEN:
            rows = rows.to(tl.float32)
        if RULE:
            q_rule = head * q_rule_row
            row_packed = tl.load(q_packed + q_rule + token, mask=real, other=0)
            row_high = tl.load(q_high + q_rule + token, mask=real, other=0)
            row_text = tl.load(q_text + token, mask=real, other=1)
        next_start = tl.load(segments + segment * 2 + 2)
        next_end = tl.load(segments + segment * 2 + 3)
        if STEP < KEYS:
            left = (tl.abs(end) - start + KEYS - 1) // KEYS * KEYS
        for i in range(count):
            masked = end < 0
            stop = tl.abs(end) if RULE else end
            # Keys beyond the end of a segment repeat its last key, so that loads need no mask.
            key = tl.minimum(start + step, stop - 1)
            keys = tl.load(k_head + key[:, None] * D + column[None])
            if UP_TO == 3:
                values = tl.load(v_head + key[:, None] * D + column[None])
            if WIDEN:
                keys = keys.to(tl.float32)
                if UP_TO == 3:
                    values = values.to(tl.float32)
            if UP_TO == 1:
                acc = tl.dot(rows, tl.trans(keys), acc)
            else:
                beyond = tl.where(start + step < stop, 0.0, -float("inf"))
                s = tl.dot(rows, tl.trans(keys)) * scale + beyond[None]
                if RULE and masked:
                    at = head * k_rule_row + key
                    kept = keeps(
                        row_packed[:, None], row_high[:, None], row_text[:, None], tl.load(k_packed + at)[None],
                        tl.load(k_low + at)[None], tl.load(k_text + at)[None], guard,
                    )  # fmt: skip
                    s = tl.where(kept, s, -float("inf"))
                new = tl.maximum(top, tl.max(s, 1))
                # Only with a rule can a row have no key yet, and then all differences must be minus infinity.
                anchor = tl.where(new == -float("inf"), 0.0, new) if RULE else new
                p = tl.exp2(s - anchor[:, None])
                decay = tl.exp2(top - anchor)
                total = total * decay + tl.sum(p, 1)
                if UP_TO == 3:
                    acc = tl.dot(p.to(values.dtype), values, acc * decay[:, None])
                top = new
            # Without a branch, and one segment ahead: keys are loaded early only if the step to them is this simple.
            start += STEP
            if STEP < KEYS:  # every segment takes whole steps of the tiles, of which the last may hold nothing
                left -= STEP
                over = left <= 0
                left = tl.where(over, (tl.abs(next_end) - next_start + KEYS - 1) // KEYS * KEYS, left)
            else:
                over = start >= stop
            start = tl.where(over, next_start, start)
            end = tl.where(over, next_end, end)
            segment += over.to(tl.int32)
            ahead = over & (i + 1 < count)
            next_start = tl.load(segments + segment * 2 + 2, mask=ahead, other=next_start)
            next_end = tl.load(segments + segment * 2 + 3, mask=ahead, other=next_end)
        some = total > 0
        sums = tl.where(some, total, 1.0)
        if UP_TO == 3:
            result = (acc / sums[:, None]).to(out.dtype.element_ty)
        log_sum = tl.where(some, top + tl.log2(sums), -float("inf")) if UP_TO > 1 else tl.max(acc, 1) * scale
        if DIRECT:
            base = (head // heads) * out_batch + (head % heads) * out_head
            at_row = base + token.to(tl.int64) * out_token
            inside = real[:, None] & (column < HEAD_DIM)[None]
            if UP_TO == 3:
                tl.store(out + at_row[:, None] + column[None], result, mask=inside)
            base = (head // heads) * lse_batch + (head % heads) * lse_head
            tl.store(out_lse + base + token, log_sum * 0.6931471805599453, mask=real)
        else:
            at_row = (place + row).to(tl.int64)
            if UP_TO == 3:
                tl.store(out + at_row[:, None] * out_token + column[None], result)
            tl.store(out_lse + at_row, log_sum)
        tile = following
