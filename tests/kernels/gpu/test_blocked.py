"""Block-sparse attention on the GPU path (in Triton's interpreter on a CPU) against whole matrices in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.engines.base import Task
from attnbench.kernels.engines.triton_engine import TRITON
from attnbench.kernels.gpu.blocked import attend_blocks, backward_blocks, executed_pairs
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import Rule, causal, window
from tests.kernels.gpu.draws import draws

Oracle = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]

slow = settings(
    max_examples=draws(12), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def _move(plan: Plan, device: torch.device) -> Plan:
    pattern = plan.pattern
    q_order, k_order = (None if order is None else order.to(device) for order in (plan.q_order, plan.k_order))
    k_offsets, keep = pattern.k_offsets.to(device), pattern.keep.to(device)
    moved = (
        BlockPattern(pattern.q_offsets.to(device), k_offsets, keep, pattern.rule)
        if isinstance(pattern, BlockPattern)
        else RoutedPattern(k_offsets, keep, pattern.rule)
    )
    return Plan(plan.layout, plan.batch, plan.heads, moved, q_order, k_order)


def _tensors(
    device: torch.device, shape: tuple[int, int, int], tokens: int, head_dim: int, spread: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, kv_heads = shape
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q = (spread * torch.randn(batch, heads, tokens, head_dim, generator=generator)).to(device, dtype)
    k, v = (torch.randn(batch, kv_heads, tokens, head_dim, generator=generator).to(device, dtype) for _ in range(2))
    return q, k, v


def _check(q: Tensor, k: Tensor, v: Tensor, plan: Plan, mask: Tensor, oracle: Oracle, scale: float) -> None:
    output, lse = attend_blocks(q, k, v, _move(plan, q.device), scale)
    wanted, wanted_lse = oracle(q, k, v, mask.to(q.device), scale)
    tolerance = 1e-5 if q.dtype == torch.float32 else 2e-2
    # A float32 score has an error in proportion to its size, and weights have that error relative to theirs.
    tolerance += 2**-21 * float(wanted_lse.nan_to_num(neginf=0.0).abs().max())
    assert output.dtype == q.dtype
    assert lse.dtype == torch.float32
    assert torch.allclose(output.double(), wanted, atol=tolerance * float(v.abs().max()), rtol=tolerance)
    empty = wanted_lse == -torch.inf
    assert torch.equal(lse == -torch.inf, empty)
    assert (output[empty] == 0).all()
    reach = 1 + wanted_lse[~empty].abs()
    assert ((lse.double() - wanted_lse)[~empty].abs() < tolerance * reach).all()


@slow
@given(data=st.data())
def test_equals_whole_matrices_for_random_plans(
    data: st.DataObject,
    plan_cases: Callable[..., Any],
    brute_force: Callable[[Any], Tensor],
    oracle: Oracle,
    device: torch.device,
) -> None:
    case = data.draw(plan_cases().filter(lambda case: isinstance(case.plan.pattern, BlockPattern)))
    plan, head_dim = case.plan, data.draw(st.sampled_from([1, 40, 64, 96]))
    q, k, v = _tensors(device, (plan.batch, plan.heads, case.kv_heads), plan.layout.tokens, head_dim)
    _check(q, k, v, plan, brute_force(case), oracle, head_dim**-0.5)


def _plan(sizes: list[int], keep: Tensor, rule: Rule | None = None, grid: Grid | None = None) -> Plan:
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    layout = Layout(grid or Grid(sum(sizes), 1, 1))
    return Plan(layout, 1, 2, BlockPattern(offsets, offsets, keep, rule))


@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sizes", [[150, 40, 10], [64, 64, 64, 8], [16] * 10, [200]])
def test_blocks_longer_than_tiles_and_steps(
    sizes: list[int], density: float, oracle: Oracle, device: torch.device
) -> None:
    keep = torch.rand(1, 2, len(sizes), len(sizes), generator=torch.Generator().manual_seed(3)) < density
    plan = _plan(sizes, keep)
    _check(*_tensors(device, (1, 2, 1), sum(sizes), 64), plan, plan.token_mask(), oracle, 0.125)


@pytest.mark.parametrize("spread", [1e-3, 3e2, 1e4])
@pytest.mark.parametrize("rule", [None, causal()])
@pytest.mark.parametrize("scale", [0.125, -0.125])
def test_scores_of_any_size_give_numbers(
    spread: float, rule: Rule | None, scale: float, oracle: Oracle, device: torch.device
) -> None:
    keep = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(4)) < 0.6
    plan = _plan([20, 30, 5, 45], keep, rule)
    q, k, v = _tensors(device, (1, 2, 2), 100, 64, spread)
    _check(q, k, v, plan, plan.token_mask(), oracle, scale)


def test_scores_that_are_all_very_negative(oracle: Oracle, device: torch.device) -> None:
    q, k, v = _tensors(device, (1, 2, 2), 100, 64)
    plan = _plan([50, 50], torch.ones(1, 1, 2, 2, dtype=torch.bool), causal())
    _check(torch.full_like(q, 100.0), torch.full_like(k, -100.0), v, plan, plan.token_mask(), oracle, 1.0)


def test_rows_whose_kept_blocks_are_out_of_reach_are_empty(oracle: Oracle, device: torch.device) -> None:
    keep = torch.tensor([[True, True, False], [False, False, True], [True, False, False]])[None, None]
    plan = _plan([30, 30, 30], keep, window(0, 40, 0), Grid(1, 90, 1))
    mask = plan.token_mask()
    assert bool((mask.sum(-1) == 0).any())
    _check(*_tensors(device, (1, 2, 2), 90, 64), plan, mask, oracle, 0.125)


def test_values_that_are_no_numbers_stay_where_they_are_kept(device: torch.device) -> None:
    keep = torch.tensor([[True, False, True], [True, True, True], [True, False, True]])[None, None]
    plan = _plan([20, 21, 19], keep)
    q, k, v = _tensors(device, (1, 2, 2), 60, 64)
    k[:, :, 20:41], v[:, :, 20:41] = torch.nan, torch.inf
    output, lse = attend_blocks(q, k, v, _move(plan, device), 0.125)
    others = torch.cat([torch.arange(20), torch.arange(41, 60)]).to(device)
    assert output[:, :, others].isfinite().all()
    assert lse[:, :, others].isfinite().all()


def test_strided_inputs_need_no_copy_by_the_caller(oracle: Oracle, device: torch.device) -> None:
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in _tensors(device, (2, 2, 1), 70, 64))
    keep = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(5)) < 0.5
    offsets = torch.arange(0, 71, 14)
    plan = Plan(Layout(Grid(70, 1, 1)), 2, 2, BlockPattern(offsets, offsets, keep))
    _check(q, k, v, plan, plan.token_mask(), oracle, 0.125)


def test_the_engine_runs_blocks_and_routes(oracle: Oracle, device: torch.device) -> None:
    q, k, v = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in _tensors(device, (1, 2, 1), 40, 40))
    routes = torch.rand(1, 2, 40, 4, generator=torch.Generator().manual_seed(6)) < 0.5
    patterns = [
        BlockPattern(torch.tensor([0, 15, 40]), torch.arange(0, 41, 10), routes[:, :, :2], causal()),
        RoutedPattern(torch.arange(0, 41, 10), routes, causal()),
    ]
    for pattern in patterns:
        plan = Plan(Layout(Grid(40, 1, 1)), 1, 2, pattern, None, torch.arange(39, -1, -1))
        there = _move(plan, device)
        assert TRITON.supports(there, Task.of(q, k, v)) is None
        output, lse = TRITON.attend(q, k, v, there, 0.125, True)
        wanted, wanted_lse = oracle(q, k, v, plan.token_mask().to(device), 0.125)
        assert lse is not None
        assert torch.allclose(output.double(), wanted, atol=5e-2 if q.dtype == torch.bfloat16 else 1e-5)
        assert torch.allclose(lse.double(), wanted_lse, atol=5e-2 if q.dtype == torch.bfloat16 else 1e-5)
        assert TRITON.executed_pairs(there) >= plan.pairs


@pytest.mark.parametrize(
    ("blocks", "heads", "why"),
    [
        (8192, 12, "would need 9.0 GiB of lists of work for so many blocks"),
        (8193, 1, "runs up to 8192 blocks of queries and of keys, not 8193"),
    ],
)
def test_the_engine_refuses_too_many_blocks(blocks: int, heads: int, why: str, device: torch.device) -> None:
    keep = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device).expand(1, heads, blocks, blocks)
    offsets = torch.arange(blocks + 1, device=device)
    plan = Plan(Layout(Grid(blocks, 1, 1)), 1, heads, BlockPattern(offsets, offsets, keep))
    task = Task(device, torch.bfloat16, 64, heads, heads, False, False)
    assert TRITON.supports(plan, task) == why


def test_executed_pairs_count_padding(device: torch.device) -> None:
    # Mean block 25: tiles of 32 rows and steps of 32 keys. Block 0 has two tiles, the others one each.
    keep = torch.tensor([[True, False, True, False], [False, True, True, False], [False] * 4, [True] * 4])[None, None]
    plan = _move(_plan([40, 20, 30, 10], keep), device)
    assert executed_pairs(plan) == 2 * (2 * (2 + 1) + 1 * 2 + 0 + 1 * 4) * 32 * 32


@settings(slow, max_examples=draws(8))
@given(data=st.data())
def test_gradients_equal_those_of_whole_matrices(
    data: st.DataObject,
    plan_cases: Callable[..., Any],
    brute_force: Callable[[Any], Tensor],
    oracle: Oracle,
    device: torch.device,
) -> None:
    case = data.draw(plan_cases().filter(lambda case: isinstance(case.plan.pattern, BlockPattern)))
    plan, head_dim = case.plan, data.draw(st.sampled_from([40, 64]))
    mask = brute_force(case).to(device)
    q, k, v = _tensors(device, (plan.batch, plan.heads, case.kv_heads), plan.layout.tokens, head_dim)
    d_output, _, _ = _tensors(device, (plan.batch, plan.heads, 1), plan.layout.tokens, head_dim, seed=1)
    d_lse = d_output[..., 0].float() if data.draw(st.booleans()) else None
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    wanted, _ = oracle(*exact, mask, 0.2)
    loss = (wanted * d_output).sum()
    if d_lse is not None:
        some = mask.any(-1)
        # Rows that keep nothing would have no finite logarithm to differentiate.
        _, wanted_lse = oracle(*exact, mask | ~some[..., None], 0.2)
        loss = loss + (wanted_lse * d_lse)[some].sum()
    gradients = torch.autograd.grad(loss, exact)
    moved = _move(plan, device)
    output, lse = attend_blocks(q, k, v, moved, 0.2)
    found = backward_blocks(q, k, v, moved, 0.2, output, lse, d_output, d_lse)
    tolerance = 1e-4 if q.dtype == torch.float32 else 4e-2
    for x, gradient, want in zip((q, k, v), found, gradients, strict=True):
        assert gradient.shape == x.shape
        assert gradient.dtype == x.dtype
        reach = float(want.abs().max()) + 1
        assert torch.allclose(gradient.double(), want, atol=tolerance * reach, rtol=tolerance)
