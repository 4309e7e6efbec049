"""Arrange tokens: one kernel that gathers rows at copy speed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.widen import jit


def arrange(x: Tensor, order: Tensor | None) -> Tensor:
    """Return x [B, H, N, D] with token ``order[i]`` at position i, contiguous; x itself where nothing is to be done.

    ``order`` is int64 [N] or [B, H, N], or None for grid order.
    """
    if order is None:
        return x.contiguous()
    b, h, n, d = x.shape
    arranged = torch.empty(b, h, n, d, dtype=x.dtype, device=x.device)
    strides = (order.stride(0), order.stride(1)) if order.dim() == 3 else (0, 0)
    grid = (triton.cdiv(n, 64), b * h)
    _gather[grid](
        x, order, arranged, *x.stride()[:3], *strides, order.stride(-1), h, n,
        D=d, WIDTH=triton.next_power_of_2(d), ROWS=64, num_warps=4,
    )  # fmt: skip
    return arranged


@jit
def _gather(
    x: tl.tensor, order: tl.tensor, out: tl.tensor, x_batch: tl.tensor, x_head: tl.tensor, x_token: tl.tensor,
    order_batch: tl.tensor, order_head: tl.tensor, order_token: tl.tensor, heads: tl.tensor, tokens: tl.tensor,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1).to(tl.int64)
    b, h = head // heads, head % heads
    column = tl.arange(0, WIDTH)
    token = tl.load(order + b * order_batch + h * order_head + row * order_token, mask=row < tokens, other=0)
    mask = (row < tokens)[:, None] & (column < D)[None]
    values = tl.load(x + b * x_batch + h * x_head + token[:, None] * x_token + column[None], mask=mask)
    tl.store(out + (head * tokens + row[:, None]) * D + column[None], values, mask=mask)
