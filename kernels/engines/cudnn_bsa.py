"""cuDNN's block-sparse attention: plans of blocks on NVIDIA GPUs of compute capability 9.0, half precision."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from importlib import metadata
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnbench.kernels.engines.base import Engine, Task, is_older, same_gradients_problem
from attnbench.kernels.engines.blocks import TileMask, convert, tile_lists
from attnbench.kernels.engines.cudnn import supports_half
from attnbench.kernels.engines.places import aligned, arrange, number_of_places, restore, restore_rows, spread_problem
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan
from attnbench.kernels.witness import launched

TILES = (128, 64)
"""Tokens of a tile on either side that its kernels take."""

HEAD_DIMS = (64, 96, 128)

BACKWARD_HEAD_DIM = 128

LEAST_PAIRS = 10**10
"""Pairs of a query and a key, over all heads, from which "auto" takes this engine.

A call keeps the CPU busy for .3 to 1.1 ms longer than one of our kernels. By the wall clock on an H200, with blocks
that fill their tiles, calls of 12 heads with 32,760 tokens (1.3e10 pairs) are faster; ``vsa`` and ``nabla`` with 3
heads and 55,296 tokens (9.2e9) or 12 and 20,280 (4.9e9) are slower.
"""

LEAST_KEYS, MOST_KEYS = 51, 80
"""Mean keys of a block between which "auto" takes this engine.

Tiles of 128 take longer than with flash4 and our kernels. Blocks of mostly 128 keys that lie in tiles of 64 do too:
``draft`` is .88 and .93 times as fast as with our kernels on an H200. Smaller blocks leave too many places of tiles
empty, which is seen without reading where they begin.
"""

MOST_PADDING = 1.2
"""Places of tiles for each query, and for each key, above which "auto" takes another engine.

On an H200 beside our kernels, forward: 1.14 to 1.18 times as fast with whole tiles (``vsa``, ``vsa-h3``), 1.04 with
1.11 places, 1.03 with 1.15 (``nabla``), as fast with 1.22 (``vsa``), .93 with 1.31.
"""

MOST_PADDING_WITH_GRADIENTS = 1.25
"""The same limit with gradients: 1.20 times as fast forward and backward with 1.22 places (``vsa``)."""

SMALL = 32
MOST_PADDING_OF_SMALL = 2.5
"""Where blocks have at most ``SMALL`` queries, which our kernels run in tiles as small, the limit for queries.

