"""torch's scaled_dot_product_attention: full attention only; torch chooses the kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbench.kernels.engines.base import Engine, Task, supports_dtype
from attnbench.kernels.plan import Plan


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    grouped = q.shape[1] != k.shape[1]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped), None


def supports_full(plan: Plan, task: Task) -> str | None:
    """Support of an engine that runs full attention and nothing else."""
    return None if plan.pattern.is_full else "runs full attention only, and this plan is sparse"


def _supports(plan: Plan, task: Task) -> str | None:
    if task.return_lse:
        return "does not return the log-sum-exp"
    return supports_dtype(task) or supports_full(plan, task)


SDPA = Engine(
    name="sdpa",
    summary="torch.nn.functional.scaled_dot_product_attention, full attention only",
    available=lambda: None,
    version=lambda: f"torch {torch.__version__}",
    supports=_supports,
    attend=_attend,
    executed_pairs=lambda plan: plan.pairs,
    dense=True,
    rectangular=True,
    tested=True,
    traceable=True,
)
