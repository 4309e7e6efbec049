"""Scores of queries against block means on tensor cores, with the precision of float32 dot products.

A float32 mean is exactly the sum of three bfloat16 numbers of 8 bits each, and a product of two bfloat16 numbers is
exact in float32. So for bfloat16 queries, three tensor-core products, the smallest part first, round only in the
accumulation, where a float32 dot product also rounds. Other queries are multiplied in float32 without tensor cores.

Predicted for 12 heads of 55,296 × 128 bfloat16 queries and 72 blocks: 170 MB read and 191 MB written, 0.12 ms at
3 TB/s; 3 × 16 GFLOP on tensor cores (columns are padded to 96), 0.08 ms, hidden behind them.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import (
    INTERPRETED,
    ceil_div,
    check_dtype,
    check_unit_stride,
    jit,
    order_image,
    power_of_2,
)

LEAST_IMAGE = -(2**31)
ROWS_EXACT = 128
ROWS_FLOAT32 = 32
"""Number of queries that one program scores: for bfloat16, and for other dtypes."""


def score(q: Tensor, means: Tensor, *, by_block: bool = False) -> tuple[Tensor, Tensor]:
    """Score every query against every block mean: plain dot products, without softmax or 1/√d.

    Args:
        q: float32, float16 or bfloat16 [B, H, N, D], any strides with the last 1.
        means: float32 [B, KV heads, blocks, D], any strides with the last 1; KV heads divides H.
        by_block: lay the scores of each block side by side, as the cuts of single queries read them fastest. Extremes,
            which these do not need, are then left out.

    Returns:
        Scores float32 [B, H, N, blocks], and the extremes of each head, int32 [B·H, 2], from which the cuts of whole
        heads start; see ``new_extremes``. With ``by_block``, scores with strides […, 1, N], and int32 [0, 2].

    Raises:
        BadInput: if the shapes do not fit each other.
        Unsupported: for another dtype or stride.
    """
    check_dtype("q", q, torch.float32, torch.float16, torch.bfloat16)
    check_dtype("means", means, torch.float32)
    check_unit_stride("q", q)
    check_unit_stride("means", means)
    batch, heads, n, dim = q.shape
    kv_heads, blocks = means.shape[1:3]
    if means.shape[0] != batch or means.shape[3] != dim or heads % kv_heads:
        raise BadInput(
            f"means are {list(means.shape)}; for q {list(q.shape)} they must be [{batch}, KV heads, …, {dim}]"
        )
    if by_block:
        scores = q.new_empty(batch, heads, blocks, n, dtype=torch.float32).mT
        extremes = q.new_empty(0, 2, dtype=torch.int32)
    else:
        scores = q.new_empty(batch, heads, n, blocks, dtype=torch.float32)
        extremes = new_extremes(batch * heads, q.device)
    exact = q.dtype == torch.bfloat16
    rows = ROWS_EXACT if exact else ROWS_FLOAT32
    width = 16 if blocks <= 16 else 32
    launch(
        _score, (ceil_div(n, rows), batch * heads), (q, means, scores, extremes),
        (*q.stride()[:3], *means.stride()[:3], heads, heads // kv_heads, n, blocks, dim),
        EXACT=exact, WIDE=INTERPRETED, BY_BLOCK=by_block, ROWS=rows, WIDTH=width, DIM=max(16, power_of_2(dim)),
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return scores, extremes


def new_extremes(heads: int, device: torch.device) -> Tensor:
    """Return initial extremes: int32 [heads, 2], the image of the highest score and the complement of the lowest's.

    Both grow as scores are added, so an atomic maximum works for both.
    """
    return torch.full((heads, 2), LEAST_IMAGE, dtype=torch.int32, device=device)


@jit
def _upper_half(x: tl.tensor) -> tl.tensor:
    """Cut a float32 to the 8 significant bits of a bfloat16."""
    return (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@jit
def in_three(x: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return three float32 with the values of bfloat16 whose sum is exactly x, the largest first."""
    large = _upper_half(x)
    middle = _upper_half(x - large)
    return large, middle, x - large - middle


@jit
def _times(x: tl.tensor, y: tl.tensor, total: tl.tensor, WIDE: tl.constexpr) -> tl.tensor:
    """Add x · yᵀ, where y holds bfloat16 values in float32. The interpreter needs both operands in float32."""
    if WIDE:
        return tl.dot(x.to(tl.float32), tl.trans(y), total, input_precision="ieee")
    else:  # noqa: RET505  # Triton compiles one branch of a compile-time condition only where both are written out
        return tl.dot(x, tl.trans(y.to(tl.bfloat16)), total)


@jit
def add_products(x: tl.tensor, y: tl.tensor, total: tl.tensor, EXACT: tl.constexpr, WIDE: tl.constexpr) -> tl.tensor:
    """Add x · yᵀ in the precision of float32; y is float32. With EXACT, x is bfloat16 and tensor cores multiply."""
    if EXACT:
        large, middle, small = in_three(y)
        total = _times(x, small, total, WIDE)
        total = _times(x, middle, total, WIDE)
        return _times(x, large, total, WIDE)
    else:  # noqa: RET505  # as above
        return tl.dot(x.to(tl.float32), tl.trans(y), total, input_precision="ieee")


@jit
def _score(
    q: tl.tensor, means: tl.tensor, scores: tl.tensor, extremes: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qn: tl.tensor,
    stride_mb: tl.tensor, stride_mh: tl.tensor, stride_mn: tl.tensor,
    heads: tl.tensor, group: tl.tensor, n: tl.tensor, blocks: tl.tensor, dim: tl.tensor,
    EXACT: tl.constexpr, WIDE: tl.constexpr, BY_BLOCK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    DIM: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    queries = tl.program_id(0) * ROWS + tl.arange(0, ROWS).to(tl.int64)
    d = tl.arange(0, DIM)
    q += (head // heads) * stride_qb + (head % heads) * stride_qh
    means += (head // heads) * stride_mb + (head % heads) // group * stride_mh
    x = tl.load(
        q + queries[:, None] * stride_qn + d[None, :], mask=(queries < n)[:, None] & (d < dim)[None, :], other=0.0
    )
    highest = tl.full([ROWS], -(2**31), tl.int32)
    lowest = tl.full([ROWS], -(2**31), tl.int32)
    for first in range(0, blocks, WIDTH):
        columns = first + tl.arange(0, WIDTH)
        mask = (columns < blocks)[:, None] & (d < dim)[None, :]
        y = tl.load(means + columns[:, None] * stride_mn + d[None, :], mask=mask, other=0.0)
        total = tl.zeros([ROWS, WIDTH], tl.float32)
        total = add_products(x, y, total, EXACT, WIDE)
        valid = (queries < n)[:, None] & (columns < blocks)[None, :]
        if BY_BLOCK:
            tl.store(scores + (head * blocks + columns[None, :]) * n + queries[:, None], total, mask=valid)
        else:
            tl.store(scores + (head * n + queries[:, None]) * blocks + columns[None, :], total, mask=valid)
            image = order_image(total)
            highest = tl.maximum(highest, tl.max(tl.where(valid, image, -(2**31)), 1))
            lowest = tl.maximum(lowest, tl.max(tl.where(valid, ~image, -(2**31)), 1))
    if not BY_BLOCK:
        tl.atomic_max(extremes + 2 * head, tl.max(highest, 0), sem="relaxed")
        tl.atomic_max(extremes + 2 * head + 1, tl.max(lowest, 0), sem="relaxed")
