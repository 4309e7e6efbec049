"""What attention over several ranks comes to by counting, and a model of its time on more ranks than were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from attnbench.parallel.deal import Deal, deal, heaviest, way_of
from attnbench.results.records.cells import Row


@dataclass(frozen=True, slots=True)
class Counted:
    """What a forward call comes to on the busiest rank.

    Attributes:
        share: of all pairs that one process would compute, from 1 / ranks.
        sent: bytes that it sends to others. What ranks tell each other once, and the scores of a cut of whole heads by
            "allgather", are not counted.
    """

    share: float
    sent: int


def count_call(
    way: str, ranks: int, *, heads: int, kv_heads: int, tokens: int, head_dim: int, itemsize: int, batch: int = 1,
    pairs: Sequence[int] | None = None, balanced: bool = False,
) -> Counted:  # fmt: skip
    """Count a forward call whose tokens are shared out evenly.

    Args:
        way: "ulysses", "allgather" or "ulysses+allgather".
        ranks: how many there are.
        heads, kv_heads, tokens, head_dim, batch: of q, k and v.
        itemsize: bytes of a number.
        pairs: kept pairs of each head; None if all keep as many. Queries are taken to keep alike many.
        balanced: whether heads are dealt by their pairs.

    Raises:
        BadInput: for a way that does not serve so many ranks.
    """
    kept = [1] * heads if pairs is None else list(pairs)
    dealt = deal(way, ranks, heads, kv_heads, kept if balanced else None)
    ends = [tokens * rank // ranks for rank in range(ranks + 1)]
    lengths = [stop - first for first, stop in pairwise(ends)]
    rows = max(sum(lengths[other] for other in row) for row in dealt.rows) / tokens
    numbers = max(_numbers_sent(dealt, lengths, rank) for rank in range(ranks))
    return Counted(heaviest(dealt, kept) / max(1, sum(kept)) * rows, numbers * batch * head_dim * itemsize)


def _numbers_sent(dealt: Deal, lengths: Sequence[int], rank: int) -> int:
    """Return how many vectors of a head's width a rank sends: q, k and v, and then its outputs."""
    sent = 0
    for other, length in enumerate(lengths):
        if other != rank:
            queries = len(dealt.heads[other]) if rank in dealt.rows[other] else 0
            outputs = len(dealt.heads[rank]) if other in dealt.rows[rank] else 0
            sent += (queries + 2 * len(dealt.kv_heads(other))) * lengths[rank] + outputs * length
    return sent


def extrapolate(row: Row, ranks: int) -> tuple[float, float] | None:
    """Return the least and most milliseconds that a measured call over ranks should take on more of them.

    Computing takes the busiest rank's share of what one process takes, and exchanges take as long as their bytes do at
    the measured rate. What the measured call took beyond these two is cutting and joining shards, waiting, and kernels
    that are less efficient on fewer heads. It shrinks with the bytes for the least, and stays for the most. All heads
    are taken to keep as many pairs. None without the figures of the measured call.

    Args:
        row: over ranks, with a latency.
        ranks: how many there would be.

    Raises:
        BadInput: for a way that does not serve so many ranks.
    """
    if row.gpus is None or row.parallel is None:
        return None
    if not (row.latency_ms and row.one_ms and row.exchange_ms and row.sent_mib):
        return None
    way = way_of(row.parallel)
    was, would = (
        count_call(
            way, count, heads=row.heads, kv_heads=row.kv_heads, tokens=row.tokens, head_dim=row.head_dim,
            itemsize=2, batch=row.batch,
        )
        for count in (row.gpus, ranks)
    )  # fmt: skip
    bytes_ratio = would.sent / was.sent
    sure = row.one_ms * would.share + row.exchange_ms * bytes_ratio
    rest = row.latency_ms - row.one_ms * was.share - row.exchange_ms
    least, most = sorted((sure + rest * bytes_ratio, sure + rest))
    return least, most
