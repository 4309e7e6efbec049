"""Summaries of dropped blocks, restated with one key at a time: each dropped key looks like the mean of its block."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.summaries import add_summaries


def restated(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, q_block: Tensor, k_block: Tensor, scale: float) -> Tensor:
    """One head, float64 [N, D]: keys and values are replaced by the means of their blocks where a query drops them."""
    rows = []
    for query, block in zip(q, q_block.tolist(), strict=True):
        keys, values = k.clone(), v.clone()
        for j in range(keep.shape[1]):
            if not keep[block, j]:
                keys[k_block == j], values[k_block == j] = k[k_block == j].mean(0), v[k_block == j].mean(0)
        rows.append((scale * (keys @ query)).softmax(0) @ values)
    return torch.stack(rows)


def sizes_to_blocks(sizes: list[int], order: Tensor | None) -> Tensor:
    block = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return block if order is None else torch.empty_like(block).scatter_(0, order, block)


@given(
    q_sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), k_cut=st.integers(1, 6), share=st.sampled_from([0,
    0.5, 1]), ordered=st.booleans(), shared=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_one_key_at_a_time(
    q_sizes: list[int], k_cut: int, share: float, ordered: bool, shared: bool, seed: int
) -> None:
    n, random = sum(q_sizes), torch.Generator().manual_seed(seed)
    k_sizes = [len(part) for part in torch.arange(n).split(k_cut)]
    q, k, v = (torch.randn(2, heads, n, 4, generator=random, dtype=torch.float64) for heads in (2, 1, 1))
    keep = torch.rand(1 if shared else 2, 1 if shared else 2, len(q_sizes), len(k_sizes), generator=random) < share
    order = torch.randperm(n, generator=random) if ordered else None
    q_block, k_block = sizes_to_blocks(q_sizes, order), sizes_to_blocks(k_sizes, order)
    offsets = [torch.tensor([0, *sizes]).cumsum(0) for sizes in (q_sizes, k_sizes)]
    kept = keep.expand(2, 2, *keep.shape[2:])[:, :, q_block][:, :, :, k_block]
    scores = (0.5 * q @ k.mT).masked_fill(~kept, -torch.inf)
    lse = scores.logsumexp(-1)
    out = (scores - lse[..., None]).exp().nan_to_num() @ v
    means = [torch.stack([x[:, :, k_block == j].mean(2) for j in range(len(k_sizes))], 2) for x in (k, v)]
    joined = add_summaries(out, lse, q, *means, BlockPattern(*offsets, keep), order, 0.5)
    for b in range(2):
        for h in range(2):
            expected = restated(
                q[b, h], k[b, 0], v[b, 0], keep[min(b, len(keep) - 1), min(h, keep.shape[1] - 1)], q_block, k_block, 0.5
            )
            torch.testing.assert_close(joined[b, h], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_keeps_everything_stays_as_it_is(dtype: torch.dtype) -> None:
    x = torch.randn(1, 1, 6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    offsets = torch.tensor([0, 6])
    keep = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    joined = add_summaries(
        x,
        torch.zeros(1, 1, 6),
        x,
        *[x.float().mean(2, keepdim=True)] * 2,
        BlockPattern(offsets, offsets, keep),
        None,
        1.0,
    )
    assert joined.dtype == dtype
    assert torch.equal(joined, x)
