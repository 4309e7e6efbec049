"""Shares and cuts of rows of block pairs: the best key blocks of each row, by number or by mass, none of them forced.

A row stays in registers: its scores are read once, and the result is written once. The cut is the largest value at or
above which enough of the row lies. It is searched among the images of scores, or the bits of shares, which are not
negative: each step halves what remains, up to 32 times, and the search ends as soon as the number of pairs tells the
cut. So rows differ in how many steps they take, and a program cuts one row, with as few warps as hold it: most steps
are sums over threads, which are quick within a warp. Equal values at the cut are kept from the lower index. Sums of
shares are float64, so that only sums that reach the mass exactly could depend on the order of summation.

A program holds its row in two parts, powers of two, because padding to one would double a row of 1,100 pairs.

Predicted for 12 × 1,182 rows of 1,182 blocks (720p, 81 frames, blocks of 64) on an H100: 67 + 17 MB, 0.03 ms at 3 TB/s;
17 million pairs, padded to 18, of 32 steps of 3 instructions for a number, 0.06 ms, and of about 6 for a mass, 0.16 ms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.errors import Unsupported
from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import ceil_div, check_dtype, jit, order_image, power_of_2
from attnbench.kernels.row_cuts import CROSSINGS, LEAST_VARIANCE

LANES = 1024
"""Number of pairs that a program of shares holds, or of a cut at the mean, if rows are short."""

LANES_OF_WARP = 512
"""Number of pairs for which a program that cuts a row by number or mass has a warp; it holds up to twice as many."""

MOST_WARPS = 32
"""Warps of the largest thread block."""


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
    _check(scores)
    main, rest, warps = _parts_of(scores.shape[3])
    keep = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    launch(
        _top_k_rows.of(main, rest), (scores.shape[:3].numel(),), (scores, counts, keep.view(torch.uint8)),
        (scores.shape[3], scores.shape[2], len(counts)), MAIN=main, REST=rest, num_warps=warps,
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
    _check(shares)
    main, rest, warps = _parts_of(shares.shape[3])
    keep = torch.empty(shares.shape, dtype=torch.bool, device=shares.device)
    launch(
        _mass_rows.of(main, rest), (shares.shape[:3].numel(),), (shares, masses, keep.view(torch.uint8)),
        (shares.shape[3], shares.shape[2], len(masses), least),
        CROSSING=CROSSINGS.index(crossing), MAIN=main, REST=rest, num_warps=warps,
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


def _check(scores: Tensor) -> None:
    """Refuse scores or shares of another dtype than float32, or that are not contiguous."""
    check_dtype("scores", scores, torch.float32)
    if not scores.is_contiguous():
        raise Unsupported(f"scores have strides {tuple(scores.stride())}; these kernels take contiguous scores")


def _shape_of(scores: Tensor) -> tuple[int, int, int]:
    """Return the number of rows, their padded length, and how many of them a program takes."""
    _check(scores)
    columns = power_of_2(scores.shape[3])
    return scores.shape[:3].numel(), columns, max(1, LANES // columns)


def _parts_of(blocks: int) -> tuple[int, int, int]:
    """Return the two powers of two that a row is held in, the second at most as large, and how many warps hold it."""
    main = max(32, power_of_2(blocks) // 2)
    rest = power_of_2(max(32, blocks - main))
    return main, rest, min(MOST_WARPS, max(1, main // LANES_OF_WARP))


class _InParts:
    """A kernel that holds a row in two parts, compiled apart for parts of different lengths.

    There, the compiler must not know that a row has a multiple of 16 blocks. It would write 16 results of a thread at
    once, the parts would lie differently over the threads, and each step would move one through shared memory to add it
    to the other.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._equal, self._different = jit(function), jit(function, any_number=("blocks",))

    def of(self, main: int, rest: int) -> Any:
        """Return the kernel for parts of these lengths."""
        return self._equal if main == rest else self._different


