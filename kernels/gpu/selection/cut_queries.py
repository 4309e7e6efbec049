"""The cuts of each query apart: by a threshold on the shares of its blocks, or by a number of blocks.

A row is short, so it stays in registers: one read of the scores, one write of the result. Thirty-two steps find the
cut, bit by bit, as the largest image of a score at or above which enough of the row lies: work grows with the blocks,
not with their square. Among equal scores at the cut the first blocks are kept.

Predicted for 12 × 55,296 queries of 72 blocks on an H100: 191 + 48 MB, 0.08 ms at 3 TB/s, but 32 × 128 padded lanes ×
3 (count) or 8 (threshold) instructions a row: 0.3 and 0.8 ms. The kernels are bound by instructions.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.gpu.selection.cut_heads import check_scores
from attnbench.kernels.gpu.widen import jit, order_image, weigh, weight_scale

LANES = 1024  # pairs a program holds


def cut_threshold_query(scores: Tensor, own: Tensor, threshold: float) -> Tensor:
    """Keep, for each query, its own block and then its best others until their shares reach ``threshold``.

    Equal to ``selection.threshold_per_query`` in float64; weights are those of ``widen``.

    Args:
        scores: float32 [B, H, N, blocks], contiguous, finite.
        own: int64 [N], each query's own block.
        threshold: in (0, 1].

    Returns:
        bool [B, H, N, blocks].

    Raises:
        BadInput: for another threshold, or shapes that do not fit each other.
        Unsupported: for another dtype, or scores that are not contiguous.
    """
    if not 0 < threshold <= 1:
        raise BadInput(f"threshold is {threshold!r}; it must be a number above 0 and at most 1")
    return _cut(scores, own, round(threshold * 2**60), False)


def cut_top_k_query(scores: Tensor, own: Tensor, k: int) -> Tensor:
    """Keep each query's own block and its k - 1 best others; scores of -inf are never kept.

    Equal to ``selection.top_k_per_query``.

    Args:
        scores: float32 [B, H, N, blocks], contiguous.
        own: int64 [N], each query's own block.
        k: blocks a query keeps, its own included.

    Returns:
        bool [B, H, N, blocks].

    Raises:
        BadInput: if the shapes do not fit each other.
        Unsupported: for another dtype, or scores that are not contiguous.
    """
    return _cut(scores, own, min(max(0, k - 1), scores.shape[-1]), True)


def _cut(scores: Tensor, own: Tensor, amount: int, count: bool) -> Tensor:
    check_scores(scores, own)
    batch, heads, n, blocks = scores.shape
    keep = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    columns = triton.next_power_of_2(blocks)
    rows = max(1, LANES // columns)
    _cut_rows[(triton.cdiv(batch * heads * n, rows),)](
        scores, own, keep.view(torch.uint8), batch * heads * n, n, blocks, amount,
        COUNT=count, ROWS=rows, COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return keep


@jit
def _cut_rows(
    scores: tl.tensor, own: tl.tensor, keep: tl.tensor, rows: tl.tensor, n: tl.tensor, blocks: tl.tensor,
    amount: tl.tensor, COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    exists = (row < rows)[:, None] & (column < blocks)[None, :]
    at = row[:, None] * blocks + column[None, :]
    x = tl.load(scores + at, mask=exists, other=-float("inf"))
    is_own = tl.load(own + row % n, mask=row < rows, other=-1)[:, None] == column[None, :]
    rival = (x > -float("inf")) & ~is_own
    # No score has the image of the least integer, so what is no rival is never counted.
    image = tl.where(rival, order_image(x), -0x80000000)
    if COUNT:
        weight = rival.to(tl.int32)
        target = tl.zeros([ROWS], tl.int32) + amount
    else:
        low = tl.min(tl.where(exists, x, float("inf")), 1)
        high = tl.max(x, 1)
        low, high = tl.where(row < rows, low, 0.0), tl.where(row < rows, high, 0.0)
        first, second = weight_scale(low, high)
        weight = weigh(tl.where(exists, x, low[:, None]), low[:, None], first[:, None], second[:, None])
        weight = tl.where(exists, weight, 0).to(tl.int64)
        total, mine = tl.sum(weight, 1), tl.sum(tl.where(is_own, weight, 0), 1)
        weight = tl.where(rival, weight, 0)
        one = tl.full([], 1 << 60, tl.int64)
        # A whole number reaches the threshold where it reaches the next whole number.
        missing = total.to(tl.float64) * ((one * 0 + amount).to(tl.float64) / one.to(tl.float64)) - mine.to(tl.float64)
        target = tl.maximum(missing, 0.0).to(tl.int64)
        target += (target.to(tl.float64) < missing).to(tl.int64)
        target = tl.where(amount >= one, tl.maximum(total - mine, 0), target)
    cut = tl.full([ROWS], -0x80000000, tl.int64)
    step = tl.full([], 1 << 31, tl.int64)
    for _ in range(32):
        pivot = cut + step
        beats = image >= pivot.to(tl.int32)[:, None]
        reached = tl.sum(tl.where(beats, weight, 0), 1) >= target
        if not COUNT:
            reached = reached & (tl.max(beats.to(tl.int32), 1) > 0)
        cut = tl.where(reached, pivot, cut)
        step = step >> 1
    cut_image = cut.to(tl.int32)[:, None]
    better = rival & (image > cut_image)
    tied = rival & (image == cut_image)
    missing_still = target - tl.sum(tl.where(better, weight, 0), 1)
    before = tl.cumsum(tied.to(tl.int32), 1) - 1
    needed = before * weight < missing_still[:, None]
    if not COUNT:
        lonely = tl.max(better.to(tl.int32), 1) == 0
        needed = needed | ((before == 0) & lonely[:, None])
    tl.store(keep + at, (is_own | better | (tied & needed)).to(tl.uint8), mask=exists)
