"""Our own Triton kernels: routed plans, forward."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from attnbench.kernels.engines.base import Engine, Task
from attnbench.kernels.engines.cudnn import HALF
from attnbench.kernels.pattern import RoutedPattern
from attnbench.kernels.plan import Plan

MOST_PARTIAL = 4 * 2**30


def _available() -> str | None:
    if torch.cuda.is_available() or _interpreted():
        return None
    return "it needs an NVIDIA GPU (or, slowly and to try kernels, TRITON_INTERPRET=1)"


def _interpreted() -> bool:
    # Triton's own switch, read without importing it: where there is no GPU it may not be installed.
    return os.environ.get("TRITON_INTERPRET") == "1"


def _version() -> str:
    import triton

    return f"triton {triton.__version__}"


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    from attnbench.kernels.gpu.routed import attend_routed

    output, lse = attend_routed(q, k, v, plan, scale)
    return output, lse if return_lse else None


def _supports(plan: Plan, task: Task) -> str | None:
    pattern = plan.pattern
    if task.device.type != "cuda" and not _interpreted():
        return f"runs on NVIDIA GPUs, not on {task.device}"
    if task.dtype not in HALF and not (_interpreted() and task.dtype == torch.float32):
        return f"runs bfloat16 and float16, not {task.dtype}"
    if not isinstance(pattern, RoutedPattern):
        return "runs routed plans (as of moba and vmoba) so far, not plans of whole blocks"
    if pattern.rule is not None:
        return f"does not run the element rule {pattern.rule.name} so far"
    if task.head_dim not in (64, 128):
        return f"runs head_dim 64 and 128, not {task.head_dim}"
    if task.needs_grad:
        return "has no backward pass so far"
    from attnbench.kernels.gpu.routed import bytes_per_head

    needed = bytes_per_head(plan.layout.tokens, pattern.keep.shape[3], task.head_dim)
    if needed > MOST_PARTIAL:
        return f"would need {needed / 2**30:.1f} GiB of partial results a head for so many blocks"
    if (plan.k_order is not None and plan.k_order.dim() == 3) or plan.q_order is not None:
        return "runs one key order for all heads, and queries in grid order"
    return None


TRITON = Engine(
    name="triton",
    summary="our Triton kernels: routed plans, forward, half precision",
    available=_available,
    version=_version,
    supports=_supports,
    attend=_attend,
    executed_pairs=lambda plan: plan.pairs,
    dense=False,
)
