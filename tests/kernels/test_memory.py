"""Memory that calls allocate, as torch's profiler counts it: no hidden copies, nothing that grows with N squared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from attnbench.kernels.engines import ENGINES
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_cuboids
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import window
from attnbench.kernels.selection import pool_blocks, score_blocks

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Allocated:
    """Bytes: the most held at once, the largest single allocation, and all allocations together."""

    peak: int
    largest: int
    total: int


def allocated(function: Callable[[], object]) -> Allocated:
    """Run ``function`` and count what it allocates, temporary copies included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        held = function()
    assert profiler.profiler is not None
    sizes = [event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    del held
    return Allocated(max(accumulate(sizes)), max(sizes), sum(size for size in sizes if size > 0))


def make_plan(kind: str, t: int) -> Plan:
    layout = Layout(Grid(t, 16, 32))
    partition = partition_cuboids(layout, (2, 8, 8), CPU)
    random = torch.Generator().manual_seed(0)
    offsets, order, n = partition.offsets, partition.order, layout.tokens
    if kind == "full":
        one = torch.tensor([0, n])
        return Plan(layout, 1, 1, BlockPattern(one, one, torch.ones(1, 1, 1, 1, dtype=torch.bool)))
    if kind == "routed":
        edges = torch.arange(9) * (n // 8)
        keep = torch.rand(1, 1, n, 8, generator=random) < 0.1
        return Plan(layout, 1, 1, RoutedPattern(edges, keep), None, order)
    keep = torch.rand(1, 1, partition.blocks, partition.blocks, generator=random) < 0.05
    return Plan(layout, 1, 1, BlockPattern(offsets, offsets, keep, window(2, 6, 6)), order, order)


@pytest.mark.parametrize("kind", ["full", "routed", pytest.param("window", marks=pytest.mark.slow)])
def test_memory_grows_with_n_not_with_its_square(kind: str) -> None:
    head_dim, peaks = 4, []
    for t in (8, 16):  # 4096 and 8192 tokens
        plan = make_plan(kind, t)
        n = plan.layout.tokens
        qkv = [torch.randn(1, 1, n, head_dim, requires_grad=True) for _ in range(3)]

        def step(qkv: list[Tensor] = qkv, plan: Plan = plan) -> object:
            q, k, v = qkv
            output, _ = ENGINES["reference"].attend(q, k, v, plan, 0.5, True)
            return torch.autograd.grad(output.sum(), qkv)

        found = allocated(step)
        assert found.largest < n * n, "an allocation that could hold a byte for every pair"
        peaks.append(found.peak)
    assert peaks[1] < 2.2 * peaks[0]


@pytest.mark.parametrize("engine", ["reference", "sdpa"])
def test_an_engine_makes_no_copy_of_strided_inputs(engine: str) -> None:
    batch, heads, n, head_dim = 2, 3, 2048, 64
    layout = Layout(Grid(1, 1, n))
    one = torch.tensor([0, n])
    plan = Plan(layout, batch, heads, BlockPattern(one, one, torch.ones(1, 1, 1, 1, dtype=torch.bool)))
    stored = [torch.randn(batch, n, heads, head_dim) for _ in range(3)]
    strided = [x.transpose(1, 2) for x in stored]
    contiguous = [x.contiguous() for x in strided]

    def run(qkv: list[Tensor]) -> Allocated:
        q, k, v = qkv
        return allocated(lambda: ENGINES[engine].attend(q, k, v, plan, 0.1, False))

    of_strided, of_contiguous = run(strided), run(contiguous)
    one_head = stored[0].nbytes // (batch * heads)
    assert of_strided.peak < of_contiguous.peak + one_head
    assert of_strided.total < of_contiguous.total + one_head


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_and_scoring_make_no_more_copies_of_strided_inputs(dtype: torch.dtype) -> None:
    batch, heads, n, head_dim, blocks = 2, 4, 2048, 64, 8
    offsets = torch.arange(blocks + 1) * (n // blocks)
    stored = torch.randn(batch, n, heads, head_dim).to(dtype)
    strided = stored.transpose(1, 2)

    def run(x: Tensor) -> Allocated:
        return allocated(lambda: score_blocks(x, pool_blocks(x, None, offsets)))

    of_strided, of_contiguous = run(strided), run(strided.contiguous())
    one_head = stored.nbytes // (batch * heads)
    assert of_strided.peak < of_contiguous.peak + one_head
    assert of_strided.total < of_contiguous.total + one_head
    if dtype == torch.float32:
        assert of_strided.total < stored.nbytes
