"""An engine that hands the mask of all pairs to torch: any plan, small sizes."""

from __future__ import annotations

from importlib.metadata import version

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attnbench.kernels.engines import Engine, Task
from attnbench.kernels.plan import Plan

MOST_TOKENS = 4096


def supports(plan: Plan, task: Task) -> str | None:
    """Decline the log-sum-exp and long sequences."""
    if task.return_lse:
        return "does not return the log-sum-exp"
    if plan.layout.tokens > MOST_TOKENS:
        return f"runs up to {MOST_TOKENS:,} tokens, and this plan has {plan.layout.tokens:,}"
    return None


def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> tuple[Tensor, Tensor | None]:
    """Attend by the mask of the plan, [B, heads, N, N]; queries that keep no key give 0."""
    mask = plan.token_mask()
    output = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
    return output.masked_fill(~mask.any(-1, keepdim=True), 0), None


def executed_pairs(plan: Plan) -> int:
    """Count every pair: those that the mask drops are computed too."""
    return plan.batch * plan.heads * plan.layout.tokens**2


ENGINE = Engine(
    name="plain",
    summary="all pairs by torch, with the plan's mask",
    available=lambda: None,
    version=lambda: version("attnbench-plain-engine"),
    supports=supports,
    attend=attend,
    executed_pairs=executed_pairs,
    dense=False,
    tested=True,
)
