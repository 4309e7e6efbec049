"""Attention weights below a threshold, counted for pairs of blocks: in torch, and as an operator with a kernel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench.kernels.errors import BadInput
from attnbench.kernels.flop_formulas import flop_formula
from attnbench.kernels.grid import Layout
from attnbench.kernels.operators import operator
from attnbench.kernels.phases import phase
from attnbench.kernels.selection_ops import MOST_CHANNELS, uses_kernels

ROWS = 512
"""Queries whose scores are in memory at once, in torch."""

MOST_BLOCK = 128
"""Tokens of a block that the kernel takes."""


def counts_below(q: Tensor, k: Tensor, first: int, tokens: int, block: int, threshold: float, scale: float) -> Tensor:
    """Return what ``count_below`` does, in torch, for the video tokens from ``first`` on."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    group, blocks, least = q.shape[1] // k.shape[1], -(-tokens // block), math.log(threshold)
    counts = q.new_empty(*q.shape[:2], blocks, blocks, dtype=torch.int32)
    step = max(1, ROWS // block) * block
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            keys = k[b, h // group].to(wide)
            for start in range(0, tokens, step):
                rows = q[b, h, first + start : first + min(start + step, tokens)].to(wide)
                scores = rows @ keys.T * scale
                below = scores[:, first : first + tokens] < scores.logsumexp(-1, keepdim=True) + least
                below = pad(below, (0, -tokens % block, 0, -len(rows) % block))
                sums = below.view(-1, block, blocks, block).sum((1, 3))
                counts[b, h, start // block : start // block + len(sums)] = sums
    return counts


@operator("attnbench::count_below")
def _count_below(q: Tensor, k: Tensor, first: int, tokens: int, block: int, threshold: float, scale: float) -> Tensor:
    if uses_kernels(q) and block <= MOST_BLOCK and q.shape[3] <= MOST_CHANNELS:
        from attnbench.kernels.gpu.selection import below

        with torch.cuda.device_of(q), phase("score"):
            return below.count_below(q, k, first, tokens, block, threshold, scale)
    with phase("score"):
        return counts_below(q, k, first, tokens, block, threshold, scale)


@_count_below.register_fake
def _(q: Tensor, k: Tensor, first: int, tokens: int, block: int, threshold: float, scale: float) -> Tensor:
    blocks = -(-tokens // block)
    return q.new_empty(*q.shape[:2], blocks, blocks, dtype=torch.int32)


def count_below(q: Tensor, k: Tensor, layout: Layout, block: int, threshold: float, scale: float) -> Tensor:
    """Count the weights of full attention that are below ``threshold``, for every pair of video blocks.

    Args:
        q: [B, H, N, D], the last stride 1.
        k: [B, KV heads, N, D], likewise; KV heads divides H.
        layout: N is its number of tokens. The softmax is over all keys, those of text included.
        block: tokens of a block in raster order; the last one may be shorter.
        threshold: above 0.
        scale: factor of the scores.

    Returns:
        int32 [B, H, video blocks, video blocks].

    Raises:
        BadInput: for a threshold or a block out of range.
    """
    if not threshold > 0 or block < 1:
        raise BadInput(f"threshold is {threshold!r} and block {block!r}; they must be above 0")
    counts: Tensor = _count_below(q, k, layout.text[0], layout.grid.tokens, block, float(threshold), float(scale))
    return counts


def below_flops(q_shape: torch.Size, tokens: int) -> int:
    """Return the operations of ``count_below``: all scores of the video's queries twice, 2 per multiply-add.

    Half of them find the log-sum-exp of each query; those with text keys are in that half alone.
    """
    batch, heads, n, dim = q_shape
    return 2 * batch * heads * tokens * (n + tokens) * dim


def _scored(q_shape: torch.Size, k_shape: torch.Size, first: int, tokens: int, *_: Any, **__: Any) -> int:
    return below_flops(q_shape, tokens)


flop_formula("count_below", _scored)
