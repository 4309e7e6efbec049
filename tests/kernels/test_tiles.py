from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench.kernels import tiles as module
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_cuboids
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import window
from attnbench.kernels.tiles import executed_pairs, tile_mask, tiles

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py


@settings(max_examples=75)
@given(data=st.data(), rows=st.integers(1, 20), columns=st.integers(1, 20))
def test_every_kept_pair_lies_in_exactly_one_tile(
    data: st.DataObject, rows: int, columns: int, plan_cases: Helper
) -> None:
    plan = data.draw(plan_cases()).plan
    mask, n, executed = plan.token_mask(), plan.layout.tokens, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS", rows)
        patch.setattr(module, "COLUMNS", columns)
        for b in range(plan.batch):
            for h in range(plan.heads):
                times = torch.zeros(n, n, dtype=torch.int64)
                for tile in tiles(plan, b, h):
                    assert 1 <= len(tile.queries) <= rows
                    assert 1 <= len(tile.keys) <= columns
                    kept = tile_mask(plan, tile)
                    assert (kept is None) == (not tile.masked)
                    ones = torch.ones(len(tile.queries), len(tile.keys), dtype=torch.int64)
                    times[tile.queries[:, None], tile.keys] += ones if kept is None else kept.long()
                    executed += ones.numel()
                assert torch.equal(times, mask[b, h].long())
        assert executed_pairs(plan) == executed
    assert executed >= plan.pairs


def test_a_block_wholly_within_the_rule_needs_no_mask_and_one_wholly_outside_no_tile() -> None:
    layout = Layout(Grid(1, 1, 12))
    partition = partition_cuboids(layout, (1, 1, 4), torch.device("cpu"))
    keep = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    plan = Plan(layout, 1, 1, BlockPattern(partition.offsets, partition.offsets, keep, window(0, 0, 4)))
    found = {(int(tile.queries[0]), int(key)): tile.masked for tile in tiles(plan, 0, 0) for key in tile.keys}
    assert {key for query, key in found if query == 0} == set(range(8))  # queries 0 to 3 reach key 7 at most
    assert not any(found[4, key] for key in range(3, 9))  # queries 4 to 7 all reach keys 3 to 8
    assert found[4, 0]
    assert found[4, 11]


def test_without_a_rule_just_the_kept_pairs_are_executed() -> None:
    layout = Layout(Grid(3, 5, 7), (2, 0))
    partition = partition_cuboids(layout, (2, 2, 3), torch.device("cpu"))
    keep = torch.rand(2, 3, partition.blocks, partition.blocks, generator=torch.Generator().manual_seed(0)) < 0.4
    plan = Plan(
        layout, 2, 3, BlockPattern(partition.offsets, partition.offsets, keep), partition.order, partition.order
    )
    assert executed_pairs(plan) == plan.pairs == int(plan.token_mask().sum())
