"""Rounds of samples: in which order, and how many fit into a budget."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.bench.rounds import calls_of_a_cell, eager_calls, heads_within, interleave

SECONDS = st.just(0.0) | st.floats(1e-9, 100)


@pytest.fixture(autouse=True, scope="module")
def tiny_calls() -> None:
    """Leave the number of calls as it is for users."""


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


CALLS = st.none() | st.integers(2, 300)


@given(
    st.floats(-10, 1e4), st.lists(SECONDS, max_size=4), st.integers(1, 20), CALLS, st.integers(1, 4), st.integers(1, 6)
)
def test_heads_fit_into_the_budget(
    budget: float, once: list[float], rounds: int, calls: int | None, kv_heads: int, group: int
) -> None:
    heads = kv_heads * group
    chosen = heads_within(budget, once, rounds, calls, heads=heads, kv_heads=kv_heads, least=1)
    assert 1 <= chosen <= heads
    assert chosen <= group or chosen % group == 0
    needed = sum(calls_of_a_cell(chosen * each, rounds, calls) * chosen * each for each in once)
    assert chosen == 1 or needed <= budget * (1 + 1e-9)
    assert heads_within(budget, once, rounds, calls, heads=heads, kv_heads=kv_heads, least=heads) == heads


def test_everything_fits_where_calls_take_no_time() -> None:
    assert heads_within(0.0, [0.0, 0.0], 3, None, heads=12, kv_heads=3, least=1) == 12


def test_asking_for_more_calls_leaves_time_for_fewer_heads() -> None:
    few, many = (heads_within(100.0, [0.1], 3, calls, heads=40, kv_heads=40, least=1) for calls in (2, 300))
    assert (few, many) == (40, 3)


@pytest.mark.parametrize(
    ("seconds", "calls"), [(0.0, 20), (0.001, 20), (0.02, 10), (0.4, 2), (0.999, 2), (1.0, 0), (14.0, 0)]
)
def test_calls_of_seconds_are_not_made_back_to_back(seconds: float, calls: int) -> None:
    assert eager_calls(seconds) == calls
