"""flash-attn-4 (CuTe DSL): full attention and plans of large blocks, NVIDIA Hopper and Blackwell, half precision."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from importlib import metadata
from math import prod
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.engines.base import Engine, Task, is_older, same_gradients_problem
from attnbench.kernels.engines.blocks import ElementRule, TileMask, convert, expand_heads, tile_lists
from attnbench.kernels.engines.cudnn import supports_half
from attnbench.kernels.engines.places import (
    Places,
    aligned,
    arrange,
    number_of_places,
    restore,
    restore_rows,
    spread_problem,
)
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan

TILE = 128
"""Tokens of a tile on either side, as its backward pass on Hopper needs for every head_dim up to 128."""

MOST_WASTE = 1.1
"""Computed pairs per kept pair above which "auto" takes another engine for plans of whole blocks that need gradients.

On an H100 with STA, this engine takes 19.6 ms and our kernels 22.6 at 55,296 tokens, and 27.6 and 29.5 ms at 75,600,
where it computes 1.08 times the pairs. The forward pass alone takes 5.2 and 5.1 ms, and 7.3 and 6.7.
"""

MOST_WASTE_WITH_RULE = 1.5
"""The same limit for plans with an element rule that our Hopper kernels do not run, such as one in raster order.

A window of density .2 takes this engine 19 ms forward, and our plain Triton kernels 38; those for Hopper take 8.6.
"""

FILLER = -2

OLDEST = "4.0.0b26"
"""The first version whose sparse backward pass has no race.

