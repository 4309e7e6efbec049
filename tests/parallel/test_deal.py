"""Who computes which heads and queries."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.kernels.errors import BadInput
from attnbench.parallel.balance import Balance
from attnbench.parallel.deal import deal


@given(st.data())
def test_every_query_of_every_head_is_computed_once(data: st.DataObject) -> None:
    kv_heads, group, ranks = (data.draw(st.integers(1, 6)) for _ in range(3))
    heads = kv_heads * group
    ways = ["allgather", "ulysses+allgather", *(["ulysses"] if ranks <= heads else [])]
    pairs = data.draw(st.none() | st.lists(st.integers(0, 10**6), min_size=heads, max_size=heads))
    dealt = deal(data.draw(st.sampled_from(ways)), ranks, heads, kv_heads, pairs)
    done = sorted((head, of) for rank in range(ranks) for head in dealt.heads[rank] for of in dealt.rows[rank])
    assert done == sorted(itertools.product(range(heads), range(ranks)))
    for rank in range(ranks):
        assert rank in dealt.rows[rank]
        kept, places = dealt.kv_heads(rank), dealt.kv_of_heads(rank)
        share = len(dealt.heads[rank]) // len(kept)
        for place, head in enumerate(dealt.heads[rank]):
            assert kept[place // share if places is None else places[place]] == head // group


@given(st.integers(1, 8), st.lists(st.integers(1, 10**6), min_size=1, max_size=24))
def test_the_busiest_share_is_within_four_thirds_of_the_best_possible(ranks: int, pairs: list[int]) -> None:
    """Graham (1969): giving out the largest first is at most 4/3 - 1/(3 m) times as long as the best of all deals."""
    ranks = min(ranks, len(pairs))
    dealt = deal("ulysses", ranks, len(pairs), len(pairs), pairs)
    busiest = max(sum(pairs[head] for head in share) for share in dealt.heads)
    dearest = sorted(pairs, reverse=True)
    two = dearest[ranks - 1] + dearest[ranks] if len(pairs) > ranks else 0
    least = max(-(-sum(pairs) // ranks), dearest[0], two)  # no deal is better than this
    assert least <= busiest
    assert busiest <= -(-sum(pairs) // ranks) + dearest[0]


def test_ranks_are_in_two_dimensions_where_they_are_more_than_heads_divide() -> None:
    dealt = deal("ulysses+allgather", 8, 12, 12)
    assert [len(heads) for heads in dealt.heads] == [3] * 8
    assert dealt.rows[0] == range(4)
    assert dealt.rows[5] == range(4, 8)
    assert dealt.column(1) == (1, 5)


def test_a_balance_deals_heads() -> None:
    with pytest.raises(BadInput, match="a balance by 'allgather'; heads are dealt by ulysses"):
        Balance("allgather")
    assert Balance().gain == 1.0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"pairs": ("a",) * 6}, "pairs is ('a', 'a', 'a', 'a', 'a', 'a'); it must be what each head keeps"),
        ({"pairs": (1, -2)}, "pairs is (1, -2); it must be what each head keeps, whole numbers of at least 0"),
        ({"pairs": 3}, "pairs is 3; it must be"),
        ({"plan": 3}, "plan is 3; it must be a plan"),
        ({"pairs": (1, 2)}, "the balance has counts of 2 heads, and q has 6"),
    ],
)
def test_a_balance_that_cannot_be_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as error:
        Balance(**asked).deal(0, 2, 6, 6)
    assert words in str(error.value)
