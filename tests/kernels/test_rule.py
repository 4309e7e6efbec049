from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.rule import Rule, band, causal, window

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

CPU = torch.device("cpu")
SIDES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
Box = tuple[Tensor, Tensor]


@given(data=st.data(), sides=SIDES)
def test_pairs_one_by_one(
    data: st.DataObject,
    sides: tuple[int, int, int],
    rules: Helper,
    rule_of: Helper,
    allowed_by_hand: Helper,
) -> None:
    layout = Layout(Grid(*sides), (2, 1))
    n = layout.grid.tokens
    words = data.draw(rules(n))
    rule = rule_of(words)
    expected = [[allowed_by_hand(words, layout.grid, query, key) for key in range(n)] for query in range(n)]
    where = rule.positions(layout, CPU)
    assert where.shape == (layout.tokens, 3 if words[0] == "window" else 1)
    video = where[layout.video]
    assert rule.allowed(video[:, None], video[None]).tolist() == expected
    tokens = torch.arange(layout.tokens)[layout.video]
    assert rule.pack(layout, CPU).allowed(tokens, tokens).tolist() == expected
    some = tokens[torch.arange(0, n, 2).flip(0)]
    assert rule.pack(layout, CPU).allowed(some, tokens).tolist() == [expected[query - 2] for query in some.tolist()]


@given(data=st.data(), sides=SIDES)
def test_pairs_of_boxes(
    data: st.DataObject,
    sides: tuple[int, int, int],
    rules: Helper,
    rule_of: Helper,
    allowed_by_hand: Helper,
) -> None:
    grid = Grid(*sides)
    words = data.draw(rules(grid.tokens))
    rule = rule_of(words)
    axes = sides if words[0] == "window" else (grid.tokens,)

    def number(place: tuple[int, ...]) -> int:
        return place[0] if len(place) == 1 else (place[0] * grid.h + place[1]) * grid.w + place[2]

    def draw_box() -> tuple[Box, list[int]]:
        ranges = [sorted(data.draw(st.tuples(*[st.integers(0, side - 1)] * 2))) for side in axes]
        tokens = [number(place) for place in product(*(range(low, high + 1) for low, high in ranges))]
        return (torch.tensor([low for low, _ in ranges]), torch.tensor([high for _, high in ranges])), tokens

    (q_box, queries), (k_box, keys) = draw_box(), draw_box()
    kept = [allowed_by_hand(words, grid, query, key) for query in queries for key in keys]
    assert [bool(x) for x in rule.classify(q_box, k_box)] == [any(kept), all(kept)]
    assert int(rule.count(q_box, k_box)) == sum(kept)


def test_boxes_broadcast() -> None:
    rule = window(1, 0, 2)
    low = torch.tensor([[0, 0, 0], [1, 1, 0], [0, 0, 3]])
    high = low + torch.tensor([1, 0, 1])
    every = [rule.classify((low[i], high[i]), (low[j], high[j])) for i in range(3) for j in range(3)]
    some_at_once, all_at_once = rule.classify((low[:, None], high[:, None]), (low[None], high[None]))
    assert some_at_once.flatten().tolist() == [bool(some) for some, _ in every]
    assert all_at_once.flatten().tolist() == [bool(all_) for _, all_ in every]
    counts = rule.count((low[:, None], high[:, None]), (low[None], high[None]))
    one_by_one = [int(rule.count((low[i], high[i]), (low[j], high[j]))) for i in range(3) for j in range(3)]
    assert counts.flatten().tolist() == one_by_one


@pytest.mark.parametrize("bounds", [(2, 5), (-9, -2), (7, 90), (-90, -7), (0, 0), (-3, -3), (400, 500), (-500, -400)])
def test_a_rule_need_not_hold_the_query_itself(bounds: tuple[int, int]) -> None:
    layout = Layout(Grid(2, 3, 4))
    rule = Rule("some way off", "raster", (bounds[0],), (bounds[1],))
    tokens = torch.arange(24)
    expected = [[bounds[0] <= key - query <= bounds[1] for key in range(24)] for query in range(24)]
    assert rule.pack(layout, CPU).allowed(tokens, tokens).tolist() == expected
    whole = torch.tensor([0]), torch.tensor([23])
    assert int(rule.count(whole, whole)) == sum(map(sum, expected))


def test_a_packed_rule_holds_the_largest_video() -> None:
    layout = Layout(Grid(41, 90, 160))
    rule = window(20, 1, 159)
    token = torch.tensor([0, 40 * 14400, 20 * 14400 + 160, 20 * 14400 + 159, layout.tokens - 1])
    where = rule.positions(layout, CPU)[token]
    expected = [
        [abs(q[0] - k[0]) <= 20 and abs(q[1] - k[1]) <= 1 and abs(q[2] - k[2]) <= 159 for k in where.tolist()]
        for q in where.tolist()
    ]
    assert rule.pack(layout, CPU).allowed(token, token).tolist() == expected
    assert causal().pack(layout, CPU).allowed(token, token).tolist() == [
        [key <= query for key in token.tolist()] for query in token.tolist()
    ]


@pytest.mark.parametrize("wide", [10**6, 10**10, 10**12, 10**30])
@pytest.mark.parametrize("make", [lambda wide: window(wide, wide, wide), band])
def test_any_width_beyond_the_grid_means_all(make: Callable[[int], Rule], wide: int) -> None:
    layout, rule = Layout(Grid(2, 3, 4)), make(wide)
    where, tokens = rule.positions(layout, CPU), torch.arange(24)
    assert bool(rule.allowed(where[:, None], where[None]).all())
    assert bool(rule.pack(layout, CPU).allowed(tokens, tokens).all())
    whole = where[0], where[-1]
    assert [bool(x) for x in rule.classify(whole, whole)] == [True, True]
    assert int(rule.count(whole, whole)) == 24 * 24
