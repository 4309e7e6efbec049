"""The kernel that joins summaries of dropped blocks, against torch in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels import selection_ops as ops
from attnbench.kernels.gpu import summaries as kernels
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.summaries import add_summaries
from tests.kernels.gpu.draws import draws

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def case(
    n: int, size: int, dtype: torch.dtype, seed: int, *, share: float = 0.4, ordered: bool = True, dim: int = 16,
    heads: tuple[int, int] = (2, 1),
) -> tuple[Any, ...]:  # fmt: skip
    """The arguments of ``add_summaries``: blocks of ``size`` tokens, of which the first keeps nothing."""
    random = torch.Generator().manual_seed(seed)
    q, output = (torch.randn(1, n, heads[0], dim, generator=random).to(DEVICE, dtype).transpose(1, 2) for _ in range(2))
    offsets = torch.arange(0, n + size, size).clamp(max=n).to(DEVICE)
    blocks = len(offsets) - 1
    keys, values = (torch.randn(1, heads[1], blocks, dim, generator=random).to(DEVICE) for _ in range(2))
    keep = (torch.rand(1, heads[0], blocks, blocks, generator=random) < share).to(DEVICE)
    lse = torch.randn(1, heads[0], n, generator=random).to(DEVICE)
    order = torch.randperm(n, generator=random).to(DEVICE) if ordered else None
    empty = torch.arange(n, device=DEVICE)[:size] if order is None else order[:size]
    keep[:, :, 0], lse[:, :, empty], output[:, :, empty] = False, -torch.inf, 0
    return output, lse, q, keys, values, BlockPattern(offsets, offsets, keep), order, 0.3


def exactly(output: Tensor, lse: Tensor, q: Tensor, keys: Tensor, values: Tensor, *others: Any) -> Tensor:
    return add_summaries(output.double(), lse.double(), q.double(), keys.double(), values.double(), *others)


@settings(max_examples=draws(20), suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(1, 150), size=st.sampled_from([1, 7, 64, 100]), dtype=st.sampled_from(list(TOLERANCE)),
    share=st.sampled_from([0.0, 0.4, 1.0]), ordered=st.booleans(), dim=st.sampled_from([4, 16, 20]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_sums(n: int, size: int, dtype: torch.dtype, share: float, ordered: bool, dim: int, seed: int) -> None:
    arguments = case(n, size, dtype, seed, share=share, ordered=ordered, dim=dim)
    with ops.interpreted():
        joined = add_summaries(*arguments)
    assert joined.dtype == dtype
    torch.testing.assert_close(joined.double(), exactly(*arguments), atol=TOLERANCE[dtype], rtol=0)


def test_the_kernel_runs_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    real = kernels.add_summaries
    monkeypatch.setattr(kernels, "add_summaries", lambda *a: ran.append(1) or real(*a))
    arguments = case(20, 7, torch.float32, 0)
    with ops.interpreted():
        add_summaries(*arguments)
        exactly(*arguments)
    assert ran == [1]


@pytest.mark.parametrize("kernel", [False, True])
def test_the_operator_is_as_torch_wants_it(kernel: bool) -> None:
    output, lse, q, keys, values, pattern, order, scale = case(20, 7, torch.float32, 0)
    tensors = [x if kernel else x.double() for x in (output, lse, q, keys, values)]
    arguments = (*tensors, pattern.keep, pattern.q_offsets, pattern.k_offsets, order, scale)
    if kernel:
        with ops.interpreted():
            torch.library.opcheck(torch.ops.attnbench.add_summaries.default, arguments)
    else:
        torch.library.opcheck(torch.ops.attnbench.add_summaries.default, arguments)


@pytest.mark.skipif(not HAS_GPU, reason="nothing waits for a CPU")
def test_nothing_waits_for_the_device() -> None:
    arguments = case(500, 64, torch.bfloat16, 0, dim=64)
    expected = add_summaries(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.graph(graph):
            joined = add_summaries(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    joined.zero_()
    graph.replay()
    assert torch.equal(joined, expected)
