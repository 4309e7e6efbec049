"""Routed attention on the GPU path (in Triton's interpreter on a CPU) against the reference engine in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.gpu import routed
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import RoutedPattern
from attnbench.kernels.plan import Plan
from tests.kernels.gpu.draws import draws


def _plan(
    n: int, sizes: list[int], keep: Tensor, order: Tensor | None, batch: int, heads: int, near: Tensor | None = None
) -> Plan:
    offsets = torch.tensor([0, *sizes], device=keep.device).cumsum(0)
    return Plan(Layout(Grid(n, 1, 1)), batch, heads, RoutedPattern(offsets, keep, near=near), None, order)


def _check(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> None:
    output, lse = routed.attend_routed(q, k, v, plan, scale)
    wanted, wanted_lse = REFERENCE.attend(q.double(), k.double(), v.double(), plan, scale, True)
    assert wanted_lse is not None
    tolerance = 1e-5 if q.dtype == torch.float32 else 2e-2
    assert torch.allclose(output.double(), wanted, atol=tolerance * float(v.abs().max()), rtol=tolerance)
    empty = wanted_lse == -torch.inf
    assert torch.equal(lse == -torch.inf, empty)
    assert (output[empty] == 0).all()
    reach = 1 + wanted_lse[~empty].abs()
    assert ((lse.double() - wanted_lse)[~empty].abs() < tolerance * reach).all()


@settings(max_examples=draws(15))
@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    shape=st.sampled_from([(1, 1, 1), (1, 2, 1), (2, 1, 1), (1, 3, 3)]),
    head_dim=st.sampled_from([64, 128]),
    spread=st.sampled_from([0.01, 1.0, 30.0]),
    ordered=st.booleans(),
    shared=st.booleans(),
    mixed=st.booleans(),
    few_blocks=st.sampled_from([2, routed.FEW_BLOCKS]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_reference(
    sizes: list[int], density: float, shape: tuple[int, int, int], head_dim: int, spread: float, ordered: bool,
    shared: bool, mixed: bool, few_blocks: int, seed: int, device: torch.device,
) -> None:  # fmt: skip
    batch, heads, kv_heads = shape
    n = sum(sizes)
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q = (spread * torch.randn(batch, heads, n, head_dim, generator=generator)).to(device, dtype)
    k, v = (torch.randn(batch, kv_heads, n, head_dim, generator=generator).to(device, dtype) for _ in range(2))
    owners = (1, 1) if shared else (batch, heads)
    keep = (torch.rand(*owners, n, len(sizes), generator=generator) < density).to(device)
    order = torch.randperm(n, generator=generator).to(device) if ordered else None
    near = torch.randperm(len(sizes), generator=generator).to(device) if mixed else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routed, "FEW_BLOCKS", few_blocks)  # from three blocks on in groups, which takes 13 otherwise
        _check(q, k, v, _plan(n, sizes, keep, order, batch, heads, near), head_dim**-0.5)


def test_plans_that_share_an_order_of_blocks_keep_what_was_made_for_each(device: torch.device) -> None:
    near, n = torch.arange(13, device=device).flip(0), 65
    keep = torch.ones(1, 1, n, 13, dtype=torch.bool, device=device)
    one, other = (
        _plan(
            n, [5] * 13, keep, torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(device), 1, 1, near
        )
        for seed in (0, 1)
    )
    made = routed.clustered(one)
    assert routed.clustered(other).k_order is not made.k_order
    assert routed.clustered(one).k_order is made.k_order


def test_an_order_of_blocks_and_offsets_may_lie_apart(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(2)
    sizes, n = [5, 9, 3, 8, 5, 6, 7, 2, 5, 4, 9, 3, 5], 71
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.randn(1, 1, n, 64, generator=generator).to(device, dtype) for _ in range(3))
    keep = (torch.rand(1, 1, n, 13, generator=generator) < 0.3).to(device)
    near = torch.stack([torch.randperm(13, generator=generator) for _ in range(2)], 1).to(device)[:, 0]
    plan = _plan(n, sizes, keep, None, 1, 1, near)
    for offsets in (plan.pattern.k_offsets, plan.pattern.k_offsets.repeat_interleave(2)[::2]):
        _check(q, k, v, replace(plan, pattern=replace(plan.pattern, k_offsets=offsets)), 0.125)


def test_many_blocks_are_taken_in_groups_and_more_queries_than_a_tile_holds(device: torch.device) -> None:
    sizes = [12] * 12 + [5]
    assert routed.group_of(len(sizes)) > 1
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.randn(1, 1, sum(sizes), 64, generator=generator).to(device, dtype) for _ in range(3))
    keep = torch.rand(1, 1, sum(sizes), len(sizes), generator=generator) < 0.3
    keep[..., 4:8] = True  # 149 queries of one pattern
    _check(q, k, v, _plan(sum(sizes), sizes, keep.to(device), None, 1, 1), 0.125)


def test_heads_are_taken_few_at_a_time_when_partial_results_are_large(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routed, "most_partial", lambda device: 1)
    generator = torch.Generator().manual_seed(1)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q = torch.randn(1, 4, 90, 64, generator=generator).to(device, dtype)
    k, v = (torch.randn(1, 2, 90, 64, generator=generator).to(device, dtype) for _ in range(2))
    keep = (torch.rand(1, 4, 90, 3, generator=generator) < 0.3).to(device)
    _check(q, k, v, _plan(90, [30] * 3, keep, None, 1, 4), 0.125)


@given(
    batch=st.integers(1, 40),
    heads=st.sampled_from([(1, 1), (4, 1), (4, 2), (4, 4), (12, 3), (7, 7)]),
    budget=st.integers(1, 200),
    whole=st.booleans(),
)
def test_turns_take_every_row_once_and_as_many_as_fit(
    batch: int, heads: tuple[int, int], budget: int, whole: bool
) -> None:
    count, kv_group = heads
    found = routed.turns(batch, count, kv_group, 3, budget, whole=whole)
    rows = [routed.rows_of_turn(count, *turn) for turn in found]
    assert [row for turn in rows for row in range(turn.start, turn.stop)] == list(range(batch * count))
    for items, some in found:
        taken, parts = len(range(*items.indices(batch))) * len(range(*some.indices(count))), some.stop - some.start
        assert 3 * taken <= max(budget, 3 * (kv_group if whole else 1))
        assert parts % kv_group == 0 or (not whole and kv_group % parts == 0)
    if 3 * count * batch <= budget:
        assert len(found) == 1


def test_a_large_batch_is_taken_at_once(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    # Item by item a training step on 512 clips of 128 tokens took 6 s on an H200, nearly all of it launches.
    taken, attend_tiles = [], routed.attend_tiles

    def noted(q: Tensor, *rest: Any, **more: Any) -> tuple[Tensor, Tensor]:
        taken.append(len(q))
        return attend_tiles(q, *rest, **more)

    monkeypatch.setattr(routed, "attend_tiles", noted)
    generator = torch.Generator().manual_seed(3)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.randn(5, 2, 40, 64, generator=generator).to(device, dtype) for _ in range(3))
    keep = (torch.rand(5, 2, 40, 4, generator=generator) < 0.5).to(device)
    _check(q, k, v, _plan(40, [10] * 4, keep, None, 5, 2), 0.125)
    assert taken == [5]


def test_strided_inputs_need_no_copy_by_the_caller(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(2)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.randn(1, 200, 2, 64, generator=generator).to(device, dtype).transpose(1, 2) for _ in range(3))
    keep = (torch.rand(1, 2, 200, 5, generator=generator) < 0.5).to(device)
    _check(q, k, v, _plan(200, [40] * 5, keep, None, 1, 2), 0.125)


@settings(
    max_examples=draws(12), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
@given(data=st.data())
def test_equals_whole_matrices_for_any_order_rule_and_head_dim(
    data: st.DataObject,
    plan_cases: Callable[..., Any],
    brute_force: Callable[[Any], Tensor],
    oracle: Callable[..., tuple[Tensor, Tensor]],
    device: torch.device,
) -> None:
    case = data.draw(plan_cases().filter(lambda case: isinstance(case.plan.pattern, RoutedPattern)))
    plan, pattern = case.plan, case.plan.pattern
    head_dim, budget = data.draw(st.sampled_from([1, 40, 64, 96])), data.draw(st.sampled_from([1, 2**30]))
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (
        torch.randn(plan.batch, heads, plan.layout.tokens, head_dim, generator=generator).to(device, dtype)
        for heads in (plan.heads, case.kv_heads, case.kv_heads)
    )
    q_order, k_order = (None if order is None else order.to(device) for order in (plan.q_order, plan.k_order))
    moved = RoutedPattern(pattern.k_offsets.to(device), pattern.keep.to(device), pattern.rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routed, "most_partial", lambda device: budget)
        output, lse = routed.attend_routed(
            q, k, v, Plan(plan.layout, plan.batch, plan.heads, moved, q_order, k_order), 0.2
        )
    wanted, wanted_lse = oracle(q, k, v, brute_force(case).to(device), 0.2)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    empty = wanted_lse == -torch.inf
    assert torch.allclose(output.double(), wanted, atol=tolerance * float(v.abs().max()), rtol=tolerance)
    assert torch.equal(lse == -torch.inf, empty)
    assert (output[empty] == 0).all()
    assert torch.allclose(lse.double()[~empty], wanted_lse[~empty], atol=tolerance, rtol=tolerance)


def test_executed_pairs_count_whole_tiles_and_steps(device: torch.device) -> None:
    # Block 0 (130 keys, two steps) has 129 queries, two tiles; block 1 (70 keys, one step) has 5 queries, one tile.
    keep = torch.zeros(1, 2, 200, 2, dtype=torch.bool)
    keep[0, 0, :129, 0] = True
    keep[0, 1, 190:195, 1] = True
    plan = _plan(200, [130, 70], keep.to(device), None, 1, 2)
    assert routed.executed_pairs(plan) == (2 * 2 + 1 * 1) * 128 * 128
    shared = _plan(200, [130, 70], keep[:, :1].to(device), None, 3, 2)
    assert routed.executed_pairs(shared) == 3 * 2 * (2 * 2) * 128 * 128


def test_under_a_rule_every_segment_is_masked() -> None:
    offsets = torch.tensor([0, 100, 200, 300, 450])
    whole, table = routed.segments_of(offsets, 4)
    masked, same = routed.segments_of(offsets, 4, masked=True)
    assert torch.equal(whole[:-1] * torch.tensor([1, -1]), masked[:-1])
    assert torch.equal(table, same)
    used = [place for begin, steps in table.view(-1, 2).tolist() for place in [begin] * (steps > 0)]
    assert used
    assert (masked[used, 1] < 0).all()


def test_neighbouring_blocks_become_one_segment() -> None:
    segments, table = routed.segments_of(torch.tensor([0, 100, 200, 300, 450]), 4)
    begin, steps = table[0, 0b1011].tolist()
    assert segments[begin : begin + 2].tolist() == [[0, 200], [300, 450]]
    assert steps == 2 + 2
