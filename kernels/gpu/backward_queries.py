"""Gradient of queries over tiles: the same rows and segments as in the forward pass, three matrix products per step.

A step covers fewer keys than in the forward pass, because scores and their gradients are in registers at the same time.
So each segment is walked in whole multiples of the tile's step, as its record counts them. A key beyond the end of the
segment is replaced by the last key, and its probability is set to 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.hopper import fits
from attnbench.kernels.gpu.rule_arrays import keeps, rule_arguments
from attnbench.kernels.gpu.shared_memory import takes_large_tiles
from attnbench.kernels.gpu.widen import INTERPRETED, jit
from attnbench.kernels.gpu.work import LOG2_E, RuleArrays, Tiles
from attnbench.kernels.witness import launched


class QueriesTuning(NamedTuple):
    """Launch parameters of ``backward_queries``.

    Attributes:
        rows: rows that a program computes at once. A tile with more is computed in parts.
        step: keys in a step, at most as many as in a step of the tiles.
        warps: warps of a program.
        stages: steps of keys that are in flight at once.
        resident: programs per multiprocessor.
    """

    rows: int
    step: int
    warps: int
    stages: int
    resident: int


def queries_tuning(rows: int, *, large: bool = True) -> QueriesTuning:
    """Return the launch parameters for tiles with this many rows. ``large``: whether 128 fit into the shared memory.

    For sm_90 and 128 columns, ptxas reports 195 to 216 registers and 160 KiB at 128 rows (one program per
    multiprocessor), and 171 registers and 80 KiB at 64 rows, so two programs fit. Nothing is spilled. Steps of 128 keys
    would take all 255 registers.
    """
    return QueriesTuning(rows, 64, 8, 3, 1) if rows > 64 and large else QueriesTuning(min(rows, 64), 32, 4, 3, 2)


def backward_queries(
    q: Tensor, k: Tensor, v: Tensor, d_output: Tensor, lse: Tensor, delta: Tensor, tiles: Tiles, scale: float, *,
    rule: RuleArrays | None = None, direct: Tensor | None = None, hopper: bool = False,
    tuning: QueriesTuning | None = None,
) -> Tensor:  # fmt: skip
    """Compute the gradients of the queries of each tile.

    Args:
        q, d_output: [B, H, N, head_dim], any strides with unit last, of one dtype.
        k, v: [B, KV heads, N, D] in the arranged order, contiguous. D is a power of two; columns beyond head_dim are
            not read.
        lse: natural log-sum-exp of whole rows, float32 [B, H, N]; -inf for queries that keep nothing.
        delta: float32 [B, H, N], see ``delta_of``.
        tiles: the rows and keys. Each segment is cut into steps of ``tiles.keys``.
        scale: factor of the scores.
        rule: what decides in masked segments; needed iff there are any.
        direct: [B, H, N, head_dim] with unit last stride, to which every row is written at its token. Rows of tiles
            without a step become 0.
        hopper: run the Gluon kernel where it fits.
        tuning: launch parameters of the Triton kernel.

    Returns:
        ``direct`` if given, otherwise rows [places, head_dim] in q's dtype; those of places without a query are
        undefined.
    """
    _, heads, n, head_dim = q.shape
    result = torch.empty(len(tiles.queries), head_dim, dtype=q.dtype, device=q.device) if direct is None else direct
    out_strides = (0, 0, result.stride(0)) if direct is None else direct.stride()[:3]
    if hopper and (rule is None or not rule.band) and fits((q, d_output), (k, v), rule, tiles.rows, tiles.keys):
        from attnbench.kernels.gpu import backward_queries_hopper

        backward_queries_hopper.launch(
            q, k, v, d_output, lse.contiguous(), delta.contiguous(), tiles, scale, result, direct is not None, rule
        )
        return result
    rows, step, warps, stages, resident = tuning or queries_tuning(tiles.rows, large=takes_large_tiles(q.device))
    programs = 4 if INTERPRETED else resident * torch.cuda.get_device_properties(q.device).multi_processor_count
    ticket = torch.zeros(1, dtype=torch.int32, device=q.device)
    launched("triton:backward_queries")
    _backward_queries[(programs,)](
        q, k, v, d_output, lse.contiguous(), delta.contiguous(), tiles.queries, tiles.records, tiles.count, ticket,
        tiles.segments, result, *q.stride()[:3], *d_output.stride()[:3], *out_strides, heads, heads // k.shape[1], n,
        k.shape[2], scale, scale * LOG2_E, *rule_arguments(rule), ROWS=rows, PARTS=tiles.rows // rows,
        KEYS=tiles.keys, STEP=min(step, tiles.keys), HEAD_DIM=head_dim, D=k.shape[3], DIRECT=direct is not None,
        RULE=rule is not None, WIDEN=INTERPRETED, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return result


@jit
def _backward_queries(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, d_output: tl.tensor, lse: tl.tensor, delta: tl.tensor,
    queries: tl.tensor, records: tl.tensor, tiles: tl.tensor, ticket: tl.tensor, segments: tl.tensor, result: tl.tensor,
    q_batch: tl.tensor, q_head: tl.tensor, q_token: tl.tensor, do_batch: tl.tensor, do_head: tl.tensor,
    do_token: tl.tensor, out_batch: tl.tensor, out_head: tl.tensor, out_token: tl.tensor, heads: tl.tensor,
    kv_group: tl.tensor, n: tl.tensor, tokens: tl.tensor, scale: tl.tensor, scale2: tl.tensor, q_packed: tl.tensor,
    q_high: tl.tensor, q_text: tl.tensor, k_packed: tl.tensor, k_low: tl.tensor, k_text: tl.tensor,
    q_rule_row: tl.tensor, k_rule_row: tl.tensor, guard: tl.tensor, ROWS: tl.constexpr, PARTS: tl.constexpr,
    KEYS: tl.constexpr, STEP: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr, DIRECT: tl.constexpr,
    RULE: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.arange(0, ROWS)
    column = tl.arange(0, D)
    count_tiles = tl.load(tiles) * PARTS
    tile = tl.atomic_add(ticket, 1)
    while tile < count_tiles:
        following = tl.atomic_add(ticket, 1)  # long before it is needed
        record = records + (tile // PARTS).to(tl.int64) * 8
        head = tl.load(record)
        place = tl.load(record + 1) + tile % PARTS * ROWS
        segment = tl.load(record + 2)
        start = tl.load(record + 3)
        end = tl.load(record + 4)
        count = tl.load(record + 5) * (KEYS // STEP)
        batch, of_batch = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
        token = tl.load(queries + place + row)
        there = token >= 0
        token64 = token.to(tl.int64)[:, None]
        here = there[:, None]
        if HEAD_DIM < D:
            here = here & (column < HEAD_DIM)[None]
        q_at = q + batch * q_batch + of_batch * q_head + token64 * q_token + column[None]
        do_at = d_output + batch * do_batch + of_batch * do_head + token64 * do_token + column[None]
        rows = tl.load(q_at, mask=here, other=0.0)
        grads = tl.load(do_at, mask=here, other=0.0)
        row_lse = tl.load(lse + head.to(tl.int64) * n + token, mask=there, other=-float("inf"))
        row_delta = tl.load(delta + head.to(tl.int64) * n + token, mask=there, other=0.0)
        # For a row that keeps nothing, exp2(score - inf) is 0 whatever the score.
        empty = row_lse == -float("inf")
        lse2 = tl.where(empty, float("inf"), row_lse * 1.4426950408889634)
        row_delta = tl.where(empty, 0.0, row_delta)
        kv = (head // kv_group).to(tl.int64) * tokens * D
        k_row, v_row = k + kv, v + kv
        q_rule, k_rule = head.to(tl.int64) * q_rule_row, head.to(tl.int64) * k_rule_row
        acc = tl.zeros([ROWS, D], tl.float32)
        if WIDEN:
            rows, grads = rows.to(tl.float32), grads.to(tl.float32)
        masked = end < 0
        end = tl.abs(end)
        left = (end - start + KEYS - 1) // KEYS * KEYS
        # Triton 3.6 overlaps loads with products only in a plain range (stages from the launch) whose next addresses do
        # not come from an `if`, so the next segment is selected.
        for _ in range(count):
            key = start + tl.arange(0, STEP)
            inside = key < end
            key = tl.minimum(key, end - 1)
            at = key[:, None] * D + column[None]
            keys = tl.load(k_row + at)
            values = tl.load(v_row + at)
            if WIDEN:
                keys, values = keys.to(tl.float32), values.to(tl.float32)
            s = tl.dot(rows, tl.trans(keys)) * scale2 - lse2[:, None]
            dp = tl.dot(grads, tl.trans(values))
            s = tl.where(inside[None], s, -float("inf"))
            if RULE:  # noqa: SIM102 - the outer one is decided when the kernel is compiled
                if masked:
                    kept = keeps(
                        tl.load(q_packed + q_rule + token, mask=there, other=0)[:, None],
                        tl.load(q_high + q_rule + token, mask=there, other=0)[:, None],
                        tl.load(q_text + token, mask=there, other=0)[:, None],
                        tl.load(k_packed + k_rule + key)[None],
                        tl.load(k_low + k_rule + key)[None],
                        tl.load(k_text + k_rule + key)[None],
                        guard,
                    )
                    s = tl.where(kept, s, -float("inf"))
            ds = tl.exp2(s) * (dp - row_delta[:, None])
            acc = tl.dot(ds.to(keys.dtype), keys, acc)
            start += STEP
            left -= STEP
            over = left <= 0
            segment += over.to(tl.int32)
            next_start = tl.load(segments + segment * 2)
            next_end = tl.load(segments + segment * 2 + 1)
            start = tl.where(over, next_start, start)
            end = tl.where(over, tl.abs(next_end), end)
            masked = next_end < 0
            left = tl.where(over, (tl.abs(next_end) - next_start + KEYS - 1) // KEYS * KEYS, left)
        if DIRECT:
            out_at = result + batch * out_batch + of_batch * out_head + token64 * out_token + column[None]
        else:
            out_at = result + (place + row).to(tl.int64)[:, None] * out_token + column[None]
        tl.store(out_at, (acc * scale).to(result.dtype.element_ty), mask=here)
        tile = following
