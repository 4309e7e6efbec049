"""Plans of blocks on tiles of fixed size: the pairs kept, the lists of tiles, and the tensors moved there and back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench.kernels.engines.blocks import TileMask, convert, element_mask, expand_heads, tile_lists
from attnbench.kernels.engines.places import (
    Places,
    aligned,
    arrange,
    consecutive,
    number_of_places,
    restore,
    restore_rows,
)
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_cuboids
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import causal, window

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

CPU = torch.device("cpu")
ANY_SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def blocks_only(plan_cases: Helper) -> st.SearchStrategy[Any]:
    return plan_cases().filter(lambda case: isinstance(case.plan.pattern, BlockPattern))


def places_of(places: Places, plan: Plan, b: int, h: int) -> Tensor:
    """The place of each token."""
    if places.place_of is None:
        return torch.arange(plan.layout.tokens)
    return places.place_of if places.place_of.dim() == 1 else places.place_of[b, h]


def pairs_kept(mask: TileMask, plan: Plan) -> Tensor:
    """Which pairs of places the tiles keep, bool [B, H, M, M]: full tiles whole, partial ones as their elements say."""
    q, k = mask.queries, mask.keys
    grid = torch.meshgrid(*map(torch.arange, (plan.batch, plan.heads, q.size, k.size)), indexing="ij")
    elements = element_mask(mask)(*grid)
    if k.real is not None:
        elements = elements & k.real

    def spread(chosen: Tensor) -> Tensor:
        whole = chosen.repeat_interleave(q.tile, 2).repeat_interleave(k.tile, 3)
        return whole.expand(plan.batch, plan.heads, -1, -1)[:, :, : q.size, : k.size]

    return spread(mask.full) | (spread(mask.partial) & elements)


@pytest.mark.parametrize("layout", [consecutive, aligned])
def test_tiles_keep_exactly_the_pairs_of_the_plan(layout: Helper, plan_cases: Helper, brute_force: Helper) -> None:
    @ANY_SETTINGS
    @given(blocks_only(plan_cases), st.sampled_from([1, 2, 4, 16]), st.sampled_from([1, 4, 8]))
    def check(case: Any, q_tile: int, k_tile: int) -> None:
        plan = case.plan
        mask = convert(plan, layout(plan, "q", q_tile), layout(plan, "k", k_tile))
        assert not (mask.full & mask.partial).any()
        kept, expected = pairs_kept(mask, plan), brute_force(case)
        for b in range(plan.batch):
            for h in range(plan.heads):
                q_at, k_at = places_of(mask.queries, plan, b, h), places_of(mask.keys, plan, b, h)
                assert torch.equal(kept[b, h][q_at][:, k_at], expected[b, h])
                unused = torch.ones(mask.keys.size, dtype=torch.bool).index_fill_(0, k_at, False)
                assert not kept[b, h][:, unused].any(), "a repeated key would count twice"

    check()


def test_a_tile_whose_pairs_are_all_kept_is_full_and_one_without_pairs_is_empty(
    plan_cases: Helper, brute_force: Helper
) -> None:
    """Without a rule; with one, boxes may call a tile partial that is full or empty, never the other way round."""

    @ANY_SETTINGS
    @given(blocks_only(plan_cases))
    def check(case: Any) -> None:
        plan, tile = case.plan, 4
        mask = convert(plan, consecutive(plan, "q", tile), consecutive(plan, "k", tile))
        for b in range(plan.batch):
            for h in range(plan.heads):
                q_at, k_at = places_of(mask.queries, plan, b, h).argsort(), places_of(mask.keys, plan, b, h).argsort()
                arranged = brute_force(case)[b, h][q_at][:, k_at]
                full = mask.full.expand(plan.batch, plan.heads, -1, -1)[b, h]
                partial = mask.partial.expand(plan.batch, plan.heads, -1, -1)[b, h]
                for i, rows in enumerate(arranged.split(tile)):
                    for j, pairs in enumerate(rows.split(tile, 1)):
                        if plan.pattern.rule is None:
                            assert bool(full[i, j]) == bool(pairs.all())
                            assert bool(full[i, j] | partial[i, j]) == bool(pairs.any())
                        assert not full[i, j] or pairs.all()
                        assert full[i, j] or partial[i, j] or not pairs.any()

    check()


def cuboid_plan(keep: float = 0.4, rule: Any = None, text: tuple[int, int] = (0, 3)) -> Plan:
    layout = Layout(Grid(4, 9, 10), text)
    parts = partition_cuboids(layout, (2, 4, 4), CPU)
    random = torch.Generator().manual_seed(0)
    kept = torch.rand(1, 3, parts.blocks, parts.blocks, generator=random) < keep
    return Plan(layout, 2, 3, BlockPattern(parts.offsets, parts.offsets, kept, rule), parts.order, parts.order)


def test_with_a_rule_most_tiles_inside_and_outside_of_a_window_are_told_apart() -> None:
    plan = cuboid_plan(1.0, window(1, 20, 20), (0, 0))
    mask = convert(plan, aligned(plan, "q", 16), aligned(plan, "k", 16))
    # Blocks are 2 frames thick and a frame sees its neighbours, so pairs within a block on that axis are all kept.
    assert mask.full.any()
    everything = replace(plan, pattern=replace(plan.pattern, rule=window(3, 20, 20)))
    tiles = convert(everything, aligned(plan, "q", 16), aligned(plan, "k", 16))
    ragged = (~aligned(plan, "k", 16).real.view(-1, 16).all(-1)).expand_as(tiles.partial)  # type: ignore[union-attr]
    assert torch.equal(tiles.partial, ragged)
    assert torch.equal(tiles.full, ~ragged)
    nothing = replace(plan, pattern=replace(plan.pattern, rule=replace(causal(), low=(1000,), high=(2000,))))
    tiles = convert(nothing, aligned(plan, "q", 16), aligned(plan, "k", 16))
    assert not (tiles.full | tiles.partial).any()


@pytest.mark.parametrize("rule", [None, window(1, 2, 3)])
def test_conversion_does_not_wait_for_the_device(rule: Any) -> None:
    class NoWaiting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert not any(name in str(func) for name in ("_local_scalar_dense", "nonzero", "bincount", "unique"))
            return func(*args, **(kwargs or {}))

    plan = cuboid_plan(rule=rule)
    aligned(plan, "q", 8)  # reads the offsets, once
    with NoWaiting():
        for layout in (consecutive, aligned):
            mask = convert(plan, layout(plan, "q", 8), layout(plan, "k", 8))
            tile_lists(mask.full)
            tile_lists(mask.partial.mT)


def test_offsets_are_read_once_and_forgotten_with_their_tensor() -> None:
    plan = cuboid_plan()
    offsets = plan.pattern.q_offsets.clone()
    fresh = replace(plan, pattern=BlockPattern(offsets, offsets, plan.pattern.keep))
    first = aligned(fresh, "q", 8)
    assert number_of_places(offsets, 8) == first.size == aligned(plan, "q", 8).size
    assert aligned(fresh, "k", 8).block is first.block
    assert aligned(fresh, "q", 4).block is not first.block
    held = weakref.ref(first.block)
    del fresh, offsets, first
    gc.collect()
    assert held() is None


def test_aligned_places_of_blocks_that_fill_their_tiles_are_the_order_itself() -> None:
    layout = Layout(Grid(4, 8, 8))
    parts = partition_cuboids(layout, (2, 4, 4), CPU)
    keep = torch.ones(1, 1, parts.blocks, parts.blocks, dtype=torch.bool)
    plan = Plan(layout, 1, 1, BlockPattern(parts.offsets, parts.offsets, keep), parts.order, parts.order)
    places = aligned(plan, "q", 16)
    assert places.real is None
    assert places.tokens is parts.order
    assert places.size == layout.tokens


def test_lists_name_the_chosen_tiles_in_order() -> None:
    random = torch.Generator().manual_seed(0)
    chosen = torch.rand(2, 3, 5, 7, generator=random) < 0.5
    chosen[0, 0, 0], chosen[0, 0, 1] = False, True
    counts, columns = tile_lists(chosen)
    assert (counts.dtype, columns.dtype) == (torch.int32, torch.int32)
    assert columns.shape == chosen.shape
    assert columns.is_contiguous()
    for index in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)).tolist():
        row = chosen[tuple(index)].nonzero().squeeze(1).tolist()
        assert columns[tuple(index)].tolist() == row + [0] * (7 - len(row))
        assert counts[tuple(index)] == len(row)


def test_executed_pairs_count_partial_tiles_whole() -> None:
    offsets = torch.tensor([0, 8, 12])
    keep = torch.tensor([[True, False], [False, True]])[None, None]
    plan = Plan(Layout(Grid(1, 3, 4)), 2, 3, BlockPattern(offsets, offsets, keep))
    eight = convert(plan, consecutive(plan, "q", 8), consecutive(plan, "k", 8))
    assert eight.executed_pairs(2, 3) == 6 * 2 * 64
    five = convert(plan, consecutive(plan, "q", 5), consecutive(plan, "k", 5))
    # Tiles 0-4, 5-9, 10-14: the middle one touches both blocks, the last lies in the second.
    assert five.executed_pairs(2, 3) == 6 * (4 + 3) * 25
    by_head = replace(plan, pattern=BlockPattern(offsets, offsets, keep.expand(1, 3, -1, -1).clone()))
    assert convert(by_head, consecutive(plan, "q", 8), consecutive(plan, "k", 8)).executed_pairs(2, 3) == 6 * 2 * 64


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("layout", [consecutive, aligned])
def test_tensors_move_to_their_places_and_back_with_their_gradients(layout: Helper, by_head: bool) -> None:
    plan = cuboid_plan()
    n = plan.layout.tokens
    random = torch.Generator().manual_seed(1)
    order = torch.rand(2, 3, n, generator=random).argsort(-1) if by_head else torch.randperm(n, generator=random)
    places = layout(replace(plan, q_order=order), "q", 8)
    x = torch.randn(2, 3, n, 4, generator=random, dtype=torch.float64, requires_grad=True)
    moved = arrange(x, places)
    assert moved.shape == (2, 3, places.size, 4)
    for b in range(2):
        for h in range(3):
            at = places_of(places, plan, b, h)
            assert len(set(at.tolist())) == n
            assert torch.equal(moved[b, h][at], x[b, h])
            assert torch.equal(
                places.block[at], aligned(plan, "q", 1).block[(order[b, h] if by_head else order).argsort()]
            )
    assert torch.equal(restore(moved, places), x)
    assert torch.equal(restore_rows(moved[..., 0], places), x[..., 0])
    weights = torch.randn(2, 3, n, 4, generator=random, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((restore(moved, places) * weights).sum(), x)
    assert torch.equal(gradient, weights), "a repeated place must pass no gradient on"


def test_heads_that_share_keys_get_their_own_only_where_their_orders_differ() -> None:
    plan = cuboid_plan()
    k = torch.randn(2, 1, plan.layout.tokens, 4)
    assert expand_heads(k, consecutive(plan, "k", 8), 3) is k
    orders = torch.rand(2, 3, plan.layout.tokens).argsort(-1)
    own = consecutive(replace(plan, k_order=orders), "k", 8)
    assert torch.equal(expand_heads(k, own, 3), k.expand(-1, 3, -1, -1))
