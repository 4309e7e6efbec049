"""torch's FlexAttention, compiled: full attention and plans of whole blocks, NVIDIA GPUs, half precision."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.engines.base import Engine, Task
from attnbench.kernels.engines.blocks import TileMask, convert, element_mask, expand_heads, tile_lists
from attnbench.kernels.engines.cudnn import supports_half
from attnbench.kernels.engines.places import arrange, consecutive, restore, restore_rows
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan
from attnbench.kernels.triton_cache import keep_cache

TILE = 128
"""Tokens of a tile on either side, FlexAttention's default. The tiles of its kernels must divide it."""

MOST_SHAPES = 256
"""Number of shapes that may be compiled in one process. Beyond torch's own limit of 8, a call would fail."""


def attend_with(
    flex: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Run a plan through ``flex``, which is ``flex_attention`` or what torch compiled from it."""
    from torch.nn.attention.flex_attention import AuxRequest

    # Only the backend TRITON works for every length: AUTO decodes below 128 queries, and FLASH with flash-attn-4
    # 4.0.0b36 ignores the block mask.
    options: dict[str, Any] = {"scale": scale, "kernel_options": {"BACKEND": "TRITON"}}
    options["enable_gqa"] = q.shape[1] != k.shape[1]
    if return_lse:
        options["return_aux"] = AuxRequest(lse=True)
    if plan.pattern.is_full:
        with phase("attend"):
            result = flex(q, k, v, **options)
        return (result[0], result[1].lse) if return_lse else (result, None)
    with phase("index"):
        mask = tiles_of(plan)
        block_mask = block_mask_of(mask)
    with phase("permute"):
        k, v = (arrange(expand_heads(x, mask.keys, q.shape[1]), mask.keys) for x in (k, v))
        q = arrange(q, mask.queries)
    options["enable_gqa"] = q.shape[1] != k.shape[1]
    with phase("attend"):
        result = flex(q, k, v, block_mask=block_mask, **options)
    output, lse = (result[0], result[1].lse) if return_lse else (result, None)
    return restore(output, mask.queries), None if lse is None else restore_rows(lse, mask.queries)


def tiles_of(plan: Plan) -> TileMask:
    """Convert a plan of blocks to tiles in its arranged order."""
    return convert(plan, consecutive(plan, "q", TILE), consecutive(plan, "k", TILE))


def block_mask_of(mask: TileMask) -> Any:
    """Return the BlockMask of a converted plan, with the lists of query tiles that the backward pass walks."""
    from torch.nn.attention.flex_attention import BlockMask

    partial, full = tile_lists(mask.partial), tile_lists(mask.full)
    partial_q, full_q = tile_lists(mask.partial.mT), tile_lists(mask.full.mT)
    return BlockMask(
        seq_lengths=(mask.queries.size, mask.keys.size),
        kv_num_blocks=partial[0],
        kv_indices=partial[1],
        full_kv_num_blocks=full[0],
        full_kv_indices=full[1],
        q_num_blocks=partial_q[0],
        q_indices=partial_q[1],
        full_q_num_blocks=full_q[0],
        full_q_indices=full_q[1],
        BLOCK_SIZE=(mask.queries.tile, mask.keys.tile),
        mask_mod=element_mask(mask),
    )


@cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    keep_cache()
    # There are few shapes, each worth a kernel. A fallback to eager mode would hold all scores, so it is an error.
    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    return compiled


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    import torch._dynamo

    with torch._dynamo.config.patch(recompile_limit=MOST_SHAPES):
        return attend_with(_compiled(), q, k, v, plan, scale, return_lse)


def _available() -> str | None:
    if not torch.cuda.is_available():
        return "it needs an NVIDIA GPU"
    if importlib.util.find_spec("triton") is None:
        return "it needs Triton, which torch compiles it with: pip install triton"
    return None


def _supports(plan: Plan, task: Task) -> str | None:
    if problem := supports_half(task):
        return problem
    if task.head_dim < 16:
        return f"runs head_dim from 16 on, not {task.head_dim}"
    if task.return_lse and task.needs_grad:
        return "does not differentiate the log-sum-exp"
    if not isinstance(plan.pattern, BlockPattern):
        return "runs plans of whole blocks, not routed ones (as of moba and vmoba)"
    return None


FLEX = Engine(
    name="flex",
    bands=True,
    summary="FlexAttention, compiled: full attention and plans of whole blocks, half precision",
    available=_available,
    version=lambda: f"torch {torch.__version__}",
    supports=_supports,
    attend=_attend,
    executed_pairs=lambda plan: plan.pairs if plan.pattern.is_full else _executed(plan),
    dense=True,
    tested=True,
)


def _executed(plan: Plan) -> int:
    return tiles_of(plan).executed_pairs(plan.batch, plan.heads)
