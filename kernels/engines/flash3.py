"""FlashAttention-3, if its package is installed: full attention, NVIDIA Hopper, half precision. Never tested."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata

import torch
from torch import Tensor

from attnbench.kernels.engines.base import Engine
from attnbench.kernels.engines.cudnn import supports_half_full
from attnbench.kernels.plan import Plan


def _available() -> str | None:
    if importlib.util.find_spec("flash_attn_interface") is None:
        return "FlashAttention-3 is not installed: build flash_attn_3 from the folder hopper of flash-attention"
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        return "it needs an NVIDIA GPU of compute capability 9.0 (Hopper)"
    return None


def _version() -> str:
    return f"flash_attn_3 {metadata.version('flash_attn_3')}"


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    from flash_attn_interface import flash_attn_func

    result = flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)), softmax_scale=scale)
    # Some releases always return the log-sum-exp with the output.
    output: Tensor = result[0] if isinstance(result, tuple) else result
    return output.transpose(1, 2), None


FLASH3 = Engine(
    name="flash3",
    summary="FlashAttention-3, full attention only, half precision, Hopper; untested",
    available=_available,
    version=_version,
    supports=supports_half_full,
    attend=_attend,
    executed_pairs=lambda plan: plan.pairs,
    dense=True,
    tested=False,
    load=lambda: importlib.import_module("flash_attn_interface"),
)
