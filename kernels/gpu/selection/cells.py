"""Scores of block pairs by their cells, in one pass that never holds the scores of cells.

A program holds the running maximum and sum of its block pairs, and adds pairs of cells to them: the product of one cell
of ROWS blocks of queries with all cells of some blocks of keys, or with one cell of each, where blocks are single cells
or their number does not divide the columns of a tile. Both add up a block pair in the same order.

Three products in TF32 have the precision of float32: each factor is split into a number that TF32 holds and what is
missing. For blocks of several cells of keys, this is done once, beforehand.

Predicted for 12 heads of 1,182 blocks of 4 × 4 cells, 128 channels, on an H100: 69 GFLOP, three times in TF32, 0.5 ms
at 400 TFLOP/s; 6.4 GB from the second-level cache, 1.2 ms; 0.5 billion powers, 0.15 ms.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import ceil_div, check_dtype, check_unit_stride, jit, power_of_2

ROWS = 64
COLUMNS = 64
DEPTH = 32
"""Block pairs of a program that adds single cells, and the channels that it multiplies at a time: more take too many
registers.
"""

CELL_COLUMNS = 128
"""Cells of keys that a program multiplies side by side."""

SIDE_BY_SIDE = (2, 4, 8, 16)
"""Cells of a block of keys for which it does. Others do not divide the columns into 8 blocks or more, or are single:
a program reads these once, and splitting them beforehand would take two more launches. Only 4 × 4 cells were timed.
"""

SPLIT_ROWS = 32
"""Means that a program splits."""


def cell_scores(queries: Tensor, keys: Tensor, q_cells: int, k_cells: int, scale: float) -> Tensor:
    """Return the log-sum-exp of scaled dot products over all pairs of cells; see ``kernels.cell_scores.cell_scores``.

    Args:
        queries: float32 [B, H, cells, D], any strides with the last 1.
        keys: float32 [B, KV heads, cells, D], likewise; KV heads divides H.
        q_cells, k_cells: cells of a block.
        scale: factor of the dot products.

    Raises:
        Unsupported: for another dtype or stride.
    """
    for name, x in (("queries", queries), ("keys", keys)):
        check_dtype(name, x, torch.float32)
        check_unit_stride(name, x)
    batch, heads, rows, dim = queries.shape
    columns = keys.shape[2]
    q_blocks, k_blocks = ceil_div(rows, q_cells), ceil_div(columns, k_cells)
    scores = torch.empty(batch, heads, q_blocks, k_blocks, dtype=torch.float32, device=queries.device)
    if k_cells in SIDE_BY_SIDE:
        q_parts, k_parts = _tf32_parts(queries), _tf32_parts(keys)
        launch(
            _scores_side_by_side, (ceil_div(q_blocks, ROWS), ceil_div(k_blocks * k_cells, CELL_COLUMNS), batch * heads),
            (*q_parts, *k_parts, scores),
            (heads // keys.shape[1], rows, columns, q_cells, q_blocks, k_blocks, q_parts[0].shape[3], float(scale)),
            K_CELLS=k_cells, ROWS=ROWS, COLUMNS=CELL_COLUMNS, DEPTH=DEPTH, num_warps=4, num_stages=2,
        )  # fmt: skip
        return scores
    launch(
        _cell_scores, (ceil_div(q_blocks, ROWS), ceil_div(k_blocks, COLUMNS), batch * heads),
        (queries, keys, scores),
        (*queries.stride()[:3], *keys.stride()[:3], heads, heads // keys.shape[1], rows, columns, q_cells, k_cells,
         q_blocks, k_blocks, dim, float(scale)),
        ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH, num_warps=4, num_stages=2,
    )  # fmt: skip
    return scores


def _tf32_parts(means: Tensor) -> tuple[Tensor, Tensor]:
    """Split means [B, H, cells, D] into what TF32 holds and what is missing, float32, with zeros up to whole DEPTHs."""
    batch, heads, rows, dim = means.shape
    channels = ceil_div(dim, DEPTH) * DEPTH
    large, small = means.new_empty(2, batch, heads, rows, channels)
    launch(
        _split_rows, (ceil_div(rows, SPLIT_ROWS), batch * heads), (means, large, small),
        (*means.stride()[:3], heads, rows, dim, channels),
        ROWS=SPLIT_ROWS, COLUMNS=power_of_2(channels), num_warps=4,
    )  # fmt: skip
    return large, small


@jit
def _split_rows(
    means: tl.tensor, large: tl.tensor, small: tl.tensor, stride_b: tl.tensor, stride_h: tl.tensor, stride_n: tl.tensor,
    heads: tl.tensor, rows: tl.tensor, dim: tl.tensor, channels: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, COLUMNS)
    means += (head // heads) * stride_b + (head % heads) * stride_h
    x = tl.load(
        means + row.to(tl.int64)[:, None] * stride_n + d[None, :],
        mask=(row < rows)[:, None] & (d < dim)[None, :], other=0.0,
    )  # fmt: skip
    # To the nearest, and away from zero between two: as the compiler rounds for "tf32x3".
    rounded = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    at = (head * rows + row[:, None]) * channels + d[None, :]
    mask = (row < rows)[:, None] & (d < channels)[None, :]
    tl.store(large + at, rounded, mask=mask)
    tl.store(small + at, x - rounded, mask=mask)


@jit
def _add_cell(highest: tl.tensor, total: tl.tensor, score: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Add one pair of cells of each block pair to its maximum and sum."""
    # Every block has a first cell, so the maximum is finite where anything is stored.
    higher = tl.maximum(highest, score)
    base = tl.where(higher > -float("inf"), higher, 0.0)
    return higher, total * tl.exp(highest - base) + tl.exp(score - base)


