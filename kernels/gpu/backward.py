"""Backward pass of attention over tiles, given the forward pass's output and log-sum-exp.

With the probabilities P and dP = dO Vᵀ, the gradient of the scores is P · (dP - delta), where delta of a row accounts
for the normalisation of softmax. Gradients of queries are computed tile by tile, and those of keys key tile by key
tile. This takes seven matrix products instead of five, but each result is written by one program only, so results are
the same bits every time.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.backward_keys import KeysTuning, backward_keys
from attnbench.kernels.gpu.backward_queries import QueriesTuning, backward_queries
from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import ceil_div, jit, power_of_2

__all__ = [
    "KeysTuning",
    "QueriesTuning",
    "backward_keys",
    "backward_queries",
    "delta_of",
    "sum_groups",
]


def delta_of(output: Tensor, d_output: Tensor, d_lse: Tensor | None) -> Tensor:
    """Return the sum over a row of output · d_output, minus the gradient of its log-sum-exp; float32 [B, H, N].

    Args:
        output, d_output: [B, H, N, D], any strides with unit last.
        d_lse: [B, H, N], any strides; None if the log-sum-exp was not used.
    """
    batch, heads, n, d = output.shape
    delta = torch.empty(batch, heads, n, dtype=torch.float32, device=output.device)
    from_lse = delta if d_lse is None else d_lse
    launch(
        _delta, (ceil_div(n, 32), batch * heads), (output, d_output, from_lse, delta),
        (*output.stride()[:3], *d_output.stride()[:3], *from_lse.stride(), heads, n),
        D=d, WIDTH=power_of_2(d), ROWS=32, HAS_LSE=d_lse is not None, num_warps=4,
    )  # fmt: skip
    return delta


def sum_groups(gradient: Tensor, kv_heads: int) -> Tensor:
    """Add up the gradients of the query heads of each kv head, if each query head has one: [B, H, …] to [B, KV, …]."""
    if gradient.shape[1] == kv_heads:
        return gradient
    grouped: Tensor = gradient.unflatten(1, (kv_heads, -1))
    return grouped.sum(2, dtype=torch.float32).to(gradient.dtype)


@jit
def _delta(
    output: tl.tensor, d_output: tl.tensor, d_lse: tl.tensor, delta: tl.tensor, out_batch: tl.tensor,
    out_head: tl.tensor, out_token: tl.tensor, do_batch: tl.tensor, do_head: tl.tensor, do_token: tl.tensor,
    lse_batch: tl.tensor, lse_head: tl.tensor, lse_token: tl.tensor, heads: tl.tensor, n: tl.tensor, D: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, HAS_LSE: tl.constexpr,
) -> None:  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, WIDTH)
    head = tl.program_id(1).to(tl.int64)
    b, h = head // heads, head % heads
    inside = row < n
    mask = inside[:, None] & (column < D)[None]
    out_at = output + b * out_batch + h * out_head + row[:, None] * out_token + column[None]
    do_at = d_output + b * do_batch + h * do_head + row[:, None] * do_token + column[None]
    product = tl.load(out_at, mask=mask, other=0.0).to(tl.float32) * tl.load(do_at, mask=mask, other=0.0).to(tl.float32)
    total = tl.sum(product, 1)
    if HAS_LSE:
        at = d_lse + b * lse_batch + h * lse_head + row * lse_token
        total -= tl.load(at, mask=inside, other=0.0).to(tl.float32)
    tl.store(delta + head * n + row, total, mask=inside)