In earlier ones the gradients of .1 to 1 % of the launches are wrong, or sparse plans have no backward pass.
"""


@cache  # "auto" asks at each call, and looking for a package takes 0.1 ms
def _installed() -> bool:
    try:
        metadata.version("flash-attn-4")
        return importlib.util.find_spec("flash_attn.cute") is not None
    except ImportError:
        return False
    except Exception:  # flash_attn itself, which this imports, fails otherwise; ``_load`` tells it
        return True


def _available() -> str | None:
    if not _installed():
        return "flash-attn-4 is not installed: pip install 'attnbench[flash]'"
    if is_older(_installed_version(), OLDEST):
        return f"flash-attn-4 {_installed_version()} is installed; {OLDEST} or newer is needed for right gradients"
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] < 9:
        return "it needs an NVIDIA GPU of compute capability 9.0 (Hopper) or newer"
    return None


def _version() -> str:
    return f"flash-attn-4 {_installed_version()}"


@cache
def _installed_version() -> str:
    return metadata.version("flash-attn-4")


@cache
def _flash_attn_func() -> Callable[..., tuple[Tensor, Tensor | None]]:
    # Version 4.0.0b36 warns at each compilation about one of its own arguments that it does not use.
    warnings.filterwarnings("ignore", message="Argument aux_data", category=UserWarning)
    from flash_attn.cute import flash_attn_func

    loaded: Callable[..., tuple[Tensor, Tensor | None]] = flash_attn_func
    return loaded


def _load() -> None:
    if _installed() and not is_older(_installed_version(), OLDEST) and torch.cuda.is_available():
        _flash_attn_func()


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    if plan.pattern.is_full:
        with phase("attend"):
            output, lse = _call(q, k, v, softmax_scale=scale, return_lse=return_lse)
        return output, lse if return_lse else None
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    with phase("index"):
        mask = tiles_of(plan)
        lists = sparse_arguments(mask, needs_grad)
    with phase("permute"):
        k, v = (arrange(expand_heads(x, mask.keys, q.shape[1]), mask.keys) for x in (k, v))
        q = arrange(q, mask.queries)
    with phase("attend"):
        output, lse = _call(q, k, v, softmax_scale=scale, return_lse=return_lse, **lists)
    return restore(output, mask.queries), restore_rows(lse, mask.queries) if return_lse and lse is not None else None


def _call(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
    output, lse = _flash_attn_func()(*(x.transpose(1, 2) for x in (q, k, v)), **options)
    return output.transpose(1, 2), lse


def tiles_of(plan: Plan) -> TileMask:
    """Convert a plan of blocks to tiles. Every block begins with a new tile, so whole blocks become whole tiles."""
    return convert(plan, aligned(plan, "q", TILE), aligned(plan, "k", TILE))


def sparse_arguments(mask: TileMask, needs_grad: bool) -> dict[str, Any]:
    """Return the arguments of flash_attn_func that name the tiles to compute and the pairs of partial tiles to keep."""
    arguments: dict[str, Any] = {"block_sparse_tensors": _tile_tensors(mask, transposed=False), "pack_gqa": False}
    if needs_grad:
        arguments["block_sparse_tensors_bwd"] = _tile_tensors(mask, transposed=True)
    if mask.rule is not None:
        from attnbench.kernels.engines.cute_masks import rule_keeps

        arguments |= {"mask_mod": rule_keeps, "aux_tensors": rule_tensors(mask.rule, mask.keys)}
    elif mask.keys.real is not None:
        from attnbench.kernels.engines.cute_masks import key_is_real

        arguments |= {"mask_mod": key_is_real, "aux_tensors": [mask.keys.real.to(torch.int32)]}
    return arguments


def rule_tensors(rule: ElementRule, keys: Places) -> list[Tensor]:
    """Return the tensors that ``cute_masks.rule_keeps`` reads, int32."""
    k_text = rule.k_text.to(torch.int32)
    if keys.real is not None:
        k_text = k_text.masked_fill(~keys.real, FILLER)
    guard = torch.full((1,), rule.guard, dtype=torch.int32, device=k_text.device)
    return [rule.q_packed, rule.q_high, rule.q_text.to(torch.int32), rule.k_packed, rule.k_low, k_text, guard]


def _tile_tensors(mask: TileMask, *, transposed: bool) -> Any:
    """List the partial and the full tiles of each tile of queries, or, transposed, of each tile of keys."""
    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch

    full, partial = (mask.full.mT, mask.partial.mT) if transposed else (mask.full, mask.partial)
    full_count, full_index = tile_lists(full)
    if mask.rule is None and mask.keys.real is None:
        # No tile can be partial, but the lists are required.
        partial_count = torch.zeros_like(full_count[:1, :1])
        partial_index = partial_count[..., None]
    else:
        partial_count, partial_index = tile_lists(partial)
    return BlockSparseTensorsTorch(
        mask_block_cnt=partial_count,
        mask_block_idx=partial_index,
        full_block_cnt=full_count,
        full_block_idx=full_index,
        block_size=(TILE, TILE),
    )


def _supports(plan: Plan, task: Task) -> str | None:
    if problem := supports_half(task):
        return problem
    if task.return_lse and task.needs_grad:
        return "does not differentiate the log-sum-exp"
    return None if plan.pattern.is_full else _supports_sparse(plan, task)


def _supports_sparse(plan: Plan, task: Task) -> str | None:
    pattern = plan.pattern
    if not isinstance(pattern, BlockPattern):
        return "runs plans of whole blocks, not routed ones (as of moba and vmoba)"
    if task.head_dim not in (64, 128):
        return f"runs sparse plans of head_dim 64 and 128, not {task.head_dim}"
    if pattern.rule is not None:
        if any(order is not None and order.dim() == 3 for order in (plan.q_order, plan.k_order)):
            return f"runs an element rule, here {pattern.rule.name}, with one token order for all heads only"
        if plan.packed_rule.packed.dtype != torch.int32:
            return f"runs an element rule, here {pattern.rule.name}, on grids whose coordinates pack into 32 bits"
    if problem := spread_problem(plan, TILE):
        return problem
    if torch.cuda.get_device_capability(task.device)[0] != 9:
        return "runs full attention only on this GPU: its tiles for sparse plans are those of compute capability 9.0"
    return _without_sparse_tiles()


def _unsuitable(plan: Plan, task: Task) -> str | None:
    from attnbench.kernels.gpu.blocked import kind_of

    pattern = plan.pattern
    if pattern.is_full or not isinstance(pattern, BlockPattern):
        return None
    if pattern.rule is not None and kind_of(plan, hopper=True) == "masked":
        return f"takes longer than our kernels for the element rule {pattern.rule.name}"
    if pattern.rule is None and not task.needs_grad:
        return "takes longer than our kernels for the forward pass of plans of whole blocks"
    if problem := same_gradients_problem(task):
        return problem
    sides = (pattern.q_offsets, pattern.k_offsets)
    area = prod(number_of_places(offsets, TILE) for offsets in sides) / plan.layout.tokens**2
    if area > (MOST_WASTE if pattern.rule is None else MOST_WASTE_WITH_RULE):
        return f"would compute {area:.1f} times the kept pairs: the blocks fill its tiles of {TILE} tokens badly"
    return None


@cache
def _without_sparse_tiles() -> str | None:
    """Return why the installed version cannot be given tiles, or None if it can."""
    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch

    if "block_size" not in BlockSparseTensorsTorch._fields:
        return "runs full attention only in this version: sparse plans need flash-attn-4 4.0.0b36"
    return None


FLASH4 = Engine(
    name="flash4",
    summary="flash-attn-4 (CuTe DSL), full attention and plans of large blocks, half precision, Hopper and newer",
    available=_available,
    version=_version,
    supports=_supports,
    attend=_attend,
    executed_pairs=lambda plan: (
        plan.pairs if plan.pattern.is_full else tiles_of(plan).executed_pairs(plan.batch, plan.heads)
    ),
    dense=True,
    rectangular=True,
    tested=True,
    unsuitable=_unsuitable,
    load=_load,
)
