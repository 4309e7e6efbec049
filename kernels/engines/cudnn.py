"""cuDNN's fused attention through torch: full attention only, NVIDIA GPUs, half precision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnbench.kernels.engines.base import Engine, Task
from attnbench.kernels.engines.sdpa import supports_full
from attnbench.kernels.plan import Plan

HALF = (torch.bfloat16, torch.float16)


def _available() -> str | None:
    if not torch.cuda.is_available():
        return "it needs an NVIDIA GPU"
    if not torch.backends.cudnn.is_available():
        return "this torch has no cuDNN"
    return None


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        grouped = q.shape[1] != k.shape[1]
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped), None


def supports_half(task: Task) -> str | None:
    """Support of an engine that runs half precision on NVIDIA GPUs with a head_dim up to 128."""
    if task.device.type != "cuda":
        return f"runs on NVIDIA GPUs, not on {task.device}"
    if task.dtype not in HALF:
        return f"runs bfloat16 and float16, not {task.dtype}"
    if task.head_dim % 8 or task.head_dim > 128:
        return f"runs head_dim up to 128 in multiples of 8, not {task.head_dim}"
    return None


def supports_half_full(plan: Plan, task: Task) -> str | None:
    """Support of an engine that runs full attention in half precision, without the log-sum-exp."""
    if problem := supports_half(task):
        return problem
    if task.return_lse:
        return "does not return the log-sum-exp"
    return supports_full(plan, task)


CUDNN = Engine(
    name="cudnn",
    summary="cuDNN through scaled_dot_product_attention, full attention only, half precision",
    available=_available,
    version=lambda: f"cudnn {torch.backends.cudnn.version()}, torch {torch.__version__}",
    supports=supports_half_full,
    attend=_attend,
    executed_pairs=lambda plan: plan.pairs,
    dense=True,
    rectangular=True,
    tested=True,
    traceable=True,
)
