"""Floating-point operations of the phases: of kept pairs, and of choosing them."""

from __future__ import annotations

from typing import Literal

from attnbench.kernels.flop_formulas import flops_per_pair
from attnbench.kernels.plan import Plan
from attnbench.kernels.traffic import selected_by_means


def phase_flops(
    plan: Plan, head_dim: int, direction: Literal["fwd", "bwd"] = "fwd", *, kv_heads: int | None = None
) -> dict[str, int]:
    """Return the operations of each phase of one pass, 2 for a multiply-add, all batch items and heads.

    Forward: ``attend``, its products ``qk`` and ``av``, ``pool`` and ``score`` if the plan was made by block means, and
    ``branch`` if the plan states what the method adds. Backward: ``attend``, and ``branch`` with two gradients of each
    product. A phase that is missing from the result has no operations, or they are unknown.

    Args:
        plan: any plan.
        head_dim: channels of a head.
        direction: the pass, "fwd" or "bwd".
        kv_heads: heads of k and v; default: those of the plan.
    """
    forward = flops_per_pair(head_dim) * plan.pairs
    if direction == "bwd":
        backward = {"attend": flops_per_pair(head_dim, "fwdbwd") * plan.pairs - forward}
        return backward | ({"branch": 2 * plan.branch_flops} if plan.branch_flops else {})
    flops = {"attend": forward, "qk": forward // 2, "av": forward // 2}
    if plan.branch_flops:
        flops["branch"] = plan.branch_flops
    kv_heads = plan.heads if kv_heads is None else kv_heads
    if selected_by_means(plan, head_dim, kv_heads):
        means = plan.batch * kv_heads * plan.layout.tokens * head_dim
        flops |= {"pool": means, "score": plan.selection_flops - means}
    return flops
