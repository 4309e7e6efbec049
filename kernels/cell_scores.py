"""Scores of block pairs by their cells: the log-sum-exp of scaled dot products between the means of smaller ranges."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbench.kernels.flop_formulas import flop_formula
from attnbench.kernels.operators import operator
from attnbench.kernels.partition import Partition
from attnbench.kernels.phases import phase
from attnbench.kernels.selection_ops import MOST_CHANNELS, pool_means, pooling_flops, scoring_flops, uses_kernels


def score_cells(
    q: Tensor, k: Tensor, q_cells: Partition, k_cells: Partition, per_block: tuple[int, int], scale: float
) -> tuple[Tensor, int]:
    """Score block pairs by the means of their cells: ln Σ exp(scale · mean · mean) over all pairs of cells.

    On CUDA, in half precision or float32, a kernel runs that never holds the scores of cells. No gradient is recorded.

    Args:
        q: [B, H, N, D], any strides with the last 1.
        k: [B, KV heads, N, D], likewise; KV heads divides H.
        q_cells: the cells of the queries, on the device of q and k. Text cells are left out.
        k_cells: the cells of the keys.
        per_block: how many successive cells of queries, and of keys, make a block; the last block may have fewer.
        scale: factor of the dot products.

    Returns:
        Scores [B, H, q blocks, k blocks] in float32, or in float64 for float64 tensors, and the floating-point
        operations spent on means and dot products, 2 for a multiply-add.
    """
    with torch.no_grad():
        queries = pool_means(q, q_cells.order, q_cells.offsets)[:, :, q_cells.video]
        keys = pool_means(k, k_cells.order, k_cells.offsets)[:, :, k_cells.video]
        scores: Tensor = _cell_scores(queries, keys, *per_block, float(scale))
    flops = pooling_flops(q.shape) + pooling_flops(k.shape) + scoring_flops(queries.shape, keys.shape[2])
    return scores, flops


def score_means(queries: Tensor, keys: Tensor) -> Tensor:
    """Score means against means: plain dot products. Unlike ``score_blocks``, it is made for few queries.

    Args:
        queries: float32 or float64 [B, H, q blocks, D], the last stride 1.
        keys: likewise [B, KV heads, k blocks, D]; KV heads divides H.

    Returns:
        [B, H, q blocks, k blocks].
    """
    scores: Tensor = _cell_scores(queries, keys, 1, 1, 1.0)
    return scores


@operator("attnbench::cell_scores")
def _cell_scores(queries: Tensor, keys: Tensor, q_cells: int, k_cells: int, scale: float) -> Tensor:
    if uses_kernels(queries) and queries.shape[3] <= MOST_CHANNELS:
        from attnbench.kernels.gpu.selection import cells

        with torch.cuda.device_of(queries), phase("score"):
            return cells.cell_scores(queries, keys, q_cells, k_cells, scale)
    with phase("score"):
        return cell_scores(queries, keys, q_cells, k_cells, scale)


@_cell_scores.register_fake
def _(queries: Tensor, keys: Tensor, q_cells: int, k_cells: int, scale: float) -> Tensor:
    return queries.new_empty(
        *queries.shape[:2], -(-queries.shape[2] // q_cells), -(-keys.shape[2] // k_cells), dtype=queries.dtype
    )


def cell_scores(queries: Tensor, keys: Tensor, q_cells: int, k_cells: int, scale: float) -> Tensor:
    """Return the log-sum-exp of scaled dot products over all pairs of cells of two blocks, in torch.

    Args:
        queries: means of cells, float32 or float64 [B, H, cells, D].
        keys: likewise, [B, KV heads, cells, D]; KV heads divides H.
        q_cells, k_cells: cells of a block.
        scale: factor of the dot products.

    Returns:
        [B, H, q blocks, k blocks].
    """
    rows, columns = -(-queries.shape[2] // q_cells), -(-keys.shape[2] // k_cells)
    scores = queries.new_empty(*queries.shape[:2], rows, columns)
    group = queries.shape[1] // keys.shape[1]
    for b in range(queries.shape[0]):
        for h in range(queries.shape[1]):  # one head at a time, since cells have many more pairs than blocks
            x = queries.new_full((rows * q_cells, columns * k_cells), -torch.inf)
            x[: queries.shape[2], : keys.shape[2]] = scale * (queries[b, h] @ keys[b, h // group].T)
            scores[b, h] = x.view(rows, q_cells, columns, k_cells).logsumexp((1, 3))
    return scores


def _scored(queries: torch.Size, keys: torch.Size, *_: object, **__: object) -> int:
    return scoring_flops(queries, keys[2])


flop_formula("cell_scores", _scored)
