"""Cuts of rows of block pairs as torch operators, which torch.compile, FLOP counters and profilers see.

On CUDA they run the Triton kernels of ``kernels.gpu.selection.cut_rows``. Elsewhere, for float64 tensors and for rows
of more than ``MOST_BLOCKS`` blocks, they run the functions of ``kernels.row_cuts``, which give the same results up to
rounding. None has a gradient, because the choice of pairs has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attnbench.kernels import row_cuts
from attnbench.kernels.errors import BadInput
from attnbench.kernels.operators import operator
from attnbench.kernels.phases import phase
from attnbench.kernels.remember import remembered
from attnbench.kernels.selection_ops import MOST_BLOCKS, uses_kernels


def _uses_kernels(scores: Tensor) -> bool:
    return uses_kernels(scores) and scores.dtype == torch.float32 and scores.shape[3] <= MOST_BLOCKS


@operator("attnbench::row_shares")
def _row_shares(scores: Tensor, scale: float, sizes: Tensor | None) -> Tensor:
    if _uses_kernels(scores):
        from attnbench.kernels.gpu.selection import cut_rows

        with torch.cuda.device_of(scores), phase("select"):
            return cut_rows.row_shares(scores, scale, sizes)
    with phase("select"):
        return row_cuts.row_shares(scores, scale, sizes)


@operator("attnbench::cut_top_k_row")
def _cut_top_k_row(scores: Tensor, counts: Tensor) -> Tensor:
    if _uses_kernels(scores):
        from attnbench.kernels.gpu.selection import cut_rows

        with torch.cuda.device_of(scores), phase("select"):
            return cut_rows.cut_top_k_row(scores, counts)
    with phase("select"):
        return row_cuts.top_k_of_rows(scores, counts)


@operator("attnbench::cut_mass_row")
def _cut_mass_row(shares: Tensor, masses: Tensor, crossing: str, least: int) -> Tensor:
    if _uses_kernels(shares):
        from attnbench.kernels.gpu.selection import cut_rows

        with torch.cuda.device_of(shares), phase("select"):
            return cut_rows.cut_mass_row(shares, masses, crossing, least)
    with phase("select"):
        return row_cuts.mass_of_rows(shares, masses, crossing, least)


@operator("attnbench::cut_above_mean_row")
def _cut_above_mean_row(scores: Tensor, scale: float, tau: float, variances: Tensor | None, near: int) -> Tensor:
    if _uses_kernels(scores):
        from attnbench.kernels.gpu.selection import cut_rows

        with torch.cuda.device_of(scores), phase("select"):
            return cut_rows.cut_above_mean_row(scores, scale, tau, variances, near)
    with phase("select"):
        return row_cuts.above_mean_of_rows(scores, scale, tau, variances, near)


@_row_shares.register_fake
def _(scores: Tensor, scale: float, sizes: Tensor | None) -> Tensor:
    return scores.new_empty(scores.shape)


def _fake_cut(scores: Tensor, *settings: object) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.bool)


for _cut in (_cut_top_k_row, _cut_mass_row, _cut_above_mean_row):
    _cut.register_fake(_fake_cut)


def row_shares(scores: Tensor, scale: float = 1.0, sizes: Tensor | None = None) -> Tensor:
    """Return the softmax of ``scale`` · ``scores`` over each row of key blocks.

    Args:
        scores: float32 or float64 [B, H, q blocks, k blocks], contiguous; -inf is a share of 0. Where a row has
            scores of +inf or NaN, their shares are NaN, and all others 0.
        scale: factor of the scores.
        sizes: tokens of each key block, [k blocks] or [B, H, k blocks], by which shares are weighted; None weighs all
            blocks alike.

    Returns:
        Shares like ``scores``. A row whose scores are all -inf, or that has no tokens, has shares of 0.
    """
    shares: Tensor = _row_shares(scores, float(scale), sizes)
    return shares


def cut_top_k_row(scores: Tensor, k: int | Sequence[int]) -> Tensor:
    """Keep the ``k`` best key blocks of each row, bool [B, H, q blocks, k blocks]. No block is forced.

    Among equal scores, the lower index wins. Scores of -inf are never kept. NaN counts as +inf.

    Args:
        scores: float32 or float64 [B, H, q blocks, k blocks], contiguous.
        k: how many a row keeps, from 0; one number, or one for each head.

    Raises:
        BadInput: for a negative number, or another number of numbers than heads.
    """
    counts = (k,) if isinstance(k, int) else tuple(k)
    if len(counts) not in (1, scores.shape[1]) or any(count < 0 for count in counts):
        raise BadInput(
            f"k is {k!r}; it must be one whole number of at least 0, or {scores.shape[1]}, one for each head"
        )
    keep: Tensor = _cut_top_k_row(scores, _counts(counts, scores.device))
    return keep


def cut_mass_row(shares: Tensor, mass: float | Sequence[float], *, crossing: str = "in", least: int = 0) -> Tensor:
    """Keep the largest shares of each row up to a mass, bool [B, H, q blocks, k blocks]. No block is forced.

    Shares are ranked from the largest, among equal ones from the lower index. A mass of 1 or more keeps every block.

    Args:
        shares: float32 or float64 [B, H, q blocks, k blocks], contiguous, none negative. They are compared as they are,
            so a row may sum to less than 1. NaN comes first and adds nothing to a sum.
        mass: one number, or one for each head.
        crossing: what happens around the block with which the sum reaches the mass. With "in", a block is kept if the
            sum before it is below the mass; with "past", if it is at most the mass; with "out", if the sum including it
            is at most the mass, so that a row may keep nothing.
        least: how many blocks a row keeps at least.

    Raises:
        BadInput: for another word, a negative ``least``, or another number of masses than heads.
    """
    masses = (float(mass),) if isinstance(mass, (int, float)) else tuple(float(each) for each in mass)
    if len(masses) not in (1, shares.shape[1]):
        raise BadInput(f"mass is {mass!r}; it must be one number, or {shares.shape[1]}, one for each head")
    if crossing not in row_cuts.CROSSINGS or least < 0:
        raise BadInput(
            f"crossing is {crossing!r} and least is {least!r}; they must be one of "
            f"{', '.join(row_cuts.CROSSINGS)}, and a whole number of at least 0"
        )
    keep: Tensor = _cut_mass_row(shares, _masses(masses, shares.device), crossing, least)
    return keep


def cut_above_mean_row(
    scores: Tensor, tau: float, *, scale: float = 1.0, variances: Tensor | None = None, near: int = 0
) -> Tensor:
    """Keep the blocks that score more than ``tau`` deviations above the mean of their row, and the nearest blocks.

    Args:
        scores: float32 or float64 [B, H, q blocks, k blocks], contiguous. +inf and NaN are kept; -inf must not occur.
        tau: number of standard deviations. ``row_cuts.LEAST_VARIANCE`` is added to a variance.
        scale: factor of the scores.
        variances: of the scaled scores of each row, [B, H, q blocks]; None takes the variance of the row itself.
        near: blocks whose index differs by at most this from the row's are kept too.

    Returns:
        bool [B, H, q blocks, k blocks].
    """
    keep: Tensor = _cut_above_mean_row(scores, float(scale), float(tau), variances, near)
    return keep


@remembered(64)
def _counts(counts: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(counts, dtype=torch.int64, device=device)


@remembered(64)
def _masses(masses: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(masses, dtype=torch.float64, device=device)
