"""FlashAttention-2, if its package is installed: full attention, NVIDIA GPUs, half precision. Never tested."""

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
    try:
        # flash-attn-4 is also a package named flash_attn, but without this module.
        found = importlib.util.find_spec("flash_attn.flash_attn_interface") is not None
    except ImportError:
        found = False
    if not found:
        return "FlashAttention-2 is not installed: pip install flash-attn"
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] < 8:
        return "it needs an NVIDIA GPU of compute capability 8.0 (Ampere) or newer"
    return None


def _version() -> str:
    return f"flash-attn {metadata.version('flash-attn')}"


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    from flash_attn import flash_attn_func

    output: Tensor = flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)), softmax_scale=scale)
    return output.transpose(1, 2), None


FLASH2 = Engine(
    name="flash2",
    summary="FlashAttention-2, full attention only, half precision; untested",
    available=_available,
    version=_version,
    supports=supports_half_full,
    attend=_attend,
    executed_pairs=lambda plan: plan.pairs,
    dense=True,
    tested=False,
    load=lambda: importlib.import_module("flash_attn"),
)