@jit
def _add_cells(
    highest: tl.tensor, total: tl.tensor, score: tl.tensor, CELLS: tl.constexpr, ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Add [ROWS, CELLS · BLOCKS] pairs of cells: those of the blocks' first cells, then of their second, and so on."""
    if CELLS == 1:
        highest, total = _add_cell(highest, total, score)
    else:
        HALF: tl.constexpr = CELLS // 2
        left, right = tl.split(tl.permute(tl.reshape(score, [ROWS, 2, HALF * BLOCKS]), (0, 2, 1)))
        highest, total = _add_cells(highest, total, left, HALF, ROWS, BLOCKS)
        highest, total = _add_cells(highest, total, right, HALF, ROWS, BLOCKS)
    return highest, total


@jit
def _store_scores(
    scores: tl.tensor, highest: tl.tensor, total: tl.tensor, head: tl.tensor, i: tl.tensor, j: tl.tensor,
    q_blocks: tl.tensor, k_blocks: tl.tensor,
) -> None:  # fmt: skip
    inside = (i < q_blocks)[:, None] & (j < k_blocks)[None, :]
    at = (head * q_blocks + i[:, None]) * k_blocks + j[None, :]
    tl.store(scores + at, highest + tl.log(tl.where(inside, total, 1.0)), mask=inside)


@jit
def _scores_side_by_side(
    q_large: tl.tensor, q_small: tl.tensor, k_large: tl.tensor, k_small: tl.tensor, scores: tl.tensor,
    group: tl.tensor, rows: tl.tensor, columns: tl.tensor, q_cells: tl.tensor, q_blocks: tl.tensor,
    k_blocks: tl.tensor, channels: tl.tensor, scale: tl.tensor,
    K_CELLS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
) -> None:  # fmt: skip
    """Add all cells of COLUMNS / K_CELLS blocks of keys together: the first cells side by side, then the second, …"""
    BLOCKS: tl.constexpr = COLUMNS // K_CELLS
    head = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = tl.arange(0, COLUMNS)
    column = (tl.program_id(1) * BLOCKS + place % BLOCKS) * K_CELLS + place // BLOCKS
    k_at = ((head // group * columns + column) * channels)[:, None] + tl.arange(0, DEPTH)[None, :]
    k_inside = (column < columns)[:, None]
    highest = tl.full([ROWS, BLOCKS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS, BLOCKS], tl.float32)
    score = tl.zeros([ROWS, COLUMNS], tl.float32)
    steps = channels // DEPTH
    # One loop over cells and channels, so that loads go on from one cell to the next.
    for step in range(q_cells * steps):
        row, first = i * q_cells + step // steps, step % steps * DEPTH
        q_at = ((head * rows + row) * channels + first)[:, None] + tl.arange(0, DEPTH)[None, :]
        q_inside = (row < rows)[:, None]
        x = tl.load(q_large + q_at, mask=q_inside, other=0.0)
        x_rest = tl.load(q_small + q_at, mask=q_inside, other=0.0)
        y = tl.trans(tl.load(k_large + k_at + first, mask=k_inside, other=0.0))
        y_rest = tl.trans(tl.load(k_small + k_at + first, mask=k_inside, other=0.0))
        # What the compiler makes of "tf32x3": the small products first, which are no numbers where a mean is -inf.
        product = tl.dot(x_rest, y, tl.zeros([ROWS, COLUMNS], tl.float32), input_precision="tf32")
        product = tl.dot(x, y_rest, product, input_precision="tf32")
        product = tl.where(product == product, product, 0.0)
        score += tl.dot(x, y, product, input_precision="tf32")
        if step % steps == steps - 1:
            exists = q_inside & (column < columns)[None, :]
            score = tl.where(exists, score * scale, -float("inf"))
            highest, total = _add_cells(highest, total, score, K_CELLS, ROWS, BLOCKS)
            score = tl.zeros([ROWS, COLUMNS], tl.float32)
    j = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    _store_scores(scores, highest, total, head, i, j, q_blocks, k_blocks)


@jit
def _cell_scores(
    queries: tl.tensor, keys: tl.tensor, scores: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qn: tl.tensor,
    stride_kb: tl.tensor, stride_kh: tl.tensor, stride_kn: tl.tensor,
    heads: tl.tensor, group: tl.tensor, rows: tl.tensor, columns: tl.tensor, q_cells: tl.tensor, k_cells: tl.tensor,
    q_blocks: tl.tensor, k_blocks: tl.tensor, dim: tl.tensor, scale: tl.tensor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
) -> None:  # fmt: skip
    """Add one pair of cells of ROWS × COLUMNS block pairs after the other."""
    head = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    queries += (head // heads) * stride_qb + (head % heads) * stride_qh
    keys += (head // heads) * stride_kb + (head % heads) // group * stride_kh
    highest = tl.full([ROWS, COLUMNS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for a in range(q_cells):
        row = i * q_cells + a
        for b in range(k_cells):
            column = j * k_cells + b
            score = tl.zeros([ROWS, COLUMNS], tl.float32)
            for first in range(0, dim, DEPTH):
                d = first + tl.arange(0, DEPTH)
                x = tl.load(
                    queries + row.to(tl.int64)[:, None] * stride_qn + d[None, :],
                    mask=(row < rows)[:, None] & (d < dim)[None, :], other=0.0,
                )  # fmt: skip
                y = tl.load(
                    keys + column.to(tl.int64)[:, None] * stride_kn + d[None, :],
                    mask=(column < columns)[:, None] & (d < dim)[None, :], other=0.0,
                )  # fmt: skip
                score = tl.dot(x, tl.trans(y), score, input_precision="tf32x3")
            exists = (row < rows)[:, None] & (column < columns)[None, :]
            score = tl.where(exists, score * scale, -float("inf"))
            highest, total = _add_cell(highest, total, score)
    _store_scores(scores, highest, total, head, i, j, q_blocks, k_blocks)
