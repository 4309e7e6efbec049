from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench.inputs.structure import locality, union_density
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan


def test_locality_is_the_mass_in_the_window_added_up_pair_by_pair() -> None:
    grid = Grid(3, 4, 5)
    q, k = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0))
    tokens = list(itertools.product(range(3), range(4), range(5)))
    total = 0.0
    for i, here in enumerate(tokens):
        weights = [math.exp(float(q[i] @ k[j]) / math.sqrt(8)) for j in range(60)]
        near = [all(abs(a - b) <= r for a, b, r in zip(here, there, (1, 1, 2), strict=True)) for there in tokens]
        total += sum(w for w, inside in zip(weights, near, strict=True) if inside) / sum(weights)
    assert locality(q, k, grid, half_widths=(1, 1, 2)) == pytest.approx(total / 60, rel=1e-5)


def test_locality_of_a_window_wider_than_the_grid_is_one() -> None:
    q = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    assert locality(q, q, Grid(3, 4, 5), half_widths=(3, 4, 5), queries=7) == pytest.approx(1)


@settings(max_examples=40)
@given(seed=st.integers(0, 99), tile=st.integers(1, 30), ordered=st.booleans(), own_q_order=st.booleans())
def test_union_counts_each_block_that_one_query_of_the_tile_keeps(
    seed: int, tile: int, ordered: bool, own_q_order: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, 5, 6, 13, 24])
    keep = torch.rand(2, 3, 24, 4, generator=generator) < 0.3
    k_order = torch.randperm(24, generator=generator) if ordered else None
    q_order = torch.randperm(24, generator=generator) if own_q_order else None
    plan = Plan(Layout(Grid(2, 3, 4)), 2, 3, RoutedPattern(offsets, keep), q_order, k_order)
    mask = plan.token_mask()
    order = list(range(24)) if k_order is None else k_order.tolist()
    pairs = 0
    for b, h in itertools.product(range(2), range(3)):
        for start in range(0, 24, tile):
            members = order[start : start + tile]
            pairs += len(members) * int(mask[b, h, members].any(dim=0).sum())
    assert union_density(plan, tile=tile) == pytest.approx(pairs / (6 * 24 * 24))


def test_union_of_a_block_pattern_is_refused() -> None:
    whole = torch.tensor([0, 24])
    pattern = BlockPattern(whole, whole, torch.ones(1, 1, 1, 1, dtype=torch.bool))
    with pytest.raises(BadInput, match="BlockPattern has no union density"):
        union_density(Plan(Layout(Grid(2, 3, 4)), 1, 1, pattern))
