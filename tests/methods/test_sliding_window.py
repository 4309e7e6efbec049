from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnbench
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.plan import Plan
from attnbench.methods import Call, get_method

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py


def make_plan(layout: Layout, **settings: Any) -> Plan:
    x = torch.zeros(2, 3, layout.tokens, 4)
    return attnbench.select(x, x, method="sliding-window", grid=layout.grid, text=layout.text, **settings)


@given(data=st.data(), half=st.tuples(*[st.integers(0, 7)] * 3))
def test_3d_window_token_by_token(
    data: st.DataObject,
    half: tuple[int, int, int],
    layouts: Helper,
    places: Helper,
    mask_where: Helper,
) -> None:
    layout = data.draw(layouts(most=(5, 4, 10)))
    place = places(layout.grid)

    def keeps(query: int, key: int) -> bool:
        return all(abs(a - b) <= most for a, b, most in zip(place[query], place[key], half, strict=True))

    plan, expected = make_plan(layout, window=half), mask_where(layout, keeps)
    assert bool((plan.token_mask() == expected).all())
    assert plan.pairs == 6 * int(expected.sum())


@given(data=st.data(), width=st.integers(0, 170))
def test_1d_window_token_by_token(data: st.DataObject, width: int, layouts: Helper, mask_where: Helper) -> None:
    layout = data.draw(layouts(most=(3, 5, 11)))
    plan, expected = make_plan(layout, width=width), mask_where(layout, lambda query, key: abs(query - key) <= width)
    assert bool((plan.token_mask() == expected).all())
    assert plan.pairs == 6 * int(expected.sum())


@pytest.mark.parametrize("settings", [{"width": 10**6}, {"width": 2**31 - 1}, {"window": (0, 10**9, 2**31 - 1)}])
def test_a_window_wider_than_the_grid_means_all_of_the_axis(settings: dict[str, Any]) -> None:
    plan = make_plan(Layout(Grid(3, 4, 50)), **settings)
    assert plan.density == pytest.approx(1.0 if "width" in settings else 1 / 3)
    assert plan.density == plan.token_mask().double().mean()


def window_density(grid: Grid, half: tuple[int, int, int]) -> float:
    """Kept pairs by counting, axis by axis."""
    density = 1.0
    for side, most in zip(grid.shape, half, strict=True):
        density *= sum(abs(a - b) <= most for a in range(side) for b in range(side)) / side**2
    return density


def default_window(grid: Grid) -> tuple[int, int, int]:
    method = get_method("sliding-window")
    window: tuple[int, int, int] = method.resolve(method.settings(), Layout(grid)).window
    return window


@given(sides=st.tuples(*[st.integers(1, 9)] * 3))
def test_the_default_window_is_the_proportional_one_nearest_to_a_fifth(sides: tuple[int, int, int]) -> None:
    """Proportional: a common fraction f of the axes, each f × side rounded down or up, up to the whole axis.

    Roundings change only where f × side is whole, so one f between any two such places stands for all of them.
    """
    grid = Grid(*sides)
    marks = sorted({i / side for side in sides for i in range(side + 1)})
    fractions = [(a + b) / 2 for a, b in pairwise(marks)]
    candidates = {
        (t, h, w)
        for f in fractions
        for t, h, w in product(*({int(f * side), min(int(f * side) + 1, side - 1)} for side in sides))
    }
    chosen = default_window(grid)
    nearest = min(abs(window_density(grid, half) - 0.2) for half in candidates)
    assert chosen in candidates
    assert abs(window_density(grid, chosen) - 0.2) == pytest.approx(nearest, abs=1e-9)


@pytest.mark.parametrize("grid", ["21x30x52", "21x45x80", "24x36x64", "36x30x52"])
def test_the_default_density_at_sizes_of_models(grid: str) -> None:
    density = window_density(Grid.of(grid), default_window(Grid.of(grid)))
    assert density == pytest.approx(0.2, abs=0.004)


def test_the_default_window_is_what_a_plan_without_settings_keeps() -> None:
    layout = Layout(Grid(5, 6, 7))
    half = default_window(layout.grid)
    assert torch.equal(make_plan(layout).token_mask(), make_plan(layout, window=half).token_mask())
    method = get_method("sliding-window")
    x = torch.zeros(1, 1, 210, 4)
    unresolved = method.plan(method.settings(), x, x, Call(layout))
    assert unresolved.density == pytest.approx(window_density(layout.grid, half))


@given(data=st.data(), half=st.tuples(*[st.integers(0, 4)] * 3), width=st.none() | st.integers(0, 300))
def test_no_block_is_kept_for_nothing(
    data: st.DataObject, half: tuple[int, int, int], width: int | None, layouts: Helper
) -> None:
    layout = data.draw(layouts(most=(5, 10, 20)))
    plan = make_plan(layout, **({"window": half} if width is None else {"width": width}))
    order = torch.arange(layout.tokens) if plan.q_order is None else plan.q_order
    arranged = plan.token_mask()[0, 0][order][:, order]
    sizes = plan.pattern.q_offsets.diff().tolist()
    used = [[bool(block.any()) for block in rows.split(sizes, dim=1)] for rows in arranged.split(sizes)]
    assert plan.pattern.keep[0, 0].tolist() == used
