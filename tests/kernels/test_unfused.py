"""Engine unfused against whole matrices in float64, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from attnbench.kernels import engines
from attnbench.kernels.engines import Task, choose_engine
from attnbench.kernels.engines.unfused import MOST_PAIRS, UNFUSED
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

TASK = Task(torch.device("cpu"), torch.float32, 8, 4, 2, False, False)
SCALE = 0.3
# Largest difference of the output from float64, of outputs around 1.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def draw_qkv(case: Any, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    plan = case.plan
    return [
        torch.randn(plan.batch, plan.layout.tokens, heads, 6, generator=random, dtype=torch.float64)
        .to(dtype).transpose(1, 2).requires_grad_()
        for heads in (plan.heads, case.kv_heads, case.kv_heads)
    ]  # fmt: skip


def gradients(results: tuple[Tensor, Tensor], leaves: list[Tensor], *, through_lse: bool) -> list[Tensor]:
    """Differentiate with random gradients of the output and, if asked, of the log-sum-exp, minus infinities too."""
    random = torch.Generator().manual_seed(9)
    given = [torch.randn(x.shape, generator=random, dtype=torch.float64).to(x.dtype) for x in results]
    used = 2 if through_lse else 1
    return list(torch.autograd.grad(results[:used], leaves, given[:used]))


@settings(max_examples=80)
@given(data=st.data())
def test_output_log_sum_exp_and_gradients_in_float64(
    data: st.DataObject, plan_cases: Helper, brute_force: Helper, oracle: Helper
) -> None:
    case = data.draw(plan_cases())
    leaves = draw_qkv(case, torch.float64)
    mask, through_lse = brute_force(case), data.draw(st.booleans())
    expected = oracle(*leaves, mask, SCALE)
    output, lse = UNFUSED.attend(*leaves, case.plan, SCALE, True)
    assert lse is not None
    torch.testing.assert_close(output, expected[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(lse, expected[1], atol=1e-10, rtol=0)
    wanted = gradients(expected, leaves, through_lse=through_lse)
    for ours, exact in zip(gradients((output, lse), leaves, through_lse=through_lse), wanted, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-10, rtol=0)
    assert UNFUSED.attend(*leaves, case.plan, SCALE, False)[1] is None


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_other_dtypes(dtype: torch.dtype, plan_cases: Helper, oracle: Helper) -> None:
    @settings(max_examples=25)
    @given(case=plan_cases())
    def check(case: Any) -> None:
        leaves = draw_qkv(case, dtype)
        expected = oracle(*leaves, case.plan.token_mask(), SCALE)
        output, lse = UNFUSED.attend(*leaves, case.plan, SCALE, True)
        assert lse is not None
        assert (output.dtype, lse.dtype) == (dtype, torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(output.double(), expected[0], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        torch.testing.assert_close(lse.double(), expected[1], atol=1e-5, rtol=1e-5)
        for x, leaf in zip(gradients((output, lse), leaves, through_lse=True), leaves, strict=True):
            assert x.dtype == dtype
            assert x.shape == leaf.shape

    check()


def test_scores_of_half_precision_inputs_are_not_rounded_to_it(oracle: Helper) -> None:
    # Scores around 20, one apart in steps of 1/64: bfloat16 has steps of 1/8 there.
    q = torch.full((1, 1, 1, 8), 1.0).expand(1, 1, 64, 8).to(torch.bfloat16)
    k = torch.full((1, 1, 64, 8), 2.5)
    k[..., 0] += torch.arange(64) / 64
    k = k.to(torch.bfloat16)
    v = torch.eye(64)[None, None, :, :8].to(torch.bfloat16)
    plan = full_plan(Layout(Grid(1, 8, 8)), heads=1)
    _, lse = UNFUSED.attend(q, k, v, plan, 1.0, True)
    assert lse is not None
    torch.testing.assert_close(lse.double(), oracle(q, k, v, plan.token_mask(), 1.0)[1], atol=1e-5, rtol=0)


def full_plan(layout: Layout, heads: int = 4) -> Plan:
    offsets = torch.tensor([0, layout.tokens])
    keep = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    return Plan(layout, 1, heads, BlockPattern(offsets, offsets, keep, is_full=True))


def sparse_plan() -> Plan:
    offsets = torch.tensor([0, 10, 24])
    keep = torch.tensor([[True, False], [True, True]])[None, None]
    return Plan(Layout(Grid(2, 3, 4)), 2, 4, BlockPattern(offsets, offsets, keep))


def test_every_pair_is_executed() -> None:
    assert UNFUSED.executed_pairs(sparse_plan()) == 2 * 4 * 24 * 24


@pytest.mark.parametrize("full", [False, True])
def test_every_step_is_a_phase_forward_and_backward(full: bool) -> None:
    def phases(function: Callable[[], object]) -> set[str]:
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
            function()
        names = [event.key for event in profiler.key_averages()]
        return {name.removeprefix("attnbench::") for name in names if name.startswith("attnbench::")}

    plan = full_plan(Layout(Grid(2, 3, 4))) if full else sparse_plan()
    leaves = [torch.randn(plan.batch, heads, 24, 8, requires_grad=True) for heads in (4, 2, 2)]
    results = list[Tensor]()
    forward = phases(lambda: results.append(UNFUSED.attend(*leaves, plan, SCALE, False)[0]))
    assert forward == {"index", "qk", "softmax", "av"}
    assert phases(lambda: torch.autograd.grad(results[0].sum(), leaves)) == {"attend", "qk", "softmax", "av"}


def test_a_second_derivative_is_refused() -> None:
    leaves = [torch.randn(2, heads, 24, 8, requires_grad=True) for heads in (4, 2, 2)]
    output, _ = UNFUSED.attend(*leaves, sparse_plan(), SCALE, False)
    first = torch.autograd.grad(output.square().sum(), leaves[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_auto_and_the_dense_baseline_never_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_engine("unfused", sparse_plan(), TASK) is UNFUSED
    assert choose_engine("auto", sparse_plan(), TASK).name == "reference"
    monkeypatch.setattr(engines, "ENGINES", {"unfused": UNFUSED})
    with pytest.raises(Unsupported, match="unfused is for comparison only: ask for it by name"):
        choose_engine("auto", full_plan(Layout(Grid(2, 3, 4))), TASK)
    assert not UNFUSED.dense


def test_what_does_not_fit_is_refused_with_its_size() -> None:
    one_head_of_480p = Layout(Grid(21, 30, 52))
    assert one_head_of_480p.tokens**2 <= MOST_PAIRS
    assert choose_engine("unfused", full_plan(one_head_of_480p, heads=1), replace(TASK, heads=1)) is UNFUSED
    said = r"'unfused' would hold 48\.0 GiB of scores, and runs up to 4 GiB: 1 × 12 heads of 32760 tokens"
    with pytest.raises(Unsupported, match=said):
        choose_engine("unfused", full_plan(one_head_of_480p, heads=12), replace(TASK, heads=12))
    with pytest.raises(Unsupported, match=r"96\.0 GiB of scores, and runs up to 8 GiB"):
        choose_engine("unfused", full_plan(one_head_of_480p, heads=12), replace(TASK, dtype=torch.float64))
    with pytest.raises(Unsupported, match=r"not torch\.float8_e4m3fn"):
        choose_engine("unfused", sparse_plan(), replace(TASK, dtype=torch.float8_e4m3fn))
