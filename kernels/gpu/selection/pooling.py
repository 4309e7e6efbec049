"""Block means of the keys, in an order of summation that depends on shapes alone.

Small blocks share a program. Blocks that are few are split among enough programs to fill the device, and a second
stage adds their partial sums up.

Predicted for 12 heads of 55,296 × 128 bfloat16 keys: one read of 170 MB, 0.06 ms at 3 TB/s; partial sums are below 2
MB.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import ceil_div, check_dtype, check_unit_stride, jit, power_of_2, tile_size

PROGRAMS = 2112  # 16 for each of an H100's 132 multiprocessors
MOST_ROWS = 64
"""Tokens of a block that a program reads at a time, at most: those of a block of mean size, padded."""

TOKENS_OF_WARP = 16
"""Tokens that a program of whole blocks reads at a time for each of its warps, of one block or of several."""

MOST_AHEAD = 49_152
"""Bytes of a part of a block that are loaded ahead if its tokens are neighbours: three tiles of 64 × 128 bfloat16.
Loads that wait for addresses in an order were slower ahead."""


def pool_means(k: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    """Average the tokens of each block.

    Args:
        k: float32, float16 or bfloat16 [B, KV heads, N, D], any strides with the last 1.
        order: int64 [N], token at each arranged position, or None.
        offsets: int64 [blocks + 1], where each block begins in that order.

    Returns:
        Means in float32 [B, KV heads, blocks, D], summed in float32.

    Raises:
        Unsupported: for another dtype or stride.
    """
    check_dtype("k", k, torch.float32, torch.float16, torch.bfloat16)
    check_unit_stride("k", k)
    batch, heads, n, dim = k.shape
    blocks, rows = len(offsets) - 1, batch * heads
    splits = splits_of(n, blocks, rows)
    columns, tile = power_of_2(dim), tile_size(n, blocks, MOST_ROWS)
    means = k.new_empty(batch, heads, blocks, dim, dtype=torch.float32)
    where = order if order is not None else offsets
    if splits == 1:
        warps = 2 if order is None else 4
        together = blocks_together(blocks, rows, tile, TOKENS_OF_WARP * warps)
        launch(
            _block_means, (ceil_div(blocks, together), rows), (k, where, offsets, means),
            (*k.stride()[:3], heads, blocks, dim), HAS_ORDER=order is not None, BLOCKS=together, ROWS=tile,
            COLUMNS=columns, num_warps=warps * ceil_div(columns, 128),
        )  # fmt: skip
        return means
    sums = k.new_empty(rows, blocks, splits, dim, dtype=torch.float32)
    ahead = 0 if order is not None else MOST_AHEAD // (tile * columns * k.element_size())
    launch(
        _partial_sums, (blocks * splits, rows), (k, where, offsets, sums), (*k.stride()[:3], heads, splits, dim),
        HAS_ORDER=order is not None, ROWS=tile, COLUMNS=columns, STAGES=1 + min(ahead, 3), num_warps=4,
    )  # fmt: skip
    launch(_means, (blocks, rows), (sums, offsets, means), (splits, dim), COLUMNS=columns, num_warps=1)
    return means


def splits_of(tokens: int, blocks: int, rows: int) -> int:
    """Return into how many parts every block is cut to fill the device, for ``rows`` heads of all batch items."""
    return max(1, min(ceil_div(PROGRAMS, blocks * rows), tokens // (blocks * MOST_ROWS)))


def blocks_together(blocks: int, rows: int, tile: int, most: int) -> int:
    """Return how many blocks of ``tile`` tokens a program averages: a power of two that leaves enough programs.

    Args:
        blocks: blocks of a head.
        rows: heads of all batch items.
        tile: tokens of a block that are read at a time.
        most: tokens that a program reads at a time.
    """
    together = max(1, most // tile)
    while together > 1 and blocks * rows < PROGRAMS * together:
        together //= 2
    return together


@jit
def _block_means(
    k: tl.tensor, order: tl.tensor, offsets: tl.tensor, means: tl.tensor, stride_b: tl.tensor, stride_h: tl.tensor,
    stride_n: tl.tensor, heads: tl.tensor, blocks: tl.tensor, dim: tl.tensor,
    HAS_ORDER: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    block, row = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS), tl.program_id(1).to(tl.int64)
    start = tl.load(offsets + block, mask=block < blocks, other=0)
    stop = tl.load(offsets + block + 1, mask=block < blocks, other=0)
    columns = tl.arange(0, COLUMNS)
    k += (row // heads) * stride_b + (row % heads) * stride_h
    sums = tl.zeros([BLOCKS, ROWS, COLUMNS], tl.float32)
    for passed in range(0, tl.max(stop - start), ROWS):
        tokens = start[:, None] + passed + tl.arange(0, ROWS)[None, :]
        inside = tokens < stop[:, None]
        if HAS_ORDER:
            tokens = tl.load(order + tokens, mask=inside, other=0)
        mask = inside[:, :, None] & (columns < dim)[None, None, :]
        x = tl.load(k + tokens[:, :, None] * stride_n + columns[None, None, :], mask=mask, other=0.0)
        sums += x.to(tl.float32)
    total = tl.div_rn(tl.sum(sums, 1), (stop - start).to(tl.float32)[:, None])
    place = (row * blocks + block)[:, None] * dim + columns[None, :]
    tl.store(means + place, total, mask=(block < blocks)[:, None] & (columns < dim)[None, :])


@jit
def _partial_sums(
    k: tl.tensor, order: tl.tensor, offsets: tl.tensor, partial: tl.tensor, stride_b: tl.tensor, stride_h: tl.tensor,
    stride_n: tl.tensor, heads: tl.tensor, splits: tl.tensor, dim: tl.tensor,
    HAS_ORDER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr,
) -> None:  # fmt: skip
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start, stop = tl.load(offsets + part // splits), tl.load(offsets + part // splits + 1)
    share = (stop - start + splits - 1) // splits
    first = start + (part % splits) * share
    last = tl.minimum(first + share, stop)
    columns = tl.arange(0, COLUMNS)
    k += (row // heads) * stride_b + (row % heads) * stride_h
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for position in tl.range(first, last, ROWS, num_stages=STAGES):
        tokens = position + tl.arange(0, ROWS).to(tl.int64)
        inside = tokens < last
        if HAS_ORDER:
            tokens = tl.load(order + tokens, mask=inside, other=0)
        mask = inside[:, None] & (columns < dim)[None, :]
        x = tl.load(k + tokens[:, None] * stride_n + columns[None, :], mask=mask, other=0.0)
        sums += x.to(tl.float32)
    place = (row * tl.num_programs(0) + part) * dim
    tl.store(partial + place + columns, tl.sum(sums, 0), mask=columns < dim)


@jit
def _means(
    partial: tl.tensor, offsets: tl.tensor, means: tl.tensor, splits: tl.tensor, dim: tl.tensor, COLUMNS: tl.constexpr
) -> None:
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    place = row * tl.num_programs(0) + block
    columns = tl.arange(0, COLUMNS)
    sums = tl.zeros([COLUMNS], tl.float32)
    for split in range(splits):
        sums += tl.load(partial + (place * splits + split) * dim + columns, mask=columns < dim, other=0.0)
    size = (tl.load(offsets + block + 1) - tl.load(offsets + block)).to(tl.float32)
    tl.store(means + place * dim + columns, tl.div_rn(sums, size), mask=columns < dim)
