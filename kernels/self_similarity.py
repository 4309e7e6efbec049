"""Block means, and how alike the tokens of a block are: in torch, and as an operator with a kernel of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.flop_formulas import flop_formula
from attnbench.kernels.operators import operator
from attnbench.kernels.phases import phase
from attnbench.kernels.selection import pool_blocks
from attnbench.kernels.selection_ops import MOST_CHANNELS, uses_kernels


def pool_similar(x: Tensor, order: Tensor | None, offsets: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what ``pool_similarity`` does, in torch."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    means = pool_blocks(x, order, offsets)
    if centre is not None:
        means = means - centre[:, :, None]
    cosines = means.new_empty(means.shape[:3])
    for b in range(x.shape[0]):  # one head at a time, so that x is never in memory as a whole in the wider dtype
        for h in range(x.shape[1]):
            tokens = x[b, h].to(wide)
            if centre is not None:
                tokens = tokens - centre[b, h]
            units = tokens / tokens.square().sum(-1, keepdim=True).sqrt().clamp_min(torch.finfo(wide).tiny)
            cosines[b, h] = pool_blocks(units[None, None], order, offsets)[0, 0].square().sum(-1)
    return means, cosines


@operator("attnbench::pool_similarity")
def _pool_similarity(x: Tensor, order: Tensor | None, offsets: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    if uses_kernels(x) and x.shape[3] <= MOST_CHANNELS:
        from attnbench.kernels.gpu.selection import similarity

        with torch.cuda.device_of(x), phase("pool"):
            return similarity.pool_similarity(x, order, offsets, centre)
    with phase("pool"):
        return pool_similar(x, order, offsets, centre)


@_pool_similarity.register_fake
def _(x: Tensor, order: Tensor | None, offsets: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    blocks = (*x.shape[:2], offsets.shape[0] - 1)
    return x.new_empty(*blocks, x.shape[3], dtype=wide), x.new_empty(blocks, dtype=wide)


def pool_similarity(x: Tensor, order: Tensor | None, offsets: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    """Average the tokens of each block, and say how alike they are.

    Args:
        x: [B, H, N, D], the last stride 1.
        order: int64 [N], token at each arranged position, or None.
        offsets: int64 [blocks + 1], where each block begins in that order.
        centre: [B, H, D] in float32, or in float64 for float64 tokens: what is subtracted from every token first.

    Returns:
        Means [B, H, blocks, D], and the mean cosine [B, H, blocks] over all ordered pairs of tokens of a block, a token
        with itself included: |sum of the tokens' unit vectors|² / n². A token that is 0 has no direction and counts
        as 0. Both in float32, or in float64 for float64 tokens.
    """
    means, cosines = _pool_similarity(x, order, offsets, centre)
    return means, cosines


def similarity_flops(x_shape: torch.Size) -> int:
    """Return the operations of ``pool_similarity``: centring, two sums, the norm and the scaling of each element."""
    return 6 * math.prod(x_shape)


def _pooled(x_shape: torch.Size, *_: Any, **__: Any) -> int:
    return similarity_flops(x_shape)


flop_formula("pool_similarity", _pooled)
