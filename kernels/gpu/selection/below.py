"""Counts of attention weights below a threshold, pair of blocks by pair of blocks; no weight is written.

A program holds one block of queries. It goes through all keys once for the log-sum-exp of each query, and through the
video's key blocks once more to count the scores below log-sum-exp + ln(threshold), which is where weights are below
the threshold.

Predicted for 12 heads of 75,600 × 128 bfloat16 tokens on an H100: 35 TFLOP in two products, about 70 ms at 500 TFLOP/s,
as long as a call of full attention.
"""

from __future__ import annotations

import math

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import INTERPRETED, ceil_div, check_queries_and_keys, jit, power_of_2

KEYS = 64


def count_below(q: Tensor, k: Tensor, first: int, tokens: int, block: int, threshold: float, scale: float) -> Tensor:
    """Count the weights below ``threshold`` of each pair of blocks; see ``kernels.below.count_below``.

    Args:
        q: float32, float16 or bfloat16 [B, H, N, D], any strides with the last 1.
        k: [B, KV heads, N, D], likewise; KV heads divides H.
        first: the first video token.
        tokens: number of video tokens.
        block: tokens of a block, at most 128.
        threshold: above 0.
        scale: factor of the scores.

    Returns:
        int32 [B, H, video blocks, video blocks].

    Raises:
        BadInput: if the shapes do not fit each other.
        Unsupported: for another dtype or stride.
    """
    check_queries_and_keys(q, k)
    (batch, heads, n, dim), kv_heads = q.shape, k.shape[1]
    blocks = ceil_div(tokens, block)
    counts = torch.empty(batch, heads, blocks, blocks, dtype=torch.int32, device=q.device)
    size = max(16, power_of_2(block))
    launch(
        _count, (blocks, batch * heads), (q, k, counts),
        (*q.stride()[:3], *k.stride()[:3], heads, heads // kv_heads, n, first, tokens, blocks, block, dim,
         float(scale), math.log(threshold)),
        SIZE=size, KEYS=KEYS, DIM=max(16, power_of_2(dim)), WIDE=INTERPRETED,
        num_warps=8 if size == 128 else 4, num_stages=2,
    )  # fmt: skip
    return counts


@jit
def key_scores(
    x: tl.tensor, k: tl.tensor, token: tl.tensor, exists: tl.tensor, stride_kn: tl.tensor, dim: tl.tensor,
    scale: tl.tensor, DIM: tl.constexpr, WIDE: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return the scores of a tile of queries and of some keys, -inf where there is no key."""
    d = tl.arange(0, DIM)
    y = tl.load(k + token[None, :] * stride_kn + d[:, None], mask=exists[None, :] & (d < dim)[:, None], other=0.0)
    if WIDE:
        s = tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision="ieee")
    else:
        s = tl.dot(x, y, input_precision="ieee")
    return tl.where(exists[None, :], s * scale, -float("inf"))


@jit
def _count(
    q: tl.tensor, k: tl.tensor, counts: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qn: tl.tensor,
    stride_kb: tl.tensor, stride_kh: tl.tensor, stride_kn: tl.tensor,
    heads: tl.tensor, group: tl.tensor, n: tl.tensor, first: tl.tensor, tokens: tl.tensor, blocks: tl.tensor,
    block: tl.tensor, dim: tl.tensor, scale: tl.tensor, least: tl.tensor,
    SIZE: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    q += (head // heads) * stride_qb + (head % heads) * stride_qh
    k += (head // heads) * stride_kb + (head % heads) // group * stride_kh
    place = tl.program_id(0) * block + tl.arange(0, SIZE).to(tl.int64)
    inside = (tl.arange(0, SIZE) < block) & (place < tokens)
    d = tl.arange(0, DIM)
    x = tl.load(
        q + (first + place)[:, None] * stride_qn + d[None, :], mask=inside[:, None] & (d < dim)[None, :], other=0.0
    )
    highest = tl.full([SIZE], -float("inf"), tl.float32)
    total = tl.zeros([SIZE], tl.float32)
    for start in range(0, n, KEYS):
        token = start + tl.arange(0, KEYS).to(tl.int64)
        s = key_scores(x, k, token, token < n, stride_kn, dim, scale, DIM, WIDE)
        higher = tl.maximum(highest, tl.max(s, 1))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(s - higher[:, None]), 1)
        highest = higher
    limit = highest + tl.log(total) + least
    row = counts + (head * blocks + tl.program_id(0)) * blocks
    for column in range(blocks):
        number = tl.zeros([SIZE], tl.int32)
        for start in range(0, SIZE, KEYS):
            inner = start + tl.arange(0, KEYS)
            key = column * block + inner.to(tl.int64)
            exists = (inner < block) & (key < tokens)
            s = key_scores(x, k, first + key, exists, stride_kn, dim, scale, DIM, WIDE)
            below = (s < limit[:, None]) & exists[None, :] & inside[:, None]
            number += tl.sum(below.to(tl.int32), 1)
        tl.store(row + column, tl.sum(number, 0))
