"""Selections in float64: a plan that depends on q and k is that of the same values in float64, but for rounding.

A head is planned in float64 beside a decoy, in a batch of two. So a plan that a method kept from other inputs, by their
shape or their address, is seen to be another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnbench import api
from attnbench.bench.verify import Rows, sample_rows
from attnbench.kernels.plan import Plan
from attnbench.methods.per_head import settings_of_heads, state_of
from attnbench.methods.registry import find_method

LARGEST_SELECTION_DIFFERENCE = 1e-5
"""The share of the (video token, block) pairs that rounding may decide otherwise."""

LEAST_SELECTION_DIFFERENCE = 2
"""Pairs that may differ in a cell of any size: at a near tie, rounding exchanges one pair for another."""

LEAST_MOVE = 2.0**-20
"""By how much q, k and v are moved, relatively, to find pairs at near ties: 16 times the rounding of float32."""

NEAR_TIES = 4.0
"""How many times the pairs that change then may differ."""

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
        near_ties: how many of them change where the inputs move as little as rounding moves what is computed of them;
            0 where nobody had to look.
        against: what the plan is compared with.
    """

    differing: int
    pairs: int
    of_tokens: bool = False
    near_ties: int = 0
    against: str = "the rule in float64"

    @property
    def problem(self) -> str | None:
        """Why the selection is wrong, or None."""
        share = LARGEST_TOKEN_DIFFERENCE if self.of_tokens else LARGEST_SELECTION_DIFFERENCE
        allowed = max(LEAST_SELECTION_DIFFERENCE, int(share * self.pairs), int(NEAR_TIES * self.near_ties))
        if self.differing <= allowed:
            return None
        return (
            f"the selection differs from {self.against} in {self.differing:,} of {self.pairs:,} pairs; rounding "
            f"explains {allowed:,}"
        )


def check_selection(
    q: Tensor,
    k: Tensor,
    plan: Plan,
    arguments: dict[str, Any],
    *,
    v: Tensor | None = None,
    slot: int = 0,
    seed: int = 0,
) -> SelectionCheck | None:
    """Compare a plan with the one that the same method makes of the same values in float64.

    This plans one head of one batch item at a time, to save memory. So a method that selects for a head by what is in
    another one will differ, unless it says so: then all heads of a batch item are planned, once. If more pairs differ
    than rounding usually explains, they are planned once more on moved inputs, and as many pairs as change then are
    near ties.

    Args:
        q: [B, H, N, D].
        k: [B, KV heads, N, D].
        plan: made from them.
        arguments: the keyword arguments of ``select`` that made it.
        v: like k, for methods that select by it.
        slot: 0 or 1, where the head stands in the batch of two that is planned in float64.
        seed: of the queries that are sampled where blocks differ, and of the moves.

    Returns:
        None for a method whose plans do not depend on q and k.
    """
    if not find_method(arguments["method"]).depends_on_qk:
        return None
    against = _Float64(q, k, v, plan, arguments, slot, seed)
    found = against.compare()
    if found.problem is None:
        return found
    return replace(found, near_ties=against.compare(moved=True).differing)


