from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.band import Band
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_cuboids, partition_ranges
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import band, causal, window

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

CPU = torch.device("cpu")
LAYOUT = Layout(Grid(2, 3, 4))


def blocks(*sizes: int) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0)


def keep_all(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


@settings(max_examples=60)
@given(data=st.data())
def test_what_a_plan_says_it_keeps_is_what_the_loops_find(
    data: st.DataObject, plan_cases: Helper, brute_force: Helper
) -> None:
    case = data.draw(plan_cases())
    plan, expected = case.plan, brute_force(case)
    plan.check()
    assert torch.equal(plan.token_mask(), expected)
    assert torch.equal(plan.pairs_by_head, expected.sum((2, 3)))
    assert plan.pairs == int(expected.sum())
    assert plan.density == int(expected.sum()) / expected.numel()
    some = torch.tensor(data.draw(st.lists(st.integers(0, plan.layout.tokens - 1), min_size=1, max_size=5)))
    assert torch.equal(plan.key_mask(some), expected[:, :, some])


@given(
    sides=st.tuples(*[st.integers(1, 6)] * 3),
    block=st.tuples(*[st.integers(1, 4)] * 3),
    text=st.tuples(*[st.integers(0, 2)] * 2),
    half=st.tuples(*[st.integers(0, 5)] * 3),
    name=st.sampled_from(["window", "band", "causal"]),
    ranges=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pairs_are_counted_alike_in_blocks_that_fill_their_boxes_and_in_others(
    sides: tuple[int, int, int],
    block: tuple[int, int, int],
    text: tuple[int, int],
    half: tuple[int, int, int],
    name: str,
    ranges: bool,
    seed: int,
) -> None:
    """Cuboids fill boxes on the grid and ranges fill them in raster order: pairs are then counted in closed form."""
    layout = Layout(Grid(*sides), text)
    partition = partition_ranges(layout, block[2] + 3, CPU) if ranges else partition_cuboids(layout, block, CPU)
    rule = {"window": window(*half), "band": band(half[0] * 7), "causal": causal()}[name]
    random = torch.Generator().manual_seed(seed)
    keep = torch.rand(1, 2, partition.blocks, partition.blocks, generator=random) < 0.6
    pattern = BlockPattern(partition.offsets, partition.offsets, keep, rule)
    plan = Plan(layout, 1, 2, pattern, partition.order, partition.order)
    mask = plan.token_mask()
    assert plan.pairs_by_head.tolist() == mask.sum((2, 3)).tolist()
    assert plan.pairs == int(mask.sum())


def test_text_in_one_block_with_video_stays_dense_under_a_rule() -> None:
    layout = Layout(Grid(1, 1, 4), (1, 1))
    keep = torch.tensor([[[[True, False], [True, True]]]])
    plan = Plan(layout, 1, 1, BlockPattern(blocks(3, 3), blocks(3, 3), keep, causal()))
    # rows: text, video 0 to 3, text; a dropped block stays dropped for text too
    expected = torch.tensor(
        [
            [1, 1, 1, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 1],
            [1, 1, 1, 1, 1, 1],
            [1, 1, 1, 1, 1, 1],
        ],
        dtype=torch.bool,
    )
    assert torch.equal(plan.token_mask()[0, 0], expected)
    assert plan.pairs == int(expected.sum())


@pytest.mark.parametrize(
    ("plan", "line"),
    [
        (Plan(LAYOUT, 1, 1, BlockPattern(blocks(24), blocks(24), keep_all(1, 1, 1, 1), is_full=True)),
         "Plan 2×3×4, 1 head, density 1, full"),
        (Plan(LAYOUT, 3, 12, BlockPattern(blocks(6, 18), blocks(12, 12), keep_all(1, 1, 2, 2).tril())),
         "Plan 2×3×4, batch 3, 12 heads, density .875, blocks, 2 × 2 blocks"),
        (Plan(Layout(LAYOUT.grid, (0, 2)), 1, 2, RoutedPattern(blocks(26), keep_all(1, 1, 26, 1), causal())),
         "Plan 2×3×4, text 0+2, 2 heads, density .592, routed, 1 block, causal"),
        (Plan(LAYOUT, 1, 2, RoutedPattern(blocks(20, 4), ~keep_all(1, 1, 24, 2))),
         "Plan 2×3×4, 2 heads, density 0, routed, 2 blocks"),
        (Plan(LAYOUT, 1, 2, RoutedPattern(blocks(20, 4).to("meta"), keep_all(1, 1, 24, 2).to("meta"))),
         "Plan 2×3×4, 2 heads, routed, 2 blocks"),
    ],
)  # fmt: skip
def test_a_plan_in_one_line(plan: Plan, line: str) -> None:
    assert repr(plan) == line


def test_the_line_of_a_large_plan_counts_no_pair_one_by_one() -> None:
    layout = Layout(Grid(1, 1, 8193))
    order = torch.arange(layout.tokens).flip(0)
    plan = Plan(layout, 1, 1, RoutedPattern(blocks(8193), keep_all(1, 1, 8193, 1), band(4)), order, order)
    assert repr(plan) == "Plan 1×1×8193, 1 head, routed, 1 block, band(4)"
    assert plan.pairs == 8193 * 9 - 20
    assert repr(plan) == "Plan 1×1×8193, 1 head, density .0011, routed, 1 block, band(4)"


def test_the_line_of_a_large_plan_counts_blocks_that_fill_their_boxes() -> None:
    layout = Layout(Grid(4, 40, 60))
    partition = partition_cuboids(layout, (4, 8, 8), CPU)
    keep = keep_all(1, 1, partition.blocks, partition.blocks)
    pattern = BlockPattern(partition.offsets, partition.offsets, keep, window(3, 39, 59))
    plan = Plan(layout, 1, 2, pattern, partition.order, partition.order)
    assert repr(plan) == "Plan 4×40×60, 2 heads, density 1, blocks, 40 × 40 blocks, window(3, 39, 59)"


def test_a_shared_pattern_counts_once_for_every_batch_item_and_head() -> None:
    keep = torch.tensor([[[[True, False], [True, True]]]])
    shared = Plan(LAYOUT, 3, 5, BlockPattern(blocks(10, 14), blocks(4, 20), keep))
    assert shared.shared_by == (True, True)
    assert shared.pairs == 15 * (10 * 4 + 14 * 24)
    assert shared.density == pytest.approx((10 * 4 + 14 * 24) / 24**2)
    per_head = Plan(LAYOUT, 3, 5, BlockPattern(blocks(10, 14), blocks(4, 20), keep.expand(1, 5, 2, 2)))
    assert per_head.shared_by == (True, False)
    assert per_head.pairs == shared.pairs
    ordered = replace(shared, q_order=torch.arange(24).expand(3, 5, 24))
    assert ordered.shared_by == (False, False)
    assert ordered.pairs == shared.pairs


def test_bytes_are_those_of_orders_offsets_and_kept_blocks() -> None:
    order = torch.randperm(24)
    plan = Plan(LAYOUT, 1, 2, BlockPattern(blocks(10, 14), blocks(24), keep_all(1, 2, 2, 1)), order, None)
    assert plan.nbytes == 8 * 24 + 8 * (3 + 2) + 4
    routed = Plan(LAYOUT, 1, 2, RoutedPattern(blocks(10, 14), keep_all(1, 1, 24, 2)), order, order)
    assert routed.nbytes == 2 * 8 * 24 + 8 * 3 + 48


def test_full_attention_is_said_and_can_only_be_one_kept_block() -> None:
    one = keep_all(1, 1, 1, 1)
    assert not BlockPattern(blocks(24), blocks(24), one).is_full
    assert not RoutedPattern(blocks(24), keep_all(1, 1, 24, 1)).is_full
    full = BlockPattern(blocks(24), blocks(24), one, is_full=True)
    assert full.is_full
    Plan(LAYOUT, 1, 2, full).check()
    with pytest.raises(BadInput, match="4 blocks is not full"):
        BlockPattern(blocks(12, 12), blocks(12, 12), keep_all(1, 1, 2, 2), is_full=True)
    with pytest.raises(BadInput, match="with a rule is not full"):
        BlockPattern(blocks(24), blocks(24), one, causal(), is_full=True)
    with pytest.raises(BadInput, match="is not kept"):
        Plan(LAYOUT, 1, 2, BlockPattern(blocks(24), blocks(24), ~one, is_full=True)).check()


@pytest.mark.parametrize(
    "keep",
    [keep_all(1, 1, 2, 3), keep_all(1, 1, 3, 2), keep_all(1, 2, 2), keep_all(2, 2), torch.ones(1, 1, 2, 2)],
)
def test_kept_blocks_must_be_as_the_offsets_say(keep: Tensor) -> None:
    with pytest.raises(BadInput, match=r"must be bool \[B or 1, H or 1, 2, 2\]") as caught:
        BlockPattern(blocks(10, 14), blocks(4, 20), keep)
    assert f"{keep.dtype} {list(keep.shape)}" in str(caught.value)


@pytest.mark.parametrize("keep", [keep_all(1, 1, 24, 3), keep_all(1, 24, 2), torch.ones(1, 1, 24, 2)])
def test_routes_must_be_as_the_offsets_say(keep: Tensor) -> None:
    with pytest.raises(BadInput, match=r"must be bool \[B or 1, H or 1, N, 2\]"):
        RoutedPattern(blocks(4, 20), keep)


def test_a_pattern_of_another_batch_or_number_of_heads_is_refused() -> None:
    pattern = BlockPattern(blocks(24), blocks(24), keep_all(2, 3, 1, 1))
    Plan(LAYOUT, 2, 3, pattern)
    with pytest.raises(BadInput, match=r"batch size is 2; it must be 1 \(shared\) or 4"):
        Plan(LAYOUT, 4, 3, pattern)
    with pytest.raises(BadInput, match=r"heads size is 3; it must be 1 \(shared\) or 6"):
        Plan(LAYOUT, 2, 6, pattern)


@pytest.mark.parametrize(
    ("q_offsets", "k_offsets", "side"),
    [
        (blocks(10, 13), blocks(24), "query"),
        (torch.tensor([1, 10, 24]), blocks(24), "query"),
        (blocks(24), blocks(10, 0, 14), "key"),
        (blocks(24), torch.tensor([0, 20, 10, 24]), "key"),
        (blocks(24), blocks(10, 15), "key"),
    ],
)
def test_offsets_that_do_not_ascend_to_n_are_found(q_offsets: Tensor, k_offsets: Tensor, side: str) -> None:
    keep = keep_all(1, 1, len(q_offsets) - 1, len(k_offsets) - 1)
    with pytest.raises(BadInput, match=f"the {side} offsets must ascend from 0 to 24, the number of tokens"):
        Plan(LAYOUT, 1, 1, BlockPattern(q_offsets, k_offsets, keep)).check()


def test_routes_for_another_number_of_queries_are_found() -> None:
    with pytest.raises(BadInput, match="the routed pattern has 23 queries; it must have 24"):
        Plan(LAYOUT, 1, 1, RoutedPattern(blocks(24), keep_all(1, 1, 23, 1)))


@pytest.mark.parametrize("side", ["query", "key"])
@pytest.mark.parametrize(
    "order",
    [
        torch.arange(24).clamp(max=22),
        torch.arange(1, 25),
        torch.stack([torch.arange(24).expand(3, 24), torch.zeros(3, 24, dtype=torch.int64)]),
    ],
    ids=["twice the same", "not from 0", "one bad item"],
)
def test_an_order_that_is_no_permutation_is_found(order: Tensor, side: str) -> None:
    orders: dict[str, Any] = {f"{side[0]}_order": order}
    plan = Plan(LAYOUT, 2, 3, BlockPattern(blocks(24), blocks(24), keep_all(1, 1, 1, 1)), **orders)
    with pytest.raises(BadInput, match=f"the {side} order must be a permutation of 0 to 23"):
        plan.check()


@pytest.mark.parametrize("side", ["query", "key"])
@pytest.mark.parametrize("shape", [(5,), (3, 24), (1, 3, 24), (2, 1, 24), (2, 3, 23)])
def test_an_order_of_another_shape_is_refused(shape: tuple[int, ...], side: str) -> None:
    orders: dict[str, Any] = {f"{side[0]}_order": torch.arange(shape[-1]).expand(shape)}
    with pytest.raises(BadInput, match=r"it must be \[24\] or \[2, 3, 24\]") as caught:
        Plan(LAYOUT, 2, 3, BlockPattern(blocks(24), blocks(24), keep_all(1, 1, 1, 1)), **orders)
    assert f"the {side} order has shape {list(shape)}" in str(caught.value)


@pytest.mark.parametrize("which", ["q_offsets", "k_offsets", "q_order", "k_order", "near", "low"])
def test_tensors_on_another_device_are_refused(which: str) -> None:
    def of(name: str, tensor: Tensor) -> Tensor:
        return tensor.to("meta") if name == which else tensor

    zero = torch.zeros(1, 1, dtype=torch.int64)
    kept = {"q_offsets": of("q_offsets", blocks(24)), "k_offsets": of("k_offsets", blocks(24))}
    pattern: BlockPattern | RoutedPattern = BlockPattern(
        **kept, keep=keep_all(1, 1, 1, 1), band=Band(of("low", zero), zero)
    )
    if which == "near":
        pattern = RoutedPattern(blocks(24), keep_all(1, 1, 24, 1), near=of("near", zero[0]))
    orders = {name: of(name, torch.arange(24)) for name in ("q_order", "k_order")}
    with pytest.raises(BadInput, match="the kept blocks are on cpu and another tensor of the plan is on meta"):
        Plan(LAYOUT, 1, 1, pattern, **orders)


def test_a_token_mask_too_large_to_be_meant_is_refused() -> None:
    layout = Layout(Grid(21, 45, 80))
    plan = Plan(layout, 1, 12, BlockPattern(blocks(75600), blocks(75600), keep_all(1, 1, 1, 1)))
    with pytest.raises(BadInput, match="a token mask of 75600 tokens would take 63 GiB; use key_mask"):
        plan.token_mask()
    assert plan.key_mask(torch.tensor([5])).shape == (1, 12, 1, 75600)


@given(data=st.data())
def test_sharing_is_never_claimed_where_masks_differ(data: st.DataObject, plan_cases: Helper) -> None:
    plan = data.draw(plan_cases(most=(1, 2, 4))).plan
    mask = plan.token_mask()
    same_batch, same_heads = plan.shared_by
    assume(plan.batch > 1 or plan.heads > 1)
    assert not same_batch or bool((mask == mask[:1]).all())
    assert not same_heads or bool((mask == mask[:, :1]).all())
