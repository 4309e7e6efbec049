"""Probes of attention: outputs of some queries under several masks, and shares of weights near the diagonal.

No score is written. Queries under masks are few and keys are many, so keys are split among programs, and a second
kernel joins their parts by their log-sum-exps.

Predicted for 12 heads, 64 queries, 75,600 × 128 bfloat16 keys and two masks besides none, on an H100: 464 MB read three
times, mostly from the L2 cache, 0.3 ms; for shares in bands of 3,600 × 3,600 tokens, 40 GFLOP, below 0.1 ms.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.selection.below import key_scores
from attnbench.kernels.gpu.selection.scoring import in_three
from attnbench.kernels.gpu.widen import (
    INTERPRETED,
    ceil_div,
    check_dtype,
    check_queries_and_keys,
    check_unit_stride,
    jit,
    power_of_2,
)
from attnbench.kernels.probes import MASK_ROOM, in_mask_rows

ROWS = 64
WIDE_ROWS = 32
"""Queries of a program, and for outputs of other values than bfloat16, whose products take more registers."""

KEYS = MASK_ROOM
SPLIT = 2048
"""Keys of one part of masked outputs."""


def masked_outputs(q: Tensor, k: Tensor, v: Tensor, masks: Tensor, scale: float) -> Tensor:
    """Attend with queries of each head without a mask and under each mask; see ``kernels.probes.masked_outputs``.

    Args:
        q: float32, float16 or bfloat16 [B, H, R, D], the last stride 1.
        k, v: [B, KV heads, N, D], likewise; KV heads divides H.
        masks: bool [M, R, N]. Those of ``in_mask_rows`` are read as they are, others are copied.
        scale: factor of the scores.

    Returns:
        float32 [M + 1, B, H, R, D].

    Raises:
        Unsupported: for another dtype or stride.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_dtype(name, x, torch.float32, torch.float16, torch.bfloat16)
        check_unit_stride(name, x)
    batch, heads, rows, dim = q.shape
    n, kinds, parts = k.shape[2], len(masks) + 1, ceil_div(k.shape[2], SPLIT)
    columns, exact = max(16, power_of_2(dim)), v.dtype == torch.bfloat16
    size = ROWS if exact else WIDE_ROWS
    partial = torch.empty(kinds, batch * heads, parts, rows, dim, dtype=torch.float32, device=q.device)
    sums = torch.empty(kinds, batch * heads, parts, rows, 2, dtype=torch.float32, device=q.device)
    masks = in_mask_rows(masks)
    launch(
        _attend_part, (parts * ceil_div(rows, size), kinds, batch * heads),
        (q, k, v, masks.view(torch.uint8), partial, sums),
        (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *masks.stride()[:2], heads, heads // k.shape[1], rows, n,
         dim, parts, float(scale)),
        ROWS=size, KEYS=KEYS, SPLIT=SPLIT, DIM=columns, EXACT=exact, WIDE=INTERPRETED,
        num_warps=4 if exact else 8, num_stages=2,
    )  # fmt: skip
    output = torch.empty(kinds, batch, heads, rows, dim, dtype=torch.float32, device=q.device)
    launch(_join_parts, (rows, kinds * batch * heads), (partial, sums, output), (parts, dim), DIM=columns, num_warps=4)
    return output


