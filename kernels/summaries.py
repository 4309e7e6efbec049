"""Attention to summaries: what a plan drops still counts, one mean key and one mean value for each block.

A query that drops a block of n keys sees it as n keys like the block's mean key, which all have the block's mean value.
These are joined with the attention over what is kept in one softmax.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attnbench.kernels.operators import operator
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.phases import phase
from attnbench.kernels.selection_ops import MOST_CHANNELS, uses_kernels


def add_summaries(
    output: Tensor, lse: Tensor, q: Tensor, keys: Tensor, values: Tensor, pattern: BlockPattern, order: Tensor | None,
    scale: float,
) -> Tensor:  # fmt: skip
    """Join attention over kept blocks with summaries of all others. It has no gradient.

    On CUDA, in half precision or float32, a kernel runs. A block of queries that keeps every key is left as it is.

    Args:
        output: attention over the kept blocks, [B, H, N, D].
        lse: its log-sum-exp, [B, H, N]; -inf where nothing is kept.
        q: [B, H, N, D], the last stride 1.
        keys: mean keys of the blocks, float32 or float64 [B, KV heads, k blocks, D]; KV heads divides H.
        values: mean values, likewise.
        pattern: which blocks each block of queries keeps; its rule must be None.
        order: int64 [N], the query token at each arranged position, or None.
        scale: factor of the scores.

    Returns:
        [B, H, N, D] in the dtype of ``output``.
    """
    joined: Tensor = _add_summaries(
        output, lse, q, keys, values, pattern.keep, pattern.q_offsets, pattern.k_offsets, order, float(scale)
    )
    return joined


@operator("attnbench::add_summaries")
def _add_summaries(
    output: Tensor, lse: Tensor, q: Tensor, keys: Tensor, values: Tensor, keep: Tensor, q_offsets: Tensor,
    k_offsets: Tensor, order: Tensor | None, scale: float,
) -> Tensor:  # fmt: skip
    if uses_kernels(q) and keys.dtype == torch.float32 and q.shape[3] <= MOST_CHANNELS:
        from attnbench.kernels.gpu import summaries

        with torch.cuda.device_of(q), phase("branch"):
            return summaries.add_summaries(output, lse, q, keys, values, keep, q_offsets, k_offsets, order, scale)
    with phase("branch"):
        return _in_torch(output, lse, q, keys, values, keep, q_offsets, k_offsets, order, scale)


@_add_summaries.register_fake
def _(output: Tensor, *others: object) -> Tensor:
    return output.new_empty(output.shape)


def _in_torch(
    output: Tensor, lse: Tensor, q: Tensor, keys: Tensor, values: Tensor, keep: Tensor, q_offsets: Tensor,
    k_offsets: Tensor, order: Tensor | None, scale: float,
) -> Tensor:  # fmt: skip
    joined = output.new_empty(output.shape)
    sizes = k_offsets.diff().to(keys.dtype).log()
    block = torch.repeat_interleave(q_offsets.diff(), output_size=q.shape[2])
    if order is not None:
        block = torch.empty_like(block).scatter_(0, order, block)
    group = q.shape[1] // keys.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):  # one head at a time, since there are N · blocks scores
            kept = keep[min(b, keep.shape[0] - 1), min(h, keep.shape[1] - 1)][block]
            scores = scale * (q[b, h].to(keys.dtype) @ keys[b, h // group].T) + sizes
            own = lse[b, h].to(keys.dtype)[:, None]
            whole = torch.cat([own, scores.masked_fill_(kept, -torch.inf)], 1).logsumexp(1, keepdim=True)
            whole = whole.nan_to_num(neginf=0.0)  # a query without keys or summaries stays 0
            mine = (own - whole).exp() * output[b, h].to(keys.dtype)
            joined[b, h] = (mine + (scores - whole).exp() @ values[b, h // group]).to(output.dtype)
    return joined
