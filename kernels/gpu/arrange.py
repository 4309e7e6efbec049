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
    d = x.shape[3]
    width = d if width is None else width
    if order is None:
        return _in_grid_order(x, width)
    arranged = torch.empty(_shape(x, order, width), dtype=x.dtype, device=x.device) if out is None else out
    _launch((x, x), order, (arranged, arranged), users, both=False)
    return arranged


def arrange_both(
    k: Tensor, v: Tensor, order: Tensor | None, width: int | None = None, *, users: Tensor | None = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Arrange k and v, which have the same shape and dtype, in one launch; see ``arrange``."""
    width = k.shape[3] if width is None else width
    if order is None:
        return _in_grid_order(k, width), _in_grid_order(v, width)
    if out is None:
        shape = _shape(k, order, width)
        out = (torch.empty(shape, dtype=k.dtype, device=k.device), torch.empty(shape, dtype=k.dtype, device=k.device))
    _launch((k, v), order, out, users, both=True)
    return out


def _in_grid_order(x: Tensor, width: int) -> Tensor:
    d = x.shape[3]
    if width == d:
        return x.contiguous()
    padded = torch.zeros(*x.shape[:3], width, dtype=x.dtype, device=x.device)
    padded[..., :d] = x
    return padded


def _shape(x: Tensor, order: Tensor, width: int) -> tuple[int, int, int, int]:
    return x.shape[0], order.shape[1] if order.dim() == 3 else x.shape[1], order.shape[-1], width


def _launch(
    given: tuple[Tensor, Tensor], order: Tensor, out: tuple[Tensor, Tensor], users: Tensor | None, *, both: bool
) -> None:
    b, h, _, d = given[0].shape
    out_heads, places, width = out[0].shape[1:]
    strides = (order.stride(0), order.stride(1)) if order.dim() == 3 else (0, 0)
    launch(
        _gather, (ceil_div(places, 64), b * out_heads, 1 + both),
        (*given, order, *out, order if users is None else users),
        (*given[0].stride()[:3], *given[1].stride()[:3], *strides, order.stride(-1), out_heads, out_heads // h, places),
        D=d, OUT=width, WIDTH=power_of_2(width), ROWS=64, ASK=users is not None, num_warps=4,
    )  # fmt: skip


def padded_width(head_dim: int) -> int:
    """Return the columns that the attention kernels need for k and v: 64 or 128."""
    return 64 if head_dim <= 64 else 128


@jit
def _gather(
    k: tl.tensor, v: tl.tensor, order: tl.tensor, keys: tl.tensor, values: tl.tensor, users: tl.tensor,
    k_batch: tl.tensor, k_head: tl.tensor, k_token: tl.tensor, v_batch: tl.tensor, v_head: tl.tensor,
    v_token: tl.tensor, order_batch: tl.tensor, order_head: tl.tensor, order_token: tl.tensor, heads: tl.tensor,
    group: tl.tensor, places: tl.tensor, D: tl.constexpr, OUT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    ASK: tl.constexpr,
) -> None:  # fmt: skip
    wanted = tl.load(users) if ASK else 1
    if wanted == 0:
        return
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1).to(tl.int64)
    b, h = head // heads, head % heads
    order += b * order_batch + h * order_head
    token = tl.load(order + row * order_token, mask=row < places, other=0)
    if tl.program_id(2) == 0:
        x = k + b * k_batch + (h // group) * k_head
        _copy(x, keys + head * places * OUT, token * k_token, row, places, D, OUT, WIDTH)
    else:
        x = v + b * v_batch + (h // group) * v_head
        _copy(x, values + head * places * OUT, token * v_token, row, places, D, OUT, WIDTH)


@jit
def _copy(
    x: tl.tensor, out: tl.tensor, where: tl.tensor, row: tl.tensor, places: tl.tensor, D: tl.constexpr,
    OUT: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    inside = (row < places)[:, None]
    column = tl.arange(0, WIDTH)
    values = tl.load(x + where[:, None] + column[None], mask=inside & (column < D)[None], other=0.0)
    tl.store(out + row.to(tl.int64)[:, None] * OUT + column[None], values, mask=inside & (column < OUT)[None])
