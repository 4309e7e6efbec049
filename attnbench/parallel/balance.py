"""Deal heads to ranks by what they keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attnbench.kernels.errors import BadInput
from attnbench.kernels.plan import Plan
from attnbench.parallel.collectives import Ranks
from attnbench.parallel.deal import WAYS, Deal, deal, heaviest


class Balance:
    """Heads dealt to ranks by their kept pairs: the ``parallel`` of calls that follow one another.

    The first call of a layer deals heads in order. Later ones deal by what its heads kept last, the densest first to
    the rank that has the least. Which heads a rank computes never changes the output. Counting pairs waits for the
    device, and the ranks tell each other one number a head.

    Attributes:
        way: "ulysses" or "ulysses+allgather".
        pairs: kept pairs of each head of a layer, of the whole batch, as last counted.
    """

    def __init__(self, way: str = "ulysses", plan: Plan | None = None, *, pairs: Sequence[int] | None = None) -> None:
        """Start without counts.

        Args:
            way: how the work is split.
            plan: a plan of all heads, as ``attnbench.select`` returns it, by which heads are dealt until they are
                counted.
            pairs: what each head keeps, in place of a plan; the same on all ranks.

        Raises:
            BadInput: for a way that deals no heads, a plan that is none, or pairs that are no counts.
        """
        if way not in WAYS or way == "allgather":
            raise BadInput(f"a balance by {way!r}; heads are dealt by ulysses or ulysses+allgather")
        if plan is not None and pairs is not None:
            raise BadInput("a balance begins with plan or with pairs: drop one")
        if plan is not None and not isinstance(plan, Plan):
            raise BadInput(f"plan is {plan!r}; it must be a plan, as attnbench.select returns it")
        if pairs is not None and not _are_counts(pairs):
            raise BadInput(f"pairs is {pairs!r}; it must be what each head keeps, whole numbers of at least 0")
        self.way = way
        self.pairs: dict[int, tuple[int, ...]] = {}
        self._known = pairs_of_heads(plan) if plan is not None else None if pairs is None else tuple(pairs)
        self._gains: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"Balance({self.way!r}, layers={len(self.pairs)}, gain={self.gain:.3f})"

    @property
    def gains(self) -> dict[int, float]:
        """Of each layer: pairs of the busiest rank with heads in order, over those of its last call's deal.

        Both are counted by what the heads kept in that call. 1.2 means that the busiest rank would have had 1.2 times
        as much to do.
        """
        return dict(self._gains)

    @property
    def gain(self) -> float:
        """The mean of ``gains``; 1 before the first call."""
        return sum(self._gains.values()) / len(self._gains) if self._gains else 1.0

    def deal(self, layer: int, ranks: int, heads: int, kv_heads: int) -> Deal:
        """Return the deal of the next call of a layer.

        Raises:
            BadInput: for counts of another number of heads.
        """
        known = self.pairs.get(layer, self._known)
        if known is not None and len(known) != heads:
            raise BadInput(f"the balance has counts of {len(known)} heads, and q has {heads}: use another Balance")
        return deal(self.way, ranks, heads, kv_heads, known)

    def count(self, layer: int, ranks: Ranks, dealt: Deal, plan: Plan, device: torch.device) -> None:
        """Note what each head of a layer kept in a call: this rank's plan tells of its own heads."""
        mine = torch.tensor(pairs_of_heads(plan), device=device)
        shares = ranks.gather(mine, [(len(heads),) for heads in dealt.heads])
        counts = [0] * sum(len(heads) for heads in dealt.heads[: len(dealt.rows[0])])
        for heads, share in zip(dealt.heads, shares, strict=True):
            for head, pairs in zip(heads, share.tolist(), strict=True):
                counts[head] += pairs
        in_order = deal(self.way, ranks.size, len(counts), len(counts) // dealt.group)
        self.pairs[layer] = tuple(counts)
        self._gains[layer] = heaviest(in_order, counts) / max(1, heaviest(dealt, counts))


def _are_counts(pairs: object) -> bool:
    return isinstance(pairs, Sequence) and all(
        isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in pairs
    )


def pairs_of_heads(plan: Plan) -> tuple[int, ...]:
    """Return what each head of a plan keeps, in the whole batch."""
    return tuple(int(pairs) for pairs in plan.pairs_by_head.sum(0))
