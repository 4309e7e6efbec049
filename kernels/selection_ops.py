"""The steps of selection as torch operators, which torch.compile, FLOP counters and profilers see.

On CUDA the operators run the Triton kernels of ``kernels.gpu``. Elsewhere, for float64 tensors and for shapes that the
kernels do not support, they run the torch functions of ``kernels.selection``, which give the same results up to
rounding. The choice of pairs has no gradient; ``pool_means`` has one, for branches that attend to means.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels import selection
from attnbench.kernels.flop_formulas import flop_formula
from attnbench.kernels.operators import on_device_of, operator
from attnbench.kernels.phases import phase

KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MOST_CHANNELS = 256  # a tile of queries fits into shared memory
MOST_BLOCKS = 4096  # a row of scores fits into the registers of a program

_interpreting: ContextVar[bool] = ContextVar("attnbench_kernels_on_cpu", default=False)


@contextmanager
def interpreted() -> Iterator[None]:
    """Also run the kernels on CPU tensors, in Triton's interpreter, which must be enabled before Triton is imported."""
    token = _interpreting.set(True)
    try:
        yield
    finally:
        _interpreting.reset(token)


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def uses_kernels(x: Tensor) -> bool:
    """Return whether the operators run kernels on tensors like ``x``, as far as device and dtype decide."""
    there = (x.is_cuda and _has_triton()) or (x.device.type == "cpu" and _interpreting.get())
    return there and x.dtype in KERNEL_DTYPES


