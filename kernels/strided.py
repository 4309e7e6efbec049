"""Attention mass of block pairs, estimated from antidiagonals: in torch, and as an operator with kernels of its own.

The tokens are cut into groups of ``stride``. Token i of a query group is multiplied with token stride - 1 - i of a key
group, which is one antidiagonal of their tile of scores, and the sum estimates the whole tile.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench.kernels.errors import BadInput
from attnbench.kernels.flop_formulas import flop_formula
from attnbench.kernels.operators import operator
from attnbench.kernels.phases import phase
from attnbench.kernels.selection_ops import uses_kernels

ROWS = 512
"""Query groups whose scores are in memory at once, in torch."""

MOST_GROUPS = 128
"""Groups of a block that the kernels take; they must be a power of two."""


def block_mass(q: Tensor, k: Tensor, stride: int, block: int, padded: int) -> Tensor:
    """Return what ``strided_mass`` does, in torch."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    (batch, heads, n, dim), group = q.shape, q.shape[1] // k.shape[1]
    groups, each, blocks = -(-n // stride), block // stride, -(-n // block)
    scale = 1 / (math.sqrt(dim) * stride)
    mass = q.new_empty(batch, heads, blocks, padded // block, dtype=wide)
    step = max(1, ROWS // each) * each
    for b in range(batch):
        for h in range(heads):
            keys = pad(k[b, h // group].to(wide), (0, 0, 0, padded - n)).reshape(padded // stride, -1)
            tokens = pad(q[b, h].to(wide), (0, 0, 0, groups * stride - n)).reshape(groups, stride, dim)
            queries = tokens.flip(1).reshape(groups, -1)
            for first in range(0, groups, step):
                shares = (queries[first : first + step] @ keys.T * scale).softmax(-1)
                shares = pad(shares, (0, 0, 0, -len(shares) % each))
                sums = shares.reshape(-1, each, padded // block, each).sum((1, 3))
                mass[b, h, first // each : first // each + len(sums)] = sums
    return mass


@operator("attnbench::strided_mass")
def _strided_mass(q: Tensor, k: Tensor, stride: int, block: int, padded: int) -> Tensor:
    each = block // stride
    if uses_kernels(q) and each & (each - 1) == 0 and each <= MOST_GROUPS:
        from attnbench.kernels.gpu.selection import strided

        with torch.cuda.device_of(q), phase("score"):
            return strided.strided_mass(q, k, stride, block, padded)
    with phase("score"):
        return block_mass(q, k, stride, block, padded)


@_strided_mass.register_fake
def _(q: Tensor, k: Tensor, stride: int, block: int, padded: int) -> Tensor:
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(*q.shape[:2], -(-q.shape[2] // block), padded // block, dtype=wide)


def strided_mass(q: Tensor, k: Tensor, stride: int, block: int, padded: int) -> Tensor:
    """Estimate how much attention each query block pays to each key block, from one antidiagonal of every tile.

    A group of ``stride`` queries has a softmax over all groups of keys, of scores divided by √D · stride. The mass of a
    pair of blocks is the sum of these shares over its groups. So the masses of a row of blocks add up to the number of
    its groups that hold a token.

    Args:
        q: [B, H, N, D], the last stride 1.
        k: [B, KV heads, N, D], likewise; KV heads divides H.
        stride: tokens of a group.
        block: tokens of a block, a multiple of ``stride``.
        padded: length to which tokens of zeros are added at the end, a multiple of ``block``. Their groups score 0, and
            take part in the softmax.

    Returns:
        [B, H, ⌈N / block⌉, padded / block] in float32, or in float64 for float64 q.

    Raises:
        BadInput: if the sizes do not fit each other.
    """
    if stride < 1 or block % stride or padded % block or padded < q.shape[2]:
        raise BadInput(
            f"stride is {stride}, block {block} and padded {padded}; a block must be whole groups, and padded whole "
            f"blocks that hold the {q.shape[2]} tokens"
        )
    mass: Tensor = _strided_mass(q, k, stride, block, padded)
    return mass


def strided_flops(q_shape: torch.Size, stride: int) -> int:
    """Return the operations of ``strided_mass``: the scores of all pairs of groups with tokens, 2 per multiply-add."""
    groups = -(-q_shape[2] // stride)
    return 2 * q_shape[0] * q_shape[1] * groups**2 * stride * q_shape[3]


def _scored(q_shape: torch.Size, k_shape: torch.Size, stride: int, *_: Any, **__: Any) -> int:
    return strided_flops(q_shape, stride)


flop_formula("strided_mass", _scored)
