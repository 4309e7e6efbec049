"""Radial Attention, restated token by token: bands of tokens, then blocks one pair of frames at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import get_method

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py
Pairs = set[tuple[int, int]]


def band(i: int, j: int, n: int, block: int, decay: float) -> Pairs:
    """In-frame positions (query, key) that the published code keeps of query frame i and key frame j."""
    apart, group, power = abs(i - j), 0, 1
    while power <= n:
        power *= 2
    while apart >= 2**group:
        group += 1
    width = power / 2**group
    if width < 128 and apart % int(128 / width):
        return set()
    near = lambda x, y: apart <= 1 or abs(x - y) <= max(width * decay, block)  # noqa: E731
    return {(x, y) for x in range(n) for y in range(n) if near(x, y)}


def published(grid: Grid, block: int, decay: float, sink: bool, diagonal: bool) -> Pairs:
    n, looked_at = grid.h * grid.w, -(-grid.h * grid.w // block)
    kept = {(b, b) for b in range(-(-grid.tokens // block))} if diagonal else set()
    for i in range(grid.t):
        for j in range(grid.t):
            pairs = {(x, y) for x in range(n) for y in range(n)} if sink and j == 0 else band(i, j, n, block, decay)
            canvas = {(x + i * n % block, y + j * n % block) for x, y in pairs}
            for row in range(looked_at):
                for column in range(looked_at):
                    inside = [0] * block
                    for x, y in canvas:
                        if x // block == row and y // block == column:
                            inside[y % block] += 1
                    size = min(block, grid.tokens - (i * n // block + row) * block)
                    dense = sum(Fraction(count, size) > Fraction(1, 3) for count in inside) if size > 0 else 0
                    some = sum(count > 0 for count in inside)
                    if some and Fraction(dense, some) > Fraction(6, 10):
                        kept.add((i * n // block + row, j * n // block + column))
    return kept


def paper(grid: Grid, block: int, decay: float, sink: bool, diagonal: bool) -> Pairs:
    n = grid.h * grid.w
    kept = {(b, b) for b in range(-(-grid.tokens // block))} if diagonal else set()
    for query in range(grid.tokens):
        for key in range(grid.tokens):
            (i, x), (j, y) = divmod(query, n), divmod(key, n)
            far = 2 ** math.floor(math.log2(max(1, abs(i - j))))
            width = n / far * (decay if abs(i - j) > 1 else 1)
            wide = abs(x - y) + 1 <= width if width >= 1 else x == y and abs(i - j) % math.ceil(1 / width) == 0
            if wide or (sink and j == 0):
                kept.add((query // block, key // block))
    return kept


@given(
    data=st.data(),
    block=st.integers(1, 9),
    decay=st.sampled_from([0.05, 0.2, 1.0]),
    sink=st.booleans(),
    diagonal=st.booleans(),
    rule=st.sampled_from(["published", "paper"]),
)
def test_against_the_rule_token_by_token(
    data: st.DataObject, block: int, decay: float, sink: bool, diagonal: bool, rule: str, layouts: Helper,
    mask_where: Helper,
) -> None:  # fmt: skip
    layout = data.draw(layouts(most=(7, 3, 4)))
    block = min(block, layout.grid.tokens)
    blocks = (published if rule == "published" else paper)(layout.grid, block, decay, sink, diagonal)
    x = torch.zeros(1, 2, layout.tokens, 4)
    settings = {"block": block, "decay": decay, "sink": sink, "diagonal": diagonal, "rule": rule}
    plan = attnbench.select(x, x, method="radial", grid=layout.grid, text=layout.text, **settings)
    expected = mask_where(layout, lambda query, key: (query // block, key // block) in blocks)
    assert bool((plan.token_mask() == expected).all())


def test_a_query_that_keeps_nothing_gives_zeros() -> None:
    x = torch.randn(3, 1, 1, 16 * 10 * 12, 8, generator=torch.Generator().manual_seed(0))
    where: dict[str, Any] = {"method": "radial", "grid": (16, 10, 12), "diagonal": False}
    empty = ~attnbench.select(x[0], x[1], **where).token_mask()[0, 0].any(-1)
    assert 0 < int(empty.sum()) < len(empty)
    out, lse = attnbench.attention(*x, **where, return_lse=True)
    assert bool((out[0, 0, empty] == 0).all())
    assert bool((lse[0, 0, empty] == -torch.inf).all())
    assert bool(attnbench.select(x[0], x[1], **where | {"diagonal": True}).token_mask()[0, 0].any(-1).all())


def test_densities_of_real_shapes() -> None:
    """Figures computed from the rule by other code than this, with whole blocks of 128 or without the last."""
    for grid, decay, sink, density in [
        ((18, 48, 80), 0.2, True, 0.2871),
        ((18, 48, 80), 1.0, True, 0.4309),
        ((30, 48, 80), 0.95, False, 0.2746),
        ((24, 36, 64), 0.2, True, 0.2946),
    ]:
        x = torch.zeros(1, 1, Grid(*grid).tokens, 1)
        plan = attnbench.select(x, x, method="radial", grid=grid, decay=decay, sink=sink, diagonal=False)
        assert plan.density == pytest.approx(density, abs=1e-4)


def test_a_decay_for_a_density() -> None:
    method, layout = get_method("radial"), Layout(Grid(24, 12, 16))
    assert method.density_setting is not None
    assert not isinstance(method.density_setting, str)
    x = torch.zeros(1, 1, layout.tokens, 1)
    for wanted in (0.28, 0.31, 0.36):
        settings = method.resolve(method.settings(block=32), layout)
        decay = method.density_setting.choose(settings, layout, wanted)
        got = attnbench.select(x, x, method="radial", grid=layout.grid, block=32, **decay).density
        assert got == pytest.approx(wanted, rel=0.03)


def test_a_chosen_block_must_fit_and_the_default_is_cut_off() -> None:
    x = torch.zeros(1, 1, 24, 4)
    assert attnbench.select(x, x, method="radial", grid=(2, 3, 4)).density == 1
    with pytest.raises(BadInput, match="block is 25; it must fit into the 24 tokens of the grid"):
        attnbench.select(x, x, method="radial", grid=(2, 3, 4), block=25)