With 2.44 places for each query and 1.22 for each key: 1.21 times as fast forward (``bsa``). So keys have the limit of
gradients then.
"""

PACKAGE = "nvidia-cudnn-frontend"

OLDEST = "1.32.0"
"""The first version whose arguments are known here: tiles of 128 on compute capability 9.0, and sizes of key tiles."""


@cache  # looking for a package takes 0.1 ms
def _installed_version() -> str | None:
    try:
        return metadata.version(PACKAGE) if importlib.util.find_spec("cudnn") is not None else None
    except (ImportError, metadata.PackageNotFoundError):
        return None


def _available() -> str | None:
    installed = _installed_version()
    if installed is None:
        return f"{PACKAGE} is not installed: pip install 'attnbench[cudnn]'"
    if is_older(installed, OLDEST):
        return f"{PACKAGE} {installed} is installed; {OLDEST} or newer is needed"
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        return "it needs an NVIDIA GPU of compute capability 9.0 (Hopper)"
    return None


def _version() -> str:
    return f"{PACKAGE} {_installed_version()}"


def tile_of(plan: Plan) -> int:
    """Return the size of tiles with which fewer pairs are computed, the larger one if it is the same."""
    pattern = plan.pattern
    assert isinstance(pattern, BlockPattern)
    sides = (pattern.q_offsets, pattern.k_offsets)
    return min(TILES, key=lambda tile: prod(number_of_places(offsets, tile) for offsets in sides))


def tiles_of(plan: Plan) -> TileMask:
    """Convert a plan of blocks to tiles. Every block begins with a new tile."""
    tile = tile_of(plan)
    return convert(plan, aligned(plan, "q", tile), aligned(plan, "k", tile))


def sparse_arguments(mask: TileMask, batch: int, heads: int) -> dict[str, Any]:
    """Return the arguments that name the key tiles of each query tile, and how many tokens are in each key tile."""
    counts, lists = tile_lists(mask.full | mask.partial)
    tile, real = mask.keys.tile, mask.keys.real
    return {
        "q2k_block_index": lists.expand(batch, heads, -1, -1).contiguous(),
        "q2k_block_nums": counts.expand(batch, heads, -1).contiguous(),
        "block_sizes": None if real is None else real.view(-1, tile).sum(-1).to(torch.int32),
        "sparse_block_size": tile,
    }


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, arguments: dict[str, Any], scale: float
    ) -> tuple[Tensor, Tensor]:
        from cudnn.block_sparse_attention import BSA

        launched("cudnn-bsa:forward")
        given = BSA.block_sparse_attention_forward(
            q, k, v, **arguments, softmax_scale=scale, allow_empty_block_nums=True
        )
        output, lse = given["o_tensor"], given["lse_tensor"]
        ctx.save_for_backward(q, k, v, output, lse)
        ctx.arguments, ctx.scale = arguments, scale
        ctx.mark_non_differentiable(lse)
        return output, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
        from cudnn.block_sparse_attention import BSA

        launched("cudnn-bsa:backward")
        q, k, v, output, lse = ctx.saved_tensors
        with phase("attend"):
            given = BSA.block_sparse_attention_backward(
                _in_rows(d_output), q, k, v, output, lse, **ctx.arguments, softmax_scale=ctx.scale
            )
        return given["dq_tensor"], given["dk_tensor"], given["dv_tensor"], None, None


def _in_rows(x: Tensor) -> Tensor:
    """Return x with rows that begin at multiples of 16 bytes and a start at one of 128, a copy if need be."""
    fits = x.data_ptr() % 128 == 0 and x.stride(-1) == 1 and all(stride % 8 == 0 for stride in x.stride()[:-1])
    return x if fits else x.clone(memory_format=torch.contiguous_format)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    heads = q.shape[1]
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    with phase("index"):
        mask = tiles_of(plan)
        arguments = sparse_arguments(mask, q.shape[0], heads)
    with phase("permute"):
        if k.shape[1] != heads and (mask.keys.by_head or needs_grad):  # its backward pass has no shared keys
            k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
        q, k, v = arrange(q, mask.queries), arrange(k, mask.keys), arrange(v, mask.keys)
        q, k, v = (_in_rows(x) for x in (q, k, v))
    with phase("attend"):
        output, lse = _Attend.apply(q, k, v, arguments, scale)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return restore(output, mask.queries), restore_rows(lse, mask.queries) if return_lse else None


def _supports(plan: Plan, task: Task) -> str | None:
    pattern = plan.pattern
    if problem := supports_half(task):
        return problem
    if task.head_dim not in HEAD_DIMS:
        return f"runs head_dim 64, 96 and 128, not {task.head_dim}"
    if not isinstance(pattern, BlockPattern):
        return "runs plans of whole blocks, not routed ones (as of moba and vmoba)"
    if pattern.rule is not None:
        return f"runs whole blocks only, and this plan has the element rule {pattern.rule.name}"
    if task.needs_grad and task.return_lse:
        return "does not differentiate the log-sum-exp"
    if task.needs_grad and task.dtype != torch.bfloat16:
        return f"differentiates bfloat16 only, not {task.dtype}"
    if task.needs_grad and task.head_dim != BACKWARD_HEAD_DIM:
        return f"differentiates head_dim {BACKWARD_HEAD_DIM} only, not {task.head_dim}"
    return spread_problem(plan, tile_of(plan))


def _unsuitable(plan: Plan, task: Task) -> str | None:
    pattern = plan.pattern
    if not isinstance(pattern, BlockPattern) or pattern.rule is not None:
        return None  # not supported
    if (task.dtype, task.head_dim, task.kv_heads) != (torch.bfloat16, 128, task.heads) or task.shard:
        return "was compared with other engines in bfloat16, for head_dim 128, own keys of each head and all queries"
    tokens = plan.layout.tokens
    if plan.batch * plan.heads * tokens**2 < LEAST_PAIRS:
        return f"keeps the CPU busy for longer than other engines, and was slower below {LEAST_PAIRS:.0e} pairs"
    if problem := same_gradients_problem(task):
        return problem
    queries, keys = (tokens / (offsets.shape[-1] - 1) for offsets in (pattern.q_offsets, pattern.k_offsets))
    if not LEAST_KEYS <= keys <= MOST_KEYS:
        return f"suits blocks of {LEAST_KEYS} to {MOST_KEYS} keys in the mean, not {keys:.0f}"
    tile, small = tile_of(plan), queries <= SMALL
    most_of_keys = MOST_PADDING_WITH_GRADIENTS if task.needs_grad or small else MOST_PADDING
    most_of_queries = MOST_PADDING_OF_SMALL if small else most_of_keys
    for what, offsets, most in (
        ("query", pattern.q_offsets, most_of_queries), ("key", pattern.k_offsets, most_of_keys)
    ):  # fmt: skip
        places = number_of_places(offsets, tile) / tokens
        if places > most:
            return f"would take {places:.2f} places for each {what} in tiles of {tile} tokens, more than {most}"
    return None


def _load() -> None:
    if _available() is None:
        importlib.import_module("cudnn.block_sparse_attention")


CUDNN_BSA = Engine(
    name="cudnn-bsa",
    summary="cuDNN's block-sparse attention (CuTe DSL): plans of blocks, half precision, Hopper",
    available=_available,
    version=_version,
    supports=_supports,
    attend=_attend,
    executed_pairs=lambda plan: tiles_of(plan).executed_pairs(plan.batch, plan.heads),
    dense=False,
    tested=True,
    unsuitable=_unsuitable,
    load=_load,
)
