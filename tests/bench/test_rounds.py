"""Rounds of samples: in which order, and how many fit into a budget."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from attnbench.bench.rounds import heads_within, interleave

SECONDS = st.just(0.0) | st.floats(1e-9, 100)


@given(st.integers(0, 5), st.integers(0, 6))
def test_every_item_has_one_turn_a_round_and_none_is_late_on_average(items: int, rounds: int) -> None:
    turns = list(interleave(range(items), rounds))
    assert Counter((turn.number, turn.item) for turn in turns) == Counter(
        (number, item) for number in range(rounds) for item in range(items)
    )
    assert [turn.done for turn in turns] == list(range(items * rounds))
    assert all(turn.total == items * rounds and turn.order[turn.place] == turn.item for turn in turns)
    if rounds % 2 == 0:  # a drift adds as much to each item
        assert len({sum(turn.done for turn in turns if turn.item == item) for item in range(items)}) <= 1


def test_a_turn_names_its_round() -> None:
    assert [turn.label for turn in interleave("a", 2)] == ["round 1 of 2", "round 2 of 2"]


@given(st.floats(-10, 1e4), SECONDS, st.integers(1, 20), st.integers(1, 4), st.integers(1, 6))
def test_heads_fit_into_the_budget(seconds: float, once: float, rounds: int, kv_heads: int, group: int) -> None:
    heads = kv_heads * group
    chosen = heads_within(seconds, once, rounds, heads=heads, kv_heads=kv_heads, least=1)
    assert 1 <= chosen <= heads
    assert chosen <= group or chosen % group == 0
    assert chosen == 1 or once == 0 or chosen * once * (rounds + 1.5) <= seconds * (1 + 1e-9)
