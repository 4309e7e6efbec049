"""Arrange tokens: one kernel that gathers rows at copy speed."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import ceil_div, jit, power_of_2


def arrange(
    x: Tensor, order: Tensor | None, width: int | None = None, *, users: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Return x with token ``order[i]`` at place i, contiguous; x itself if nothing has to be done.

    Args:
        x: [B, heads, N, D], unit last stride.
        order: int64 [M] or [B, H, M], H a multiple of the heads of x; None for grid order, M = N.
        width: columns of the result, at least D; those beyond D are zero. Default: D.
        users: int32 [1], or None. If it is 0 on the device, the result may be undefined.
        out: with an order, the contiguous tensor to write the result to, of its shape and dtype.

    Returns:
        [B, heads, M, width], or [B, H, M, width] if each head has its own order; a head of x then appears in every
        order of its group.
    """
    b, h, n, d = x.shape
    width = d if width is None else width
    if order is None and width == d:
        return x.contiguous()
    if order is None:
        padded = torch.zeros(b, h, n, width, dtype=x.dtype, device=x.device)
        padded[..., :d] = x
        return padded
    out_heads = order.shape[1] if order.dim() == 3 else h
    places = order.shape[-1]
    arranged = torch.empty(b, out_heads, places, width, dtype=x.dtype, device=x.device) if out is None else out
    strides = (order.stride(0), order.stride(1)) if order.dim() == 3 else (0, 0)
    grid = (ceil_div(places, 64), b * out_heads)
    launch(
        _gather, grid, (x, order, arranged, order if users is None else users),
        (*x.stride()[:3], *strides, order.stride(-1), out_heads, out_heads // h, places),
        D=d, OUT=width, WIDTH=power_of_2(width), ROWS=64, ASK=users is not None,
        num_warps=4,
    )  # fmt: skip
    return arranged


def padded_width(head_dim: int) -> int:
    """Return the columns that the attention kernels need for k and v: 64 or 128."""
    return 64 if head_dim <= 64 else 128


@jit
def _gather(
    x: tl.tensor, order: tl.tensor, out: tl.tensor, users: tl.tensor, x_batch: tl.tensor, x_head: tl.tensor,
    x_token: tl.tensor, order_batch: tl.tensor, order_head: tl.tensor, order_token: tl.tensor, heads: tl.tensor,
    group: tl.tensor, places: tl.tensor, D: tl.constexpr, OUT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    ASK: tl.constexpr,
) -> None:  # fmt: skip
    wanted = tl.load(users) if ASK else 1
    if wanted == 0:
        return
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1).to(tl.int64)
    b, h = head // heads, head % heads
    column = tl.arange(0, WIDTH)
    inside = (row < places)[:, None]
    token = tl.load(order + b * order_batch + h * order_head + row * order_token, mask=row < places, other=0)
    where = x + b * x_batch + (h // group) * x_head + token[:, None] * x_token + column[None]
    values = tl.load(where, mask=inside & (column < D)[None], other=0.0)
    tl.store(out + (head * places + row[:, None]) * OUT + column[None], values, mask=inside & (column < OUT)[None])
