"""Attention with a kernel for each step: scores, mask and softmax, weighted sum. It shows the cost of each step.

Scores are stored in float32 (float64 for float64 inputs), as a fused kernel holds them in its registers. In bfloat16, a
score of 8 would be rounded by up to 2⁻⁶, which is 1.6 % of its weight, and the output could not be distinguished from a
wrong one. Weights have the dtype of the inputs, also as in fused kernels, so both products run on tensor cores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnbench.kernels.engines.base import Engine, Task, supports_dtype
from attnbench.kernels.engines.varlen import wide
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan

MOST_PAIRS = 2**30
"""Most scores of a call, 4 GiB of float32: one head of 32,760 tokens.

With weights and mask, up to 11 GiB are in use.
"""

_HALF = (torch.bfloat16, torch.float16)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b for [batch, rows, inner] and [batch, inner, columns], in float32, or in float64 for float64."""
    dtype = wide(a.dtype)
    if a.is_cuda and a.dtype in _HALF:
        return torch.bmm(a, b, out_dtype=dtype)
    return torch.bmm(a.to(dtype), b.to(dtype))


def _mask(plan: Plan) -> tuple[Tensor, Tensor] | None:
    """Return which pairs are not kept, and which queries keep no key; None for full attention.

    A query that keeps no key is given every key, so that its softmax is finite. Its result is discarded.

    Returns:
        bool [B or 1, H or 1, N, N] and bool [B or 1, H or 1, N].
    """
    if plan.pattern.is_full:
        return None
    same_b, same_h = plan.shared_by
    queries = torch.arange(plan.layout.tokens, device=plan.device)
    kept = torch.stack([
        torch.stack([plan.key_mask_of(b, h, queries) for h in range(1 if same_h else plan.heads)])
        for b in range(1 if same_b else plan.batch)
    ])  # fmt: skip
    empty = ~kept.any(-1)
    return kept.logical_or_(empty[..., None]).logical_not_(), empty


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
    ) -> tuple[Tensor, Tensor | None]:
        batch, heads, n, _ = q.shape
        with phase("index"):
            masked = _mask(plan)
        # Heads that share keys follow one another, so that their queries are the rows of one product.
        q, k, v = q.reshape(batch * k.shape[1], -1, q.shape[3]), k.flatten(0, 1), v.flatten(0, 1)
        with phase("qk"):
            scores = _product(q, k.mT)
        with phase("softmax"):
            by_head = scores.mul_(scale).view(batch, heads, n, n)
            if masked is not None:
                by_head.masked_fill_(masked[0], -torch.inf)
            lse = by_head.logsumexp(-1) if return_lse else None
            weights = scores.softmax(-1).to(q.dtype)
            del scores, by_head
        with phase("av"):
            output = torch.bmm(weights, v).view(batch, heads, n, v.shape[2])
            if masked is not None:
                output.masked_fill_(masked[1][..., None], 0.0)
                if lse is not None:
                    lse.masked_fill_(masked[1], -torch.inf)
        ctx.save_for_backward(q, k, v, weights, output, *(() if masked is None else (masked[1],)))
        ctx.scale = scale
        ctx.set_materialize_grads(False)
        return output, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor | None, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, weights, output, *empty = ctx.saved_tensors
        batch, heads, n, _ = output.shape
        with torch.autocast(q.device.type, enabled=False), phase("attend"):
            if d_output is None:
                d_output = torch.zeros_like(output)
            delta = (d_output.to(wide(q.dtype)) * output).sum(-1)
            if d_lse is not None:
                delta -= d_lse
            if empty:
                d_output = d_output.masked_fill(empty[0][..., None], 0.0)
                delta.masked_fill_(empty[0], 0.0)
            rows, delta = d_output.reshape(*q.shape[:2], v.shape[2]), delta.view(*q.shape[:2], 1)
            with phase("av"):
                dv = torch.bmm(weights.mT, rows)
                d_weights = _product(rows, v.mT)
            with phase("softmax"):
                d_scores = d_weights.sub_(delta).mul_(weights).to(q.dtype)
                del d_weights
            with phase("qk"):
                dq = _product(d_scores, k).mul_(ctx.scale).to(q.dtype)
                dk = _product(d_scores.mT, q).mul_(ctx.scale).to(k.dtype)
            dq = dq.view(batch, heads, n, -1)
            return dq, dk.unflatten(0, (batch, -1)), dv.unflatten(0, (batch, -1)), None, None, None


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    output: tuple[Tensor, Tensor | None] = _Attend.apply(q, k, v, plan, scale, return_lse)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return output


def _supports(plan: Plan, task: Task) -> str | None:
    if problem := supports_dtype(task):
        return problem
    pairs = _pairs(plan)
    if pairs > MOST_PAIRS:
        width = wide(task.dtype).itemsize
        return (
            f"would hold {pairs * width / 2**30:.1f} GiB of scores, and runs up to {MOST_PAIRS * width / 2**30:g} GiB: "
            f"{plan.batch} × {plan.heads} heads of {plan.layout.tokens} tokens; take fewer heads or tokens"
        )
    return None


def _pairs(plan: Plan) -> int:
    return plan.batch * plan.heads * plan.layout.tokens**2


UNFUSED = Engine(
    name="unfused",
    summary="a kernel each for QK, softmax and AV, with the scores in memory; for comparison only",
    available=lambda: None,
    version=lambda: f"torch {torch.__version__}",
    supports=_supports,
    attend=_attend,
    executed_pairs=_pairs,
    dense=False,
    tested=True,
    unsuitable=lambda plan, task: "is for comparison only: ask for it by name",
)
