from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import get_method

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py


def axis_keeps(query: int, key: int, side: int, tile: int, window: int) -> bool:
    """The rule along one axis: the window of tiles is centred on the query's tile, moved inside where it sticks out."""
    tile = min(tile, side)
    tiles = -(-side // tile)
    if window >= tiles:
        return True
    first = query // tile - window // 2
    first = max(0, min(first, tiles - window))
    return first <= key // tile < first + window


@given(
    data=st.data(),
    tile=st.tuples(*[st.integers(1, 4)] * 3),
    window=st.tuples(*[st.sampled_from([1, 3, 5, 8])] * 3),
)
def test_against_the_rule_token_by_token(
    data: st.DataObject,
    tile: tuple[int, int, int],
    window: tuple[int, int, int],
    layouts: Helper,
    places: Helper,
    mask_where: Helper,
) -> None:
    layout = data.draw(layouts(most=(5, 6, 7)))
    place, sides = places(layout.grid), layout.grid.shape

    def keeps(query: int, key: int) -> bool:
        axes = zip(place[query], place[key], sides, tile, window, strict=True)
        return all(axis_keeps(*axis) for axis in axes)

    x = torch.zeros(2, 3, layout.tokens, 4)
    plan = attnbench.select(x, x, method="sta", grid=layout.grid, text=layout.text, tile=tile, window=window)
    expected = mask_where(layout, keeps)
    assert bool((plan.token_mask() == expected).all())
    assert plan.density == pytest.approx(float(expected.double().mean()))


@given(data=st.data(), window=st.tuples(*[st.sampled_from([1, 3, 5])] * 3))
def test_every_query_sees_equally_many_tiles(
    data: st.DataObject, window: tuple[int, int, int], layouts: Helper
) -> None:
    grid = data.draw(layouts(most=(5, 6, 7), text=0)).grid
    x = torch.zeros(1, 1, grid.tokens, 4)
    plan = attnbench.select(x, x, method="sta", grid=grid, tile=(1, 1, 1), window=window)
    seen = 1
    for side, size in zip(grid.shape, window, strict=True):
        seen *= min(side, size)
    assert set(plan.token_mask().sum(-1).flatten().tolist()) == {seen}


def plan_mask(grid: tuple[int, int, int], **settings: Any) -> Tensor:
    x = torch.zeros(1, 1, Grid(*grid).tokens, 4)
    return attnbench.select(x, x, method="sta", grid=grid, **settings).token_mask()[0, 0]


@pytest.mark.parametrize(
    ("grid", "window", "message"),
    [
        ((9, 4, 4), (2, 1, 1), r"window is \(2, 1, 1\): its side 2 along t is even.*at least the 9 tiles"),
        ((1, 9, 4), (2, 4, 1), r"its side 4 along h is even.*at least the 9 tiles"),
        ((1, 1, 3), (4, 4, 2), r"its side 2 along w is even.*at least the 3 tiles"),
    ],
)
def test_an_even_window_needs_a_grid_it_covers(
    grid: tuple[int, int, int], window: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        plan_mask(grid, tile=(1, 1, 1), window=window)


@pytest.mark.parametrize(("grid", "window"), [((2, 4, 6), (2, 4, 6)), ((1, 3, 3), (2, 4, 100))])
def test_a_window_that_covers_the_grid_keeps_all(grid: tuple[int, int, int], window: tuple[int, int, int]) -> None:
    assert bool(plan_mask(grid, tile=(1, 1, 1), window=window).all())


def test_the_published_setting_on_a_ragged_grid() -> None:
    """720p: 4 × 6 × 10 tiles of 6 × 8 × 8 tokens, the last ones 3 and 5 short; 3 of each axis."""
    layout = Layout(Grid(21, 45, 80))
    x = torch.zeros(1, 1, layout.tokens, 1)
    plan = attnbench.select(x, x, method="sta", grid=layout.grid)

    def pairs(side: int, tile: int) -> int:
        return sum(axis_keeps(query, key, side, tile, 3) for query in range(side) for key in range(side))

    assert plan.pairs == pairs(21, 6) * pairs(45, 8) * pairs(80, 8)


@pytest.mark.parametrize(
    ("grid", "tile"), [((21, 45, 80), (6, 8, 8)), ((3, 4, 100), (3, 4, 8)), ((1, 8, 7), (1, 8, 7))]
)
def test_tiles_are_recorded_no_larger_than_the_grid(grid: tuple[int, int, int], tile: tuple[int, int, int]) -> None:
    method, layout = get_method("sta"), Layout(Grid(*grid))
    resolved = method.resolve(method.settings(), layout)
    assert resolved.tile == tile
    assert method.resolve(resolved, layout) == resolved
