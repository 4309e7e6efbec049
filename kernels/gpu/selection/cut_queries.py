"""Cuts of each query separately, by a threshold on the shares of its blocks or by a number of blocks.

A row is short, so a thread holds all of it: tiles are [blocks, queries], and scores lie block by block in memory (see
``scoring.score``), so neighbouring threads read neighbouring queries, and a sum over a row needs no other thread. The
scores are read once, and the result is written once, in the same order.

A number of blocks is cut by halving the range of a row until a pivot leaves as many scores at or above it. Rows settle
after 12 steps, if scores are as close as those of random inputs. If scores are equal, or nearly so, and a row has not
settled after 24, 32 bits of the images of the scores separate all that are not equal. A threshold is cut bit by bit, by
17 bits of the weights, which nearly always leave one score at the cut, and else by the images. Among equal scores, the
first blocks are kept.

Predicted for 12 × 32,760 queries of 72 blocks on an H100: 113 + 28 MB, 0.05 ms at 3 TB/s. A step takes 2 instructions a
pair (count) or 5 (threshold): 0.06 ms for 12 steps, 0.15 ms for 17. A row spread over a warp took 0.86 ms for a count,
because each sum took five shuffles, and 72 blocks the time of 128.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.selection.cut_heads import check_shapes
from attnbench.kernels.gpu.widen import ceil_div, jit, order_image, power_of_2, weigh, weight_scale

QUERIES = 32  # that a program takes: as many as a warp has threads
HELD = 128  # most pairs of a query that a thread holds for a count
HELD_SHARES = (
    64  # and for a threshold, where it holds more of each pair; with 128, 3.7 KB spill on compute capability 12.0
)
STEPS = 24  # after which scores are so close that their images are compared
BITS = 17  # of a weight, which nearly always separate the scores around the cut


def cut_threshold_query(scores: Tensor, own: Tensor, threshold: float) -> Tensor:
    """Keep, for each query, its own block and then its best others until their shares reach ``threshold``.

    The result equals ``selection.threshold_per_query`` in float64, with the weights of ``widen``.

    Args:
        scores: float32 [B, H, N, blocks], finite. If the scores of a block are not contiguous, they are copied first.
        own: int64 [N], each query's own block.
        threshold: in (0, 1].

    Returns:
        bool [B, H, N, blocks], with strides […, 1, N].

    Raises:
        BadInput: for another threshold, or shapes that do not fit each other.
        Unsupported: for another dtype, and for 2^31 pairs a head or more.
    """
    if not 0 < threshold <= 1:
        raise BadInput(f"threshold is {threshold!r}; it must be a number above 0 and at most 1")
    return _cut(scores, own, round(threshold * 2**60), False)


def cut_top_k_query(scores: Tensor, own: Tensor, k: int) -> Tensor:
    """Keep each query's own block and its k - 1 best others. Scores of -inf are never kept.

    The result equals ``selection.top_k_per_query``.

    Args:
        scores: float32 [B, H, N, blocks]. If the scores of a block are not contiguous, they are copied first.
        own: int64 [N], each query's own block.
        k: blocks that a query keeps, its own included.

    Returns:
        bool [B, H, N, blocks], with strides […, 1, N].

    Raises:
        BadInput: if the shapes do not fit each other.
        Unsupported: for another dtype, and for 2^31 pairs a head or more.
    """
    return _cut(scores, own, min(max(0, k - 1), scores.shape[-1]), True)


def _cut(scores: Tensor, own: Tensor, amount: int, count: bool) -> Tensor:
    check_shapes(scores, own)
    batch, heads, n, blocks = scores.shape
    by_block = scores.mT.contiguous()
    keep = torch.empty(by_block.shape, dtype=torch.bool, device=scores.device)
    columns = power_of_2(blocks)
    held = HELD if count else HELD_SHARES
    warps = max(1, min(16, columns // held))
    queries = max(1, min(QUERIES, QUERIES * 16 * held // columns))
    launch(
        _cut_rows, (ceil_div(n, queries), batch * heads), (by_block, own, keep.view(torch.uint8)), (n, amount),
        COUNT=count, QUERIES=queries, BLOCKS=blocks, COLUMNS=columns, STEPS=STEPS, BITS=BITS, num_warps=warps,
    )  # fmt: skip
    return keep.mT


@jit
def _cut_rows(
    scores: tl.tensor, own: tl.tensor, keep: tl.tensor, n: tl.tensor, amount: tl.tensor, COUNT: tl.constexpr,
    QUERIES: tl.constexpr, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr, BITS: tl.constexpr,
) -> None:  # fmt: skip
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    block = tl.arange(0, COLUMNS)
    # n >> 31 is 0, which the compiler does not know: where it sees that four neighbouring scores are aligned, it gives
    # each thread four queries, and spreads their blocks over threads.
    head = tl.program_id(1).to(tl.int64) * n * BLOCKS + (n >> 31)
    exists = (block < BLOCKS)[:, None] & (query < n)[None, :]
    at = block[:, None] * n + query[None, :]
    mine = tl.load(own + query, mask=query < n, other=-1).to(tl.int32)
    if COUNT:
        kept = _best(scores + head + at, exists, mine, amount, STEPS)
    else:
        kept = _enough(scores + head + at, exists, mine, amount, BITS)
    tl.store(keep + head + at, (kept | (mine[None, :] == block[:, None])).to(tl.uint8), mask=exists)


@jit
def _best(scores: tl.tensor, exists: tl.tensor, mine: tl.tensor, amount: tl.tensor, STEPS: tl.constexpr) -> tl.tensor:
    """Return which pairs are the ``amount`` best ones of their row, apart from the own one and those of -inf."""
    x = tl.load(scores, mask=exists, other=-float("inf"))
    others = tl.where((x > -float("inf")) & ~_is_own(mine, scores), x, -float("inf"))
    low = tl.min(tl.where(others > -float("inf"), others, float("inf")), 0)
    number = tl.sum((others > -float("inf")).to(tl.int32), 0)
    target = tl.minimum(number, amount)
    settled = (target == number) | (target == 0)
    high = tl.where(settled, low, tl.max(others, 0))
    step = tl.full([], 0, tl.int32)
    while (step < STEPS) & (tl.max((~settled).to(tl.int32), 0) > 0):
        pivot = low * 0.5 + high * 0.5
        reached = tl.sum((others >= pivot[None, :]).to(tl.int32), 0)
        low = tl.where((reached >= target) & ~settled, pivot, low)
        high = tl.where((reached < target) & ~settled, pivot, high)
        settled = settled | (reached == target)
        step += 1
    low = tl.where(target > 0, low, float("inf"))
    kept = (others >= low[None, :]) & (target > 0)[None, :]
    if tl.max((~settled).to(tl.int32), 0) > 0:
        # No score has the image of the smallest integer, so pairs that do not take part are never counted.
        image = tl.where(others > -float("inf"), order_image(others), -0x80000000)
        cut = tl.full(target.shape, -0x80000000, tl.int32)
        bit = tl.full([], -0x80000000, tl.int32)
        for _ in range(32):
            other = cut + bit
            cut = tl.where(tl.sum((image >= other[None, :]).to(tl.int32), 0) >= target, other, cut)
            bit = (bit >> 1) & 0x7FFFFFFF
        better = image > cut[None, :]
        tied = (image == cut[None, :]) & (others > -float("inf"))
        missing = target - tl.sum(better.to(tl.int32), 0)
        before = tl.cumsum(tied.to(tl.int32), 0) - 1
        kept = better | (tied & (before < missing[None, :]))
    return kept


@jit
def _is_own(mine: tl.tensor, like: tl.tensor) -> tl.tensor:
    """Return which pairs of a tile consist of a query and its own block."""
    return mine[None, :] == tl.arange(0, like.shape[0])[:, None]


@jit
def _enough(scores: tl.tensor, exists: tl.tensor, mine: tl.tensor, amount: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """Return which pairs, apart from the own one, are the best of their row until shares reach ``amount`` / 2^60."""
    x = tl.load(scores, mask=exists, other=-float("inf"))
    valid = x > -float("inf")
    is_own = _is_own(mine, scores)
    low = tl.min(tl.where(valid, x, float("inf")), 0)
    high = tl.max(x, 0)
    some = low <= high
    low, high = tl.where(some, low, 0.0), tl.where(some, high, 0.0)
    first, second = weight_scale(low, high)
    weight = weigh(tl.where(valid, x, low[None, :]), low[None, :], first[None, :], second[None, :])
    total = tl.sum(tl.where(exists, weight, 0).to(tl.int64), 0)
    own = tl.sum(tl.where(is_own & exists, weight, 0).to(tl.int64), 0)
    one = tl.full([], 1 << 60, tl.int64)
    # A whole number reaches the threshold where it reaches the next whole number.
    missing = total.to(tl.float64) * ((one * 0 + amount).to(tl.float64) / one.to(tl.float64)) - own.to(tl.float64)
    target = tl.maximum(missing, 0.0).to(tl.int64)
    target += (target.to(tl.float64) < missing).to(tl.int64)
    target = tl.where(amount >= one, tl.maximum(total - own, 0), target)

    # Bit by bit: the highest weight, of those with these bits only, at or above which enough lies.
    key = tl.where(valid & ~is_own, weight, -1)
    highest = tl.max(key, 0)
    cut = tl.zeros(low.shape, tl.int32)
    for step in tl.static_range(BITS):
        pivot = cut + (1 << (29 - step))
        cut = tl.where((_sum(key >= pivot[None, :], key) >= target) & (highest >= pivot), pivot, cut)
    end = tl.where(cut == (1 << 30) - (1 << (30 - BITS)), 0x7FFFFFFF, cut + (1 << (30 - BITS)))
    better = key >= end[None, :]
    tied = (key >= cut[None, :]) & ~better
    if tl.max(tl.sum(tied.to(tl.int32), 0), 0) > 1:
        # Some row has several pairs there: the same search over the images of all scores separates all but equal ones.
        # No score has the image of the smallest integer, so pairs that do not take part are never counted. The scores
        # are read again, because they would take as many registers as the weights.
        image = tl.where(key >= 0, order_image(tl.load(scores, mask=exists, other=0.0, volatile=True)), -0x80000000)
        best = tl.max(image, 0)
        cut = tl.full(low.shape, -0x80000000, tl.int32)
        bit = tl.full([], -0x80000000, tl.int32)
        for _ in range(32):
            pivot = cut + bit
            cut = tl.where((_sum(image >= pivot[None, :], key) >= target) & (best >= pivot), pivot, cut)
            bit = (bit >> 1) & 0x7FFFFFFF
        better = image > cut[None, :]
        tied = (image == cut[None, :]) & (key >= 0)
    number = tl.sum(better.to(tl.int32), 0)
    before = tl.cumsum(tied.to(tl.int32), 0) - 1
    missing_still = target - _sum(better, key)
    needed = before * key.to(tl.int64) < missing_still[None, :]
    return better | (tied & (needed | ((before == 0) & (number == 0)[None, :])))


@jit
def _sum(chosen: tl.tensor, weight: tl.tensor) -> tl.tensor:
    """Add up the chosen weights of each row exactly."""
    return tl.sum(tl.where(chosen, weight, 0).to(tl.int64), 0)
