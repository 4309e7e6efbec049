"""The reference engine against whole matrices in float64, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from attnbench.kernels import tiles as tiles_module
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import whole
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import causal, window

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

# Largest difference from float64, of outputs around 1.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
DTYPES = list(TOLERANCE)


def draw_qkv(plan: Plan, kv_heads: int, dtype: torch.dtype, seed: int = 0, head_dim: int = 6) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(plan.batch, heads, plan.layout.tokens, head_dim, generator=random, dtype=torch.float64).to(dtype)
        for heads in (plan.heads, kv_heads, kv_heads)
    ]


def attend(qkv: list[Tensor], plan: Plan, scale: float) -> tuple[Tensor, Tensor]:
    q, k, v = qkv
    output, lse = REFERENCE.attend(q, k, v, plan, scale, True)
    assert lse is not None
    return output, lse


def full_plan(layout: Layout, batch: int = 1, heads: int = 1) -> Plan:
    offsets = whole(layout, torch.device("cpu")).offsets
    return Plan(layout, batch, heads, BlockPattern(offsets, offsets, torch.ones(1, 1, 1, 1, dtype=torch.bool)))


@settings(max_examples=100)
@given(
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([0.0, 0.1, 6**-0.5, 3.0, -1.0]),
    tile=st.sampled_from([(512, 4096), (3, 4), (5, 1)]),
)
def test_output_and_log_sum_exp(
    data: st.DataObject,
    dtype: torch.dtype,
    scale: float,
    tile: tuple[int, int],
    plan_cases: Helper,
    oracle: Helper,
) -> None:
    case = data.draw(plan_cases())
    qkv = draw_qkv(case.plan, case.kv_heads, dtype, data.draw(st.integers(0, 99)))
    before = [x.clone() for x in qkv]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_module, "ROWS", tile[0])
        patch.setattr(tiles_module, "COLUMNS", tile[1])
        output, lse = attend(qkv, case.plan, scale)
    mask = case.plan.token_mask()
    expected, expected_lse = oracle(*qkv, mask, scale)
    assert output.dtype == dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(output.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    fine = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(lse.double(), expected_lse, atol=fine, rtol=fine)
    empty = ~mask.any(-1)
    assert bool((output[empty] == 0).all())
    assert bool((lse[empty] == -torch.inf).all())
    assert all(torch.equal(x, y) for x, y in zip(qkv, before, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e3, 1e-30])
def test_scores_of_any_size(dtype: torch.dtype, size: float, oracle: Helper) -> None:
    plan = full_plan(Layout(Grid(2, 4, 4)), 1, 2)
    q, k, v = draw_qkv(plan, 2, torch.float64)
    q, k, v = (q * size).to(dtype), k.to(dtype), v.to(dtype)
    output, lse = attend([q, k, v], plan, 1.0)
    expected, expected_lse = oracle(q, k, v, plan.token_mask(), 1.0)
    # products of 1e3 carry a rounding error of 1e3 × 2^-24 into the exponent
    slack = max(1.0, size * 1e-2) * TOLERANCE[dtype]
    torch.testing.assert_close(output.double(), expected, atol=slack, rtol=0)
    torch.testing.assert_close(lse.double(), expected_lse, atol=1e-6, rtol=1e-6)


def test_scores_beyond_the_range_of_exp(oracle: Helper) -> None:
    plan = full_plan(Layout(Grid(1, 1, 8)))
    q = torch.tensor([3e4, -3e4, 1e-4, 0, 1e19, -1e19, 200, -200])[None, None, :, None]
    k = torch.arange(1.0, 9.0)[None, None, :, None]
    v = torch.randn(1, 1, 8, 3, generator=torch.Generator().manual_seed(0))
    output, lse = attend([q, k, v], plan, 1.0)
    expected, expected_lse = oracle(q, k, v, plan.token_mask(), 1.0)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(lse.double(), expected_lse, atol=1e-5, rtol=1e-6)


def test_more_tokens_than_one_tile_holds(oracle: Helper) -> None:
    n = 4300  # tiles of 4096 and 204 keys, and of 512 and 204 queries
    plan = full_plan(Layout(Grid(1, 43, 100)))
    qkv = draw_qkv(plan, 1, torch.float32, head_dim=4)
    output, lse = attend(qkv, plan, 1.0)
    q, k, v = qkv
    for rows in torch.arange(n).split(1500):
        mask = torch.ones(1, 1, len(rows), n, dtype=torch.bool)
        expected, expected_lse = oracle(q[:, :, rows], k, v, mask, 1.0)
        torch.testing.assert_close(output[:, :, rows].double(), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(lse[:, :, rows].double(), expected_lse, atol=1e-5, rtol=1e-5)


@settings(max_examples=50)
@given(
    data=st.data(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    tile=st.sampled_from([(512, 4096), (3, 4)]),
    through=st.sampled_from(["output", "lse", "both"]),
)
def test_gradients(
    data: st.DataObject,
    dtype: torch.dtype,
    tile: tuple[int, int],
    through: str,
    plan_cases: Helper,
    oracle: Helper,
) -> None:
    case = data.draw(plan_cases())
    qkv = [x.requires_grad_() for x in draw_qkv(case.plan, case.kv_heads, dtype)]
    exact = [x.detach().double().requires_grad_() for x in qkv]
    mask = case.plan.token_mask()
    random = torch.Generator().manual_seed(1)
    d_output = torch.randn(qkv[0].shape, generator=random, dtype=torch.float64).to(dtype).double()
    d_lse = torch.randn(mask.shape[:3], generator=random)

    def loss(output: Tensor, lse: Tensor) -> Tensor:
        # the log-sum-exp of an empty row is -inf, whatever the inputs
        of_lse = (torch.where(mask.any(-1), lse, 0.0) * d_lse).sum()
        of_output = (output * d_output.to(output.dtype)).sum()
        return {"output": of_output, "lse": of_lse, "both": of_output + of_lse}[through]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_module, "ROWS", tile[0])
        patch.setattr(tiles_module, "COLUMNS", tile[1])
        found = torch.autograd.grad(loss(*attend(qkv, case.plan, 0.5)), qkv)
    expected = torch.autograd.grad(loss(*oracle(*exact, mask, 0.5)), exact, materialize_grads=True)
    tolerance = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 3e-2}[dtype]
    for x, dx, exact_dx in zip(qkv, found, expected, strict=True):
        assert dx.dtype == x.dtype
        exact_dx = exact_dx.nan_to_num(0.0)  # of the oracle's empty rows, where it takes -inf - 0 through exp
        torch.testing.assert_close(
            dx.double(), exact_dx, atol=tolerance * max(1.0, float(exact_dx.abs().max())), rtol=0
        )


def ragged_plan(routed: bool, heads: int = 2) -> Plan:
    layout, random = Layout(Grid(1, 2, 3), (1, 1)), torch.Generator().manual_seed(3)
    offsets = torch.tensor([0, 1, 4, 8])
    order = torch.rand(1, heads, 8, generator=random).argsort(-1)
    keep = torch.rand(1, heads, 8 if routed else 3, 3, generator=random) < 0.7
    rule = causal() if routed else window(0, 1, 1)
    pattern = RoutedPattern(offsets, keep, rule) if routed else BlockPattern(offsets, offsets, keep, rule)
    return Plan(layout, 1, heads, pattern, None if routed else order, order)


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("routed", [False, True])
def test_gradients_are_slopes(routed: bool, kv_heads: int) -> None:
    plan = ragged_plan(routed)
    qkv = [x.requires_grad_() for x in draw_qkv(plan, kv_heads, torch.float64, head_dim=2)]
    kept = plan.token_mask().any(-1)

    def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        output, lse = attend([q, k, v], plan, 0.7)
        return output, torch.where(kept, lse, 0.0)

    assert gradcheck(run, qkv)


def test_second_derivatives_are_slopes_too() -> None:
    layout = Layout(Grid(1, 1, 5))
    offsets = torch.tensor([0, 2, 5])
    keep = torch.tensor([[[[True, True], [False, True]]]])
    plan = Plan(layout, 1, 1, BlockPattern(offsets, offsets, keep, causal()), torch.tensor([4, 2, 0, 1, 3]))
    qkv = [x.requires_grad_() for x in draw_qkv(plan, 1, torch.float64, head_dim=2)]
    kept = plan.token_mask().any(-1)

    def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        output, lse = attend([q, k, v], plan, 0.7)
        return output, torch.where(kept, lse, 0.0)

    assert gradgradcheck(run, qkv)


def test_nothing_flows_through_dropped_pairs_and_empty_rows() -> None:
    layout = Layout(Grid(1, 1, 6))
    offsets = torch.tensor([0, 2, 6])
    keep = torch.tensor([[[[False, False], [True, False]]]])  # queries 2 to 5 keep keys 0 and 1
    plan = Plan(layout, 1, 1, BlockPattern(offsets, offsets, keep))
    qkv = [x.requires_grad_() for x in draw_qkv(plan, 1, torch.float32)]
    output, _ = attend(qkv, plan, 1.0)
    dq, dk, dv = torch.autograd.grad(output.square().sum(), qkv)
    assert bool((dq[0, 0, :2] == 0).all())
    assert bool((dk[0, 0, 2:] == 0).all())
    assert bool((dv[0, 0, 2:] == 0).all())
    assert bool((dq[0, 0, 2:] != 0).any())
    assert bool((dv[0, 0, :2] != 0).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides_change_nothing(dtype: torch.dtype) -> None:
    plan = ragged_plan(routed=False, heads=4)
    qkv = draw_qkv(plan, 2, dtype)
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in qkv]  # stored [B, N, H, D]
    assert not any(x.is_contiguous() for x in strided)
    results = []
    for inputs in (qkv, strided):
        leaves = [x.detach().requires_grad_() for x in inputs]
        output, lse = attend(leaves, plan, 0.5)
        results.append([output, lse, *torch.autograd.grad(output.float().square().sum(), leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
