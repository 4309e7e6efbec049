"""The structure in which MoBA and VMoBA were published, for comparison: two calls and a merge.

Tokens are moved into the order of the blocks. One call of varlen attention runs every query with its own block; a
second one runs all other kept (query, block) pairs, for which each block's queries are gathered into a sequence. The
partial results of a query are merged by their log-sum-exps in float32 with index_add, and tokens are moved back. The
lists come from ``nonzero``, so the CPU waits for the device, as in the published code.

Every difference from the published code makes it cheaper or more exact. Heads are sequences in both calls, so rows are
gathered from where the permutation puts them, and keys are not copied a second time. The gradient of a query is summed
in float32. Queries may keep any blocks, with or without their own, or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from attnbench.kernels.engines import flash4
from attnbench.kernels.engines.base import Engine, Task, supports_dtype
from attnbench.kernels.engines.cudnn import supports_half
from attnbench.kernels.engines.varlen import Sequences, flash_problem, varlen_backward, varlen_forward, wide
from attnbench.kernels.pattern import RoutedPattern
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan

TILE = 128
"""Queries and keys of a tile of flash-attn-4's forward kernel with head_dim 128, for counting executed pairs."""


@dataclass(frozen=True, eq=False)
class _Part:
    """A varlen call: one sequence for each batch item, head and block, and the rows of its queries (None: all)."""

    rows: Tensor | None
    sequences: Sequences

    def take(self, x: Tensor) -> Tensor:
        return x if self.rows is None else x.index_select(0, self.rows)

    def __bool__(self) -> bool:
        return self.rows is None or len(self.rows) > 0


def _parts(plan: Plan) -> tuple[_Part, _Part]:
    """List the queries of both calls: own blocks, and all other kept (query, block) pairs. This waits for the device.

    A row is a batch item, a head and a position in the order of the keys' blocks.
    """
    offsets = plan.pattern.k_offsets
    n, blocks, all_heads = plan.layout.tokens, len(offsets) - 1, plan.batch * plan.heads
    keep = _keep_in_block_order(plan)
    block = torch.searchsorted(offsets, torch.arange(n, device=offsets.device), right=True) - 1
    at_own = block[None, None, :, None].expand(*keep.shape[:3], 1)
    own = keep.gather(3, at_own).flatten(0, 1)[..., 0]
    others = keep.scatter(3, at_own, False).flatten(0, 1).mT.reshape(all_heads * blocks, n)

    begins = torch.arange(all_heads, device=offsets.device)[:, None] * n + offsets[:-1]
    k_offsets = pad(begins.flatten(), (0, 1), value=all_heads * n)
    longest = int(offsets.diff().max())
    own_counts = pad(own.cumsum(1), (1, 0))[:, offsets].diff(dim=1)
    own_rows = None if bool(own.all()) else own.flatten().nonzero()[:, 0]

    sequence, position = others.nonzero(as_tuple=True)
    rows = sequence // blocks * n + position
    return (
        _Part(own_rows, _sequences(own_counts.flatten(), k_offsets, longest, longest)),
        _Part(rows, _sequences(others.sum(1), k_offsets, n, longest)),
    )


def _sequences(counts: Tensor, k_offsets: Tensor, longest_q: int, longest_k: int) -> Sequences:
    q_offsets = pad(counts.cumsum(0), (1, 0))
    return Sequences(q_offsets.to(torch.int32), k_offsets.to(torch.int32), longest_q, longest_k)


def _keep_in_block_order(plan: Plan) -> Tensor:
    """Return the kept blocks bool [B, H, N, blocks], queries in the order in which the keys are arranged."""
    keep = plan.pattern.keep.expand(plan.batch, plan.heads, -1, -1)
    q_order, k_order = plan.q_order, plan.k_order
    if q_order is k_order:
        return keep
    positions = torch.arange(plan.layout.tokens, device=plan.device)
    if q_order is not None:
        inverse = torch.empty_like(q_order).scatter_(-1, q_order, positions.expand_as(q_order))
        index = inverse if k_order is None else _at(inverse, k_order)
    else:
        assert k_order is not None
        index = k_order
    return _arranged(keep, index, plan.heads)


def _at(x: Tensor, index: Tensor) -> Tensor:
    """Return ``x[..., index]``, where both are [N] or [B, H, N]."""
    if index.dim() == 1:
        return x[..., index]
    return x.expand_as(index).gather(-1, index)


