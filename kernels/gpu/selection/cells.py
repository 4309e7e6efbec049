"""Scores of block pairs by their cells, in one pass that never holds the scores of cells.

A program holds the running maximum and sum of its block pairs, and adds pairs of cells to them: the product of one cell
of ROWS blocks of queries with all cells of some blocks of keys, or with one cell of each, where blocks are single cells
or their number does not divide the columns of a tile. Both add up a block pair in the same order.

Three products in TF32 have the precision of float32: each factor is split into a number that TF32 holds and what is
missing. For blocks of several cells of keys, this is done once, beforehand, and the means are laid out in the order in
which programs read them. On Hopper, ``cells_hopper`` multiplies them.

Predicted for 12 heads of 1,182 blocks of 4 × 4 cells, 128 channels, on an H100: 69 GFLOP, three times in TF32, 0.5 ms
at 400 TFLOP/s; 6.4 GB from the second-level cache, 1.2 ms; 0.5 billion powers, 0.15 ms.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.hopper import is_hopper
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

MOST_CHANNELS = 128
"""Channels of the keys that a program on Hopper can hold."""

TILE_ROWS = 32
"""Means that a program lays out and splits."""


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
        _score_side_by_side(queries, keys, scores, q_cells, k_cells, scale)
        return scores
    launch(
        _cell_scores, (ceil_div(q_blocks, ROWS), ceil_div(k_blocks, COLUMNS), batch * heads),
        (queries, keys, scores),
        (*queries.stride()[:3], *keys.stride()[:3], heads, heads // keys.shape[1], rows, columns, q_cells, k_cells,
         q_blocks, k_blocks, dim, float(scale)),
        ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH, num_warps=4, num_stages=2,
    )  # fmt: skip
    return scores


def _score_side_by_side(
    queries: Tensor, keys: Tensor, scores: Tensor, q_cells: int, k_cells: int, scale: float
) -> None:
    """Write the scores of blocks of ``SIDE_BY_SIDE`` cells of keys."""
    rows, columns, group = queries.shape[2], keys.shape[2], queries.shape[1] // keys.shape[1]
    q_blocks, k_blocks = scores.shape[2:]
    k_large, k_small = _in_tiles(keys, k_cells, CELL_COLUMNS // k_cells, split=True)
    if is_hopper(scores.device) and k_large.shape[1] <= MOST_CHANNELS:
        from attnbench.kernels.gpu.selection.cells_hopper import score_cells

        (whole,) = _in_tiles(queries, q_cells, ROWS, split=False)
        score_cells(whole, k_large, k_small, scores, group, rows, columns, q_cells, k_cells, float(scale))
        return
    q_large, q_small = _in_tiles(queries, q_cells, ROWS, split=True)
    launch(
        _scores_side_by_side,
        (ceil_div(q_blocks, ROWS), ceil_div(k_blocks * k_cells, CELL_COLUMNS), scores.shape[:2].numel()),
        (q_large, q_small, k_large, k_small, scores),
        (group, rows, columns, q_cells, q_blocks, k_blocks, k_large.shape[1], float(scale)),
        K_CELLS=k_cells, ROWS=ROWS, COLUMNS=CELL_COLUMNS, DEPTH=DEPTH, num_warps=4, num_stages=2,
    )  # fmt: skip


def _in_tiles(means: Tensor, cells: int, blocks: int, split: bool) -> tuple[Tensor, ...]:
    """Lay means [B, H, cells, D] out in tiles: the first cells of ``blocks`` blocks, their second cells, and so on.

    Returns:
        float32 [rows of all tiles of all heads, D rounded up to whole DEPTHs], with zeros where there are no means. If
        ``split``, what TF32 holds of them and what is missing.
    """
    batch, heads, rows, dim = means.shape
    tile, channels = blocks * cells, ceil_div(dim, DEPTH) * DEPTH
    per_head = ceil_div(rows, tile) * tile
    parts = tuple(means.new_empty(1 + split, batch * heads * per_head, channels))
    launch(
        _tile_rows, (ceil_div(per_head, TILE_ROWS), batch * heads), (means, parts[0], parts[-1]),
        (*means.stride()[:3], heads, rows, per_head, cells, dim, channels),
        SPLIT=split, BLOCKS=blocks, ROWS=TILE_ROWS, COLUMNS=power_of_2(channels), num_warps=4,
    )  # fmt: skip
    return parts


@jit
def _tile_rows(
    means: tl.tensor, large: tl.tensor, small: tl.tensor, stride_b: tl.tensor, stride_h: tl.tensor, stride_n: tl.tensor,
    heads: tl.tensor, rows: tl.tensor, per_head: tl.tensor, cells: tl.tensor, dim: tl.tensor, channels: tl.tensor,
    SPLIT: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    block = place // (cells * BLOCKS) * BLOCKS + place % BLOCKS
    row = block * cells + place // BLOCKS % cells
    d = tl.arange(0, COLUMNS)
    means += (head // heads) * stride_b + (head % heads) * stride_h
    x = tl.load(
        means + row.to(tl.int64)[:, None] * stride_n + d[None, :],
        mask=(row < rows)[:, None] & (d < dim)[None, :], other=0.0,
    )  # fmt: skip
    at = (head * per_head + place[:, None]) * channels + d[None, :]
    mask = (place < per_head)[:, None] & (d < channels)[None, :]
    if SPLIT:
        # To the nearest, and away from zero between two: as the compiler rounds for "tf32x3".
        rounded = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
        tl.store(large + at, rounded, mask=mask)
        tl.store(small + at, x - rounded, mask=mask)
    else:
        tl.store(large + at, x, mask=mask)


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
    d = tl.arange(0, DEPTH)[None, :]
    k_at = ((head // group * tl.num_programs(1) + tl.program_id(1)) * COLUMNS + place)[:, None] * channels + d
    q_tile = (head * tl.num_programs(0) + tl.program_id(0)) * q_cells * ROWS
    q_at = (q_tile + tl.arange(0, ROWS))[:, None] * channels + d
    highest = tl.full([ROWS, BLOCKS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS, BLOCKS], tl.float32)
    score = tl.zeros([ROWS, COLUMNS], tl.float32)
    steps = channels // DEPTH
    # One loop over cells and channels, so that loads go on from one cell to the next.
    for step in range(q_cells * steps):
        cell, first = step // steps, step % steps * DEPTH
        passed = cell * ROWS * channels + first
        x = tl.load(q_large + q_at + passed)
        x_rest = tl.load(q_small + q_at + passed)
        y = tl.trans(tl.load(k_large + k_at + first))
        y_rest = tl.trans(tl.load(k_small + k_at + first))
        # What the compiler makes of "tf32x3": the small products first, which are no numbers where a mean is -inf.
        product = tl.dot(x_rest, y, tl.zeros([ROWS, COLUMNS], tl.float32), input_precision="tf32")
        product = tl.dot(x, y_rest, product, input_precision="tf32")
        product = tl.where(product == product, product, 0.0)
        score += tl.dot(x, y, product, input_precision="tf32")
        if step % steps == steps - 1:
            exists = (i * q_cells + cell < rows)[:, None] & (column < columns)[None, :]
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
