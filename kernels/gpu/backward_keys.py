"""Gradients of keys and values over key tiles: four matrix products per step, a program per kv head and key tile.

Scores are computed transposed, with keys as rows, so that probabilities and their gradients are left operands of the
next products as they lie in registers. The queries of a step are gathered. A step that is not full needs no mask:
absent queries have a log-sum-exp of +inf, so their probability is 0, and keys beyond the end of the tile repeat its
last key in rows that are never stored.
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
from attnbench.kernels.gpu.work import LOG2_E, ROWS, KeyTiles, RuleArrays
from attnbench.kernels.witness import launched


class KeysTuning(NamedTuple):
    """Launch parameters of ``backward_keys``.

    Attributes:
        keys: keys that a program computes at once. A tile with more is computed in parts.
        step: query places in a step.
        warps: warps of a program.
        stages: stages of the loop over steps. Rows are gathered by tokens that are read first. With fewer than 5
            stages, no step's rows are in flight while another is computed.
    """

    keys: int
    step: int
    warps: int
    stages: int


def keys_tuning(keys: int, *, large: bool = True) -> KeysTuning:
    """Return the launch parameters for tiles with this many keys. ``large``: whether 128 fit into the shared memory.

    For sm_90 and 128 columns, ptxas reports 255 registers and 163 KiB at 128 keys. Nothing is spilled, except four
    registers around the loop if heads share keys. At 64 keys, it reports 254 registers and 82 KiB, so two programs fit.
    """
    return KeysTuning(keys, 64, 8, 5) if keys > 64 and large else KeysTuning(min(keys, 64), 32, 4, 5)


def backward_keys(
    q: Tensor, k: Tensor, v: Tensor, d_output: Tensor, lse: Tensor, delta: Tensor, key_tiles: KeyTiles, scale: float, *,
    rule: RuleArrays | None = None, token_of: Tensor | None = None, out: tuple[Tensor, Tensor] | None = None,
    hopper: bool = False, tuning: KeysTuning | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute the gradients of keys and values.

    Args:
        q, k, v, d_output, lse, delta, scale: as for ``backward_queries``.
        key_tiles: keys and the places of their queries. Together the tiles of a head hold every key once.
        rule: the rule that decides in masked segments; required iff there are any.
        token_of: int64 [N] or [B · KV heads, N], the token of each arranged key; None if they are the same.
        out: contiguous tensors to write the results to.
        hopper: run the Gluon kernel if it fits.
        tuning: launch parameters of the Triton kernel.

    Returns:
        (dk, dv), ``out`` if given, each [B, KV heads, N, head_dim] in k's dtype, by token; 0 for keys that no query
        keeps.
    """
    batch, heads, n, head_dim = q.shape
    _, kv_heads, tokens, d = k.shape
    if out is None:
        shape = (batch, kv_heads, tokens, head_dim)
        out = torch.empty(shape, dtype=k.dtype, device=k.device), torch.empty(shape, dtype=k.dtype, device=k.device)
    token_of = None if token_of is None else token_of.contiguous()
    one_each = heads == kv_heads  # with a rule, the Gluon kernel walks the segments of one query head for each kv head
    if (
        hopper
        and (rule is None or (one_each and not rule.band))
        and fits((q, d_output), (k, v), rule, key_tiles.keys, ROWS)
    ):
        from attnbench.kernels.gpu import backward_keys_hopper

        backward_keys_hopper.launch(
            q, k, v, d_output, lse.contiguous(), delta.contiguous(), key_tiles, scale, token_of, *out, rule
        )
        return out
    tiles = key_tiles.records.shape[1]
    by_head = token_of.stride(0) if token_of is not None and token_of.dim() == 2 else 0
    keys, step, warps, stages = tuning or keys_tuning(key_tiles.keys, large=takes_large_tiles(q.device))
    parts = key_tiles.keys // keys
    launched("triton:backward_keys")
    _backward_keys[(tiles * parts, batch * kv_heads)](
        q, k, v, d_output, lse.contiguous(), delta.contiguous(), key_tiles.queries, key_tiles.records,
        key_tiles.segments, *out, token_of, by_head, *q.stride()[:3], *d_output.stride()[:3], heads,
        heads // kv_heads, n, tokens, tiles, scale, scale * LOG2_E, *rule_arguments(rule), KEYS=keys,
        PARTS=parts, STEP=step, HEAD_DIM=head_dim, D=d, ORDERED=token_of is not None, RULE=rule is not None,
        WIDEN=INTERPRETED, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


@jit
def _count_steps(segments: tl.tensor, number: tl.tensor, STEP: tl.constexpr) -> tl.tensor:
    """Return how many steps ``number`` segments take. An empty segment takes one step, which contains nothing."""
    steps = tl.full([], 0, tl.int32)
    for first in range(0, number, 32):
        which = first + tl.arange(0, 32)
        begin = tl.load(segments + which * 2, mask=which < number, other=0)
        end = tl.load(segments + which * 2 + 1, mask=which < number, other=0)
        needed = tl.maximum((tl.abs(end) - begin + STEP - 1) // STEP, 1)
        steps += tl.sum(tl.where(which < number, needed, 0), 0)
    return steps


@jit
def _backward_keys(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, d_output: tl.tensor, lse: tl.tensor, delta: tl.tensor,
    queries: tl.tensor, records: tl.tensor, segments: tl.tensor, dk: tl.tensor, dv: tl.tensor, token_of: tl.tensor,
    by_head: tl.tensor, q_batch: tl.tensor, q_head: tl.tensor, q_token: tl.tensor,
    do_batch: tl.tensor, do_head: tl.tensor, do_token: tl.tensor, heads: tl.tensor, kv_group: tl.tensor, n: tl.tensor,
    tokens: tl.tensor, tiles: tl.tensor, scale: tl.tensor, scale2: tl.tensor, q_packed: tl.tensor, q_high: tl.tensor,
    q_text: tl.tensor, k_packed: tl.tensor, k_low: tl.tensor, k_text: tl.tensor, q_rule_row: tl.tensor,
    k_rule_row: tl.tensor, guard: tl.tensor, KEYS: tl.constexpr, PARTS: tl.constexpr, STEP: tl.constexpr,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, ORDERED: tl.constexpr, RULE: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    tile = tl.program_id(0) // PARTS
    kv_head = tl.program_id(1)
    first_head = kv_head * kv_group
    begin = tl.load(records + (first_head * tiles + tile) * 8) + tl.program_id(0) % PARTS * KEYS
    end = tl.load(records + (first_head * tiles + tile) * 8 + 1)
    if begin >= end:
        return
    column = tl.arange(0, D)
    key = tl.minimum(begin + tl.arange(0, KEYS), end - 1)
    at = kv_head.to(tl.int64) * tokens * D + key[:, None] * D + column[None]
    keys, values = tl.load(k + at), tl.load(v + at)
    if WIDEN:
        keys, values = keys.to(tl.float32), values.to(tl.float32)
    dk_acc = tl.zeros([KEYS, D], tl.float32)
    dv_acc = tl.zeros([KEYS, D], tl.float32)
    for member in range(kv_group):
        head = first_head + member
        record = records + (head * tiles + tile) * 8
        segment = tl.load(record + 2)
        steps = _count_steps(segments + segment * 2, tl.load(record + 3), STEP)
        place = tl.load(segments + segment * 2)
        last = tl.load(segments + segment * 2 + 1)
        masked = last < 0
        last = tl.abs(last)
        batch, of_batch = (head // heads).to(tl.int64), (head % heads).to(tl.int64)
        q_row = q + batch * q_batch + of_batch * q_head
        do_row = d_output + batch * do_batch + of_batch * do_head
        statistics = head.to(tl.int64) * n
        q_rule, k_rule = head.to(tl.int64) * q_rule_row, head.to(tl.int64) * k_rule_row
        # A plain range without an `if` for the next segment, so that loads overlap: see backward_queries.
        for _ in range(steps):
            where = place + tl.arange(0, STEP)
            token = tl.load(queries + where, mask=where < last, other=-1)
            there = token >= 0
            token64 = token.to(tl.int64)[:, None]
            here = there[:, None]
            if HEAD_DIM < D:
                here = here & (column < HEAD_DIM)[None]
            rows = tl.load(q_row + (token64 * q_token + column[None]), mask=here, other=0.0)
            grads = tl.load(do_row + (token64 * do_token + column[None]), mask=here, other=0.0)
            # As columns that are summed, because every thread that uses plain rows would gather them again.
            row_lse = tl.load((lse + statistics + token)[:, None], mask=there[:, None], other=-float("inf"))
            row_delta = tl.load((delta + statistics + token)[:, None], mask=there[:, None], other=0.0)
            empty = row_lse == -float("inf")
            lse2 = tl.sum(tl.where(empty, float("inf"), row_lse * 1.4426950408889634), 1)
            row_delta = tl.sum(tl.where(empty, 0.0, row_delta), 1)
            if WIDEN:
                rows, grads = rows.to(tl.float32), grads.to(tl.float32)
            dp = tl.dot(values, tl.trans(grads)) - row_delta[None]
            s = tl.dot(keys, tl.trans(rows)) * scale2 - lse2[None]
            if RULE:  # noqa: SIM102 - the outer one is decided when the kernel is compiled
                if masked:
                    kept = keeps(
                        tl.load(q_packed + q_rule + token, mask=there, other=0)[None],
                        tl.load(q_high + q_rule + token, mask=there, other=0)[None],
                        tl.load(q_text + token, mask=there, other=0)[None],
                        tl.load(k_packed + k_rule + key)[:, None],
                        tl.load(k_low + k_rule + key)[:, None],
                        tl.load(k_text + k_rule + key)[:, None],
                        guard,
                    )
                    s = tl.where(kept, s, -float("inf"))
            p = tl.exp2(s)
            dv_acc = tl.dot(p.to(grads.dtype), grads, dv_acc)
            dk_acc = tl.dot((p * dp).to(rows.dtype), rows, dk_acc)
            place += STEP
            over = place >= last
            segment += over.to(tl.int32)
            next_last = tl.load(segments + segment * 2 + 1)
            masked = next_last < 0
            place = tl.where(over, tl.load(segments + segment * 2), place)
            last = tl.abs(next_last)
    position = begin + tl.arange(0, KEYS)
    inside = (position < end)[:, None]
    if HEAD_DIM < D:
        inside = inside & (column < HEAD_DIM)[None]
    token_key = key.to(tl.int64)
    if ORDERED:
        token_key = tl.load(token_of + kv_head.to(tl.int64) * by_head + key.to(tl.int64))
    out = (kv_head.to(tl.int64) * tokens + token_key)[:, None] * HEAD_DIM + column[None]
    tl.store(dk + out, (dk_acc * scale).to(dk.dtype.element_ty), mask=inside)
    tl.store(dv + out, dv_acc.to(dv.dtype.element_ty), mask=inside)