def _arranged(x: Tensor, order: Tensor | None, heads: int) -> Tensor:
    """Return the rows of x [B, heads or kv heads, N, D] for every query head, in the given order [N] or [B, H, N]."""
    if x.shape[1] != heads:
        x = x.repeat_interleave(heads // x.shape[1], 1)
    if order is None:
        return x.contiguous()
    if order.dim() == 1:
        return x.index_select(2, order)
    return x.gather(2, order[..., None].expand(-1, -1, -1, x.shape[3]))


def _restored(x: Tensor, order: Tensor | None) -> Tensor:
    """Undo ``_arranged`` for x [B, H, N, D]."""
    if order is None:
        return x
    if order.dim() == 1:
        return torch.empty_like(x).index_copy_(2, order, x)
    return torch.empty_like(x).scatter_(2, order[..., None].expand_as(x), x)


Partial = tuple[Tensor | None, Tensor, Tensor]
"""The rows of a call's queries, None meaning all, their output [rows, D] and their log-sum-exp [rows]."""


def _merge(partials: list[Partial], like: Tensor) -> tuple[Tensor, Tensor]:
    """Merge partial softmaxes by their log-sum-exps. Rows without any give 0 and -inf.

    Args:
        partials: see Partial; -inf is not a valid log-sum-exp.
        like: [all rows, D], which gives shape and dtype.

    Returns:
        output [all rows, D] in the dtype of ``like``, log-sum-exp [all rows] in float32 or float64.
    """
    dtype = wide(like.dtype)
    top = torch.full(like.shape[:1], -torch.inf, dtype=dtype, device=like.device)
    for rows, _, lse in partials:
        top = torch.maximum(top, lse) if rows is None else top.scatter_reduce_(0, rows, lse, "amax")
    total = torch.zeros_like(top)
    for rows, _, lse in partials:
        if rows is None:
            total += (lse - top).exp()
        else:
            total.index_add_(0, rows, (lse - top[rows]).exp())
    merged_lse = total.log() + top
    merged = torch.zeros(like.shape, dtype=dtype, device=like.device)
    for rows, output, lse in partials:
        if rows is None:
            merged += output.to(dtype) * (lse - merged_lse).exp()[:, None]
        else:
            merged.index_add_(0, rows, output.to(dtype) * (lse - merged_lse[rows]).exp()[:, None])
    return merged.to(like.dtype), merged_lse


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> tuple[Tensor, Tensor]:
        shape, kv_heads, order = q.shape, k.shape[1], plan.k_order
        with phase("permute"):
            q, k, v = (_arranged(x, order, plan.heads).flatten(0, 2) for x in (q, k, v))
        with phase("index"):
            parts = [part for part in _parts(plan) if part]
        with phase("gather"):
            queries = [part.take(q) for part in parts]
        partials: list[Partial] = []
        for part, rows in zip(parts, queries, strict=True):
            with phase("attend"):
                partials.append((part.rows, *varlen_forward(rows, k, v, part.sequences, scale)))
        with phase("merge"):
            output, lse = _merge(partials, q)
        ctx.save_for_backward(k, v, output, lse, *queries)
        ctx.parts, ctx.plan, ctx.scale, ctx.kv_heads = parts, plan, scale, kv_heads
        ctx.set_materialize_grads(False)
        with phase("unpermute"):
            return (
                _restored(output.view(shape), order),
                _restored(lse.view(*shape[:3], 1), order)[..., 0],
            )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor | None, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        k, v, output, lse, *queries = ctx.saved_tensors
        plan: Plan = ctx.plan
        order, heads = plan.k_order, plan.heads
        with torch.autocast(output.device.type, enabled=False):
            with phase("permute"):
                if d_output is None:
                    d_output = torch.zeros_like(output)
                else:
                    d_output = _arranged(d_output, order, heads).flatten(0, 2)
                if d_lse is not None:
                    d_lse = _arranged(d_lse[..., None], order, heads).flatten()
            with phase("merge"):
                dq, dk, dv = (torch.zeros(x.shape, dtype=lse.dtype, device=x.device) for x in (output, k, v))
            for part, rows in zip(ctx.parts, queries, strict=True):
                with phase("gather"):
                    part_output, part_lse, part_d = (part.take(x) for x in (output, lse, d_output))
                    part_d_lse = None if d_lse is None else part.take(d_lse)
                with phase("attend"):
                    grads = varlen_backward(
                        rows, k, v, part_output, part_lse, part_d, part_d_lse, part.sequences, ctx.scale
                    )
                with phase("merge"):
                    if part.rows is None:
                        dq += grads[0]
                    else:
                        dq.index_add_(0, part.rows, grads[0].to(dq.dtype))
                    dk += grads[1]
                    dv += grads[2]
            shape = (plan.batch, heads, plan.layout.tokens, output.shape[1])
            with phase("unpermute"):
                dq, dk, dv = (_restored(x.view(shape), order) for x in (dq, dk, dv))
                dk, dv = (x.unflatten(1, (ctx.kv_heads, -1)).sum(2) for x in (dk, dv))
                return dq.to(output.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    output, lse = _Attend.apply(q, k, v, plan, scale)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return output, lse if return_lse else None


def _supports(plan: Plan, task: Task) -> str | None:
    if not isinstance(plan.pattern, RoutedPattern):
        return "runs plans in which each query picks blocks (as of moba and vmoba), and this one is of whole blocks"
    if plan.pattern.rule is not None:
        return f"runs whole blocks of keys only, not the element rule {plan.pattern.rule.name}"
    if task.device.type == "cuda" and flash_problem() is None:
        return supports_half(task)
    return supports_dtype(task)


def _executed_pairs(plan: Plan) -> int:
    """Count the kept pairs or, with flash-attn-4, its whole tiles."""
    if plan.device.type != "cuda" or flash_problem() is not None:
        return plan.pairs
    return pairs_in_tiles(plan, TILE)


def pairs_in_tiles(plan: Plan, tile: int) -> int:
    """Count the pairs of both calls in whole tiles of ``tile`` queries and keys, including those beyond a sequence."""
    total = 0
    for part in _parts(plan):
        queries, keys = (-(-x.diff().long() // tile) for x in (part.sequences.q_offsets, part.sequences.k_offsets))
        total += int((queries * keys).sum()) * tile**2
    return total


def _version() -> str:
    plain = f"torch {torch.__version__}"
    return plain if flash_problem() is not None else f"{plain}, on NVIDIA GPUs {flash4.FLASH4.version()}"


TWO_CALL = Engine(
    name="two-call",
    summary="two varlen calls, gather and float32 index_add merge, as MoBA and VMoBA were published; for comparison",
    available=lambda: None,
    version=_version,
    supports=_supports,
    attend=_attend,
    executed_pairs=_executed_pairs,
    dense=False,
    tested=True,
    unsuitable=lambda plan, task: "is for comparison only: ask for it by name",
)
