"""Shares and cuts of rows of block pairs: the best key blocks of each row, by number or by mass, none of them forced.

A row stays in registers: its scores are read once, and the result is written once. The cut is found bit by bit, as the
largest value at or above which enough of the row lies: 32 steps over the images of scores, or 31 over the bits of
shares, which are not negative. Equal values at the cut are kept from the lower index. Sums of shares are float64, so
that only sums that reach the mass exactly could depend on the order of summation.

Predicted for 12 × 1,182 rows of 1,182 blocks (720p, 81 frames, blocks of 64) on an H100: 67 + 17 MB, 0.03 ms at 3 TB/s;
17 million pairs, padded to 29, of 32 steps of 3 instructions for a number, 0.1 ms, and of about 6 for a mass, 0.25 ms.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.errors import Unsupported
from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import ceil_div, check_dtype, jit, order_image, power_of_2
from attnbench.kernels.row_cuts import CROSSINGS, LEAST_VARIANCE

LANES = 1024
"""Number of pairs that a program holds if rows are short."""


def row_shares(scores: Tensor, scale: float, sizes: Tensor | None) -> Tensor:
    """Return the softmax of ``scale`` · ``scores`` over each row; see ``row_cuts.row_shares``.

    Args:
        scores: float32 [B, H, q blocks, k blocks], contiguous.
        scale: factor of the scores.
        sizes: tokens of each key block, [k blocks] or [B, H, k blocks], or None.

    Raises:
        Unsupported: for another dtype, or scores that are not contiguous.
    """
    rows, columns, per_program = _shape_of(scores)
    shares = torch.empty_like(scores)
    weights = scores if sizes is None else sizes.to(torch.float32).contiguous()
    launch(
        _row_shares, (ceil_div(rows, per_program),), (scores, weights, shares),
        (rows, scores.shape[3], float(scale), scores.shape[2] if sizes is not None and sizes.dim() == 3 else rows),
        HAS_SIZES=sizes is not None, ROWS=per_program, COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return shares


def cut_top_k_row(scores: Tensor, counts: Tensor) -> Tensor:
    """Keep the best key blocks of each row; see ``row_cuts.top_k_of_rows``.

    Args:
        scores: float32 [B, H, q blocks, k blocks], contiguous.
        counts: int64 [1] or [H].

    Raises:
        Unsupported: for another dtype, or scores that are not contiguous.
    """
    rows, columns, per_program = _shape_of(scores)
    keep = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    launch(
        _top_k_rows, (ceil_div(rows, per_program),), (scores, counts, keep.view(torch.uint8)),
        (rows, scores.shape[3], scores.shape[2], len(counts)),
        ROWS=per_program, COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return keep


def cut_mass_row(shares: Tensor, masses: Tensor, crossing: str, least: int) -> Tensor:
    """Keep the largest shares of each row up to a mass; see ``row_cuts.mass_of_rows``.

    Args:
        shares: float32 [B, H, q blocks, k blocks], contiguous, none negative.
        masses: float64 [1] or [H].
        crossing: one of ``row_cuts.CROSSINGS``.
        least: how many blocks a row keeps at least.

    Raises:
        Unsupported: for another dtype, or shares that are not contiguous.
    """
    rows, columns, per_program = _shape_of(shares)
    keep = torch.empty(shares.shape, dtype=torch.bool, device=shares.device)
    launch(
        _mass_rows, (ceil_div(rows, per_program),), (shares, masses, keep.view(torch.uint8)),
        (rows, shares.shape[3], shares.shape[2], len(masses), least),
        CROSSING=CROSSINGS.index(crossing), ROWS=per_program, COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return keep


def cut_above_mean_row(scores: Tensor, scale: float, tau: float, variances: Tensor | None, near: int) -> Tensor:
    """Keep the blocks far above the mean of their row, and the nearest; see ``row_cuts.above_mean_of_rows``.

    Args:
        scores: float32 [B, H, q blocks, k blocks], contiguous.
        scale: factor of the scores.
        tau: number of deviations.
        variances: [B, H, q blocks], or None.
        near: the largest distance of indices that is kept.

    Raises:
        Unsupported: for another dtype, or scores that are not contiguous.
    """
    rows, columns, per_program = _shape_of(scores)
    keep = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    spread = scores if variances is None else variances.to(torch.float32).contiguous()
    launch(
        _above_mean_rows, (ceil_div(rows, per_program),), (scores, spread, keep.view(torch.uint8)),
        (rows, scores.shape[3], scores.shape[2], scale, tau, LEAST_VARIANCE, near),
        HAS_SPREAD=variances is not None, ROWS=per_program, COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return keep


def _shape_of(scores: Tensor) -> tuple[int, int, int]:
    """Return the number of rows, their padded length, and how many of them a program takes."""
    check_dtype("scores", scores, torch.float32)
    if not scores.is_contiguous():
        raise Unsupported(f"scores have strides {tuple(scores.stride())}; these kernels take contiguous scores")
    columns = power_of_2(scores.shape[3])
    return scores.shape[0] * scores.shape[1] * scores.shape[2], columns, max(1, LANES // columns)


@jit
def _tile(rows: tl.tensor, blocks: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr) -> tl.tensor:
    """Return the rows and columns of a program, which of its pairs exist, and where they are."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    exists = (row < rows)[:, None] & (column < blocks)[None, :]
    return row, column, exists, row[:, None] * blocks + column[None, :]


