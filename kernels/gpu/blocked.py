"""Block-sparse attention: lists of work from kept blocks, with each row written to its token."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbench.kernels.gpu.arrange import arrange, padded_width
from attnbench.kernels.gpu.attend import attend_tiles
from attnbench.kernels.gpu.backward import backward_keys, backward_queries, delta_of, sum_groups
from attnbench.kernels.gpu.block_tiles import key_tiles_of, lay_out, sizes_of, tiles_of
from attnbench.kernels.gpu.hopper import is_hopper, written_for
from attnbench.kernels.gpu.kept_lists import are_kept, kept_lists
from attnbench.kernels.gpu.key_rows import can_arrange, fits_in_place, source_of
from attnbench.kernels.gpu.paired_tiles import can_pair, pair_up
from attnbench.kernels.gpu.rule_arrays import rule_arrays
from attnbench.kernels.gpu.work import KEYS, ROWS, KeyTiles, Tiles
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan


def attend_blocks(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, *, hopper: bool | None = None
) -> tuple[Tensor, Tensor]:
    """Run a plan of whole blocks.

    Args:
        q: [B, H, N, D] with unit last stride, D up to 128, bfloat16 or float16. k, v: [B, KV heads, N, D], likewise.
        plan: a plan of a BlockPattern.
        scale: factor of the scores.
        hopper: run the Gluon kernel if it fits; by default on Hopper.

    Returns:
        output [B, H, N, D] in grid order, and the log-sum-exp float32 [B, H, N]. Queries that keep no key give 0 and
        -inf.
    """
    width, hopper = padded_width(q.shape[3]), is_hopper(q.device) if hopper is None else hopper
    paired = may_pair(plan, hopper) and fits_in_place(q, k, v, scale, None, ROWS, KEYS)
    in_place = paired or (hopper and fits_in_place(q, k, v, scale, plan.pattern.rule, *sizes_of(plan)))
    with phase("index"):
        parts = kept_lists(plan, "pairs" if paired else "tiles", lambda: parts_of(plan, paired))
        rule = rule_arrays(plan)
    with phase("permute"):
        source = source_of(k, v, plan.k_order) if in_place else None
        if source is not None:
            keys, values = source.begin()
        elif in_place and plan.k_order is None:
            keys, values = k, v
        else:
            keys, values = arrange(k, plan.k_order, width), arrange(v, plan.k_order, width)
        if source is not None and paired:  # small tiles need all of them, but there may be none
            source.fill(keys, values, users=parts[0].count)
    output = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    direct = (output, lse)
    with phase("attend"):
        for tiles in parts:
            small = paired and tiles.visible is None
            here = (keys.contiguous(), values.contiguous()) if small else (keys, values)
            attend_tiles(
                q, *here, tiles, scale, rule=rule, direct=direct, hopper=hopper, source=None if small else source
            )
    return output, lse


def arranges_on_the_way(plan: Plan, head_dim: int, itemsize: int) -> bool:
    """Return whether the kernel itself arranges all heads of k and v but the first, if it can read them in place."""
    if not is_hopper(plan.device) or not can_arrange(plan.k_order) or itemsize != 2:
        return False
    sizes = (ROWS, KEYS) if may_pair(plan, True) else sizes_of(plan)
    return written_for(head_dim, plan.pattern.rule, *sizes)


def may_pair(plan: Plan, hopper: bool) -> bool:
    """Return whether small tiles are tried in pairs: if the lists of both kinds need not be made at each call."""
    return hopper and can_pair(plan) and are_kept(plan)


def parts_of(plan: Plan, paired: bool) -> tuple[Tiles, ...]:
    """Return the tiles of a plan. If they may be paired, return small tiles and pairs, of which one kind is empty."""
    work = lay_out(plan)
    tiles = tiles_of(work)
    return pair_up(work, tiles) if paired else (tiles,)


def _with_key_tiles(plan: Plan, kv_heads: int) -> tuple[Tiles, KeyTiles]:
    work = lay_out(plan)
    return tiles_of(work), key_tiles_of(work, kv_heads)


def executed_pairs(plan: Plan, *, hopper: bool | None = None) -> int:
    """Count the pairs that ``attend_blocks`` computes, including padding of tiles and steps. This waits for the device.

    Tiles are paired as for tensors that the Gluon kernel takes.
    """
    hopper = is_hopper(plan.device) if hopper is None else hopper
    return sum(int(tiles.steps()) * tiles.rows * tiles.keys for tiles in parts_of(plan, may_pair(plan, hopper)))


def backward_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan,
    scale: float,
    output: Tensor,
    lse: Tensor,
    d_output: Tensor,
    d_lse: Tensor | None,
    *,
    hopper: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients (dq, dk, dv) of ``attend_blocks``, in the shapes and dtypes of q, k and v.

    Args:
        q, k, v, plan, scale: as given to ``attend_blocks``.
        output, lse: what it returned.
        d_output: [B, H, N, D], unit last stride.
        d_lse: float32 [B, H, N], or None if the log-sum-exp has no gradient.
        hopper: run the Gluon kernels if they fit; by default on Hopper.
    """
    kv_heads, width, order = k.shape[1], padded_width(q.shape[3]), plan.k_order
    with phase("permute"):
        keys, values = arrange(k, order, width), arrange(v, order, width)
    with phase("index"):
        rule = rule_arrays(plan)
        tiles, key_tiles = kept_lists(
            plan, f"tiles and key tiles of {keys.shape[1]}", lambda: _with_key_tiles(plan, keys.shape[1])
        )
    hopper = is_hopper(q.device) if hopper is None else hopper
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    token_of = order.reshape(-1, order.shape[-1]) if order is not None and order.dim() == 3 else order
    with phase("attend"):
        delta = delta_of(output, d_output, d_lse)
        given = (q, keys, values, d_output, lse, delta)
        backward_queries(*given, tiles, scale, rule=rule, direct=dq, hopper=hopper)
        dk, dv = backward_keys(*given, key_tiles, scale, rule=rule, token_of=token_of, hopper=hopper)
    with phase("merge"):
        return dq, sum_groups(dk, kv_heads), sum_groups(dv, kv_heads)
