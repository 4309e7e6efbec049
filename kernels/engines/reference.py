"""The reference engine: plain torch, any plan, any device, forward and backward, memory linear in N.

It walks the plan's tiles with an online softmax in float32 (float64 for float64 inputs). The arrangement has no cost of
its own: tiles name their tokens in grid order, so gathering the rows of a tile is the permutation, and scattering its
output undoes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.engines.base import Engine, Task, supports_dtype
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan
from attnbench.kernels.tiles import Tile, executed_pairs, tile_mask, tiles
from attnbench.kernels.witness import launched


def _forward_head(q: Tensor, k: Tensor, v: Tensor, plan: Plan, b: int, h: int, scale: float) -> tuple[Tensor, Tensor]:
    """Attend for one head, [N, D] each, in the accumulation dtype. Rows that keep no key give 0 and an lse of -inf."""
    dtype = _accumulator(q.dtype)
    n, width = q.shape[0], v.shape[1]
    output = torch.zeros(n, width, dtype=dtype, device=q.device)
    top = torch.full((n, 1), -torch.inf, dtype=dtype, device=q.device)
    total = torch.zeros(n, 1, dtype=dtype, device=q.device)
    gathered = _Gather(k, v, dtype)
    for tile in _listed(plan, b, h):
        with phase("gather"):
            rows = q[tile.queries].to(dtype).mul_(scale)
            keys, values = gathered(tile)
        with phase("qk"):
            scores = rows @ keys.T
        with phase("softmax"):
            mask = tile_mask(plan, tile)
            if mask is not None:
                scores.masked_fill_(~mask, -torch.inf)
            old = top[tile.queries]
            new = torch.maximum(old, scores.amax(-1, keepdim=True))
            anchor = new.nan_to_num(neginf=0.0)
            weights = scores.sub_(anchor).exp_()
            decay = (old - anchor).exp_()
            total[tile.queries] = total[tile.queries].mul_(decay).add_(weights.sum(-1, keepdim=True))
            top[tile.queries] = new
        with phase("av"):
            output[tile.queries] = torch.addmm(output[tile.queries].mul_(decay), weights, values)
    empty = total == 0
    output.div_(total.masked_fill(empty, 1.0))
    return output, (top + total.log()).squeeze(1)


def _backward_head(
    q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, d_output: Tensor, d_lse: Tensor | None,
    grads: tuple[Tensor, Tensor, Tensor], plan: Plan, b: int, h: int, scale: float,
) -> None:  # fmt: skip
    """Add one head's gradients to ``grads`` = (dq, dk, dv), [N, D] each, recomputing the weights tile by tile."""
    dtype = lse.dtype
    dq, dk, dv = grads
    d_output = d_output.to(dtype)
    delta = (d_output * output.to(dtype)).sum(-1, keepdim=True)
    if d_lse is not None:
        delta -= d_lse[:, None]
    anchor = lse.nan_to_num(neginf=0.0)[:, None]
    gathered = _Gather(k, v, dtype)
    for tile in _listed(plan, b, h):
        with phase("gather"):
            rows = q[tile.queries].to(dtype)
            keys, values = gathered(tile)
        weights = torch.mm(rows * scale, keys.T)
        mask = tile_mask(plan, tile)
        if mask is not None:
            weights.masked_fill_(~mask, -torch.inf)
        weights.sub_(anchor[tile.queries]).exp_()
        d_rows = d_output[tile.queries]
        dv.index_add_(0, tile.keys, weights.T @ d_rows)
        d_scores = (d_rows @ values.T).sub_(delta[tile.queries]).mul_(weights).mul_(scale)
        dq.index_add_(0, tile.queries, d_scores @ keys)
        dk.index_add_(0, tile.keys, d_scores.T @ rows)


def _listed(plan: Plan, b: int, h: int) -> Iterator[Tile]:
    """Yield the tiles of one head. Listing them is a phase of its own."""
    rest = tiles(plan, b, h)
    while True:
        with phase("index"):
            tile = next(rest, None)
        if tile is None:
            return
        yield tile


class _Gather:
    """Gathers the keys and values of a tile and keeps the last ones, because neighbouring tiles often share them."""

    def __init__(self, k: Tensor, v: Tensor, dtype: torch.dtype) -> None:
        self.k, self.v, self.dtype = k, v, dtype
        self.last: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        last = self.last
        if last is None or last[0].data_ptr() != tile.keys.data_ptr() or len(last[0]) != len(tile.keys):
            self.last = last = (
                tile.keys,
                self.k.index_select(0, tile.keys).to(self.dtype),
                self.v.index_select(0, tile.keys).to(self.dtype),
            )
        return last[1], last[2]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> tuple[Tensor, Tensor]:
        launched("reference:forward")
        group = q.shape[1] // k.shape[1]
        output = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=_accumulator(q.dtype), device=q.device)
        for b in range(q.shape[0]):
            for h in range(q.shape[1]):
                out, head_lse = _forward_head(q[b, h], k[b, h // group], v[b, h // group], plan, b, h, scale)
                output[b, h], lse[b, h] = out, head_lse
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.plan, ctx.scale = plan, scale
        ctx.set_materialize_grads(False)
        return output, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, output, lse = ctx.saved_tensors
        d_output, d_lse = grads
        # The backward pass runs under its caller's autocast, whose casts would not match the accumulators.
        with torch.autocast(q.device.type, enabled=False), phase("attend"):
            return _Attend._gradients(ctx, q, k, v, output, lse, d_output, d_lse)

    @staticmethod
    def _gradients(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, d_output: Tensor | None,
        d_lse: Tensor | None,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        launched("reference:backward")
        if d_output is None:
            d_output = torch.zeros_like(output)
        group = q.shape[1] // k.shape[1]
        dq, dk, dv = (torch.zeros(x.shape, dtype=lse.dtype, device=x.device) for x in (q, k, v))
        for b in range(q.shape[0]):
            for h in range(q.shape[1]):
                g = h // group
                _backward_head(
                    q[b, h], k[b, g], v[b, g], output[b, h], lse[b, h], d_output[b, h],
                    None if d_lse is None else d_lse[b, h], (dq[b, h], dk[b, g], dv[b, g]), ctx.plan, b, h, ctx.scale,
                )  # fmt: skip
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    output, lse = _Attend.apply(q, k, v, plan, scale)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return output, lse


def _supports(plan: Plan, task: Task) -> str | None:
    return supports_dtype(task)


REFERENCE = Engine(
    name="reference",
    bands=True,
    own_offsets=True,
    summary="plain torch, every plan, any device, forward and backward; exact, not fast on a GPU",
    available=lambda: None,
    version=lambda: f"torch {torch.__version__}",
    supports=_supports,
    attend=_attend,
    executed_pairs=executed_pairs,
    dense=True,
    tested=True,
)
