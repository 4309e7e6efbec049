"""flash-attn-4 (CuTe DSL): full attention, NVIDIA Hopper and Blackwell, half precision."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from importlib import metadata

import torch
from torch import Tensor

from attnbench.kernels.engines.base import Engine, Task
from attnbench.kernels.engines.cudnn import HALF
from attnbench.kernels.engines.sdpa import supports_full
from attnbench.kernels.plan import Plan


def _available() -> str | None:
    try:
        found = importlib.util.find_spec("flash_attn.cute") is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        return "flash-attn-4 is not installed: pip install 'attnbench[flash]'"
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] < 9:
        return "it needs an NVIDIA GPU of compute capability 9.0 (Hopper) or newer"
    return None


def _version() -> str:
    return f"flash-attn-4 {metadata.version('flash-attn-4')}"


@cache
def _flash_attn_func() -> Callable[..., tuple[Tensor, Tensor | None]]:
    # Version 4.0.0b36 warns at each compilation about an argument of its own that it does not use.
    warnings.filterwarnings("ignore", message="Argument aux_data", category=UserWarning)
    from flash_attn.cute import flash_attn_func

    loaded: Callable[..., tuple[Tensor, Tensor | None]] = flash_attn_func
    return loaded


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    q_bnhd, k_bnhd, v_bnhd = (x.transpose(1, 2) for x in (q, k, v))
    output, lse = _flash_attn_func()(q_bnhd, k_bnhd, v_bnhd, softmax_scale=scale, return_lse=return_lse)
    return output.transpose(1, 2), lse


def _supports(plan: Plan, task: Task) -> str | None:
    if task.device.type != "cuda":
        return f"runs on NVIDIA GPUs, not on {task.device}"
    if task.dtype not in HALF:
        return f"runs bfloat16 and float16, not {task.dtype}"
    if task.head_dim % 8 or task.head_dim > 128:
        return f"runs head_dim up to 128 in multiples of 8, not {task.head_dim}"
    if task.return_lse and task.needs_grad:
        return "does not differentiate the log-sum-exp"
    return supports_full(plan, task)


FLASH4 = Engine(
    name="flash4",
    summary="flash-attn-4 (CuTe DSL), full attention only, half precision, Hopper and newer",
    available=_available,
    version=_version,
    supports=_supports,
    attend=_attend,
    executed_pairs=lambda plan: plan.pairs,
    dense=True,
)
