"""Cuts of each query separately, by a threshold on the shares of its blocks or by a number of blocks.

A row is short, so it stays in registers: the scores are read once, and the result is written once. The cut is the
largest weight of a score at or above which enough of the row lies. It is found bit by bit, so the work grows with the
number of blocks, not with its square. Weights spread the scores of a row evenly, so 17 bits nearly always leave one
score at the cut. If they leave more, 32 bits of the images of the scores separate all that are not equal. Among equal
scores, the first blocks are kept.

Predicted for 12 × 55,296 queries of 72 blocks on an H100: 191 + 48 MB, 0.08 ms at 3 TB/s. But a step takes 3 (count) or
8 (threshold) instructions per padded lane and about ten per row: 0.6 and 1.0 ms instead of 1.1 and more with 32 steps.
The kernels are limited by instructions.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.selection.cut_heads import check_scores
from attnbench.kernels.gpu.widen import ceil_div, jit, order_image, power_of_2, weigh, weight_scale

LANES = 1024  # pairs that a program holds
BITS = 17  # of a weight, which nearly always separate the scores around the cut


def cut_threshold_query(scores: Tensor, own: Tensor, threshold: float) -> Tensor:
    """Keep, for each query, its own block and then its best others until their shares reach ``threshold``.

    The result equals ``selection.threshold_per_query`` in float64, with the weights of ``widen``.

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
    """Keep each query's own block and its k - 1 best others. Scores of -inf are never kept.

    The result equals ``selection.top_k_per_query``.

    Args:
        scores: float32 [B, H, N, blocks], contiguous.
        own: int64 [N], each query's own block.
        k: blocks that a query keeps, its own included.

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
    columns = power_of_2(blocks)
    rows = max(1, LANES // columns)
    launch(
        _cut_rows, (ceil_div(batch * heads * n, rows),), (scores, own, keep.view(torch.uint8)),
        (batch * heads * n, n, blocks, amount), COUNT=count, ROWS=rows, COLUMNS=columns, BITS=BITS, num_warps=4,
    )  # fmt: skip
    return keep


@jit
def _add_up(weight: tl.tensor) -> tl.tensor:
    """Add up the weights of each row exactly, int64, in halves of 15 and 16 bits: 32-bit integers reduce fastest."""
    upper = tl.sum(weight >> 16, 1).to(tl.int64)
    return (upper << 16) + tl.sum(weight & 0xFFFF, 1).to(tl.int64)


@jit
def _cut_rows(
    scores: tl.tensor, own: tl.tensor, keep: tl.tensor, rows: tl.tensor, n: tl.tensor, blocks: tl.tensor,
    amount: tl.tensor, COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    exists = (row < rows)[:, None] & (column < blocks)[None, :]
    at = row[:, None] * blocks + column[None, :]
    x = tl.load(scores + at, mask=exists, other=-float("inf"))
    is_own = tl.load(own + row % n, mask=row < rows, other=-1)[:, None] == column[None, :]
    rival = (x > -float("inf")) & ~is_own
    low = tl.min(tl.where(exists & (x > -float("inf")), x, float("inf")), 1)
    high = tl.max(x, 1)
    some = low <= high
    low, high = tl.where(some, low, 0.0), tl.where(some, high, 0.0)
    first, second = weight_scale(low, high)
    weight = weigh(tl.where(x > -float("inf"), x, low[:, None]), low[:, None], first[:, None], second[:, None])
    key = tl.where(rival, weight, -1)
    if COUNT:
        target = tl.zeros([ROWS], tl.int32) + amount
    else:
        total, mine = _add_up(tl.where(exists, weight, 0)), _add_up(tl.where(is_own, weight, 0))
        one = tl.full([], 1 << 60, tl.int64)
        # A whole number reaches the threshold where it reaches the next whole number.
        missing = total.to(tl.float64) * ((one * 0 + amount).to(tl.float64) / one.to(tl.float64)) - mine.to(tl.float64)
        target = tl.maximum(missing, 0.0).to(tl.int64)
        target += (target.to(tl.float64) < missing).to(tl.int64)
        target = tl.where(amount >= one, tl.maximum(total - mine, 0), target)

    # Bit by bit: the highest weight, of those with these bits only, at or above which enough lies.
    cut = tl.zeros([ROWS], tl.int32)
    for step in tl.static_range(BITS):
        pivot = cut + (1 << (29 - step))
        cut = tl.where(_reached(key >= pivot[:, None], weight, target, COUNT), pivot, cut)
    end = tl.where(cut == (1 << 30) - (1 << (30 - BITS)), 0x7FFFFFFF, cut + (1 << (30 - BITS)))
    better = key >= end[:, None]
    tied = (key >= cut[:, None]) & ~better
    if tl.max(tl.sum(tied.to(tl.int32), 1), 0) > 1:
        # Some row has several pairs there: the same search over the images of all scores separates all but equal ones.
        # No score has the image of the smallest integer, so pairs that are not rivals are never counted.
        image = tl.where(rival, order_image(x), -0x80000000)
        cut = tl.full([ROWS], -0x80000000, tl.int32)
        bit = tl.full([], -0x80000000, tl.int32)
        for _ in range(32):
            pivot = cut + bit
            cut = tl.where(_reached(image >= pivot[:, None], weight, target, COUNT), pivot, cut)
            bit = (bit >> 1) & 0x7FFFFFFF
        better = rival & (image > cut[:, None])
        tied = rival & (image == cut[:, None])
    number = tl.sum(better.to(tl.int32), 1)
    before = tl.cumsum(tied.to(tl.int32), 1) - 1
    if COUNT:
        needed = before < (target - number)[:, None]
    else:
        missing_still = target - _add_up(tl.where(better, weight, 0))
        needed = before * weight.to(tl.int64) < missing_still[:, None]
        needed = needed | ((before == 0) & (number == 0)[:, None])
    tl.store(keep + at, (is_own | better | (tied & needed)).to(tl.uint8), mask=exists)


@jit
def _reached(beats: tl.tensor, weight: tl.tensor, target: tl.tensor, COUNT: tl.constexpr) -> tl.tensor:
    """Return whether the pairs of each row that beat a pivot are enough and, if shares count, at least one."""
    number = tl.sum(beats.to(tl.int32), 1)
    if COUNT:
        return number >= target
    else:  # noqa: RET505  # Triton compiles one branch of a compile-time condition only where both are written out
        return (_add_up(tl.where(beats, weight, 0)) >= target) & (number > 0)