@jit
def _tile(rows: tl.tensor, blocks: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr) -> tl.tensor:
    """Return the rows and columns of a program, which of its pairs exist, and where they are."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    exists = (row < rows)[:, None] & (column < blocks)[None, :]
    return row, column, exists, row[:, None] * blocks + column[None, :]


@jit
def _nan_as_inf(x: tl.tensor) -> tl.tensor:
    return tl.where(x == x, x, float("inf"))


@jit
def _row_shares(
    scores: tl.tensor, sizes: tl.tensor, shares: tl.tensor, rows: tl.tensor, blocks: tl.tensor, scale: tl.tensor,
    rows_per_sizes: tl.tensor, HAS_SIZES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    row, column, exists, at = _tile(rows, blocks, ROWS, COLUMNS)
    x = _nan_as_inf(tl.load(scores + at, mask=exists, other=-float("inf")))
    present = x > -float("inf")
    if HAS_SIZES:
        weight = tl.load(sizes + (row // rows_per_sizes)[:, None] * blocks + column[None, :], mask=exists, other=0.0)
        present = present & (weight > 0)
    x = tl.where(present, x * scale, -float("inf"))
    highest = tl.max(x, 1)
    endless = (highest == float("inf"))[:, None]
    highest = tl.where((highest > -float("inf")) & (highest < float("inf")), highest, 0.0)
    power = tl.where(present & (endless == 0), tl.exp(tl.where(endless, 0.0, x - highest[:, None])), 0.0)
    if HAS_SIZES:
        power = power * weight
    total = tl.sum(power, 1)
    total = tl.where(total > 0, total, 1.0)
    share = tl.div_rn(power, tl.broadcast_to(total[:, None], (ROWS, COLUMNS)))
    tl.store(shares + at, tl.where(x == float("inf"), float("nan"), share), mask=exists)


@jit
def _middle(low: tl.tensor, high: tl.tensor) -> tl.tensor:
    """Return the mean of two int32, rounded down, without their sum, which may overflow."""
    return (low & high) + ((low ^ high) >> 1)


@jit
def _sum_of(main: tl.tensor, rest: tl.tensor, MAIN: tl.constexpr, REST: tl.constexpr) -> tl.tensor:
    """Add up both parts of a row: each thread its own numbers first, so that threads exchange sums only once."""
    return tl.sum(tl.sum(tl.reshape(main, [MAIN // REST, REST]), 0) + rest, 0)


@jit
def _ranks(main: tl.tensor, rest: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return how many ones are in front of each one of both parts of a row."""
    return tl.cumsum(main, 0) - 1, tl.sum(main, 0) + tl.cumsum(rest, 0) - 1


@jit
def _score_images(scores: tl.tensor, column: tl.tensor, blocks: tl.tensor) -> tl.tensor:
    """Return the images of a part of a row. Those of -inf and padding are the smallest integer, which no score has."""
    x = _nan_as_inf(tl.load(scores + column, mask=column < blocks, other=-float("inf")))
    return tl.where(x > -float("inf"), order_image(x), -0x80000000)