def band_shares(q: Tensor, k: Tensor, reach: int, scale: float) -> Tensor:
    """Return the share of each query's weights on keys near its own place; see ``kernels.probes.band_shares``.

    Args:
        q: float32, float16 or bfloat16 [B, H, n, D], the last stride 1.
        k: [B, KV heads, n, D], likewise; KV heads divides H.
        reach: largest distance of places.
        scale: factor of the scores.

    Returns:
        float32 [B, H, n].

    Raises:
        BadInput: if the shapes do not fit each other.
        Unsupported: for another dtype or stride.
    """
    check_queries_and_keys(q, k)
    batch, heads, n, dim = q.shape
    shares = torch.empty(batch, heads, n, dtype=torch.float32, device=q.device)
    launch(
        _band_shares, (ceil_div(n, ROWS), batch * heads), (q, k, shares),
        (*q.stride()[:3], *k.stride()[:3], heads, heads // k.shape[1], n, dim, reach, float(scale)),
        ROWS=ROWS, KEYS=KEYS, DIM=max(16, power_of_2(dim)), WIDE=INTERPRETED, num_warps=4, num_stages=2,
    )  # fmt: skip
    return shares


@jit
def _add_values(p: tl.tensor, y: tl.tensor, acc: tl.tensor, EXACT: tl.constexpr, WIDE: tl.constexpr) -> tl.tensor:
    """Add p · y in the precision of float32; p is float32. With EXACT, y is bfloat16 and so are three parts of p."""
    if EXACT and not WIDE:
        large, middle, small = in_three(p)
        acc = tl.dot(small.to(tl.bfloat16), y, acc)
        acc = tl.dot(middle.to(tl.bfloat16), y, acc)
        return tl.dot(large.to(tl.bfloat16), y, acc)
    else:  # noqa: RET505  # Triton compiles one branch of a compile-time condition only where both are written out
        return tl.dot(p, y.to(tl.float32), acc, input_precision="tf32x3")


@jit
def _attend_part(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, masks: tl.tensor, partial: tl.tensor, sums: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qn: tl.tensor,
    stride_kb: tl.tensor, stride_kh: tl.tensor, stride_kn: tl.tensor,
    stride_vb: tl.tensor, stride_vh: tl.tensor, stride_vn: tl.tensor, stride_mk: tl.tensor, stride_mr: tl.tensor,
    heads: tl.tensor, group: tl.tensor, rows: tl.tensor, n: tl.tensor, dim: tl.tensor, parts: tl.tensor,
    scale: tl.tensor, ROWS: tl.constexpr, KEYS: tl.constexpr, SPLIT: tl.constexpr, DIM: tl.constexpr,
    EXACT: tl.constexpr, WIDE: tl.constexpr,
) -> None:  # fmt: skip
    """Attend with rows of a head to one part of the keys, without a mask in the first kind, with one in the others."""
    part, kind, head = tl.program_id(0) % parts, tl.program_id(1), tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) // parts * ROWS + tl.arange(0, ROWS).to(tl.int64)
    d = tl.arange(0, DIM)
    q += (head // heads) * stride_qb + (head % heads) * stride_qh
    k += (head // heads) * stride_kb + (head % heads) // group * stride_kh
    v += (head // heads) * stride_vb + (head % heads) // group * stride_vh
    inside = (row < rows)[:, None] & (d < dim)[None, :]
    x = tl.load(q + row[:, None] * stride_qn + d[None, :], mask=inside, other=0.0)
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, DIM], tl.float32)
    masks += (tl.maximum(kind, 1) - 1).to(tl.int64) * stride_mk + row[:, None] * stride_mr
    is_masked = (row < rows)[:, None] & (kind > 0)
    for start in range(part * SPLIT, tl.minimum(part * SPLIT + SPLIT, n), KEYS):
        token = start + tl.arange(0, KEYS).to(tl.int64)
        s = key_scores(x, k, token, token < n, stride_kn, dim, scale, DIM, WIDE)
        # No branch: a loop with one waits for its loads. Rows of masks have room for keys beyond the last.
        s = tl.where(tl.load(masks + token[None, :], mask=is_masked, other=1) != 0, s, -float("inf"))
        new = tl.maximum(top, tl.max(s, 1))
        anchor = tl.where(new > -float("inf"), new, 0.0)
        p = tl.exp(s - anchor[:, None])
        decay = tl.exp(top - anchor)
        y = tl.load(
            v + token[:, None] * stride_vn + d[None, :], mask=(token < n)[:, None] & (d < dim)[None, :], other=0.0
        )
        total = total * decay + tl.sum(p, 1)
        acc = _add_values(p, y, acc * decay[:, None], EXACT, WIDE)
        top = new
    at = ((kind * tl.num_programs(2) + head) * parts + part) * rows + row
    tl.store(partial + at[:, None] * dim + d[None, :], acc, mask=inside)
    tl.store(sums + at * 2, top, mask=row < rows)
    tl.store(sums + at * 2 + 1, total, mask=row < rows)


@jit
def _join_parts(
    partial: tl.tensor, sums: tl.tensor, output: tl.tensor, parts: tl.tensor, dim: tl.tensor, DIM: tl.constexpr
) -> None:
    row, kind = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows, d = tl.num_programs(0), tl.arange(0, DIM)
    top = tl.full([], -float("inf"), tl.float32)
    for part in range(parts):
        top = tl.maximum(top, tl.load(sums + ((kind * parts + part) * rows + row) * 2))
    anchor = tl.where(top > -float("inf"), top, 0.0)
    total = tl.full([], 0.0, tl.float32)
    acc = tl.zeros([DIM], tl.float32)
    for part in range(parts):
        at = (kind * parts + part) * rows + row
        weight = tl.exp(tl.load(sums + at * 2) - anchor)
        total += weight * tl.load(sums + at * 2 + 1)
        acc += weight * tl.load(partial + at * dim + d, mask=d < dim, other=0.0)
    tl.store(output + (kind * rows + row) * dim + d, acc / tl.where(total > 0, total, 1.0), mask=d < dim)


@jit
def _band_shares(
    q: tl.tensor, k: tl.tensor, shares: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qn: tl.tensor,
    stride_kb: tl.tensor, stride_kh: tl.tensor, stride_kn: tl.tensor,
    heads: tl.tensor, group: tl.tensor, n: tl.tensor, dim: tl.tensor, reach: tl.tensor, scale: tl.tensor,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    d = tl.arange(0, DIM)
    q += (head // heads) * stride_qb + (head % heads) * stride_qh
    k += (head // heads) * stride_kb + (head % heads) // group * stride_kh
    x = tl.load(q + row[:, None] * stride_qn + d[None, :], mask=(row < n)[:, None] & (d < dim)[None, :], other=0.0)
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    near = tl.zeros([ROWS], tl.float32)
    for start in range(0, n, KEYS):
        token = start + tl.arange(0, KEYS).to(tl.int64)
        s = key_scores(x, k, token, token < n, stride_kn, dim, scale, DIM, WIDE)
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.exp(s - new[:, None])
        decay = tl.exp(top - new)
        apart = token[None, :] - row[:, None]
        total = total * decay + tl.sum(p, 1)
        near = near * decay + tl.sum(tl.where((apart <= reach) & (apart >= -reach), p, 0.0), 1)
        top = new
    tl.store(shares + head * n + row, near / total, mask=row < n)
