"""Cuts of rows of block pairs in torch: shares of the scores, and the best of each row by number or by mass.

These functions define the rule. ``row_ops`` makes operators of them. Scores are [B, H, q blocks, k blocks]. No block is
kept without being chosen: a row may keep nothing. Among equal values at a cut, the key block of the lower index wins.

A NaN score counts as +inf. Its block is kept before others, so that NaN in q or k shows in the output, as in full
attention.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CROSSINGS = ("in", "past", "out")

LEAST_VARIANCE = 1e-6 * math.log(2) ** 2
"""Added to a variance of scores: Sol-Attn adds 1e-6 where scores are in units of log2."""


def row_shares(scores: Tensor, scale: float, sizes: Tensor | None) -> Tensor:
    """Return the softmax of ``scale`` · ``scores`` over each row, weighted by the sizes of the key blocks.

    Args:
        scores: float32 or float64 [B, H, q blocks, k blocks]; -inf is a share of 0. Where a row has scores of +inf
            or NaN, their shares are NaN, and all others 0.
        scale: factor of the scores.
        sizes: tokens of each key block, [k blocks] or [B, H, k blocks]; a block without tokens has a share of 0. None
            weighs all blocks alike.

    Returns:
        Shares like ``scores``. A row whose scores are all -inf, or that has no tokens, has shares of 0.
    """
    scores = _nan_as_inf(scores)
    scaled = scores * scale
    present = scores > -torch.inf
    weights: Tensor | None = None
    if sizes is not None:
        weights = (sizes if sizes.dim() == 1 else sizes[:, :, None]).to(scores.dtype)
        present = present & (weights > 0)
        scaled = scaled.masked_fill(~present, -torch.inf)
    highest = scaled.amax(-1, keepdim=True)
    endless = highest == torch.inf
    highest = torch.where(highest.isfinite(), highest, 0.0)
    powers = torch.where(present, (scaled - highest).exp(), 0.0)
    if weights is not None:
        powers = powers * weights
    total = powers.sum(-1, keepdim=True)
    shares = torch.where(total > 0, powers / total, 0.0)
    return torch.where(endless, torch.where(scaled == torch.inf, torch.nan, 0.0), shares)


def top_k_of_rows(scores: Tensor, counts: Tensor) -> Tensor:
    """Keep the best key blocks of each row; scores of -inf are never kept.

    Args:
        scores: [B, H, q blocks, k blocks].
        counts: int64 [1] or [H], how many a row keeps.

    Returns:
        bool like ``scores``.
    """
    scores = _nan_as_inf(scores)
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.arange(scores.shape[-1], device=scores.device)
    kept = _unsorted(order, (rank < counts[:, None, None]).expand(scores.shape))
    return kept & (scores > -torch.inf)


def mass_of_rows(shares: Tensor, masses: Tensor, crossing: str, least: int) -> Tensor:
    """Keep the largest shares of each row up to a mass. A mass of 1 or more keeps every block.

    Args:
        shares: [B, H, q blocks, k blocks], none negative, compared as they are: a row may sum to less than 1. NaN comes
            first and adds nothing to a sum.
        masses: float64 [1] or [H].
        crossing: what happens around the block with which the sum reaches the mass. With "in", a block is kept if the
            sum before it is below the mass; with "past", if it is at most the mass; with "out", if the sum including it
            is at most the mass.
        least: how many blocks a row keeps at least.

    Returns:
        bool like ``shares``.
    """
    order = _nan_as_inf(shares).sort(dim=-1, descending=True, stable=True).indices
    ranked = shares.masked_fill(shares.isnan(), 0.0).gather(-1, order).double()
    total = ranked.cumsum(-1)
    limit = masses[:, None, None]
    if crossing == "out":
        chosen = total <= limit
    else:
        before = total - ranked
        chosen = before < limit if crossing == "in" else before <= limit
    rank = torch.arange(shares.shape[-1], device=shares.device)
    return _unsorted(order, chosen | (rank < least) | (limit >= 1))


def above_mean_of_rows(scores: Tensor, scale: float, tau: float, variances: Tensor | None, near: int) -> Tensor:
    """Keep the blocks whose scaled score is more than ``tau`` deviations above the mean of its row, and the nearest.

    Scores of +inf or NaN are kept too.

    Args:
        scores: [B, H, q blocks, k blocks].
        scale: factor of the scores.
        tau: number of deviations.
        variances: of the scaled scores of each row, [B, H, q blocks]; None takes the variance of the row itself.
        near: blocks whose index differs by at most this are kept too.

    Returns:
        bool like ``scores``.
    """
    scaled = scores * scale
    mean = scaled.mean(-1, keepdim=True)
    variance = (scaled - mean).square().mean(-1, keepdim=True) if variances is None else variances[..., None]
    rows, columns = (torch.arange(size, device=scores.device) for size in scores.shape[2:])
    above = (scaled > mean + tau * (variance + LEAST_VARIANCE).sqrt()) | ~(scaled < torch.inf)
    return above | ((rows[:, None] - columns).abs() <= near)


def _nan_as_inf(scores: Tensor) -> Tensor:
    return scores.masked_fill(scores.isnan(), torch.inf)


def _unsorted(order: Tensor, kept: Tensor) -> Tensor:
    return torch.empty_like(kept, memory_format=torch.contiguous_format).scatter_(-1, order, kept)
