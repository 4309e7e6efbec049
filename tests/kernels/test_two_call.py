"""Engine two-call against whole matrices in float64, and what it hands to flash-attn-4 with a stand-in for that.

The stand-in attends sequence by sequence with whole matrices and checks what the package checks. What it cannot show
is that the package's kernels do the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from attnbench.kernels import engines
from attnbench.kernels.engines import Task, choose_engine, varlen
from attnbench.kernels.engines.two_call import TWO_CALL, pairs_in_tiles
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import causal

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

TASK = Task(torch.device("cpu"), torch.float32, 8, 2, 2, False, False)
SCALE = 0.3
KEEPS = ["no block", "some blocks", "own block and some", "own block only", "all blocks"]
# Largest difference of the output from float64, of outputs around 1.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@st.composite
def draw_routed(draw: st.DrawFn, plan_cases: Helper) -> Any:
    """The cases of conftest.py with a routed pattern that keeps some of KEEPS, and no rule."""
    case = draw(plan_cases())
    plan, kind = case.plan, draw(st.sampled_from(KEEPS))
    random = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    offsets, n = plan.pattern.k_offsets, plan.layout.tokens
    if draw(st.booleans()):
        plan = replace(plan, q_order=None)
    shape = (*plan.pattern.keep.shape[:2], n, len(offsets) - 1)
    own_only = torch.zeros(plan.batch, plan.heads, *shape[2:], dtype=torch.bool)
    for b in range(plan.batch):
        for h in range(plan.heads):
            q_order, k_order = (plan.order_of(side, b, h) for side in "qk")
            at_key = list(range(n)) if k_order is None else k_order.tolist()
            at_query = list(range(n)) if q_order is None else q_order.tolist()
            for j, (start, end) in enumerate(pairwise(offsets.tolist())):
                for token in at_key[start:end]:
                    own_only[b, h, at_query.index(token), j] = True
    keep = {
        "no block": torch.zeros(shape, dtype=torch.bool),
        "some blocks": torch.rand(shape, generator=random) < 0.4,
        "own block and some": own_only | (torch.rand(own_only.shape, generator=random) < 0.4),
        "own block only": own_only,
        "all blocks": torch.ones(shape, dtype=torch.bool),
    }[kind]
    return replace(case, plan=replace(plan, pattern=RoutedPattern(offsets, keep)), rule=None)


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


def test_the_cases_hold_queries_with_and_without_their_own_block(plan_cases: Helper) -> None:
    seen: set[tuple[bool, bool]] = set()

    @settings(max_examples=100)
    @given(case=draw_routed(plan_cases))
    def look(case: Any) -> None:
        diagonal = case.plan.token_mask().diagonal(dim1=2, dim2=3)  # a token is in its own block
        seen.add((bool(diagonal.all()), bool(diagonal.any())))

    look()
    assert seen == {(True, True), (False, True), (False, False)}


@settings(max_examples=80)
@given(data=st.data())
def test_output_log_sum_exp_and_gradients_in_float64(
    data: st.DataObject, plan_cases: Helper, brute_force: Helper, oracle: Helper
) -> None:
    case = data.draw(draw_routed(plan_cases))
    leaves = draw_qkv(case, torch.float64)
    mask, through_lse = brute_force(case), data.draw(st.booleans())
    expected = oracle(*leaves, mask, SCALE)
    results = TWO_CALL.attend(*leaves, case.plan, SCALE, True)
    for ours, exact in zip(results, expected, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-10, rtol=0)
    wanted = gradients(expected, leaves, through_lse=through_lse)
    assert results[1] is not None
    got = gradients((results[0], results[1]), leaves, through_lse=through_lse)
    for ours, exact in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-10, rtol=0)
    assert TWO_CALL.attend(*leaves, case.plan, SCALE, False)[1] is None


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_other_dtypes(dtype: torch.dtype, plan_cases: Helper, oracle: Helper) -> None:
    @settings(max_examples=25)
    @given(case=draw_routed(plan_cases))
    def check(case: Any) -> None:
        leaves = draw_qkv(case, dtype)
        expected = oracle(*leaves, case.plan.token_mask(), SCALE)
        output, lse = TWO_CALL.attend(*leaves, case.plan, SCALE, True)
        assert lse is not None
        assert (output.dtype, lse.dtype) == (dtype, torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(output.double(), expected[0], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        torch.testing.assert_close(lse.double(), expected[1], atol=1e-5, rtol=1e-5)
        for x, leaf in zip(gradients((output, lse), leaves, through_lse=True), leaves, strict=True):
            assert x.dtype == dtype
            assert x.shape == leaf.shape

    check()


def test_the_gradient_of_the_log_sum_exp_alone(oracle: Helper) -> None:
    plan = small_plan()
    leaves = [x.requires_grad_() for x in torch.randn(3, 1, 2, 24, 8, generator=torch.Generator().manual_seed(0))]
    _, lse = TWO_CALL.attend(*leaves, plan, SCALE, True)
    assert lse is not None
    exact = oracle(*leaves, plan.token_mask(), SCALE)[1]
    wanted = torch.autograd.grad(exact.sum(), leaves[:2])
    for ours, theirs in zip(torch.autograd.grad(lse.sum(), leaves[:2]), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_second_derivative_is_refused() -> None:
    leaves = [x.requires_grad_() for x in torch.randn(3, 1, 2, 24, 8, generator=torch.Generator().manual_seed(0))]
    output, _ = TWO_CALL.attend(*leaves, small_plan(), SCALE, False)
    first = torch.autograd.grad(output.square().sum(), leaves[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


# Executed pairs


@settings(max_examples=40)
@given(data=st.data(), tile=st.integers(1, 7))
def test_executed_pairs(data: st.DataObject, tile: int, plan_cases: Helper, brute_force: Helper) -> None:
    case = data.draw(draw_routed(plan_cases))
    plan, mask = case.plan, brute_force(case)
    assert TWO_CALL.executed_pairs(plan) == int(mask.sum()), "sequence by sequence there is no padding"
    expected = 0
    for b in range(plan.batch):
        for h in range(plan.heads):
            order = plan.order_of("k", b, h)
            for start, end in pairwise(plan.pattern.k_offsets.tolist()):
                block = list(range(start, end)) if order is None else order[start:end].tolist()
                queries = set(mask[b, h, :, block[0]].nonzero().flatten().tolist())
                for part in (queries & set(block), queries - set(block)):
                    expected += -(-len(part) // tile) * -(-len(block) // tile) * tile**2
    assert pairs_in_tiles(plan, tile) == expected


# Phases


def phases(function: Callable[[], object]) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        function()
    names = [event.key for event in profiler.key_averages()]
    return {name.removeprefix("attnbench::") for name in names if name.startswith("attnbench::")}


def test_every_step_is_a_phase_forward_and_backward() -> None:
    leaves = [x.requires_grad_() for x in torch.randn(3, 1, 2, 24, 8)]
    plan, results = small_plan(), list[Tensor]()
    forward = phases(lambda: results.append(TWO_CALL.attend(*leaves, plan, SCALE, False)[0]))
    assert forward == {"permute", "index", "gather", "attend", "merge", "unpermute"}
    backward = phases(lambda: torch.autograd.grad(results[0].sum(), leaves))
    assert backward == {"permute", "gather", "attend", "merge", "unpermute"}


# Who runs what


def small_plan() -> Plan:
    random = torch.Generator().manual_seed(0)
    keep = torch.rand(1, 2, 24, 3, generator=random) < 0.5
    order = torch.randperm(24, generator=random)
    return Plan(Layout(Grid(2, 3, 4)), 1, 2, RoutedPattern(torch.tensor([0, 7, 15, 24]), keep), None, order)


def test_auto_never_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_engine("auto", small_plan(), TASK).name == "reference"
    assert choose_engine("two-call", small_plan(), TASK) is TWO_CALL
    monkeypatch.setattr(engines, "ENGINES", {"two-call": TWO_CALL})
    with pytest.raises(Unsupported, match="two-call is for comparison only: ask for it by name"):
        choose_engine("auto", small_plan(), TASK)
    assert not TWO_CALL.dense


def test_what_it_does_not_run_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, offsets = small_plan(), torch.tensor([0, 10, 24])
    blocks = replace(plan, pattern=BlockPattern(offsets, offsets, torch.ones(1, 1, 2, 2, dtype=torch.bool)))
    with pytest.raises(Unsupported, match=r"'two-call' runs plans in which each query picks blocks .*of whole"):
        choose_engine("two-call", blocks, TASK)
    ruled = replace(plan, pattern=replace(plan.pattern, rule=causal()))
    with pytest.raises(Unsupported, match="whole blocks of keys only, not the element rule causal"):
        choose_engine("two-call", ruled, TASK)
    with pytest.raises(Unsupported, match=r"not torch\.float8_e4m3fn"):
        choose_engine("two-call", plan, replace(TASK, dtype=torch.float8_e4m3fn))
    on_gpu = replace(TASK, device=torch.device("cuda"))
    monkeypatch.setattr("attnbench.kernels.engines.varlen.flash_problem", lambda: None)
    monkeypatch.setattr("attnbench.kernels.engines.two_call.flash_problem", lambda: None)
    with pytest.raises(Unsupported, match=r"runs bfloat16 and float16, not torch\.float32"):
        choose_engine("two-call", plan, on_gpu)
    with pytest.raises(Unsupported, match="head_dim up to 128 in multiples of 8, not 12"):
        choose_engine("two-call", plan, replace(on_gpu, dtype=torch.bfloat16, head_dim=12))
    assert choose_engine("two-call", plan, replace(on_gpu, dtype=torch.bfloat16)) is TWO_CALL


# With a stand-in for flash-attn-4


def check_sequences(q: Tensor, k: Tensor, given: dict[str, Any]) -> Iterator[tuple[slice, slice]]:
    starts = given["cu_seqlens_q"], given["cu_seqlens_k"]
    for rows, start, longest in zip((q, k), starts, (given["max_seqlen_q"], given["max_seqlen_k"]), strict=True):
        assert start.dtype == torch.int32
        assert start.is_contiguous()
        assert (int(start[0]), int(start[-1])) == (0, len(rows))
        assert int(start.diff().min()) >= 0
        assert int(start.diff().max()) <= longest
        assert (rows.dim(), rows.shape[1]) == (3, 1)
    assert len(starts[0]) == len(starts[1])
    for (a, b), (c, d) in zip(*(pairwise(start.tolist()) for start in starts), strict=True):
        yield slice(a, b), slice(c, d)


def weights_of(q: Tensor, k: Tensor, lse: Tensor, scale: float) -> Tensor:
    return ((q @ k.T) * scale - lse[:, None]).exp()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put the stand-in in the package's place, for tensors on the CPU; the calls it gets are listed."""
    calls: list[str] = []

    def forward(
        q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, return_lse: bool, **given: Any
    ) -> tuple[Tensor, Tensor]:
        calls.append("forward")
        assert return_lse
        assert not torch.is_grad_enabled()
        output, lse = torch.empty_like(q), torch.empty(1, len(q))
        for rows, keys in check_sequences(q, k, given):
            scores = q[rows, 0].double() @ k[keys, 0].double().T * softmax_scale
            lse[0, rows] = scores.logsumexp(1).float()
            output[rows, 0] = (scores.softmax(1) @ v[keys, 0].double()).to(output.dtype)
        return output, lse

    def backward(
        q: Tensor, k: Tensor, v: Tensor, out: Tensor, dout: Tensor, lse: Tensor, *, softmax_scale: float,
        dlse: Tensor | None = None, **given: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        calls.append("backward" if dlse is None else "backward with dlse")
        assert out.shape == dout.shape == q.shape
        assert lse.shape == (1, len(q))
        assert len({x.dtype for x in (q, k, v, out, dout)}) == 1
        assert lse.dtype == torch.float32
        grads = tuple(torch.zeros_like(x) for x in (q, k, v))
        for rows, keys in check_sequences(q, k, given):
            queries, values, d_rows = q[rows, 0].double(), v[keys, 0].double(), dout[rows, 0].double()
            weights = weights_of(queries, k[keys, 0].double(), lse[0, rows], softmax_scale)
            delta = (d_rows * out[rows, 0]).sum(1) - (0 if dlse is None else dlse[0, rows])
            d_scores = weights * (d_rows @ values.T - delta[:, None]) * softmax_scale
            for grad, at, value in zip(
                grads, (rows, keys, keys), (d_scores @ k[keys, 0].double(), d_scores.T @ queries, weights.T @ d_rows),
                strict=True,
            ):  # fmt: skip
                grad[at, 0] = value.to(grad.dtype)
        return grads

    package, cute, interface = (ModuleType(f"flash_attn{end}") for end in ("", ".cute", ".cute.interface"))
    cute.flash_attn_varlen_func = forward  # type: ignore[attr-defined]  # a module made here
    interface._flash_attn_bwd = backward  # type: ignore[attr-defined]  # a module made here
    for module in (package, cute, interface):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(varlen, "by_flash", lambda x: True)
    return calls


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flash_attention_is_given_what_merges_to_the_whole(
    data: st.DataObject, stand_in: list[str], plan_cases: Helper, oracle: Helper
) -> None:
    case = data.draw(draw_routed(plan_cases))
    through_lse = data.draw(st.booleans())
    leaves = draw_qkv(case, torch.float32)
    stand_in.clear()
    expected = oracle(*leaves, case.plan.token_mask(), SCALE)
    output, lse = TWO_CALL.attend(*leaves, case.plan, SCALE, True)
    assert lse is not None
    torch.testing.assert_close(output.double(), expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse.double(), expected[1], atol=1e-5, rtol=1e-5)
    wanted = gradients(expected, leaves, through_lse=through_lse)
    for ours, exact in zip(gradients((output, lse), leaves, through_lse=through_lse), wanted, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-4, rtol=1e-4)
    assert len(stand_in) <= 4
    assert len(set(stand_in)) <= 2
