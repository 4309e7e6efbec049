"""Engine flex: its conversion through torch's own eager FlexAttention, against whole matrices in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from attnbench.kernels.engines import flex
from attnbench.kernels.engines.base import Task
from attnbench.kernels.engines.flex import FLEX, attend_with, block_mask_of, tiles_of
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

TASK = Task(torch.device("cuda"), torch.bfloat16, 64, 4, 2, False, False)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run flex_attention as it is written, without compiling it for each shape; and on tiles that small sizes fill."""
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(flex, "TILE", 8)


def make_qkv(plan: Plan, kv_heads: int, head_dim: int = 16) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    shape = (plan.layout.tokens, head_dim)
    return [
        torch.randn(plan.batch, heads, *shape, generator=random, dtype=torch.float64)
        for heads in (plan.heads, kv_heads, kv_heads)
    ]


def full_plan() -> Plan:
    offsets = torch.tensor([0, 24])
    keep = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    return Plan(Layout(Grid(2, 3, 4)), 2, 4, BlockPattern(offsets, offsets, keep, is_full=True))


def test_plans_of_blocks_run_exactly(plan_cases: Helper, brute_force: Helper, oracle: Helper) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(plan_cases().filter(lambda case: isinstance(case.plan.pattern, BlockPattern)))
    def check(case: Any) -> None:
        q, k, v = make_qkv(case.plan, case.kv_heads)
        output, lse = attend_with(torch_flex.flex_attention, q, k, v, case.plan, 0.3, True)
        expected, expected_lse = oracle(q, k, v, brute_force(case), 0.3)
        torch.testing.assert_close(output, expected, atol=1e-12, rtol=0)
        assert lse is not None
        torch.testing.assert_close(lse.double(), expected_lse, atol=1e-5, rtol=0)

    check()


def test_full_attention_runs_without_a_mask(oracle: Helper) -> None:
    plan = full_plan()
    q, k, v = make_qkv(plan, 2)
    expected, expected_lse = oracle(q, k, v, torch.ones(2, 4, 24, 24, dtype=torch.bool), 0.3)
    output, lse = attend_with(torch_flex.flex_attention, q, k, v, plan, 0.3, True)
    assert lse is not None
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(lse.double(), expected_lse, atol=1e-5, rtol=0)
    assert attend_with(torch_flex.flex_attention, q, k, v, plan, 0.3, False)[1] is None
    assert FLEX.executed_pairs(plan) == plan.pairs


def test_the_block_mask_lists_the_tiles_and_for_the_backward_pass_their_transposes(plan_cases: Helper) -> None:
    """Eager FlexAttention reads the element mask only, so the lists are looked at here."""

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(plan_cases().filter(lambda case: isinstance(case.plan.pattern, BlockPattern)))
    def check(case: Any) -> None:
        mask = tiles_of(case.plan)
        made = block_mask_of(mask)
        assert torch.equal(made.to_dense().bool(), mask.full | mask.partial)
        assert made.shape[-2:] == (case.plan.layout.tokens,) * 2
        assert made.BLOCK_SIZE == (8, 8)
        # What torch itself would derive from the lists of keys.
        twin = torch_flex.BlockMask.from_kv_blocks(
            made.kv_num_blocks, made.kv_indices, made.full_kv_num_blocks, made.full_kv_indices, BLOCK_SIZE=(8, 8)
        )
        for counts, lists in (("q_num_blocks", "q_indices"), ("full_q_num_blocks", "full_q_indices")):
            number = getattr(twin, counts)
            assert torch.equal(getattr(made, counts), number)
            used = torch.arange(getattr(made, lists).shape[-1]) < number[..., None]
            assert torch.equal(getattr(made, lists)[used], getattr(twin, lists)[used])

    check()


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (replace(TASK, device=torch.device("cpu")), "runs on NVIDIA GPUs, not on cpu"),
        (replace(TASK, dtype=torch.float32), "runs bfloat16 and float16, not torch.float32"),
        (replace(TASK, head_dim=8), "runs head_dim from 16 on, not 8"),
        (replace(TASK, head_dim=136), "runs head_dim up to 128 in multiples of 8, not 136"),
        (replace(TASK, needs_grad=True, return_lse=True), "does not differentiate the log-sum-exp"),
    ],
)
def test_tasks_it_cannot_run_are_refused(task: Task, said: str) -> None:
    assert FLEX.supports(full_plan(), TASK) is None
    assert FLEX.supports(full_plan(), task) == said


def test_routed_plans_are_refused() -> None:
    keep = torch.ones(1, 1, 24, 1, dtype=torch.bool)
    routed = replace(full_plan(), pattern=RoutedPattern(torch.tensor([0, 24]), keep))
    assert "not routed ones" in str(FLEX.supports(routed, TASK))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing where there is no GPU")
def test_it_says_what_it_needs() -> None:
    assert FLEX.available() == "it needs an NVIDIA GPU"
