"""Merging and adding partial results, against plain loops in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.gpu.routed import _merge_heads
from attnbench.kernels.gpu.routed_backward import _sum_partial
from tests.kernels.gpu.draws import draws


def drawn(
    heads: int, groups: int, n: int, share: float, seed: int, head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return slots [heads, groups, n] of which a share is taken, in any order, and as many partial rows as it takes."""
    random = torch.Generator().manual_seed(seed)
    there = torch.rand(heads, groups, n, generator=random) < share
    count = int(there.sum())
    slots = torch.full(there.shape, -1, dtype=torch.int32)
    slots[there] = torch.randperm(count, generator=random).int()
    rows = torch.randn(max(count, 1), head_dim, generator=random)
    return slots.to(device), rows.to(device)


def rows_of(slots: Tensor, rows: Tensor, head: int, query: int) -> tuple[Tensor, Tensor]:
    own = slots[head, :, query].long()
    own = own[own >= 0]
    return own, rows[own].double()


@pytest.mark.parametrize(("groups", "head_dim"), [(1, 64), (5, 72), (32, 16), (33, 16), (65, 16)])
@settings(max_examples=draws(10))
@given(share=st.sampled_from([0.0, 0.1, 0.5, 1.0]), n=st.integers(1, 70), seed=st.integers(0, 99))
def test_every_partial_result_counts_once(
    groups: int, head_dim: int, share: float, n: int, seed: int, device: torch.device
) -> None:
    slots, rows = drawn(2, groups, n, share, seed, head_dim, device)
    padded = torch.nn.functional.pad(rows, (0, -head_dim % 64 if head_dim > 64 else 0))  # attention pads, dQ does not
    lse = torch.randn(len(rows), generator=torch.Generator().manual_seed(seed)).to(device) * 3
    output, sums = torch.full((2, n, head_dim), torch.nan, device=device), torch.full((2, n), torch.nan, device=device)
    added = torch.full_like(output, torch.nan)
    _merge_heads(slots, padded, lse, output, sums)
    _sum_partial(slots, rows, added)
    for head in range(2):
        for query in {0, n // 2, n - 1}:
            own, values = rows_of(slots, rows, head, query)
            weights = 2.0 ** lse[own].double()
            expected = (weights[:, None] * values).sum(0) / weights.sum() if len(own) else values.sum(0)
            torch.testing.assert_close(output[head, query].double(), expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(sums[head, query].double(), weights.sum().log(), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(added[head, query].double(), values.sum(0), atol=1e-4, rtol=1e-5)
    assert not output.isnan().any()
    assert not added.isnan().any()
