"""Selections in float64: a plan that depends on q and k is that of the same values in float64, but for rounding.

A head is planned in float64 beside a decoy, in a batch of two. So a plan that a method kept from other inputs, by their
shape or their address, is seen to be another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnbench import api
from attnbench.bench.verify import sample_rows
from attnbench.kernels.plan import Plan
from attnbench.methods.registry import find_method

LARGEST_SELECTION_DIFFERENCE = 1e-5
"""The share of the (video token, block) pairs that rounding may decide otherwise."""

LEAST_SELECTION_DIFFERENCE = 2
"""Pairs that may differ in a cell of any size: at a near tie, rounding exchanges one pair for another."""

LARGEST_TOKEN_DIFFERENCE = 1e-2
"""The share of the (token, token) pairs that may differ where rounding may move tokens from block to block."""


@dataclass(frozen=True, slots=True)
class SelectionCheck:
    """How far a plan is from the same method's plan in float64.

    Attributes:
        differing: pairs that one of the two keeps and the other does not, of all heads.
        pairs: how many were compared: of a video token and a block if queries are routed one by one, otherwise of two
            blocks; of two tokens, of sampled queries, if the two plans cut tokens into other blocks.
        of_tokens: whether they are pairs of tokens.
    """

    differing: int
    pairs: int
    of_tokens: bool = False

    @property
    def problem(self) -> str | None:
        """Why the selection is wrong, or None."""
        share = LARGEST_TOKEN_DIFFERENCE if self.of_tokens else LARGEST_SELECTION_DIFFERENCE
        allowed = max(LEAST_SELECTION_DIFFERENCE, int(share * self.pairs))
        if self.differing <= allowed:
            return None
        return (
            f"the selection differs from the rule in float64 in {self.differing:,} of {self.pairs:,} pairs; rounding "
            f"explains {allowed:,}"
        )


def check_selection(
    q: Tensor, k: Tensor, plan: Plan, arguments: dict[str, Any], *, slot: int = 0, seed: int = 0
) -> SelectionCheck | None:
    """Compare a plan with the one that the same method makes of the same values in float64.

    This plans one head of one batch item at a time, to save memory. So a method that selects for a head by what is in
    another one will differ.

    Args:
        q: [B, H, N, D].
        k: [B, KV heads, N, D].
        plan: made from them.
        arguments: the keyword arguments of ``select`` that made it.
        slot: 0 or 1, where the head stands in the batch of two that is planned in float64.
        seed: of the queries that are sampled where blocks differ.

    Returns:
        None for a method whose plans do not depend on q and k.
    """
    if not find_method(arguments["method"]).depends_on_qk:
        return None
    group, differing, pairs, moved, recut = q.shape[1] // k.shape[1], 0, 0, 0, False
    rows = sample_rows(plan.layout.tokens, seed).to(plan.device)
    routed = plan.pattern.keep.shape[2] == plan.layout.tokens
    for b in range(plan.batch):
        for h in range(plan.heads):
            kv = h // group
            exact = api.select(_beside_decoy(q[b, h], slot), _beside_decoy(k[b, kv], slot), **arguments)
            if same_blocks(plan, exact, b, h, slot):
                keep = plan.keep_of(b, h)
                differing += int((keep ^ exact.keep_of(slot, 0)).sum())
                queries = plan.layout.grid.tokens if routed else keep.shape[0]
                pairs += queries * keep.shape[1]
            else:
                recut = True
                moved += int((plan.key_mask_of(b, h, rows) ^ exact.key_mask_of(slot, 0, rows)).sum())
    if recut:
        return SelectionCheck(moved, plan.batch * plan.heads * len(rows) * plan.layout.tokens, of_tokens=True)
    return SelectionCheck(differing, pairs)


def _beside_decoy(x: Tensor, slot: int) -> Tensor:
    """Return one head [N, D] in float64 as [2, 1, N, D], with its tokens in reverse beside it."""
    wide = x.double()
    return torch.stack([wide, wide.flip(0)] if slot == 0 else [wide.flip(0), wide])[:, None]


def same_blocks(plan: Plan, exact: Plan, b: int, h: int, other: int = 0) -> bool:
    """Whether both plans cut the tokens of a head into the same blocks, in the same order.

    Args:
        plan: with the head h of the batch item b.
        exact: with one head, in the batch item ``other``.
    """
    for mine, theirs in (
        (plan.pattern.q_offsets, exact.pattern.q_offsets),
        (plan.pattern.k_offsets, exact.pattern.k_offsets),
    ):
        if not torch.equal(mine, theirs):
            return False
    for side in ("q", "k"):
        order, exact_order = plan.order_of(side, b, h), exact.order_of(side, other, 0)
        if (order is None) != (exact_order is None):
            return False
        if order is not None and exact_order is not None and not torch.equal(order, exact_order):
            return False
    return True


def plan_digest(plan: Plan) -> str:
    """Return what identifies the orders, offsets and kept blocks of a plan. Waits for the device."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in plan.tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    digest.update(repr(plan.pattern.rule).encode())
    return digest.hexdigest()