@operator("attnbench::pool_means")
def _pool_means(k: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    if uses_kernels(k):
        from attnbench.kernels.gpu.selection import pooling

        with on_device_of(k), phase("pool"):
            return pooling.pool_means(k, order, offsets)
    with phase("pool"):
        return selection.pool_blocks(k, order, offsets)


@_pool_means.register_fake
def _(k: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    wide = torch.float64 if k.dtype == torch.float64 else torch.float32
    return k.new_empty(*k.shape[:2], offsets.shape[0] - 1, k.shape[3], dtype=wide)


def _keep_for_means(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    k, order, offsets = inputs
    ctx.dtype, ctx.tokens = k.dtype, k.shape[2]
    ctx.save_for_backward(order, offsets)


def _means_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    order, offsets = ctx.saved_tensors
    sizes = offsets.diff()
    block = torch.repeat_interleave(sizes, output_size=ctx.tokens)
    if order is not None:
        block = torch.empty_like(block).scatter_(0, order, block)
    return (grad / sizes[:, None]).to(ctx.dtype)[:, :, block], None, None


_pool_means.register_autograd(_means_backward, setup_context=_keep_for_means)


@operator("attnbench::score_blocks")
def _score_blocks(q: Tensor, means: Tensor, by_block: bool = False) -> tuple[Tensor, Tensor]:
    if _scores_by_kernel(q, means):
        from attnbench.kernels.gpu.selection import scoring

        with on_device_of(q), phase("score"):
            return scoring.score(q, means, by_block=by_block)
    with phase("score"):
        scores = selection.score_blocks(q, means)
        return scores, _no_extremes(q) if by_block else selection.extremes_of(scores)


def _no_extremes(q: Tensor) -> Tensor:
    return q.new_empty(0, 2, dtype=torch.int32)


def _scores_by_kernel(q: Tensor, means: Tensor) -> bool:
    return uses_kernels(q) and means.dtype == torch.float32 and q.shape[3] <= MOST_CHANNELS


@_score_blocks.register_fake
def _(q: Tensor, means: Tensor, by_block: bool = False) -> tuple[Tensor, Tensor]:
    if by_block and _scores_by_kernel(q, means):
        return q.new_empty(*q.shape[:2], means.shape[2], q.shape[2], dtype=means.dtype).mT, _no_extremes(q)
    scores = q.new_empty(*q.shape[:3], means.shape[2], dtype=means.dtype)
    return scores, _no_extremes(q) if by_block else q.new_empty(q.shape[0] * q.shape[1], 2, dtype=torch.int32)


@operator("attnbench::cut_threshold_head")
def _cut_threshold_head(scores: Tensor, own: Tensor, extremes: Tensor | None, threshold: float) -> Tensor:
    if uses_kernels(scores):
        from attnbench.kernels.gpu.selection import cut_heads as cut

        with on_device_of(scores), phase("select"):
            return cut.cut_threshold_head(scores, own, threshold, extremes=extremes)
    with phase("select"):
        return selection.threshold_per_head(scores, own, threshold)


@operator("attnbench::cut_top_k_head")
def _cut_top_k_head(scores: Tensor, own: Tensor, extremes: Tensor | None, k: int) -> Tensor:
    if uses_kernels(scores):
        from attnbench.kernels.gpu.selection import cut_heads as cut

        with on_device_of(scores), phase("select"):
            return cut.cut_top_k_head(scores, own, k, extremes=extremes)
    with phase("select"):
        return selection.top_k_per_head(scores, own, k)


@operator("attnbench::cut_threshold_query")
def _cut_threshold_query(scores: Tensor, own: Tensor, threshold: float) -> Tensor:
    if _cuts_by_kernel(scores):
        from attnbench.kernels.gpu.selection import cut_queries as rows

        with on_device_of(scores), phase("select"):
            return rows.cut_threshold_query(scores, own, threshold)
    with phase("select"):
        return selection.threshold_per_query(scores.contiguous(), own, threshold)


@operator("attnbench::cut_top_k_query")
def _cut_top_k_query(scores: Tensor, own: Tensor, k: int) -> Tensor:
    if _cuts_by_kernel(scores):
        from attnbench.kernels.gpu.selection import cut_queries as rows

        with on_device_of(scores), phase("select"):
            return rows.cut_top_k_query(scores, own, k)
    with phase("select"):
        return selection.top_k_per_query(scores.contiguous(), own, k)


def _cuts_by_kernel(scores: Tensor) -> bool:
    return uses_kernels(scores) and scores.shape[-1] <= MOST_BLOCKS


def _fake_cut(scores: Tensor, own: Tensor, *settings: object) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.bool)


def _fake_cut_query(scores: Tensor, own: Tensor, *settings: object) -> Tensor:
    if _cuts_by_kernel(scores):
        return scores.new_empty(scores.mT.shape, dtype=torch.bool).mT
    return scores.new_empty(scores.shape, dtype=torch.bool)


for _cut in (_cut_threshold_head, _cut_top_k_head):
    _cut.register_fake(_fake_cut)
for _cut_by_row in (_cut_threshold_query, _cut_top_k_query):
    _cut_by_row.register_fake(_fake_cut_query)


def pool_means(k: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    """Average the tokens of each block, with a gradient; see ``selection.pool_blocks``.

    Args:
        k: [B, KV heads, N, D], the last stride 1.
        order: int64 [N], token at each arranged position, or None.
        offsets: int64 [blocks + 1], where each block begins in that order.

    Returns:
        Means [B, KV heads, blocks, D] in float32, or in float64 for float64 keys.
    """
    means: Tensor = _pool_means(k, order, offsets)
    return means


def score_blocks(q: Tensor, means: Tensor, *, by_block: bool = False) -> tuple[Tensor, Tensor]:
    """Score every query against every block mean: plain dot products, without softmax or 1/√d.

    Args:
        q: [B, H, N, D], the last stride 1.
        means: what ``pool_means`` returns; KV heads divides H.
        by_block: lay scores out for cuts of single queries, if kernels run; see ``gpu.selection.scoring``.

    Returns:
        Scores [B, H, N, blocks] in the dtype of ``means``, and the extremes of each head, int32 [B·H, 2]; see
        ``selection.extremes_of``. With ``by_block``, there are none: int32 [0, 2].
    """
    scores, extremes = _score_blocks(q, means, by_block)
    return scores, extremes


def cut_threshold_head(scores: Tensor, own: Tensor, extremes: Tensor | None, threshold: float) -> Tensor:
    """Cut whole heads by a threshold on shares, bool [B, H, N, blocks]; see ``selection.threshold_per_head``.

    Args:
        scores: float32 or float64 [B, H, N, blocks], contiguous, finite.
        own: int64 [N], each query's own block.
        extremes: what ``score_blocks`` returned, if the scores have not changed since; computed if None.
        threshold: in (0, 1].
    """
    keep: Tensor = _cut_threshold_head(scores, own, extremes, threshold)
    return keep


def cut_top_k_head(scores: Tensor, own: Tensor, extremes: Tensor | None, k: int) -> Tensor:
    """Cut whole heads by a number of pairs, ``k`` per query on average; see ``selection.top_k_per_head``.

    Arguments and result are those of ``cut_threshold_head``. Scores of -inf are never kept.
    """
    keep: Tensor = _cut_top_k_head(scores, own, extremes, k)
    return keep


def cut_threshold_query(scores: Tensor, own: Tensor, threshold: float) -> Tensor:
    """Cut each query separately by a threshold on shares; see ``selection.threshold_per_query``.

    Arguments and result are those of ``cut_threshold_head``, but scores may also be laid out by block.
    """
    keep: Tensor = _cut_threshold_query(scores, own, threshold)
    return keep


def cut_top_k_query(scores: Tensor, own: Tensor, k: int) -> Tensor:
    """Cut each query separately by a number of blocks; see ``selection.top_k_per_query``.

    Arguments and result are those of ``cut_threshold_head``, but scores may also be laid out by block. Scores of -inf
    are never kept.
    """
    keep: Tensor = _cut_top_k_query(scores, own, k)
    return keep


def pooling_flops(k_shape: torch.Size) -> int:
    """Return the additions of ``pool_means``: one for each element of the keys."""
    return math.prod(k_shape)


def scoring_flops(q_shape: torch.Size, blocks: int) -> int:
    """Return the operations of ``score_blocks``, 2 for a multiply-add."""
    return 2 * math.prod(q_shape) * blocks


def _pooled(k_shape: torch.Size, *_: Any, **__: Any) -> int:
    return pooling_flops(k_shape)


def _scored(q_shape: torch.Size, means_shape: torch.Size, *_: Any, **__: Any) -> int:
    return scoring_flops(q_shape, means_shape[2])


flop_formula("pool_means", _pooled)
flop_formula("score_blocks", _scored)
