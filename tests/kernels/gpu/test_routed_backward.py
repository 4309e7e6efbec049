"""Gradients of routed attention against float64 autograd, and that key tiles hold exactly the kept pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench.kernels.attend_ops import attend_by_kernels
from attnbench.kernels.gpu import routed, routed_backward
from attnbench.kernels.gpu.routed_backward import backward_routed, key_tiles_of
from attnbench.kernels.gpu.routing import build_routes
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.selection_ops import interpreted
from tests.kernels.gpu.draws import draws

Oracle = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True, scope="module")
def small_groups() -> Any:
    """Group blocks by two from three blocks on: few blocks are enough then, and the interpreter is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routed, "FEW_BLOCKS", 2)
        patch.setattr(routed, "GROUP", 2)
        yield


def _check(
    plan: Plan, mask: Tensor, kv_heads: int, d: int, oracle: Oracle, device: torch.device, spread: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    batch, heads, n, scale = plan.batch, plan.heads, plan.layout.tokens, d**-0.5
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    q, d_output = (random(batch, n, heads, d).transpose(1, 2) for _ in range(2))
    q = q * spread
    k, v = (random(batch, kv_heads, n, d) for _ in range(2))
    d_lse = random(batch, heads, n).float()
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    output, lse = oracle(*leaves, mask.to(device), scale)
    total = (output * d_output).sum() + (lse.masked_fill(lse == -torch.inf, 0) * d_lse).sum()
    wanted = torch.autograd.grad(total, leaves)
    got = backward_routed(q, k, v, plan, scale, output.detach().to(dtype), lse.detach().float(), d_output, d_lse)
    tolerance = (2e-2 if device.type == "cuda" else 2e-5) * max(1.0, spread)
    for ours, theirs, like in zip(got, wanted, (q, k, v), strict=True):
        assert (ours.shape, ours.dtype) == (like.shape, dtype)
        assert torch.isfinite(ours).all()
        assert float((ours.double() - theirs).abs().max()) < tolerance * max(1.0, float(theirs.abs().max()))


def _plan(
    seed: int, sizes: list[int], shape: tuple[int, int], density: float, ordered: bool = False, mixed: bool = False
) -> Plan:
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    keep = torch.rand(*shape, n, len(sizes), generator=generator) < density
    order = torch.rand(*shape, n, generator=generator).argsort(-1) if ordered else None
    near = torch.randperm(len(sizes), generator=generator) if mixed else None
    if mixed and ordered:
        order = torch.randperm(n, generator=generator)  # heads with orders of their own are not rearranged
    pattern = RoutedPattern(torch.tensor([0, *sizes]).cumsum(0), keep, near=near)
    return Plan(Layout(Grid(n, 1, 1)), *shape, pattern, None, order)


@settings(max_examples=draws(10), suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data(), head_dim=st.sampled_from([40, 64]))
def test_equals_autograd(
    data: st.DataObject, head_dim: int, plan_cases: Any, brute_force: Any, oracle: Oracle, device: torch.device
) -> None:
    case = data.draw(plan_cases((2, 3, 4)).filter(lambda case: isinstance(case.plan.pattern, RoutedPattern)))
    _check(_moved(case.plan, device), brute_force(case), case.kv_heads, head_dim, oracle, device, 1.0)


def _moved(plan: Plan, device: torch.device) -> Plan:
    pattern = plan.pattern
    assert isinstance(pattern, RoutedPattern)
    near = None if pattern.near is None else pattern.near.to(device)
    there = RoutedPattern(pattern.k_offsets.to(device), pattern.keep.to(device), pattern.rule, near)
    orders = (None if order is None else order.to(device) for order in (plan.q_order, plan.k_order))
    return Plan(plan.layout, plan.batch, plan.heads, there, *orders)


@pytest.mark.parametrize("ordered", [False, True])
def test_blocks_that_the_kernels_take_in_another_order(ordered: bool, oracle: Oracle, device: torch.device) -> None:
    plan = _plan(3, [20, 5, 30, 10, 17], (1, 4), 0.5, ordered, mixed=True)
    moved = _moved(plan, device)
    assert routed.clustered(moved).near is not None
    _check(moved, plan.token_mask(), 2, 64, oracle, device, 1.0)


@pytest.mark.parametrize("ordered", [False, True])
def test_one_head_at_a_time_of_several_that_share_keys(
    ordered: bool, oracle: Oracle, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routed_backward, "most_partial", lambda device: 1)
    plan = _plan(1, [20, 30, 10], (1, 4), 0.5, ordered)
    _check(_moved(plan, device), plan.token_mask(), 2, 64, oracle, device, 1.0)


@pytest.mark.parametrize(("budget", "captured", "made"), [(2**30, False, 1), (1, False, 6), (2**30, True, 3)])
def test_routes_of_the_forward_pass_are_found_again(
    budget: int, captured: bool, made: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    build = routed.build_routes

    def noted(*args: Any, **more: Any) -> Any:
        built.append(args)
        return build(*args, **more)

    monkeypatch.setattr(routed, "build_routes", noted)
    monkeypatch.setattr(routed, "capturing", lambda: captured)
    for module in (routed, routed_backward):
        monkeypatch.setattr(module, "most_partial", lambda device: budget)
    plan = _moved(_plan(5, [20, 20, 10], (1, 2), 0.5), device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.ones(1, 2, 50, 64, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    with interpreted():
        output, _ = attend_by_kernels(q, k, v, plan, 0.125)
    torch.autograd.grad(output.sum(), (q, k, v))
    assert len(built) == made  # at most each turn of two: forward, for the queries, and for the keys


def test_where_memory_is_scarce_turns_are_smaller_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    device, budgets = torch.device("cuda", 99), []
    monkeypatch.setattr(routed, "_memory", lambda device: 2**40)
    monkeypatch.setattr(routed, "_scarce", set())

    def run() -> int:
        budgets.append(routed.most_partial(device))
        if budgets[-1] > routed.PARTIAL_BUDGET:
            raise torch.OutOfMemoryError("none left")
        return 7

    assert routed.with_less_where_scarce(run, device) == 7
    assert routed.with_less_where_scarce(run, device) == 7
    assert budgets == [2**40 // routed.PARTIAL_SHARE, routed.PARTIAL_BUDGET, routed.PARTIAL_BUDGET]


def test_blocks_longer_than_a_tile_and_large_scores(oracle: Oracle, device: torch.device) -> None:
    plan = _plan(2, [300, 20], (1, 1), 0.6)
    _check(_moved(plan, device), plan.token_mask(), 1, 64, oracle, device, 100.0)


class Operations(TorchDispatchMode):
    """Record the names of torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_no_operation_waits_for_the_device(device: torch.device) -> None:
    plan = _moved(_plan(4, [20, 20, 10], (1, 2), 0.5, True), device)
    q, k, v, d_output = (torch.ones(1, 2, 50, 64, device=device) for _ in range(4))
    given = (q, k, v, plan, 0.125, q, q[..., 0], d_output, None)
    backward_routed(*given)  # reads the partition's offsets once
    with Operations() as operations:
        backward_routed(*given)
    assert "empty" in operations.names
    assert not operations.names & {"_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave", "unique"}


def test_an_output_gradient_that_is_one_number_everywhere(oracle: Oracle, device: torch.device) -> None:
    plan = _plan(3, [20, 20], (1, 1), 0.5)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (
        torch.randn(1, 1, 40, 64, generator=torch.Generator().manual_seed(s)).to(device, dtype) for s in (1, 2, 3)
    )
    output, lse = oracle(q, k, v, plan.token_mask().to(device), 0.125)
    given = (q, k, v, _moved(plan, device), 0.125, output.to(dtype), lse.float())
    one = torch.ones((), dtype=dtype, device=device)
    expanded = backward_routed(*given, one.expand_as(q), None)
    for ours, theirs in zip(expanded, backward_routed(*given, torch.ones_like(q), None), strict=True):
        assert torch.equal(ours, theirs)


@settings(max_examples=draws(10), suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    group=st.integers(1, 3),
    kv_group=st.sampled_from([1, 2]),
    density=st.sampled_from([0.0, 0.4, 1.0]),
    masked=st.booleans(),
    seed=st.integers(0, 999),
)
def test_key_tiles_hold_the_kept_pairs(
    sizes: list[int], group: int, kv_group: int, density: float, masked: bool, seed: int, device: torch.device
) -> None:
    n, blocks = sum(sizes), len(sizes)
    generator = torch.Generator().manual_seed(seed)
    chances = torch.rand(blocks, generator=generator) * 2 * density
    keep = torch.rand(1, 2, n, blocks, generator=generator) < chances
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    routes = build_routes(keep.to(device), group, tile=16)
    work = key_tiles_of(routes, offsets.to(device), n, kv_group, masked=masked)
    queries, segments = work.queries.tolist(), work.segments.tolist()
    found = torch.zeros(2, n, n, dtype=torch.int64)
    for head, records in enumerate(work.records.tolist()):
        lengths = []
        for start, end, first, number, *_ in records:
            if start == end:
                lengths.append(-1)
                continue
            assert 0 < end - start <= work.keys
            own = segments[first : first + number]
            assert all((last < 0) == masked and abs(last) > place for place, last in own)
            tokens = [query for place, last in own for query in queries[place : abs(last)]]
            lengths.append(len(tokens))
            found[head, tokens, start:end] += 1
        if kv_group == 1:
            assert lengths == sorted(lengths, reverse=True)
        covered = [key for start, end, *_ in records for key in range(start, end)]
        assert sorted(covered) == list(range(n))
    if kv_group == 2:
        assert torch.equal(work.records[0, :, :2], work.records[1, :, :2])
    assert torch.equal(found, keep[0].repeat_interleave(offsets.diff(), dim=2).long())
