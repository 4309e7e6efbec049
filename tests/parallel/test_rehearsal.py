"""Ranks that are threads, and what calls come to by counting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.cost.ranks import count_call, extrapolate
from attnbench.kernels.errors import BadInput, RankLost
from attnbench.kernels.plan import Plan
from attnbench.parallel.attend import among
from attnbench.parallel.collectives import Ranks
from attnbench.parallel.rehearsal import rehearse
from attnbench.results.records.cells import Row

GRID = (3, 4, 5)


def asked(q: Tensor, k: Tensor, v: Tensor, method: str, **settings: Any) -> tuple[Any, ...]:
    return q, k, v, method, GRID, (0, 0), 0, None, None, None, settings


def play_with(heads: int, kv_heads: int, ranks: int, parallel: Any, **settings: Any) -> list[tuple[Plan, int]]:
    """Return what each rank computed, and how many bytes of floats it sent to others."""
    q = torch.randn(1, heads, 60, 16)
    k, v = torch.randn(2, 1, kv_heads, 60, 16)

    def play(here: Ranks) -> tuple[Plan, int]:
        sent, swap = [0], here._swap

        def counted(flat: Tensor, sends: Any, receives: Any) -> Any:
            if flat.is_floating_point():
                sent[0] += (sum(sends) - sends[here.rank]) * flat.element_size()
            return swap(flat, sends, receives)

        here.__dict__["_swap"] = counted
        mine = slice(60 * here.rank // ranks, 60 * (here.rank + 1) // ranks)
        ran = among(here, asked(q[:, :, mine], k[:, :, mine], v[:, :, mine], **settings), parallel, return_plan=True)
        return ran.plan, sent[0]

    return rehearse(ranks, play)


@pytest.mark.parametrize(
    ("way", "ranks", "heads", "kv_heads"),
    [
        ("ulysses", 2, 4, 2), ("ulysses", 3, 4, 2), ("ulysses", 4, 6, 6), ("allgather", 3, 3, 1),
        ("ulysses+allgather", 4, 6, 2), ("ulysses+allgather", 4, 2, 2),
    ],
)  # fmt: skip
def test_the_busiest_rank_computes_and_sends_what_is_counted(way: str, ranks: int, heads: int, kv_heads: int) -> None:
    found = play_with(heads, kv_heads, ranks, way, method="full")
    counted = count_call(way, ranks, heads=heads, kv_heads=kv_heads, tokens=60, head_dim=16, itemsize=4)
    assert max(sent for _, sent in found) == counted.sent
    assert max(plan.pairs for plan, _ in found) == pytest.approx(counted.share * heads * 60**2)


def test_heads_are_counted_by_what_they_keep() -> None:
    settings = {"method": "sparge", "topk": (0.9, 0.9, 0.1, 0.1), "block": (4, 4), "similarity": -1.0}
    found = play_with(4, 4, 2, "ulysses", **settings)
    by_head = [pairs for plan, _ in found for pairs in plan.pairs_by_head[0].tolist()]
    count = {"heads": 4, "kv_heads": 4, "tokens": 60, "head_dim": 16, "itemsize": 4, "pairs": by_head}
    in_order, dealt = (count_call("ulysses", 2, **count, balanced=each).share for each in (False, True))
    assert in_order == pytest.approx(max(plan.pairs for plan, _ in found) / sum(by_head))
    assert 0.5 <= dealt < in_order


def test_an_error_of_one_rank_is_the_error_of_all() -> None:
    def play(here: Ranks) -> None:
        if here.rank == 1:
            raise BadInput("rank 1 has had enough")
        here.gather(torch.zeros(1), [(1,)] * 3)

    with pytest.raises(BadInput, match="had enough"):
        rehearse(3, play)
    with pytest.raises(RankLost, match="a rank made another call"):
        rehearse(2, lambda here: here.gather(torch.zeros(1 + here.rank), [(1,)] * 2))


def test_a_measured_call_is_extrapolated_by_share_and_bytes_and_what_is_left_lies_between() -> None:
    row = Row.model_construct(
        gpus=2, parallel="ulysses", latency_ms=47.0, one_ms=80.0, exchange_ms=4.0, sent_mib=10.0, heads=12, kv_heads=12,
        tokens=800, head_dim=16, batch=1,
    )  # fmt: skip
    # 8 ranks: two of twelve heads on the busiest rank; it sends 1/8 of its tokens' q, k, v for 10 or 11 other heads,
    # and 7/8 of the outputs of 2 heads, where one of 2 ranks sent a half of either.
    sent_by_two = 400 * 6 * 3 + 400 * 6
    sent_by_eight = 100 * 10 * 3 + 700 * 2
    fewer = sent_by_eight / sent_by_two
    assert extrapolate(row, 8) == pytest.approx((80 * 2 / 12 + (4 + 3) * fewer, 80 * 2 / 12 + 4 * fewer + 3))
    assert extrapolate(row, 2) == pytest.approx((47.0, 47.0))  # what was measured
    assert extrapolate(row.model_copy(update={"latency_ms": 42.0}), 8) == pytest.approx(
        (80 * 2 / 12 + 4 * fewer - 2, 80 * 2 / 12 + (4 - 2) * fewer)
    )
    for name in ("one_ms", "latency_ms", "exchange_ms", "sent_mib"):
        assert extrapolate(row.model_copy(update={name: None}), 8) is None
    with pytest.raises(BadInput, match="16 ranks are more than the heads"):
        extrapolate(row, 16)