@dataclass(frozen=True, eq=False)
class _Float64:
    """A plan, and what it was made from, to be planned again in float64 head by head.

    Where heads depend on one another, ``items`` has the last batch item whose heads were all planned together, and
    that plan: one of the inputs as they are (False) and one of moved inputs (True).
    """

    q: Tensor
    k: Tensor
    v: Tensor | None
    plan: Plan
    arguments: dict[str, Any]
    slot: int
    seed: int
    items: dict[bool, tuple[int, Plan]] = field(default_factory=dict)

    def compare(self, *, moved: bool = False) -> SelectionCheck:
        """Count the pairs in which the plan, or the plan of moved inputs, is not that of float64."""
        plan, slot = self.plan, self.slot
        differing, pairs, among_tokens, recut = 0, 0, 0, False
        rows = sample_rows(plan.layout.tokens, self.seed).to(plan.device)
        routed = plan.pattern.keep.shape[2] == plan.layout.tokens
        for b in range(plan.batch):
            for h in range(plan.heads):
                exact, at = self._planned(b, h)
                mine, mine_h = self._planned(b, h, moved=True) if moved else (plan, h)
                mine_b = slot if moved else b
                if same_blocks(mine, exact, (mine_b, mine_h), (slot, at)):
                    keep = mine.keep_of(mine_b, mine_h)
                    differing += int((keep ^ exact.keep_of(slot, at)).sum())
                    queries = plan.layout.grid.tokens if routed else keep.shape[0]
                    pairs += queries * keep.shape[1]
                else:
                    recut = True
                    kept = mine.key_mask_of(mine_b, mine_h, rows) ^ exact.key_mask_of(slot, at, rows)
                    among_tokens += int(kept.sum())
        if recut:
            return SelectionCheck(
                among_tokens, plan.batch * plan.heads * len(rows) * plan.layout.tokens, of_tokens=True
            )
        return SelectionCheck(differing, pairs)

    def near_ties(self, rows: Rows) -> int:
        """Count the pairs of these rows and a key in which float64 and float64 of moved inputs differ."""
        count = 0
        for (b, h), chosen in rows.items():
            (exact, at), (other, place) = self._planned(b, h), self._planned(b, h, moved=True)
            count += int((exact.key_mask_of(self.slot, at, chosen) ^ other.key_mask_of(self.slot, place, chosen)).sum())
        return count

    def _planned(self, b: int, h: int, *, moved: bool = False) -> tuple[Plan, int]:
        """Plan a head of a batch item in float64, in a batch of two beside a decoy; return where the plan has it."""
        if find_method(self.arguments["method"]).heads_are_independent:
            return self._plan(b, h, moved), 0
        if moved not in self.items or self.items[moved][0] != b:
            self.items.pop(moved, None)  # two of them at once may be more than fits
            self.items[moved] = b, self._plan(b, None, moved)
        return self.items[moved][1], h

    def _plan(self, b: int, h: int | None, moved: bool) -> Plan:
        """Plan a head of a batch item, or with None all of them together."""
        method = find_method(self.arguments["method"])
        group = self.q.shape[1] // self.k.shape[1]
        heads, kv = (slice(None), slice(None)) if h is None else (slice(h, h + 1), slice(h // group, h // group + 1))
        arguments = settings_of_heads(method, self.arguments, heads) | {"params": None}
        if (state := arguments.get("state")) is not None:
            arguments["state"] = state_of(state, b, h, heads=self.q.shape[1], batch=2)
        generator = torch.Generator(self.q.device).manual_seed(self.seed + 31 * b + (h or 0))

        def beside_decoy(x: Tensor) -> Tensor:
            wide = x.double()
            if moved:
                noise = torch.randn(x.shape, generator=generator, dtype=torch.float64, device=x.device)
                wide = wide * (1 + LEAST_MOVE * noise)
            return torch.stack([wide, wide.flip(1)] if self.slot == 0 else [wide.flip(1), wide])

        values = None if self.v is None else beside_decoy(self.v[b, kv])
        return api.select(beside_decoy(self.q[b, heads]), beside_decoy(self.k[b, kv]), v=values, **arguments)


@dataclass(frozen=True, eq=False)
class KeptKeys:
    """The keys that a plan keeps for some query rows, by (batch item, head): packed bits, on the CPU."""

    rows: Rows
    packed: dict[tuple[int, int], npt.NDArray[np.uint8]]

    @classmethod
    def of(cls, plan: Plan, rows: Rows) -> KeptKeys:
        """Note them."""
        return cls(rows, {place: _packed(plan, *place, chosen) for place, chosen in rows.items()})

    @property
    def pairs(self) -> int:
        """How many pairs of a row and a key are kept."""
        return sum(int(np.bitwise_count(mine).sum()) for mine in self.packed.values())

    def differing(self, other: KeptKeys) -> int:
        """Return how many pairs of a row and a key only one of the two plans keeps."""
        return sum(int(np.bitwise_count(mine ^ other.packed[place]).sum()) for place, mine in self.packed.items())


def check_same_selection(
    before: KeptKeys, q: Tensor, k: Tensor, plan: Plan, arguments: dict[str, Any], *, v: Tensor | None = None,
    slot: int = 0, seed: int = 0,
) -> SelectionCheck:  # fmt: skip
    """Compare a plan with an earlier one of the same inputs: a method must not change its rule from call to call.

    Args:
        before: what the earlier plan kept.
        q, k, plan, arguments, v, slot, seed: as of ``check_selection``.
    """
    differing = before.differing(KeptKeys.of(plan, before.rows))
    found = SelectionCheck(differing, before.pairs, of_tokens=True, against="that of the verified call")
    if found.problem is None:
        return found
    return replace(found, near_ties=_Float64(q, k, v, plan, arguments, slot, seed).near_ties(before.rows))


def _packed(plan: Plan, b: int, h: int, rows: Tensor) -> npt.NDArray[np.uint8]:
    return np.packbits(plan.key_mask_of(b, h, rows).cpu().numpy(), axis=-1)


def same_blocks(plan: Plan, other: Plan, at: tuple[int, int], at_other: tuple[int, int]) -> bool:
    """Whether two plans cut the tokens of a head into the same blocks, in the same order.

    Args:
        plan, other: with the head.
        at, at_other: its batch item and number in each.
    """
    for side in ("q", "k"):
        if not torch.equal(plan.offsets_of(side, *at), other.offsets_of(side, *at_other)):
            return False
        order, other_order = plan.order_of(side, *at), other.order_of(side, *at_other)
        if (order is None) != (other_order is None):
            return False
        if order is not None and other_order is not None and not torch.equal(order, other_order):
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
