"""Block-sparse attention: lists of work from kept blocks, with each row written to its token."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from attnbench.kernels.gpu.arrange import arrange_both, padded_width
from attnbench.kernels.gpu.attend import attend_tiles
from attnbench.kernels.gpu.backward import backward_keys, backward_queries, delta_of, sum_groups
from attnbench.kernels.gpu.block_tiles import key_tiles_of, lay_out, sizes_of, tiles_of
from attnbench.kernels.gpu.hopper import fits, is_hopper, multiprocessors, written_for
from attnbench.kernels.gpu.kept_lists import are_kept, kept_lists
from attnbench.kernels.gpu.key_rows import can_arrange, fits_in_place, source_of
from attnbench.kernels.gpu.mask_words import MOST_WORDS, word_bytes
from attnbench.kernels.gpu.paired_tiles import can_pair, pair_up
from attnbench.kernels.gpu.rule_arrays import rule_arrays
from attnbench.kernels.gpu.work import KEYS, ROWS, KeyTiles, Tiles
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan
from attnbench.kernels.remember import kept_by

Kind = Literal["tiles", "pairs", "masked"]
"""Tiles as they are, small tiles in pairs, or tiles with what a rule keeps as words of bits."""


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
    width, gluon = padded_width(q.shape[3]), is_hopper(q.device) if hopper is None else hopper
    kind = kept_by(plan, ("kind", gluon), lambda: kind_of(plan, gluon))
    sizes = kept_by(plan, "sizes", lambda: sizes_of(plan))
    if kind != "tiles" and not fits_in_place(q, k, v, scale, None, ROWS, KEYS):
        kind = "tiles"
    paired = kind == "pairs"
    in_place = kind != "tiles" or (gluon and fits_in_place(q, k, v, scale, plan.pattern.elements, *sizes))
    with phase("index"):
        parts = kept_lists(plan, f"{kind} {gluon}", partial(parts_of, plan, kind, hopper=gluon))
        rule = rule_arrays(plan) if kind == "tiles" else None
    with phase("permute"):
        source = source_of(k, v, plan.k_order) if in_place else None
        if source is not None:
            keys, values = source.begin()
        elif in_place and plan.k_order is None:
            keys, values = k, v
        else:
            keys, values = arrange_both(k, v, plan.k_order, width)
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
                q, *here, tiles, scale, rule=rule, direct=direct, hopper=gluon, source=None if small else source
            )
    return output, lse


def arranges_on_the_way(plan: Plan, head_dim: int, itemsize: int) -> bool:
    """Return whether the kernel itself arranges all heads of k and v but the first, if it can read them in place."""
    if not is_hopper(plan.device) or not can_arrange(plan.k_order) or itemsize != 2:
        return False
    if kind_of(plan, True) != "tiles":
        return written_for(head_dim, None, ROWS, KEYS)
    return written_for(head_dim, plan.pattern.elements, *sizes_of(plan))


def kind_of(plan: Plan, hopper: bool) -> Kind:
    """Return which tiles are tried: small ones in pairs and masked ones are, if their lists are kept between calls."""
    if not hopper or not are_kept(plan):
        return "tiles"
    if can_pair(plan):
        return "pairs"
    return "masked" if can_mask(plan) else "tiles"


def can_mask(plan: Plan) -> bool:
    """Return whether words can say what the rule of a plan keeps: tiles of 128 rows, steps of 128 keys, few words."""
    return plan.pattern.rule is not None and sizes_of(plan) == (ROWS, KEYS) and word_bytes(plan) <= MOST_WORDS


def parts_of(plan: Plan, kind: Kind, *, hopper: bool = False) -> tuple[Tiles, ...]:
    """Return the tiles of a plan. If they may be paired, return small tiles and pairs, of which one kind is empty.

    With ``hopper``, tiles are in the order for the Gluon kernels, if their lists are kept.
    """
    work, takers = lay_out(plan), _takers(plan, hopper)
    if kind == "pairs":
        return pair_up(work, tiles_of(work), takers)
    return (tiles_of(work, masked=kind == "masked", programs=takers),)


def _takers(plan: Plan, hopper: bool) -> int | None:
    """Return how many thread blocks take tiles by turns, if equal shares are worth the time: lists are used again."""
    by_head = plan.q_order is not None and plan.q_order.dim() == 3
    suits = sizes_of(plan) == (ROWS, KEYS) or can_pair(plan)
    if not hopper or plan.device.type != "cuda" or by_head or not suits or not are_kept(plan):
        return None
    return multiprocessors(plan.device)


def _with_key_tiles(plan: Plan, kv_heads: int, masked: bool, hopper: bool) -> tuple[Tiles, KeyTiles]:
    work, takers = lay_out(plan), _takers(plan, hopper)
    tiles = tiles_of(work, masked=masked, programs=takers)
    return tiles, key_tiles_of(work, kv_heads, masked=masked, programs=takers)


def _key_order(plan: Plan) -> Tensor | None:
    """Return the order of keys for the backward pass; by head if key blocks are, so that no heads share key tiles."""
    if plan.pattern.k_offsets.dim() == 1 or (plan.k_order is not None and plan.k_order.dim() == 3):
        return plan.k_order
    order = torch.arange(plan.layout.tokens, device=plan.device) if plan.k_order is None else plan.k_order
    return order.expand(plan.batch, plan.heads, -1)


def executed_pairs(plan: Plan, *, hopper: bool | None = None) -> int:
    """Count the pairs that ``attend_blocks`` computes, including padding of tiles and steps. This waits for the device.

    Tiles are those for tensors that the Gluon kernel takes.
    """
    hopper = is_hopper(plan.device) if hopper is None else hopper
    return sum(int(tiles.steps()) * tiles.rows * tiles.keys for tiles in parts_of(plan, kind_of(plan, hopper)))


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
    kv_heads, width, order = k.shape[1], padded_width(q.shape[3]), _key_order(plan)
    with phase("permute"):
        keys, values = arrange_both(k, v, order, width)
    gluon = is_hopper(q.device) if hopper is None else hopper
    masked = kind_of(plan, gluon) == "masked" and fits((q, d_output), (keys, values), None, ROWS, KEYS)
    with phase("index"):
        rule = None if masked else rule_arrays(plan)
        name = f"{'masked ' * masked}tiles and key tiles of {keys.shape[1]} {gluon}"
        tiles, key_tiles = kept_lists(plan, name, partial(_with_key_tiles, plan, keys.shape[1], masked, gluon))
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    token_of = order.reshape(-1, order.shape[-1]) if order is not None and order.dim() == 3 else order
    with phase("attend"):
        delta = delta_of(output, d_output, d_lse)
        given = (q, keys, values, d_output, lse, delta)
        backward_queries(*given, tiles, scale, rule=rule, direct=dq, hopper=gluon)
        dk, dv = backward_keys(*given, key_tiles, scale, rule=rule, token_of=token_of, hopper=gluon)
    with phase("merge"):
        return dq, sum_groups(dk, kv_heads), sum_groups(dv, kv_heads)