@jit
def _row_shares(
    scores: tl.tensor, sizes: tl.tensor, shares: tl.tensor, rows: tl.tensor, blocks: tl.tensor, scale: tl.tensor,
    rows_per_sizes: tl.tensor, HAS_SIZES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    row, column, exists, at = _tile(rows, blocks, ROWS, COLUMNS)
    x = tl.load(scores + at, mask=exists, other=-float("inf"))
    present = x > -float("inf")
    if HAS_SIZES:
        weight = tl.load(sizes + (row // rows_per_sizes)[:, None] * blocks + column[None, :], mask=exists, other=0.0)
        present = present & (weight > 0)
    x = tl.where(present, x * scale, -float("inf"))
    highest = tl.max(x, 1)
    highest = tl.where(highest > -float("inf"), highest, 0.0)
    power = tl.where(present, tl.exp(x - highest[:, None]), 0.0)
    if HAS_SIZES:
        power = power * weight
    total = tl.sum(power, 1)
    total = tl.where(total > 0, total, 1.0)
    tl.store(shares + at, tl.div_rn(power, tl.broadcast_to(total[:, None], (ROWS, COLUMNS))), mask=exists)


@jit
def _top_k_rows(
    scores: tl.tensor, counts: tl.tensor, keep: tl.tensor, rows: tl.tensor, blocks: tl.tensor, rows_per_head: tl.tensor,
    heads: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    row, _, exists, at = _tile(rows, blocks, ROWS, COLUMNS)
    x = tl.load(scores + at, mask=exists, other=-float("inf"))
    count = tl.load(counts + (row // rows_per_head) % heads, mask=row < rows, other=0).to(tl.int32)
    # No score has the image of the smallest integer, so -inf and padding never beat a cut.
    image = tl.where(x > -float("inf"), order_image(x), -0x80000000)
    cut = tl.full([ROWS], -0x80000000, tl.int32)
    bit = tl.full([], -0x80000000, tl.int32)
    for _ in range(32):
        pivot = cut + bit
        cut = tl.where(tl.sum((image >= pivot[:, None]).to(tl.int32), 1) >= count, pivot, cut)
        bit = (bit >> 1) & 0x7FFFFFFF
    better = image > cut[:, None]
    tied = (image == cut[:, None]) & (x > -float("inf"))
    missing = count - tl.sum(better.to(tl.int32), 1)
    before = tl.cumsum(tied.to(tl.int32), 1) - 1
    tl.store(keep + at, (better | (tied & (before < missing[:, None]))).to(tl.uint8), mask=exists)


@jit
def _mass_rows(
    shares: tl.tensor, masses: tl.tensor, keep: tl.tensor, rows: tl.tensor, blocks: tl.tensor, rows_per_head: tl.tensor,
    heads: tl.tensor, least: tl.tensor, CROSSING: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    row, _, exists, at = _tile(rows, blocks, ROWS, COLUMNS)
    x = tl.load(shares + at, mask=exists, other=0.0)
    mass = tl.load(masses + (row // rows_per_head) % heads, mask=row < rows, other=0.0)
    # Bits of numbers that are not negative sort like the numbers; -0 is 0, and padding is below all.
    image = tl.where(exists, tl.where(x > 0, x, 0.0).to(tl.int32, bitcast=True), -1)
    wide = x.to(tl.float64)
    cut = tl.zeros([ROWS], tl.int32)
    bit = tl.full([], 0x40000000, tl.int32)
    for _ in range(31):
        pivot = cut + bit
        beats = image >= pivot[:, None]
        total = tl.sum(tl.where(beats, wide, 0.0), 1)
        reached = total >= mass if CROSSING == 0 else total > mass
        cut = tl.where(reached & (tl.sum(beats.to(tl.int32), 1) >= least), pivot, cut)
        bit = bit >> 1
    better = image > cut[:, None]
    tied = image == cut[:, None]
    number = tl.sum(better.to(tl.int32), 1)
    before = tl.cumsum(tied.to(tl.int32), 1) - 1
    start = tl.sum(tl.where(better, wide, 0.0), 1)
    if CROSSING == 0:
        kept = start[:, None] + before.to(tl.float64) * wide < mass[:, None]
    elif CROSSING == 1:
        kept = start[:, None] + before.to(tl.float64) * wide <= mass[:, None]
    else:
        kept = start[:, None] + (before + 1).to(tl.float64) * wide <= mass[:, None]
    kept = kept | (number[:, None] + before < least)
    tl.store(keep + at, (better | (tied & kept) | (mass >= 1)[:, None]).to(tl.uint8), mask=exists)


@jit
def _above_mean_rows(
    scores: tl.tensor, spread: tl.tensor, keep: tl.tensor, rows: tl.tensor, blocks: tl.tensor, rows_per_head: tl.tensor,
    scale: tl.tensor, tau: tl.tensor, least: tl.tensor, near: tl.tensor,
    HAS_SPREAD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    row, column, exists, at = _tile(rows, blocks, ROWS, COLUMNS)
    x = tl.load(scores + at, mask=exists, other=0.0) * scale
    mean = tl.sum(x, 1) / blocks
    if HAS_SPREAD:
        variance = tl.load(spread + row, mask=row < rows, other=0.0)
    else:
        away = tl.where(exists, x - mean[:, None], 0.0)
        variance = tl.sum(away * away, 1) / blocks
    limit = mean + tau * tl.sqrt(variance + least)
    apart = (row % rows_per_head)[:, None] - column[None, :]
    is_near = (apart <= near) & (apart >= -near)
    tl.store(keep + at, ((x > limit[:, None]) | is_near).to(tl.uint8), mask=exists)
