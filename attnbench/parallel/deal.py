"""Deal the work of an attention call to ranks: whose heads and whose queries each one computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from attnbench.kernels.errors import BadInput, unknown_name

WAYS = ("ulysses", "allgather", "ulysses+allgather")
BALANCED = {"balanced": "ulysses", "balanced+allgather": "ulysses+allgather"}
"""What a run calls a way whose heads are dealt by what they keep, and the way."""


def way_of(word: str) -> str:
    """Return the way of a run's word for one.

    Raises:
        BadInput: for another word.
    """
    if word not in (*WAYS, *BALANCED):
        raise unknown_name("way of parallel", word, (*WAYS, *BALANCED))
    return BALANCED.get(word, word)


@dataclass(frozen=True, slots=True)
class Deal:
    """Who computes what.

    Attributes:
        heads: for each rank, its query heads, ascending.
        rows: for each rank, the ranks whose queries it computes, itself among them.
        group: query heads of one KV head.
    """

    heads: tuple[tuple[int, ...], ...]
    rows: tuple[range, ...]
    group: int

    def kv_heads(self, rank: int) -> tuple[int, ...]:
        """Return the KV heads that a rank needs, ascending."""
        return tuple(sorted({head // self.group for head in self.heads[rank]}))

    def kv_of_heads(self, rank: int) -> tuple[int, ...] | None:
        """Return the place of each head's KV head among those of the rank; None if all serve as many heads in turn."""
        kept, mine = self.kv_heads(rank), self.heads[rank]
        places = tuple(kept.index(head // self.group) for head in mine)
        share = len(mine) // len(kept)
        even = (
            places == tuple(place // share for place in range(len(mine))) if share * len(kept) == len(mine) else False
        )
        return None if even else places

    def column(self, rank: int) -> tuple[int, ...]:
        """Return the ranks that compute the same heads as this one, ascending."""
        return tuple(other for other, heads in enumerate(self.heads) if heads == self.heads[rank])

    @property
    def splits_queries(self) -> bool:
        """Whether ranks compute some queries only."""
        return any(len(row) < len(self.rows) for row in self.rows)


def deal(way: str, ranks: int, heads: int, kv_heads: int, pairs: Sequence[int] | None = None) -> Deal:
    """Deal heads and queries.

    Args:
        way: "ulysses", "allgather" or "ulysses+allgather".
        ranks: how many ranks there are.
        heads, kv_heads: of the whole.
        pairs: kept pairs of each head, by which heads are dealt; None deals as many to each rank, in order.

    Raises:
        BadInput: for another way, or more ranks than heads where ranks share none.
    """
    if way not in WAYS:
        raise unknown_name("way of parallel", way, WAYS)
    columns = {"ulysses": ranks, "allgather": 1, "ulysses+allgather": math.gcd(ranks, heads)}[way]
    if columns > heads:
        raise BadInput(
            f"{ranks} ranks are more than the heads ({heads}), which ulysses shares out: use "
            "parallel='ulysses+allgather' or 'allgather', or fewer ranks"
        )
    shares = _shares(columns, heads, kv_heads, pairs)
    rows = [range(first, first + columns) for first in range(0, ranks, columns)]
    return Deal(shares * len(rows), tuple(row for row in rows for _ in row), heads // kv_heads)


def _shares(columns: int, heads: int, kv_heads: int, pairs: Sequence[int] | None) -> tuple[tuple[int, ...], ...]:
    """Share heads out to columns. Heads of one KV head stay together where there are as many KV heads as columns."""
    count = kv_heads if kv_heads >= columns else heads
    size = heads // count
    units = [tuple(range(unit * size, (unit + 1) * size)) for unit in range(count)]
    if pairs is None:
        ends = [-(-count * column // columns) for column in range(columns + 1)]
        dealt = [units[first:stop] for first, stop in pairwise(ends)]
    else:
        dealt = greedy(units, [max(1, sum(pairs[head] for head in unit)) for unit in units], columns)
    return tuple(tuple(sorted(head for unit in share for head in unit)) for share in dealt)


def greedy(units: Sequence[tuple[int, ...]], costs: Sequence[int], columns: int) -> list[list[tuple[int, ...]]]:
    """Give each unit, the dearest first, to the column that has the least so far; every column gets one."""
    dealt: list[list[tuple[int, ...]]] = [[] for _ in range(columns)]
    loads = [0] * columns
    for unit in sorted(range(len(units)), key=lambda unit: (-costs[unit], unit)):
        least = min(range(columns), key=lambda column: (loads[column], len(dealt[column]), column))
        dealt[least].append(units[unit])
        loads[least] += costs[unit]
    return dealt


def heaviest(way: Deal, pairs: Sequence[int]) -> int:
    """Return how many pairs the busiest of the shares of heads has."""
    return max(sum(pairs[head] for head in share) for share in way.heads)