@_InParts
def _top_k_rows(
    scores: tl.tensor, counts: tl.tensor, keep: tl.tensor, blocks: tl.tensor, rows_per_head: tl.tensor,
    heads: tl.tensor, MAIN: tl.constexpr, REST: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    scores += row * blocks
    keep += row * blocks
    count = tl.load(counts + (row // rows_per_head) % heads).to(tl.int32)
    column, more_column = tl.arange(0, MAIN), MAIN + tl.arange(0, REST)
    image, more = _score_images(scores, column, blocks), _score_images(scores, more_column, blocks)
    # If the row has so many, at least ``count`` images reach ``low``, as ``found`` says, and fewer reach ``high``.
    low = tl.full([], -0x80000000, tl.int32)
    high = tl.maximum(tl.max(image, 0), tl.max(more, 0)) + 1
    found = count + 1
    while (found != count) & (low + 1 < high):
        pivot = _middle(low, high)
        number = _sum_of((image >= pivot).to(tl.int32), (more >= pivot).to(tl.int32), MAIN, REST)
        reached = number >= count
        low = tl.where(reached, pivot, low)
        high = tl.where(reached, high, pivot)
        found = tl.where(reached, number, found)
    better, more_better = image > low, more > low
    missing = count - _sum_of(better.to(tl.int32), more_better.to(tl.int32), MAIN, REST)
    missing = tl.where(low > -0x80000000, missing, 0)  # what is -inf or padding is never kept
    tied, more_tied = image == low, more == low
    before, more_before = _ranks(tied.to(tl.int32), more_tied.to(tl.int32))
    kept, more_kept = better | (tied & (before < missing)), more_better | (more_tied & (more_before < missing))
    tl.store(keep + column, kept.to(tl.uint8), mask=column < blocks)
    tl.store(keep + more_column, more_kept.to(tl.uint8), mask=more_column < blocks)


@jit
def _share_images(shares: tl.tensor, column: tl.tensor, blocks: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return a part of a row in float64, and its images. Padding is below all; NaN is above all and adds nothing."""
    x = tl.load(shares + column, mask=column < blocks, other=0.0)
    # Bits of numbers that are not negative sort like the numbers; -0 is 0.
    image = tl.where(x > 0, x, 0.0).to(tl.int32, bitcast=True)
    image = tl.where(x == x, image, 0x7F800001)  # right above the image of infinity
    return tl.where(x == x, x, 0.0).to(tl.float64), tl.where(column < blocks, image, -1)


@jit
def _keeps_tied(
    wide: tl.tensor, before: tl.tensor, start: tl.tensor, number: tl.tensor, mass: tl.tensor, least: tl.tensor,
    CROSSING: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return which shares at the cut are kept: ``number`` are larger, of sum ``start``, and ``before`` are in front."""
    if CROSSING == 0:
        kept = start + before.to(tl.float64) * wide < mass
    elif CROSSING == 1:
        kept = start + before.to(tl.float64) * wide <= mass
    else:
        kept = start + (before + 1).to(tl.float64) * wide <= mass
    return kept | (number + before < least)


@_InParts
def _mass_rows(
    shares: tl.tensor, masses: tl.tensor, keep: tl.tensor, blocks: tl.tensor, rows_per_head: tl.tensor,
    heads: tl.tensor, least: tl.tensor, CROSSING: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    shares += row * blocks
    keep += row * blocks
    mass = tl.load(masses + (row // rows_per_head) % heads)
    column, more_column = tl.arange(0, MAIN), MAIN + tl.arange(0, REST)
    wide, image = _share_images(shares, column, blocks)
    more_wide, more = _share_images(shares, more_column, blocks)
    highest = tl.maximum(tl.max(image, 0), tl.max(more, 0))
    # Shares below an n-th of what may be left out add up to less, so the cut is not among them. The margins cover what
    # a sum of n float64 loses, less than n · 2⁻⁵³ of it, and rounding to float32.
    spare = tl.maximum(_sum_of(wide, more_wide, MAIN, REST) * (1 - 1e-9) - mass, 0.0)
    small = ((spare / blocks).to(tl.float32) * 0.999).to(tl.int32, bitcast=True)
    # The cut is reached from ``low``, if at all, by ``below`` pairs, and not from ``high``, by ``above`` pairs.
    low = tl.where(least > 0, 0, tl.minimum(small, highest))
    high = highest + 1
    below = tl.full([], MAIN + REST + 2, tl.int32)
    above = tl.full([], 0, tl.int32)
    while (below - above > 1) & (low + 1 < high):
        pivot = _middle(low, high)
        beats, more_beats = image >= pivot, more >= pivot
        number = _sum_of(beats.to(tl.int32), more_beats.to(tl.int32), MAIN, REST)
        total = _sum_of(tl.where(beats, wide, 0.0), tl.where(more_beats, more_wide, 0.0), MAIN, REST)
        enough = total >= mass if CROSSING == 0 else total > mass
        # The last bits of a float64 sum may differ between threads. The maximum over a warp is the same for all, so
        # that all go on or none. Sums of integers, as in a top-k, are equal anyway.
        reached = (tl.max(tl.zeros([32], tl.int32) + enough.to(tl.int32), 0) > 0) & (number >= least)
        low = tl.where(reached, pivot, low)
        high = tl.where(reached, high, pivot)
        below = tl.where(reached, number, below)
        above = tl.where(reached, above, number)
    # The cut is the largest share below ``high``, and a mass of 1 is cut below all.
    cut = tl.maximum(tl.max(tl.where(image < high, image, -1), 0), tl.max(tl.where(more < high, more, -1), 0))
    cut = tl.where(mass >= 1, -2, cut)
    better, more_better = image > cut, more > cut
    number = _sum_of(better.to(tl.int32), more_better.to(tl.int32), MAIN, REST)
    start = _sum_of(tl.where(better, wide, 0.0), tl.where(more_better, more_wide, 0.0), MAIN, REST)
    tied, more_tied = image == cut, more == cut
    before, more_before = _ranks(tied.to(tl.int32), more_tied.to(tl.int32))
    kept = better | (tied & _keeps_tied(wide, before, start, number, mass, least, CROSSING))
    more_kept = more_better | (more_tied & _keeps_tied(more_wide, more_before, start, number, mass, least, CROSSING))
    tl.store(keep + column, kept.to(tl.uint8), mask=column < blocks)
    tl.store(keep + more_column, more_kept.to(tl.uint8), mask=more_column < blocks)


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
    is_endless = (x < float("inf")) == 0
    tl.store(keep + at, ((x > limit[:, None]) | is_near | is_endless).to(tl.uint8), mask=exists)
