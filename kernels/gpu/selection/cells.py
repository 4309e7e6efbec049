"""Scores of block pairs by their cells, in one pass that never holds the scores of cells.

A program holds the running maximum and sum of ROWS × COLUMNS block pairs, and adds one pair of cells of all of them at
a time: a product of ROWS means of queries with COLUMNS means of keys. Three products in TF32 have the precision of
float32.

Predicted for 12 heads of 1,182 blocks of 4 × 4 cells, 128 channels, on an H100: 69 GFLOP, three times in TF32, 0.5 ms
at 400 TFLOP/s; 4.2 GB from the second-level cache, 0.8 ms; 0.5 billion powers, 0.15 ms.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import ceil_div, check_dtype, check_unit_stride, jit

ROWS = 64
COLUMNS = 64
DEPTH = 32
"""Block pairs of a program, and the channels that it multiplies at a time: more take too many registers."""


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
    launch(
        _cell_scores, (ceil_div(q_blocks, ROWS), ceil_div(k_blocks, COLUMNS), batch * heads),
        (queries, keys, scores),
        (*queries.stride()[:3], *keys.stride()[:3], heads, heads // keys.shape[1], rows, columns, q_cells, k_cells,
         q_blocks, k_blocks, dim, float(scale)),
        ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH, num_warps=4, num_stages=2,
    )  # fmt: skip
    return scores


@jit
def _cell_scores(
    queries: tl.tensor, keys: tl.tensor, scores: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qn: tl.tensor,
    stride_kb: tl.tensor, stride_kh: tl.tensor, stride_kn: tl.tensor,
    heads: tl.tensor, group: tl.tensor, rows: tl.tensor, columns: tl.tensor, q_cells: tl.tensor, k_cells: tl.tensor,
    q_blocks: tl.tensor, k_blocks: tl.tensor, dim: tl.tensor, scale: tl.tensor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
) -> None:  # fmt: skip
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
            score = score * scale
            exists = (row < rows)[:, None] & (column < columns)[None, :]
            score = tl.where(exists, score, -float("inf"))
            # Every block has a first cell, so the maximum is finite where anything is stored.
            higher = tl.maximum(highest, score)
            base = tl.where(higher > -float("inf"), higher, 0.0)
            total = total * tl.exp(highest - base) + tl.exp(score - base)
            highest = higher
    inside = (i < q_blocks)[:, None] & (j < k_blocks)[None, :]
    at = (head * q_blocks + i[:, None]) * k_blocks + j[None, :]
    tl.store(scores + at, highest + tl.log(tl.where(inside, total, 1.0)), mask=inside)
