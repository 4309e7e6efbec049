"""Split the tokens of each block into those that are least like its centre, and the others, as BSA does with queries.

In torch, and as an operator with a kernel of its own for blocks of up to ``MOST_TOKENS`` tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.flop_formulas import flop_formula
from attnbench.kernels.operators import operator
from attnbench.kernels.phases import phase
from attnbench.kernels.selection_ops import MOST_CHANNELS, uses_kernels

MOST_TOKENS = 128
"""Largest block whose tokens are compared pair by pair in registers."""

LEAST_NORM = 1e-8
"""Norms below this count as this, as in ``torch.nn.functional.cosine_similarity``."""


@operator("attnbench::split_unlike")
def _split_unlike(
    x: Tensor, order: Tensor | None, offsets: Tensor, centres: Tensor, counts: Tensor, first: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    if uses_kernels(x) and x.shape[3] <= MOST_CHANNELS and size <= MOST_TOKENS:
        from attnbench.kernels.gpu.selection import unlike

        with torch.cuda.device_of(x), phase("pool"):
            return unlike.split_unlike(x, order, offsets, centres, counts, first, size)
    with phase("pool"):
        return split_in_torch(x, order, offsets, centres, counts, first, size)


@_split_unlike.register_fake
def _(
    x: Tensor, order: Tensor | None, offsets: Tensor, centres: Tensor, counts: Tensor, first: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    means = x.new_empty(*x.shape[:2], centres.shape[0], x.shape[3], dtype=wide)
    return means, x.new_empty(x.shape[:3], dtype=torch.int64), x.new_empty(x.shape[:3], dtype=torch.int64)


def split_unlike(
    x: Tensor, order: Tensor | None, offsets: Tensor, centres: Tensor, counts: Tensor, *, first: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the tokens of each block that are least like its centre by their cosine; of equal ones, the first.

    Tokens whose cosine is NaN come first.

    Args:
        x: [B, H, N, D], the last stride 1.
        order: int64 [N], token at each arranged position, or None.
        offsets: int64 [all blocks + 1], where each block begins in that order.
        centres: int64 [blocks], the place of the centre in each of the blocks that are split.
        counts: int64 [blocks], how many tokens are chosen, from 1 to the size of the block.
        first: the first block that is split; blocks before and behind stay as they are.
        size: tokens of the largest of them.

    Returns:
        The means of the chosen tokens [B, H, blocks, D] in float32, or float64 for float64 tokens; the token at each
        arranged position if the chosen ones of a block come first, int64 [B, H, N]; and for each token the chosen one
        of its block that is nearest in the order, the earlier of two, int64 [B, H, N].
    """
    means, arranged, nearest = _split_unlike(x, order, offsets, centres, counts, first, size)
    return means, arranged, nearest


def split_flops(x_shape: torch.Size) -> int:
    """Return the operations of ``split_unlike``: a product with the centre, a norm and a sum of each element."""
    return 5 * math.prod(x_shape)


def split_in_torch(
    x: Tensor, order: Tensor | None, offsets: Tensor, centres: Tensor, counts: Tensor, first: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ``split_unlike`` does."""
    (batch, heads, n), wide = x.shape[:3], torch.promote_types(x.dtype, torch.float32)
    place, blocks = torch.arange(size, device=x.device), slice(first, first + len(centres))
    starts, sizes = offsets[:-1][blocks, None], offsets.diff()[blocks, None]
    real = place < sizes
    at = starts + torch.where(real, place, 0)
    tokens = at if order is None else order[at]  # [blocks, P]; beyond a block, its first token again
    values = x[:, :, tokens].to(wide)  # [B, H, blocks, P, D]
    centre = values.gather(3, centres[:, None, None].expand(*values.shape[:3], 1, values.shape[4]))
    alike = torch.nn.functional.cosine_similarity(values, centre, dim=-1, eps=LEAST_NORM).masked_fill(~real, torch.inf)
    alike = alike.masked_fill(alike.isnan(), -torch.inf)
    by_likeness = alike.argsort(dim=-1, stable=True)
    rank = torch.empty_like(by_likeness).scatter_(-1, by_likeness, place.expand_as(by_likeness))
    chosen = rank < counts[:, None]
    means = torch.where(chosen[..., None], values, 0).sum(3) / counts[:, None]
    group = torch.where(chosen, 0, torch.where(real, 1, 2)) * size + place
    ranked = group.argsort(-1)
    everywhere = torch.arange(n, device=x.device) if order is None else order
    spare = torch.full((1,), -1, device=x.device)  # what is beyond a block is written behind the last token
    room = torch.cat([everywhere, spare]).repeat(batch, heads, 1)
    spot = torch.where(real, at, n).expand_as(ranked).flatten(2)
    arranged = room.scatter(2, spot, tokens.expand_as(ranked).gather(3, ranked).flatten(2))[..., :n]
    source = tokens.expand_as(ranked).gather(3, _nearest_chosen(chosen)).flatten(2)
    own = torch.arange(n + 1, device=x.device).repeat(batch, heads, 1)
    nearest = own.scatter(2, torch.where(real, tokens, n).expand_as(ranked).flatten(2), source)[..., :n]
    return means, arranged.contiguous(), nearest.contiguous()


def _nearest_chosen(chosen: Tensor) -> Tensor:
    """Return for each place the nearest chosen place of its block, the earlier of two, int64 [B, H, blocks, P]."""
    size = chosen.shape[-1]
    place = torch.arange(size, device=chosen.device).expand_as(chosen)
    earlier = torch.where(chosen, place, -2 * size).cummax(-1).values
    later = torch.where(chosen, place, 3 * size).flip(-1).cummin(-1).values.flip(-1)
    return torch.where(place - earlier <= later - place, earlier, later)


def _split(x_shape: torch.Size, *_: Any, **__: Any) -> int:
    return split_flops(x_shape)


flop_formula("split_unlike", _split)
